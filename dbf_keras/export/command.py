"""``dbf export``: writes a model as a TensorFlow Lite file and checks it against Keras.

dbf export --model=model.keras --mode=onthefly --quantize=weights
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from dbf_keras import command, data
from dbf_keras.command import OPEN_SIZE, size_text
from dbf_keras.forms import INT8, IO_TYPES, MODES, ONTHEFLY, QUANTIZATIONS, Form

_FLAGS = flags.FLAGS
_FILE = ".tflite"
_FLOAT = "none"  # What --quantize calls float32.
_JUDGED = 2000  # Training images that tell what coding loses.


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command on these arguments, by default this process's."""
    _define_flags()
    command.run(main, __name__, arguments)


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "A model of the zoo or a .keras file. By default the zoo's default model.")
    flags.DEFINE_enum(
        "mode",
        ONTHEFLY,
        MODES,
        "explicit: filters in standard ops. folded: separable layers as pooling, a projection of the channels and a "
        "smaller convolution, in standard ops. onthefly: coefficients only, in ops of our C library.",
    )
    flags.DEFINE_enum(
        "quantize",
        _FLOAT,
        [name or _FLOAT for name in QUANTIZATIONS],
        "float16: float16 weights. weights: int8 weights, one scale a filter. int4: the same with int4 coefficients in "
        "our ops (onthefly only). int8: compute in int8, calibrated on training images. int8_int4: the same with int4 "
        "coefficients in our ops (onthefly only).",
    )
    flags.DEFINE_bool(
        "coding",
        False,
        "Entropy-code the coefficients (onthefly only): whole multiples of steps, those that the model was trained to, "
        "or else of int8's steps, or with --max_loss or --max_kb of such as lose the least.",
    )
    flags.DEFINE_float(
        "max_loss",
        None,
        "With --coding, points of accuracy that it may cost on training images (0.1: a thousandth of them).",
        lower_bound=0,
    )
    flags.DEFINE_float("max_kb", None, "With --coding, the kB (1,000 bytes) that the file may have.", lower_bound=0)
    flags.DEFINE_enum("io", "float32", IO_TYPES, "With --quantize=int8, the type of inputs and outputs.")
    flags.DEFINE_enum(
        "dataset",
        None,
        data.DATASETS,
        "With --quantize=int8, --max_loss or --max_kb: the data set of the training images. By default that of the zoo "
        "model.",
    )
    flags.DEFINE_string("data_dir", None, data.WHERE)
    flags.DEFINE_string(
        "input_size",
        None,
        "Where the model leaves height and width of images open: the size to calibrate and check with, such as 224 or "
        f"224x160. By default {size_text(OPEN_SIZE)}, or that of the data set's images.",
    )
    flags.DEFINE_string("output", None, "The file to write. By default MODEL_MODE[_QUANTIZE].tflite in this folder.")
    flags.DEFINE_bool(
        "metadata",
        True,
        "Write metadata: the names of the classes and the training, where the .keras file (of dbf train) or the zoo "
        "has them, ratios, and how pixels are normalised.",
    )
    flags.DEFINE_string("labels", None, "A text file with the name of a class a line, if the .keras file has none.")
    flags.DEFINE_list("mean", None, "For the metadata: what the model wants subtracted from pixels, by channel or one.")
    flags.DEFINE_list("std", None, "For the metadata: what it wants them divided by after that, by channel or one.")
    flags.DEFINE_bool("strict", False, "Fail if a layer cannot be written as asked.")


def main(_: list[str]) -> None:
    """Exports as the flags say and prints the table of layers."""
    form = Form(_FLAGS.mode, None if _FLAGS.quantize == _FLOAT else _FLAGS.quantize, _FLAGS.coding)
    if _FLAGS.model is not None and _is_path(_FLAGS.model):
        _check_keras_file(_FLAGS.model)
    _check_combination(form)
    size = command.parse_size(_FLAGS.input_size)
    if _FLAGS.output is not None:
        command.check_writable(pathlib.Path(_FLAGS.output), _FILE)

    # After the checks that need no TensorFlow, which takes seconds to import.
    from dbf_keras.export import convert, verify

    name, model = _load(_FLAGS.model)
    output = pathlib.Path(_FLAGS.output or f"{name}_{form.role}{_FILE}")
    command.check_writable(output, _FILE)
    try:
        is_open = verify.leaves_size_open(model)
        if size is not None and not is_open:
            raise ValueError(
                f"--input_size is for models that leave height and width open; {name} takes inputs of shape "
                f"{', '.join(str(tuple(tensor.shape[1:])) for tensor in model.inputs)}. Leave it out."
            )
        images = _training_images(model, size) if _needs_images(form) else None
        random = None
        if is_open and images is None:
            used = size or OPEN_SIZE
            if not verify.takes_size(model, used):
                raise ValueError(f"Images of {size_text(used)} are too small for {name}; give a larger --input_size.")
            random = verify.random_inputs(model, size=used)
        result = convert(
            model,
            *form,
            representative_data=images,
            io_type=_FLAGS.io,
            max_loss=_FLAGS.max_loss,
            max_kb=_FLAGS.max_kb,
            labels=_labels() if _FLAGS.metadata else None,
            normalization=command.parse_normalization(_FLAGS.mean, _FLAGS.std) if _FLAGS.metadata else None,
            training=(_training() or {}) if _FLAGS.metadata else None,
            strict=_FLAGS.strict,
            inputs=random,
        )
    except (RuntimeError, ImportError) as error:  # No C library or no runtime to check with; says what to do.
        raise ValueError(error) from error
    command.write_atomically(output, lambda path: path.write_bytes(result.data))
    result.print()
    if is_open and size is None:
        checked = size_text((random or images or [])[0].shape[1:3])
        print(
            f"The model leaves the size of its inputs open; it was checked with {checked}. --input_size gives another."
        )
    print(f"written to {output}")


