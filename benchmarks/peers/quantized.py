"""Files of few bits: by the standard converter, by ai-edge-quantizer, and of networks that are trained for int4."""

import contextlib
import io
import zipfile
from typing import Any

import numpy as np

from dbf_keras import Interpreter, data
from dbf_keras.backend import keras, ops
from dbf_keras.export import to_tflite

# How files can be written, and what tables call it: by the standard converter; by ai-edge-quantizer, by its own names.
CONVERTED = {"weights": "int8 weights", "int8": "int8"}
RECIPES = {
    "static_wi8_ai8": "int8, ai-edge-quantizer",
    "dynamic_wi8_afp32": "int8 weights, dynamic",
    "weight_only_wi8_afp32": "int8 weights, ai-edge-quantizer",
    "static_wi4_ai8": "int4 weights, int8",
    "dynamic_wi4_afp32": "int4 weights, dynamic",
    "weight_only_wi4_afp32": "int4 weights",
}
_CALIBRATION = 200  # Images; static int4 takes more.
_LARGEST = 7  # The largest multiple that int4 holds; the range is symmetric.


def write(model: keras.Model, kind: str, dataset: data.Dataset, images: int = 1000) -> bytes:
    """A network's file.

    Args:
        model: plain, or with `Int4Conv2D`.
        kind: a key of `CONVERTED` or `RECIPES`.
        dataset: training images to calibrate with.
        images: how many of them at most.
    """
    if kind in CONVERTED:
        samples = [dataset.calibration_images(min(images, _CALIBRATION))] if kind == "int8" else None
        return to_tflite(model, "explicit", kind, representative_data=samples)
    return by_quantizer(to_tflite(model, "explicit"), kind, dataset.calibration_images(images))


def by_quantizer(file: bytes, recipe: str, images: np.ndarray) -> bytes:
    """A float32 file by one of `RECIPES`; only static ones are calibrated."""
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer import recipe as recipes

    tool = quantizer.Quantizer(file)
    if recipe == "static_wi4_ai8":  # int8, but for the weights of these two.
        names = qtyping.TFLOperationName
        for operation, bits in ((names.ALL_SUPPORTED, 8), (names.CONV_2D, 4), (names.FULLY_CONNECTED, 4)):
            tool.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=bits)
    else:
        tool.load_quantization_recipe(getattr(recipes, recipe)())
    ranges = None
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # It prints sizes, and bars.
        if tool.need_calibration:
            [name] = Interpreter(model_content=file).get_signature_list()["serving_default"]["inputs"]
            ranges = tool.calibrate({"serving_default": [{name: image[None]} for image in images]})
        return bytes(tool.quantize(ranges).quantized_model)


def zipped(file: bytes) -> int:
    """Bytes of a zip archive of a file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as written:
        written.writestr("model.tflite", file)
    return len(archive.getvalue())


def to_int4(kernel: Any) -> Any:
    """Multiples, at most 7, of a step for each filter; the last axis is the filters'."""
    axes = tuple(range(len(kernel.shape) - 1))
    steps = ops.maximum(ops.max(ops.abs(kernel), axis=axes, keepdims=True), 1e-9) / _LARGEST
    return ops.round(kernel / steps) * steps


@keras.saving.register_keras_serializable("peers")
class Int4Conv2D(keras.layers.Conv2D):
    """A convolution whose kernel is rounded, with the gradient of one that is not."""

    def call(self, inputs: Any) -> Any:
        """Convolves."""
        rounded = self.kernel + ops.stop_gradient(to_int4(self.kernel) - self.kernel)
        outputs = self.convolution_op(inputs, rounded)
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs if self.activation is None else self.activation(outputs)
