"""`model.quantize`: Keras skips DBF layers, as every layer that it does not know, and the model stays whole."""

import numpy as np
import pytest

from .tools import CROSS_ENTROPY, KINDS, LEGACY, DBFConv2D, DBFDense, examples, keras, layers, pair

pytestmark = pytest.mark.skipif(
    LEGACY or not hasattr(keras.Model, "quantize"), reason="this Keras does not quantise models"
)


def between(middle):
    """A model with layers that Keras quantises around one that it may not know."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Dense(16, name="before"),
            middle,
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="after"),
        ]
    )


MIDDLES = {
    "unknown": lambda: layers.PReLU(),
    "conv": lambda: DBFConv2D(8, 4, ratio=0.5, name="middle"),
    "dense": lambda: DBFDense(16, ratio=0.5, name="middle"),
    "wrapped": lambda: layers.TimeDistributed(DBFDense(16, ratio=0.5)),
    "nested": lambda: keras.Sequential([DBFConv2D(8, 4, ratio=0.25), layers.ReLU()]),
}


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("name", MIDDLES)
def test_dbf_layers_are_skipped(name, mode, tmp_path, recwarn):
    model = between(MIDDLES[name]())
    x, y = examples()
    exact = model.predict(x, verbose=0)
    weights = model.layers[1].get_weights()
    model.quantize(mode)
    assert any("Layer" in str(warning.message) or "quantize" in str(warning.message) for warning in recwarn)
    modes = [getattr(layer, "quantization_mode", None) for layer in model.layers]
    assert [modes[0], modes[1], modes[-1]] == [mode, None, mode]
    for before, after in zip(weights, model.layers[1].get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    outputs = model.predict(x, verbose=0)
    assert 0 < np.abs(outputs - exact).max() < 0.35 * np.abs(exact).max()
    if mode != "float8" or keras.backend.backend() == "tensorflow":
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded.predict(x, verbose=0), outputs, rtol=0, atol=1e-5)
    model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
    model.fit(x, y, verbose=0)
    if model.layers[1].trainable_variables:
        assert not np.array_equal(weights[0], model.layers[1].get_weights()[0])


@pytest.mark.parametrize(
    "filters",
    ["middle", ["middle", "none"], lambda layer: layer.name == "middle"],
    ids=["pattern", "patterns", "function"],
)
def test_filters_that_choose_only_dbf_layers_change_nothing(filters):
    model = between(DBFConv2D(8, 4, ratio=0.5, name="middle"))
    x, _ = examples()
    exact = model.predict(x, verbose=0)
    model.quantize("int8", filters=filters)
    np.testing.assert_array_equal(model.predict(x, verbose=0), exact)


@pytest.mark.parametrize("mode", ["gptq", "awq"])
def test_modes_that_need_more_are_refused_as_without_dbf_layers(mode):
    for name in ("unknown", "conv"):
        model = between(MIDDLES[name]())
        with pytest.raises(ValueError, match=mode.upper()):
            model.quantize(mode)


class Block(layers.Layer):
    """Dense layers on tokens, of which one is not Keras's."""

    def __init__(self, middle, **kwargs):
        super().__init__(**kwargs)
        self.before, self.middle, self.after = layers.Dense(16), middle, layers.Dense(16)

    def build(self, shape):
        for layer in (self.before, self.middle, self.after):
            layer.build(shape)

    def call(self, x):
        return self.after(self.middle(self.before(x)))


@pytest.mark.parametrize("mode", ["gptq", "awq"])
@pytest.mark.parametrize("middle", [layers.PReLU, lambda: DBFDense(16, ratio=0.5)], ids=["unknown", "dense"])
def test_calibrated_modes_skip_dbf_layers(mode, middle):
    configuration = getattr(keras.quantizers, f"{mode.upper()}Config", None)
    if configuration is None:
        pytest.skip(f"this Keras has no {mode.upper()}")
    tokens = keras.Input((8,), dtype="int32")
    embedding, block = layers.Embedding(50, 16), Block(middle())
    model = keras.Model(tokens, block(embedding(tokens)))
    x = np.random.default_rng(0).integers(0, 50, (32, 8))
    exact, weights = model.predict(x, verbose=0), block.middle.get_weights()
    structure = {"pre_block_layers": [embedding], "sequential_blocks": [block]}
    model.quantize(
        config=configuration(
            dataset=list(x),
            tokenizer=lambda text: text,
            num_samples=16,
            sequence_length=8,
            group_size=16,
            quantization_layer_structure=structure,
        ),
        mode=mode,
    )
    assert [layer.quantization_mode for layer in (block.before, block.middle, block.after)] == [mode, None, mode]
    np.testing.assert_array_equal(block.middle.get_weights()[0], weights[0])
    assert 0 < np.abs(model.predict(x, verbose=0) - exact).max() < 0.3 * np.abs(exact).max()


@pytest.mark.parametrize("kind", KINDS)
def test_layers_say_where_they_are_quantised(kind):
    layer, _ = pair(kind)
    with pytest.raises(NotImplementedError, match=f"{layer.name}.*dbf export --quantize"):
        layer.quantize("int8")
    with pytest.raises(NotImplementedError, match="dbf export --quantize"):
        layer.dtype_policy = "int8_from_float32"
    with pytest.raises(ValueError, match="at export and not by a dtype policy; got dtype='int8_from_float32'"):
        pair(kind, dtype="int8_from_float32")
