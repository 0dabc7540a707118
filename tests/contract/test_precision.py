"""Dtype policies: of the session, of a layer, of a map; and what they leave of the twin's numbers."""

import numpy as np
import pytest

from .tools import (
    CROSS_ENTROPY,
    KINDS,
    LEGACY,
    LEGACY_REASON,
    DBFConv2D,
    examples,
    images,
    inputs,
    keras,
    layers,
    networks,
    numpy,
    ops,
    pair,
)

pytestmark = pytest.mark.skipif(LEGACY, reason=LEGACY_REASON)
# Relative errors that roundings to 11, 8, 24 and 53 bits leave.
POLICIES = {"mixed_float16": 5e-3, "mixed_bfloat16": 4e-2, "float32": 1e-6, "float64": 1e-6, "float16": 5e-3}
JAX = keras.backend.backend() == "jax"
policies = pytest.mark.parametrize(
    "policy",
    [
        pytest.param(name, marks=pytest.mark.skipif(JAX and name == "float64", reason="JAX has no float64 by default"))
        for name in POLICIES
    ],
)


def single(value):
    return numpy(ops.cast(value, "float32"))


@pytest.fixture
def session_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@policies
@pytest.mark.parametrize("ratio", [1, 0.25])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_s_own_policy(kind, policy, ratio):
    layer, twin = pair(kind, dtype=policy, ratio=ratio)
    x = inputs(kind)
    found = [each(x) for each in (layer, twin)]
    assert found[0].dtype == found[1].dtype
    assert (layer.compute_dtype, layer.variable_dtype) == (twin.compute_dtype, twin.variable_dtype)
    assert {str(v.dtype) for v in layer.variables} == {str(v.dtype) for v in twin.variables}
    ours, theirs = map(single, found)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=POLICIES[policy] * np.abs(theirs).max())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_the_session_s_policy_trains(policy, session_policy):
    if JAX and policy == "float64":
        pytest.skip("JAX has no float64 by default")
    session_policy(policy)
    x, y = examples(128)
    found = []
    for model in networks():
        model.add(layers.Activation("linear", dtype="float32"))
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY)
        found.append(model.fit(x, y, epochs=4, shuffle=False, batch_size=32, verbose=0).history["loss"])
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    assert found[1][-1] < found[1][0] - 0.05
    np.testing.assert_allclose(*found, rtol=0, atol=1e-3 if policy == "float64" else 2e-2)


@pytest.mark.parametrize("ratio", [1, 0.25])
def test_policies_by_layer(ratio):
    """The map of policies that Keras quantises nested layers by."""
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="float32")

    class Block(layers.Layer):
        def __init__(self, base, **kwargs):
            super().__init__(**kwargs)
            options = {"ratio": ratio} if base is DBFConv2D else {}
            self.half = base(8, 4, name="half", dtype=self.dtype_policy, **options)
            self.whole = base(8, 4, name="whole", dtype=self.dtype_policy, **options)

        def build(self, shape):
            self.half.build(shape)
            self.whole.build(self.half.compute_output_shape(shape))

        def call(self, x):
            half = self.half(x)
            return half, self.whole(half)

    for base in (DBFConv2D, layers.Conv2D):
        for name in ("half", "whole"):
            policies[f"{base.__name__}/{name}"] = "mixed_bfloat16" if name == "half" else "float32"
    blocks = [Block(base, name=base.__name__, dtype=policies) for base in (DBFConv2D, layers.Conv2D)]
    for block in blocks:
        block.build((None, 8, 8, 4))
    for ours, theirs in ((blocks[0].half, blocks[1].half), (blocks[0].whole, blocks[1].whole)):
        theirs.set_weights([numpy(ours.kernel), numpy(ours.bias)])
    (half, whole), (twin_half, twin_whole) = (block(images(2, 8, 8, 4)) for block in blocks)
    assert [str(value.dtype) for value in (half, whole)] == [str(value.dtype) for value in (twin_half, twin_whole)]
    assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"
    for ours, theirs in ((half, twin_half), (whole, twin_whole)):
        np.testing.assert_allclose(single(ours), single(theirs), rtol=0, atol=0.05 * np.abs(single(theirs)).max())
    assert blocks[0].half.kernel.numpy().dtype == np.float32
    assert dict(policies.items()).keys() == {"DBFConv2D/half", "DBFConv2D/whole", "Conv2D/half", "Conv2D/whole"}


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_is_switched_off_as_for_the_twin(kind):
    layer, twin = pair(kind, dtype="mixed_float16", autocast=False)
    x = ops.cast(inputs(kind), "float16")
    found = [each(x) for each in (layer, twin)]
    assert found[0].dtype == found[1].dtype
