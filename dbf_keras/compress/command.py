"""``dbf compress``: makes a trained Keras network smaller and faster, by one command.

dbf compress model.keras --dataset=cifar10 --data_dir=data --max_kb=48 --epochs=10 --output=small.tflite
dbf compress model.keras --ratio=0.5 --output=half.tflite

The first plans what each layer is to become, fits it, fine-tunes it with the original as its teacher, and writes the
.tflite file and, beside it, the .keras file, the plan (.plan.json, which ``dbf train --ratio=@FILE`` takes too) and a
report (.html). The second needs no data and trains nothing.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from dbf_keras import command, data

_FLAGS = flags.FLAGS
_SUFFIX = ".tflite"
_FLOAT = "float32"


def define_flags() -> None:
    """Defines the flags of the command line."""
    flags.DEFINE_string("output", None, "The .tflite file to write. By default MODEL_compressed.tflite in this folder.")
    flags.DEFINE_float("max_kb", None, "kB (1,000 bytes) that the file may have.")
    flags.DEFINE_float("max_ms", None, "Milliseconds that an inference may take on one thread, here or on the --phone.")
    flags.DEFINE_float("max_macs", None, "Multiply-adds that an inference may take.")
    flags.DEFINE_float("max_loss", None, "Points of accuracy that it may lose before fine-tuning.")
    flags.DEFINE_string(
        "ratio", None, "Instead of limits: share of the codes kept, a number or 'pattern=number,...' by layer name."
    )
    flags.DEFINE_string(
        "selection",
        None,
        "With --ratio, which codes are kept: energy, product, grouped, pooled, or an order such as spatial_tree.",
    )
    flags.DEFINE_enum("quantize", "weights", [_FLOAT, "float16", "weights", "int8"], "As of dbf export.")
    flags.DEFINE_bool("coding", None, "Entropy-code the coefficients; by default with --max_kb and --max_loss.")
    flags.DEFINE_enum("dataset", None, data.DATASETS, "The data set that the model was trained on.")
    flags.DEFINE_string("data_dir", None, data.WHERE)
    flags.DEFINE_integer("epochs", None, "Epochs of fine-tuning; by default 10, or none with --ratio.")
    flags.DEFINE_integer("batch_size", None, "Images a step, if not the recipe's.")
    flags.DEFINE_float(
        "learning_rate",
        None,
        "Highest learning rate of fine-tuning; by default 0.02, or as much less as the network needs.",
    )
    flags.DEFINE_enum("mixed_precision", None, ["bfloat16", "float16"], "Fine-tune in this type, keep float32 weights.")
    flags.DEFINE_bool("slower", False, "Allow a file that takes longer than the original's in the same number type.")
    flags.DEFINE_string(
        "phone",
        None,
        "Plan by a phone's times: a folder for the files to time there and for the app's benchmark.json of them.",
    )
    flags.DEFINE_bool("compare_narrow", False, "Also train a narrower plain network of no more bytes, to compare.")
    flags.DEFINE_string("labels", None, "A text file with the name of a class a line, if the .keras file has none.")
    flags.DEFINE_list("mean", None, "What the model wants subtracted from pixels, by channel or one.")
    flags.DEFINE_list("std", None, "What it wants them divided by after that, by channel or one.")
    flags.DEFINE_integer("seed", 0, "Seed of order, augmentation and dropout.")
    flags.DEFINE_bool("overwrite", False, "Replace a file at --output that was made with other settings.")


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command on these arguments, by default this process's."""
    define_flags()
    command.run(main, __name__, arguments, takes_arguments=True)


def main(arguments: list[str]) -> None:
    """Compresses as the flags say."""
    if len(arguments) != 2:
        raise ValueError("Give one trained model: dbf compress model.keras --max_kb=100 …; see --help.")
    path = pathlib.Path(arguments[1])
    output = pathlib.Path(_FLAGS.output or f"{path.stem}_compressed{_SUFFIX}")
    command.check_writable(output, _SUFFIX)
    if _FLAGS.dataset is None and _FLAGS.data_dir is not None:
        raise ValueError("--data_dir goes with --dataset, which says what is in it.")
    normalization = command.parse_normalization(_FLAGS.mean, _FLAGS.std)

    # After the checks that need no TensorFlow, which takes seconds to import.
    from dbf_keras import keras_file
    from dbf_keras.compress.compression import compress
    from dbf_keras.train.settings import parse_ratio, precision_of

    model = keras_file.load(path)
    labels = command.read_lines(_FLAGS.labels) if _FLAGS.labels is not None else keras_file.labels(path)
    dataset = _dataset(model)
    try:
        compress(
            model,
            dataset,
            max_kb=_FLAGS.max_kb,
            max_ms=_FLAGS.max_ms,
            max_macs=_FLAGS.max_macs,
            max_loss=_FLAGS.max_loss,
            ratio=None if _FLAGS.ratio is None else parse_ratio(_FLAGS.ratio),
            selection=_FLAGS.selection,
            quantize=None if _FLAGS.quantize == _FLOAT else _FLAGS.quantize,
            coding=_FLAGS.coding,
            epochs=_FLAGS.epochs,
            learning_rate=_FLAGS.learning_rate,
            recipe=_recipe(),
            precision=precision_of(_FLAGS.mixed_precision),
            slower=_FLAGS.slower,
            phone=_FLAGS.phone,
            compare_narrow=_FLAGS.compare_narrow,
            output=output,
            labels=labels,
            normalization=normalization,
            seed=_FLAGS.seed,
            overwrite=_FLAGS.overwrite,
        )
    except (RuntimeError, ImportError) as error:  # No C library or no runtime; says what to do.
        raise ValueError(error) from error
    print(f"written to {output}, with {output.stem}.keras, {output.stem}.plan.json and {output.stem}.html")


def _dataset(model: Any) -> data.Dataset | None:
    """The data set that the flags name, its images as large as the model takes them."""
    if _FLAGS.dataset is None:
        return None
    shape = tuple(model.inputs[0].shape[1:])
    known = len(shape) == 3 and None not in shape
    return data.load(_FLAGS.dataset, _FLAGS.data_dir, tuple(shape[:2]) if known else command.OPEN_SIZE)


def _recipe() -> Any:
    """How to fine-tune: the recipe of the data set, at a fraction of its learning rate."""
    from dbf_keras.compress.compression import FINE_TUNING
    from dbf_keras.train.recipes import DEFAULT_RECIPES, RECIPES

    recipe = FINE_TUNING
    if _FLAGS.dataset is not None:
        own = RECIPES[DEFAULT_RECIPES[_FLAGS.dataset]]
        recipe = recipe.change(augmentation=own.augmentation, batch_size=own.batch_size, crop=own.crop)
    return recipe.change(batch_size=_FLAGS.batch_size)
