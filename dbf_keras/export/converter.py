"""The standard converter: from a Keras model to a TFLite file, with chosen layers computed in a chosen way."""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dbf_keras.backend import LEGACY, all_layers, computing_in, keras, own_variables
from dbf_keras.folding import Folding, Steps

SIGNATURE = "serving_default"

# A layer, and the function that takes the place of its `call` in the file.
LayerCall = tuple[keras.layers.Layer, Callable]


class Conversion(NamedTuple):
    """What the standard converter made of a model.

    Attributes:
        data: the TFLite file.
        used: the ids of the layers that an output of the model depends on; others are not in the file.
    """

    data: bytes
    used: frozenset[int]


def plain_call(
    layer: keras.layers.Layer,
    kernel: Any,
    folding: Folding | None = None,
    on_open_margins: Callable[[], None] = lambda: None,
) -> LayerCall:
    """A layer's computation with a given kernel, in the ops that the converter folds and fuses best.

    Keras computes a dilated convolution between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, and a dense layer on more than
    two axes as a chain of shape ops; both then keep BatchNorm and activation out of the op.

    Args:
        layer: a channels-last Conv2D or a Dense layer, or a subclass.
        kernel: [kh, kw, C, K], or [C, K] of a dense layer; of the convolution that is left if it is folded.
        folding: the folded form to compute in, if any.
        on_open_margins: called if the folded form does without its pools, as the size of the images is open.

    Returns:
        The layer and a replacement of its ``call``.
    """
    import tensorflow as tf

    def call(inputs: Any, **_: Any) -> Any:  # Keras may pass `training`.
        if isinstance(layer, keras.layers.Dense):
            if folding is not None:
                inputs = tf.linalg.matmul(inputs, tf.cast(folding.projection.astype(np.float32), inputs.dtype))
            outputs = tf.linalg.matmul(inputs, tf.cast(kernel, inputs.dtype))
        elif folding is not None:
            if not folding.knows_margins(inputs.shape[1:3], layer.padding):
                on_open_margins()
            outputs = _folded_convolution(layer, inputs, kernel, folding)
        else:
            outputs = _convolve(inputs, kernel, layer.strides, layer.padding, layer.dilation_rate)
        if layer.use_bias:
            outputs = tf.nn.bias_add(outputs, tf.cast(layer.bias, inputs.dtype))
        return outputs if layer.activation is None else layer.activation(outputs)

    return layer, call


def _convolve(inputs: Any, kernel: Any, strides: Any, padding: str, dilations: Any) -> Any:
    import tensorflow as tf

    return tf.nn.conv2d(inputs, tf.cast(kernel, inputs.dtype), strides, padding.upper(), dilations=dilations)


def _folded_convolution(layer: keras.layers.Layer, inputs: Any, kernel: np.ndarray, folding: Folding) -> Any:
    import tensorflow as tf

    def project(inputs: Any) -> Any:
        matrix = folding.projection[None, None].astype(np.float32)
        return tf.nn.conv2d(inputs, tf.cast(matrix, inputs.dtype), 1, "SAME")

    def pool(inputs: Any, size: tuple[int, int], step: int) -> Any:
        ones = tf.ones((*size, inputs.shape[-1], 1), inputs.dtype)
        return tf.nn.depthwise_conv2d(inputs, ones, (1, step, step, 1), "VALID")

    if not folding.knows_margins(inputs.shape[1:3], layer.padding):
        folding, kernel = folding.without_pools(kernel)
    steps = Steps(
        project=project,
        pad=lambda inputs, margins: tf.pad(inputs, [[0, 0], *margins, [0, 0]]),
        pool=pool,
        convolve=_convolve,
    )
    return folding.apply(inputs, kernel, layer.padding, steps)


def _needs_plain_call(layer: keras.layers.Layer) -> bool:
    """Whether an ordinary layer is one that Keras computes in many ops and `plain_call` in one."""
    if type(layer) is keras.layers.Dense:
        return getattr(layer, "quantization_mode", None) is None and getattr(layer, "lora_rank", None) is None
    if type(layer) is keras.layers.Conv2D:
        return layer.groups == 1 and layer.data_format == "channels_last" and max(layer.dilation_rate) > 1
    return False


@contextlib.contextmanager
def _calls_replaced(layers: list[keras.layers.Layer], calls: list[LayerCall]) -> Iterator[list[tuple[int, Any]]]:
    """Replaces these calls, and half precision of all layers by float32, while the context lasts.

    Yields:
        A list that gets, for each of the calls that is made, the id of the layer and the output.
    """
    made: list[tuple[int, Any]] = []

    def noted(layer: keras.layers.Layer, call: Callable) -> Callable:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            made.append((id(layer), call(*args, **kwargs)))
            return made[-1][1]

        return replacement

    with computing_in("float32", (layer for layer in layers if layer.compute_dtype != layer.variable_dtype)):
        try:
            for layer, call in calls:
                layer.call = noted(layer, call)
            yield made
        finally:
            for layer, _ in calls:
                del layer.call


def to_flatbuffer(
    model: keras.Model,
    calls: Iterable[LayerCall],
    samples: list[list[np.ndarray]] | None = None,
    io_type: str = "float32",
) -> bytes:
    """The file of `convert`."""
    return convert(model, calls, samples, io_type).data


