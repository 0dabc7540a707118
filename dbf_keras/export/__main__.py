"""``python -m dbf_keras.export``: writes a model as a TensorFlow Lite file and checks it against Keras."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

_MODEL = flags.DEFINE_string("model", None, "A model of the zoo or a .keras file. By default the zoo's default model.")
_MODE = flags.DEFINE_enum(
    "mode",
    "onthefly",
    ["explicit", "onthefly", "folded"],
    "explicit: filters in standard ops. folded: separable layers as a projection and a smaller convolution, in "
    "standard ops. onthefly: coefficients only, in ops of our C library.",
)
_QUANTIZE = flags.DEFINE_enum("quantize", "none", ["none", "weights"], "weights: int8 weights, one scale a filter.")
_OUTPUT = flags.DEFINE_string("output", None, "The file to write. By default MODEL_MODE.tflite in this folder.")
_STRICT = flags.DEFINE_bool("strict", False, "Fail if a layer cannot be written as asked.")


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}. Did you mean --model={argv[1]}?")
    try:
        _export()
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")


def _export() -> None:
    quantize = None if _QUANTIZE.value == "none" else _QUANTIZE.value
    if _MODEL.value is not None and _is_path(_MODEL.value):
        _check_keras_file(_MODEL.value)
    if _OUTPUT.value is not None:
        _check_folder(pathlib.Path(_OUTPUT.value))

    # After the checks that need no TensorFlow, which takes seconds to import.
    from dbf_keras.export import convert

    name, model = _load(_MODEL.value)
    output = pathlib.Path(_OUTPUT.value or f"{name}_{_MODE.value}{'_int8' if quantize else ''}.tflite")
    _check_folder(output)
    result = convert(model, _MODE.value, quantize, strict=_STRICT.value)
    _write(output, result.data)
    result.print()
    print(f"written to {output}")


def _is_path(model: str) -> bool:
    return model.endswith(".keras") or os.sep in model or os.path.exists(model)


def _check_keras_file(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file at {path!r}. Give a .keras file or the name of a zoo model.")
    if not path.endswith(".keras"):
        raise ValueError(f"{path!r} is not a .keras file. Save the model with model.save('NAME.keras').")


def _check_folder(output: pathlib.Path) -> None:
    if output.is_dir():
        raise IsADirectoryError(f"--output names the file to write; {str(output)!r} is a folder.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(output.parent)!r} to write {output.name!r} into.")


def _load(model: str | None) -> tuple:
    """The name and the Keras model of a zoo name (None: the default) or a path."""
    if model is None or not _is_path(model):
        from dbf_keras import zoo

        loaded = zoo.load_zoo(model) if model else zoo.load_zoo()
        return model or loaded.name, loaded

    from dbf_keras.backend import keras
    from dbf_keras.layers import custom_objects

    try:
        loaded = keras.models.load_model(model, custom_objects=custom_objects(), compile=False)
    except Exception as error:  # Keras raises whatever its parts do: zip, json, h5py, a layer's constructor.
        raise ValueError(f"Keras cannot load {model!r}: {error}") from error
    return pathlib.Path(model).stem, loaded


def _write(output: pathlib.Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, output)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


if __name__ == "__main__":
    app.run(main)
