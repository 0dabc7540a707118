"""``python -m dbf_keras.export``: writes a model as a TensorFlow Lite file and checks it against Keras."""

from __future__ import annotations

import os
import pathlib

from absl import flags, logging

from dbf_keras import command

_FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "A model of the zoo or a .keras file. By default the zoo's default model.")
    flags.DEFINE_enum(
        "mode",
        "onthefly",
        ["explicit", "onthefly", "folded"],
        "explicit: filters in standard ops. folded: separable layers as a projection and a smaller convolution, in "
        "standard ops. onthefly: coefficients only, in ops of our C library.",
    )
    flags.DEFINE_enum("quantize", "none", ["none", "weights"], "weights: int8 weights, one scale a filter.")
    flags.DEFINE_string("output", None, "The file to write. By default MODEL_MODE.tflite in this folder.")
    flags.DEFINE_bool("strict", False, "Fail if a layer cannot be written as asked.")


def main(_: list[str]) -> None:
    """Exports as the flags say and prints the table of layers."""
    quantize = None if _FLAGS.quantize == "none" else _FLAGS.quantize
    if _FLAGS.model is not None and _is_path(_FLAGS.model):
        _check_keras_file(_FLAGS.model)
    if _FLAGS.output is not None:
        _check_writable(pathlib.Path(_FLAGS.output))

    # TensorFlow and its converter tell every step. Set before the first import.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    # After the checks that need no TensorFlow, which takes seconds to import.
    from dbf_keras.export import convert

    name, model = _load(_FLAGS.model)
    output = pathlib.Path(_FLAGS.output or f"{name}_{_FLAGS.mode}{'_int8' if quantize else ''}.tflite")
    _check_writable(output)
    try:
        result = convert(model, _FLAGS.mode, quantize, strict=_FLAGS.strict)
    except (RuntimeError, ImportError) as error:  # No C library or no runtime to check with; says what to do.
        raise ValueError(error) from error
    command.write_atomically(output, lambda path: path.write_bytes(result.data))
    result.print()
    print(f"written to {output}")


def _is_path(model: str) -> bool:
    return model.endswith(".keras") or os.sep in model or os.path.exists(model)


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


if __name__ == "__main__":
    _define_flags()
    command.run(main)
