"""Which Keras is in use. The only file that knows.

Keras 3 by default; tf_keras (Keras 2) under ``TF_USE_LEGACY_KERAS=1``, for tensorflow-model-optimization, which knows
no other. ``keras`` is the package, ``ops`` the few array functions that the layers need, but for `convolution`.
``WITHOUT_AUTOCAST`` are arguments of ``add_weight`` for a variable that stays float32 under mixed precision.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

LEGACY = os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")

if LEGACY:
    import tensorflow as _tf
    import tf_keras as keras

    WITHOUT_AUTOCAST = {"experimental_autocast": False}

    class _TensorFlowOps:
        """The functions of ``keras.ops`` that the layers use, in TensorFlow."""

        abs = staticmethod(_tf.abs)
        add = staticmethod(_tf.add)
        average_pool = staticmethod(
            lambda x, pool_size, strides, padding, data_format: _tf.nn.avg_pool2d(
                x, pool_size, strides, padding.upper()
            )
        )
        cast = staticmethod(_tf.cast)
        clip = staticmethod(_tf.clip_by_value)
        concatenate = staticmethod(_tf.concat)
        conv = staticmethod(
            lambda x, kernel, strides, padding, data_format, dilation_rate: _tf.nn.convolution(
                x, kernel, strides, padding.upper(), dilations=dilation_rate
            )
        )
        convert_to_tensor = staticmethod(_tf.convert_to_tensor)
        floor = staticmethod(_tf.floor)
        log = staticmethod(_tf.math.log)
        convert_to_numpy = staticmethod(lambda x: x.numpy())
        matmul = staticmethod(_tf.matmul)
        max = staticmethod(_tf.reduce_max)
        maximum = staticmethod(_tf.maximum)
        mean = staticmethod(_tf.reduce_mean)
        minimum = staticmethod(_tf.minimum)
        pad = staticmethod(_tf.pad)
        reshape = staticmethod(_tf.reshape)
        round = staticmethod(_tf.round)
        shape = staticmethod(_tf.shape)
        sign = staticmethod(_tf.sign)
        slice = staticmethod(_tf.slice)
        sqrt = staticmethod(_tf.sqrt)
        square = staticmethod(_tf.square)
        stop_gradient = staticmethod(_tf.stop_gradient)
        sum = staticmethod(_tf.reduce_sum)
        take = staticmethod(_tf.gather)
        tensordot = staticmethod(_tf.tensordot)
        where = staticmethod(_tf.where)

    ops: Any = _TensorFlowOps
else:
    import keras

    ops = keras.ops

    WITHOUT_AUTOCAST = {"autocast": False}

# Mixins of layers come before the layer itself: to a type checker they have its methods, else no base of their own.
MixinBase: Any = keras.layers.Layer if TYPE_CHECKING else object

__all__ = [
    "LEGACY",
    "WITHOUT_AUTOCAST",
    "MixinBase",
    "all_layers",
    "compiled",
    "computing_in",
    "convolution",
    "keras",
    "may_be_exported",
    "on_accelerator",
    "ops",
    "own_variables",
]


def compiled(function: Callable, *tensors: Any) -> Any:
    """What a function of tensors gives where it is compiled, as training is."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)(*tensors)
    import tensorflow as tf

    return tf.function(function)(*tensors)


def all_layers(model: keras.Model) -> list:
    """Every layer of a model once, those of nested models and wrappers included."""
    return list({id(layer): layer for layer in model._flatten_layers(include_self=False)}.values())


def settle(layer: keras.layers.Layer) -> None:
    """Has a layer, or the layers of a model, whose weights were set, compute what they keep besides them.

    Keras's Normalization, for one, normalises by constants that it has made of the mean that it was adapted to.
    """
    for part in layer._flatten_layers():
        if hasattr(part, "finalize_state"):
            part.finalize_state()


@contextlib.contextmanager
def computing_in(policy: str, layers: Iterable) -> Iterator[None]:
    """Has layers compute by a dtype policy, such as ``"mixed_bfloat16"``, while the context lasts."""
    # The attribute and not its setter, which writes into a map of policies and quantises layers.
    meant = keras.mixed_precision.Policy(policy) if LEGACY else keras.dtype_policies.get(policy)
    before = [(layer, layer._dtype_policy) for layer in layers]
    try:
        for layer, _ in before:
            _set_policy(layer, meant)
        yield
    finally:
        for layer, own in before:
            _set_policy(layer, own)


def _set_policy(layer: keras.layers.Layer, policy: Any) -> None:
    if LEGACY:
        layer._set_dtype_policy(policy)
    else:
        layer._dtype_policy = policy


def own_variables(layer: keras.layers.Layer) -> list:
    """The trainable variables of a layer itself, without those of layers inside it."""
    return list(layer._trainable_weights if LEGACY else layer._trainable_variables)


# Functions that loops over data compile: those of Keras and of `dbf_keras.train.engine`.
_LOOPS = {
    "multi_step_on_data",
    "multi_step_on_images",
    "multi_step_on_iterator",
    "one_step_on_data",
    "one_step_on_data_distributed",
}
if LEGACY:
    _LOOPS |= {"predict_function", "test_function", "train_function"}


def may_be_exported() -> bool:
    """Whether a call is being compiled by TensorFlow for whatever comes, maybe a file for inference.

    Not so are calls that are computed at once, and those that Keras compiles for ``fit``, ``evaluate`` and ``predict``.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        if getattr(graph, "name", None) in _LOOPS:
            return False
        graph = getattr(graph, "outer_graph", None)
    return True


@functools.cache
def on_accelerator() -> bool:
    """Whether the backend computes on something else than a CPU."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def convolution(inputs: Any, kernel: Any, strides: tuple[int, int], dilations: tuple[int, int]) -> Any:
    """A convolution without padding: [batch, h, w, c] and [kh, kw, c, filters] to [batch, h', w', filters].

    As ``ops.conv``, which on TensorFlow dilates between two copies, SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND; this one
    dilates in the op where TensorFlow can differentiate that.
    """
    if max(dilations) > 1 and keras.backend.backend() == "tensorflow" and _dilates_in_the_op(inputs.dtype):
        import tensorflow as tf

        return tf.nn.conv2d(inputs, kernel, strides, "VALID", dilations=dilations)
    return ops.conv(inputs, kernel, strides, "valid", "channels_last", dilations)


@functools.cache
def _dilates_in_the_op(dtype: Any) -> bool:
    """Whether TensorFlow has the gradients of dilated convolutions here: on CPUs those of oneDNN only."""
    import tensorflow as tf

    with tf.init_scope():  # Now, even where a graph is being built.
        kernel, outputs = tf.ones((2, 2, 1, 1), dtype), tf.ones((1, 1, 1, 1), dtype)
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=[1, 3, 3, 1],
                filter=kernel,
                out_backprop=outputs,
                strides=[1, 1, 1, 1],
                padding="VALID",
                dilations=[1, 2, 2, 1],
            )
        except tf.errors.OpError:
            return False
    return True
