"""``dbf train``: trains a network, resumes after a kill, writes model, history and learning curve.

dbf train --dataset=cifar10 --data_dir=data --network=resnet18 --ratio=0.25 --output=model.keras
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import flags

from dbf_keras import codes, command, data, networks
from dbf_keras.train import distributed
from dbf_keras.train.recipes import RECIPES
from dbf_keras.train.settings import Settings, parse_options

_FLAGS = flags.FLAGS


def define_flags(output_required: bool = True) -> None:
    """Defines the flags of the command line, one for each of the settings."""
    flags.DEFINE_enum("dataset", "digits", data.DATASETS, "Image set.")
    flags.DEFINE_string("data_dir", None, data.WHERE)
    flags.DEFINE_integer("image_size", 224, "Side to which images of files are scaled.")
    flags.DEFINE_integer("train_images", None, "Train on so many images only, always the same.")
    flags.DEFINE_string(
        "network",
        "dbfnet_micro",
        f"Network: {', '.join(sorted(networks.NETWORKS))}; MODULE:FUNCTION, a function of your own that takes "
        "input_shape and classes and returns a Keras model; or a .keras file, which is trained on from its weights.",
    )
    flags.DEFINE_string(
        "ratio",
        "0.25",
        "Share of the codes kept: a number, 'pattern=number,...' by layer name, or @FILE.plan.json that dbf compress "
        "wrote, with its codes unless --selection is given.",
    )
    flags.DEFINE_string(
        "selection",
        codes.DEFAULT_SELECTION,
        "Which codes are kept: an order of dbf_keras.codes.order, sp_ovsf, energy:FILE.keras for those that a trained "
        "model uses most, or 'pattern=selection,...' by layer name.",
    )
    flags.DEFINE_multi_string("option", [], "Another option of the network, e.g. --option kernel_size=3.")
    flags.DEFINE_enum("recipe", None, sorted(RECIPES), "Recipe; by default one for the dataset.")
    flags.DEFINE_integer("epochs", None, "Epochs, if not the recipe's; drops of the learning rate move along.")
    flags.DEFINE_integer("batch_size", None, "Images a step, if not the recipe's.")
    flags.DEFINE_float("learning_rate", None, "Highest learning rate, if not the recipe's.")
    flags.DEFINE_float("weight_decay", None, "Decoupled weight decay, if not the recipe's.")
    flags.DEFINE_float("alpha_rate", None, "Factor on the learning rate of the coefficients, if not the recipe's.")
    flags.DEFINE_float("label_smoothing", None, "Share of the target spread over all classes, if not the recipe's.")
    flags.DEFINE_float("crop", None, "Least share of the area in random parts of images in files, if not the recipe's.")
    flags.DEFINE_float("cutout", None, "Side of a blank square in each image, as a share of the image's.")
    flags.DEFINE_float("mixup", None, "α of mixup, such as 0.2.")
    flags.DEFINE_string(
        "start",
        None,
        "A trained .keras file of the same network, DBF or plain, to start from; the "
        "classifier is new if its classes are others.",
    )
    flags.DEFINE_float(
        "rate",
        None,
        "Loss for each 1,000 bytes that the coefficients are coded in; needs --option=alpha_step=…. It rises to this "
        "in the first quarter of the epochs.",
    )
    flags.DEFINE_float(
        "coded_kb", None, "Instead of --rate: how many 1,000 bytes the coefficients are to be coded in at the end."
    )
    flags.DEFINE_string("teacher", None, "A trained .keras file to learn from, besides the labels.")
    flags.DEFINE_float("temperature", 4.0, "With --teacher: by which logits are divided.")
    flags.DEFINE_float("teacher_weight", 0.9, "With --teacher: its share of the loss.")
    flags.DEFINE_enum("mixed_precision", None, ["bfloat16", "float16"], "Compute in this type, keep float32 weights.")
    flags.DEFINE_integer("seed", 0, "Seed of weights, order, augmentation and dropout.")
    flags.DEFINE_string("output", None, "The .keras file to write.", required=output_required)
    flags.DEFINE_bool("overwrite", False, "Replace a model at --output that was trained with other settings.")
    flags.DEFINE_string("coordinator", None, "To train by several processes, on JAX: host:port of process 0.")
    flags.DEFINE_integer("processes", 1, "With --coordinator: how many processes train, with all of their devices.")
    flags.DEFINE_integer("process", 0, "With --coordinator: the number of this process, from 0.")


def settings_of_flags() -> Settings:
    """The settings that the flags give."""
    names = [field.name for field in dataclasses.fields(Settings) if field.name != "options"]
    return Settings(options=parse_options(_FLAGS.option), **{name: _FLAGS[name].value for name in names})


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command on these arguments, by default this process's."""
    define_flags()
    command.run(main, __name__, arguments)


def main(_: list[str]) -> None:
    """Trains as the flags say and prints the test accuracy of the last epoch."""
    settings = settings_of_flags()
    if _FLAGS.coordinator is not None:
        distributed.join(_FLAGS.coordinator, _FLAGS.processes, _FLAGS.process)
    elif _FLAGS.processes > 1:
        raise ValueError("--processes needs --coordinator=host:port of process 0.")
    history = settings.train(settings.load_data(), _FLAGS.output)
    if distributed.is_first():
        accuracy = 100 * history[-1]["val_accuracy"]
        print(f"Test accuracy after epoch {len(history)}: {accuracy:.2f} %. Wrote {_FLAGS.output}")
