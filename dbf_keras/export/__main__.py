"""``python -m dbf_keras.export``: writes a model as a TensorFlow Lite file and checks it against Keras."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
from absl import flags, logging

from dbf_keras import command, data

_FLAGS = flags.FLAGS

# Of the file's name, by kind of quantisation.
_SUFFIXES = {"none": "", "weights": "_int8_weights", "int4": "_int4_weights", "int8": "_int8"}


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "A model of the zoo or a .keras file. By default the zoo's default model.")
    flags.DEFINE_enum(
        "mode",
        "onthefly",
        ["explicit", "onthefly", "folded"],
        "explicit: filters in standard ops. folded: layers whose codes are a product as sums of pixels and channels "
        "and a smaller convolution, in standard ops. onthefly: coefficients only, in ops of our C library.",
    )
    flags.DEFINE_enum(
        "quantize",
        "none",
        list(_SUFFIXES),
        "weights: int8 weights, one scale a filter. int4: the same with int4 coefficients in our ops (onthefly only). "
        "int8: compute in int8, calibrated on training images.",
    )
    flags.DEFINE_enum("io", "float32", ["float32", "int8"], "With --quantize=int8, the type of inputs and outputs.")
    flags.DEFINE_enum(
        "dataset",
        None,
        data.DATASETS,
        "With --quantize=int8, the data set of the training images. By default that of the zoo model.",
    )
    flags.DEFINE_string("data_dir", None, "Where <dataset>.npz, or train/ and test/, or the TFRecords are.")
    flags.DEFINE_string("output", None, "The file to write. By default MODEL_MODE[_QUANTIZE].tflite in this folder.")
    flags.DEFINE_bool("strict", False, "Fail if a layer cannot be written as asked.")


def main(_: list[str]) -> None:
    """Exports as the flags say and prints the table of layers."""
    quantize = None if _FLAGS.quantize == "none" else _FLAGS.quantize
    if _FLAGS.model is not None and _is_path(_FLAGS.model):
        _check_keras_file(_FLAGS.model)
    _check_combination()
    if _FLAGS.output is not None:
        _check_writable(pathlib.Path(_FLAGS.output))

    # TensorFlow and its converter tell every step. Set before the first import.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    # After the checks that need no TensorFlow, which takes seconds to import.
    from dbf_keras.export import convert

    name, model = _load(_FLAGS.model)
    output = pathlib.Path(_FLAGS.output or f"{name}_{_FLAGS.mode}{_SUFFIXES[_FLAGS.quantize]}.tflite")
    _check_writable(output)
    try:
        images = _training_images(model) if quantize == "int8" else None
        result = convert(
            model, _FLAGS.mode, quantize, representative_data=images, io_type=_FLAGS.io, strict=_FLAGS.strict
        )
    except (RuntimeError, ImportError) as error:  # No C library or no runtime to check with; says what to do.
        raise ValueError(error) from error
    command.write_atomically(output, lambda path: path.write_bytes(result.data))
    result.print()
    print(f"written to {output}")


def _is_path(model: str) -> bool:
    return model.endswith(".keras") or os.sep in model or os.path.exists(model)


def _check_combination() -> None:
    if _FLAGS.quantize == "int4" and _FLAGS.mode != "onthefly":
        raise ValueError(f"--quantize=int4 is for --mode=onthefly only; with --mode={_FLAGS.mode} use weights or int8.")
    if _FLAGS.quantize != "int8":
        for name, default in (("io", "float32"), ("dataset", None), ("data_dir", None)):
            if _FLAGS[name].value != default:
                raise ValueError(f"--{name} is for --quantize=int8 only; got --quantize={_FLAGS.quantize}.")
    elif _FLAGS.model is not None and _is_path(_FLAGS.model) and _FLAGS.dataset is None:
        raise ValueError("--quantize=int8 of a .keras file needs --dataset, whose training images calibrate it.")


def _check_keras_file(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file {path!r}. Give a .keras file or the name of a zoo model.")
    if not path.endswith(".keras"):
        raise ValueError(f"{path!r} is not a .keras file. Save the model with model.save('NAME.keras').")


def _check_writable(output: pathlib.Path) -> None:
    if output.is_dir():
        raise IsADirectoryError(f"--output names the file to write; {str(output)!r} is a folder.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(output.parent)!r} to write {output.name!r} into.")
    if not os.access(output.parent, os.W_OK):
        raise PermissionError(f"The folder {str(output.parent)!r} is not writable; choose another --output.")


def _load(model: str | None) -> tuple:
    """The name and the Keras model of a zoo name (None: the default) or a path."""
    if model is None or not _is_path(model):
        from dbf_keras import zoo

        return zoo.entry(model)["name"], zoo.load_zoo(model)

    from dbf_keras.backend import keras
    from dbf_keras.layers import custom_objects

    try:
        loaded = keras.models.load_model(model, custom_objects=custom_objects(), compile=False)
    except Exception as error:  # Keras raises whatever its parts do: zip, json, h5py, a layer's constructor.
        raise ValueError(f"Keras cannot load {model!r}: {error}") from error
    return pathlib.Path(model).stem, loaded


def _training_images(model: Any) -> list[np.ndarray]:
    """A batch of raw pixels 0–255 to calibrate with."""
    from dbf_keras import zoo

    name = _FLAGS.dataset or zoo.entry(_FLAGS.model)["dataset"]
    return [data.load(name, _FLAGS.data_dir, model.input_shape[1]).calibration_images()]


if __name__ == "__main__":
    _define_flags()
    command.run(main)