def convert(
    model: keras.Model,
    calls: Iterable[LayerCall],
    samples: list[list[np.ndarray]] | None = None,
    io_type: str = "float32",
) -> Conversion:
    """Converts a model, with some layers computed by given functions. The model itself stays as it is.

    Args:
        model: a model whose input shapes are known. A batch size of None stays dynamic.
        calls: layers, each with what takes the place of its ``call``; see `plain_call`.
        samples: typical inputs, one array for each of the model's; given these, the file computes in int8.
        io_type: type of that file's floating inputs and outputs, ``"float32"`` or ``"int8"``.

    Returns:
        The TFLite file: BatchNorm folded, activations fused. Its signature `SIGNATURE` takes the model's inputs under
        the names of `input_names` and returns its outputs under those of `output_names`.

    Raises:
        ValueError: the inputs are not known, or Keras does not run on TensorFlow.
    """
    import tensorflow as tf

    require_inputs(model)
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Export needs Keras on TensorFlow, this process runs it on {keras.backend.backend()!r}. Save the model as "
            "a .keras file and export that with KERAS_BACKEND=tensorflow."
        )
    layers = all_layers(model)
    calls = [*calls, *(plain_call(layer, layer.kernel) for layer in layers if _needs_plain_call(layer))]
    names, targets = input_names(model), output_names(model)
    specs = [
        tf.TensorSpec(tuple(tensor.shape), tensor.dtype, name) for name, tensor in zip(names, model.inputs, strict=True)
    ]

    @tf.function(autograph=False)
    def serve(inputs: list) -> dict[str, Any]:
        return dict(zip(targets, run(model, inputs), strict=True))

    with _calls_replaced(layers, calls) as made, tempfile.TemporaryDirectory() as folder:
        # In a list, tensors have the names of their specifications; those of arguments would be made identifiers.
        signature = serve.get_concrete_function(specs)
        used = _used(layers, signature.graph, made)
        module = tf.Module()
        module.kept = list(signature.graph.variables)  # What the module does not own could not be saved.
        tf.saved_model.save(module, folder, signatures={SIGNATURE: signature})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if samples is None:
            return Conversion(converter.convert(), used)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (dict(zip(names, sample, strict=True)) for sample in samples)
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(io_type)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated")
            return Conversion(converter.convert(), used)


def _used(layers: list[keras.layers.Layer], graph: Any, made: list[tuple[int, Any]]) -> frozenset[int]:
    """The ids of the layers that the outputs of a traced model depend on.

    Args:
        layers: all layers of the model.
        graph: the traced graph.
        made: for each call of a layer with a replaced ``call``, the layer's id and its output.
    """
    reached = {output.op for output in graph.outputs}
    waiting = list(reached)
    while waiting:
        for source in waiting.pop().inputs:
            if source.op not in reached:
                reached.add(source.op)
                waiting.append(source.op)
    # Calls in graphs within this one, as of a loop, count as reached.
    used = {layer for layer, output in made if getattr(output, "graph", None) is not graph or output.op in reached}
    read = {id(outside) for outside, inside in graph.captures if inside.op in reached}
    replaced = {layer for layer, _ in made}
    for layer in layers:
        handles = [getattr(getattr(variable, "value", variable), "handle", None) for variable in own_variables(layer)]
        if id(layer) not in replaced and any(id(handle) in read for handle in handles):
            used.add(id(layer))
    return frozenset(used)


def require_inputs(model: keras.Model) -> None:
    """Checks that something is a Keras model whose input shapes are known.

    Raises:
        TypeError: it is no Keras model.
        ValueError: the shapes are not known.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Export takes a Keras model, such as keras.models.load_model(path) gives; got {model!r}.")
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"Model {model.name!r} does not know the shape of its inputs. Build it as a functional or sequential model "
            "from keras.Input."
        )


def run(model: keras.Model, inputs: list[Any]) -> list[Any]:
    """Calls a model for inference.

    Args:
        model: a model with inputs of any structure.
        inputs: one tensor or array for each of ``model.inputs``.

    Returns:
        The outputs, flattened; dictionaries in the order of their keys.
    """
    import tensorflow as tf

    # A sequential model has one input, and no `input` before its first call.
    sequential = isinstance(model, keras.Sequential)
    arguments = inputs[0] if sequential else tf.nest.pack_sequence_as(model.input, inputs)
    return tf.nest.flatten(model(arguments, training=False))


def input_names(model: keras.Model) -> list[str]:
    """The names of a model's inputs in the file's signature: those of Keras, without what TensorFlow does not take."""
    names = [re.sub(r"[^A-Za-z0-9_.-]", "_", str(tensor.name)) for tensor in model.inputs]
    return _distinct([name if name[:1].isalnum() or name[:1] == "." else f"input{name}" for name in names])


def output_names(model: keras.Model) -> list[str]:
    """The names of a model's outputs in the file's signature, in the order of `run`.

    They are those that the standard converter gives: the keys of a dictionary, ``output_0``, ``output_1``, … of a
    sequence. (In Keras 2, those of the layers.) It refuses nested outputs; their names here join keys and positions, as
    in ``boxes_0``.
    """
    import tensorflow as tf

    if LEGACY:
        return _distinct(list(model.output_names))
    structure = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    if not isinstance(structure, dict):
        flat = tf.nest.flatten(structure)
        if not isinstance(structure, list | tuple) or len(flat) == len(structure):
            return [f"output_{index}" for index in range(len(flat))]
    return _distinct(["_".join(map(str, path)) for path in _paths(structure)])


def _paths(structure: Any) -> Iterator[tuple[Any, ...]]:
    """Keys and positions on the way to each leaf of a structure, in the order of ``tf.nest.flatten``."""
    if isinstance(structure, dict):
        parts: Iterable[tuple[Any, Any]] = sorted(structure.items())
    elif isinstance(structure, list | tuple):
        parts = enumerate(structure)
    else:
        yield ()
        return
    for key, part in parts:
        for path in _paths(part):
            yield (key, *path)


def _distinct(names: list[str]) -> list[str]:
    """Names, of which those that came before get a number."""
    distinct: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        distinct[next(new for new in itertools.chain([name], numbered) if new not in distinct)] = None
    return list(distinct)