def _is_path(model: str) -> bool:
    return model.endswith(".keras") or os.sep in model or os.path.exists(model)


def _needs_images(form: Form) -> bool:
    return form.quantize in INT8 or _FLAGS.max_loss is not None or _FLAGS.max_kb is not None


def _check_combination(form: Form) -> None:
    int4 = form.quantize in ("int4", "int8_int4")
    if int4 and form.mode != ONTHEFLY:
        raise ValueError(
            f"--quantize={form.quantize} is for --mode=onthefly only; with --mode={form.mode} use weights or int8."
        )
    if form.coding and (int4 or form.mode != ONTHEFLY):
        raise ValueError(
            f"--coding is for --mode=onthefly and any --quantize but int4; got --mode={form.mode} "
            f"--quantize={_FLAGS.quantize}."
        )
    if not form.coding and (_FLAGS.max_loss is not None or _FLAGS.max_kb is not None):
        raise ValueError("--max_loss and --max_kb are limits that --coding keeps; give it, too.")
    if _FLAGS.max_loss is not None and _FLAGS.max_kb is not None:
        raise ValueError("Give --max_loss or --max_kb, and not both.")
    if form.quantize not in INT8 and _FLAGS.io != "float32":
        raise ValueError(f"--io is for --quantize=int8 only; got --quantize={_FLAGS.quantize}.")
    if not _needs_images(form):
        for name in ("dataset", "data_dir"):
            if _FLAGS[name].value is not None:
                raise ValueError(
                    f"--{name} is for --quantize=int8, --max_loss and --max_kb only; got --quantize={_FLAGS.quantize}."
                )
    elif _FLAGS.model is not None and _is_path(_FLAGS.model) and _FLAGS.dataset is None:
        raise ValueError(
            "--quantize=int8, --max_loss and --max_kb need --dataset with a .keras file: they look at what its "
            "training images do in the model."
        )


def _check_keras_file(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file {path!r}. Give a .keras file or the name of a zoo model.")
    if not path.endswith(".keras"):
        raise ValueError(f"{path!r} is not a .keras file. Save the model with model.save('NAME.keras').")


def _load(model: str | None) -> tuple:
    """The name and the Keras model of a zoo name (None: the default) or a path."""
    if model is None or not _is_path(model):
        from dbf_keras import zoo

        return zoo.entry(model)["name"], zoo.load_zoo(model)

    from dbf_keras import keras_file

    return pathlib.Path(model).stem, keras_file.load(model)


def _labels() -> Sequence[str] | None:
    """The names of the model's classes, if they are known."""
    from dbf_keras import keras_file, zoo

    if _FLAGS.labels is not None:
        return command.read_lines(_FLAGS.labels)
    if _FLAGS.model is not None and _is_path(_FLAGS.model):
        return keras_file.labels(_FLAGS.model)
    return data.CLASS_NAMES.get(zoo.entry(_FLAGS.model)["dataset"])


def _training() -> dict[str, Any] | None:
    """How the model was trained, if that is known."""
    from dbf_keras import keras_file, zoo

    if _FLAGS.model is not None and _is_path(_FLAGS.model):
        return keras_file.training(_FLAGS.model)
    return zoo.training(_FLAGS.model)


def _training_images(model: Any, size: tuple[int, int] | None) -> list[Any]:
    """A batch of raw pixels 0–255 to calibrate with, of this (height, width) where the model leaves them open.

    For a limit of coding it is larger, and has labels.
    """
    from dbf_keras import zoo

    name = _FLAGS.dataset or zoo.entry(_FLAGS.model)["dataset"]
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise ValueError(
            f"--quantize=int8 calibrates on images, of which the model takes none: its inputs are {shapes}. Export it "
            "in Python, with dbf_keras.export.convert(model, mode, 'int8', representative_data=…)."
        )
    wanted = [known or length for known, length in zip(shapes[0], size or OPEN_SIZE, strict=False)]
    dataset = data.load(name, _FLAGS.data_dir, (wanted[0], wanted[1]))
    if size is not None and dataset.image_shape[:2] != tuple(wanted):
        raise ValueError(
            f"The images of {name} are {size_text(dataset.image_shape[:2])}, so --input_size={_FLAGS.input_size} does "
            "not fit them; leave it out."
        )
    if _FLAGS.max_loss is not None or _FLAGS.max_kb is not None:
        return [dataset.calibration_examples(_JUDGED)]
    return [dataset.calibration_images()]
