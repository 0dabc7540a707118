"""``python -m dbf_keras.train``: trains a network, resumes after a kill, writes model, history and learning curve."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import flags

from dbf_keras import command, data, networks, optimizers
from dbf_keras.backend import keras


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training set.
        batch_size: images a step.
        learning_rate: the highest.
        drops: epochs, out of `epochs`, after which the learning rate falls to a tenth; none for a cosine to zero after
            a linear rise over the first twentieth.
        weight_decay: decoupled, times the learning rate, on α and plain kernels.
        label_smoothing: share of the target spread over all classes.
        augmentation: arguments of `dbf_keras.data.random_affine`.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    drops: tuple[int, ...] = ()
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augmentation: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_CROP_AND_MIRROR = {"shift": 4, "mirror": True}
RECIPES: dict[str, Recipe] = {
    # The paper's, section 5: CIFAR-10 networks; DBFNet on MNIST and CIFAR-10; ImageNet.
    "paper": Recipe(250, drops=(90, 150, 190, 220), weight_decay=1e-4, augmentation=_CROP_AND_MIRROR),
    "paper_dbfnet": Recipe(100, drops=(40, 70, 90), weight_decay=1e-4, augmentation={"shift": 4}),
    "paper_imagenet": Recipe(100, 64, drops=(30, 60, 90), weight_decay=1e-4, augmentation={"mirror": True}),
    # Ours.
    "digits": Recipe(60, 32, 0.05, augmentation={"shift": 1, "rotation": 10, "zoom": 0.1}),
    "mnist": Recipe(25, 128, 0.1, label_smoothing=0.1, augmentation={"shift": 2, "rotation": 12, "zoom": 0.12}),
    "cosine": Recipe(100, 128, 0.1, augmentation=_CROP_AND_MIRROR),
}
DEFAULT_RECIPES = {"digits": "digits", "mnist": "mnist", "cifar10": "cosine", "folder": "paper_imagenet"}


def compile_model(model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compiles a model for a recipe: `CodeSGD`, the recipe's schedule, cross-entropy on one-hot labels."""
    steps = recipe.epochs * steps_per_epoch
    if recipe.drops:
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
            [epoch * steps_per_epoch for epoch in recipe.drops],
            [recipe.learning_rate * 0.1**drop for drop in range(len(recipe.drops) + 1)],
        )
    else:
        rise = max(1, steps // 20)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - rise), warmup_target=recipe.learning_rate, warmup_steps=rise
        )
    optimizer = optimizers.CodeSGD(schedule, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    model.compile(optimizer, loss, metrics=["accuracy"])


def train(
    model_fn: Callable[[], keras.Model],
    dataset: data.Dataset,
    recipe: Recipe,
    output: str | os.PathLike,
    seed: int = 0,
    verbose: str | int = "auto",
) -> list[dict[str, float]]:
    """Trains a model, or goes on from the checkpoint that a killed run left beside the output.

    Writes ``<output>`` (.keras), ``<stem>.history.json``, ``<stem>.png``, and while it runs ``<stem>.checkpoint.keras``
    after each epoch; every file whole or not at all. Order and augmentation depend on seed and epoch only, so that a
    resumed run sees the batches that it would have seen.

    Args:
        model_fn: builds the model, images 0–255 [batch, H, W, C] to class probabilities.
        dataset: the images.
        recipe: how to train.
        output: path of the .keras file.
        seed: of weights, order and augmentation.
        verbose: as in `keras.Model.fit`.

    Returns:
        The history, a row an epoch: epoch, loss, accuracy, val_loss, val_accuracy (on the test set).

    Raises:
        ValueError: the output is no .keras path, or the checkpoint belongs to a run with other settings.
    """
    output = pathlib.Path(output)
    if output.suffix != ".keras":
        raise ValueError(f"The output must end in .keras; got {output}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = output.with_suffix(".checkpoint.keras")
    history_path = output.with_suffix(".history.json")
    steps_per_epoch = max(1, len(dataset.y_train) // recipe.batch_size)

    keras.utils.set_random_seed(seed)
    model = model_fn()
    architecture = hashlib.sha256(model.to_json().encode()).hexdigest()
    run = {"recipe": dataclasses.asdict(recipe), "seed": seed, "architecture_sha256": architecture}
    run = json.loads(json.dumps(run))  # As it will be read back.
    compile_model(model, recipe, steps_per_epoch)
    history: list[dict[str, float]] = []
    first_epoch = 0
    if checkpoint.exists():
        saved = json.loads(history_path.read_text())
        if saved["run"] != run:
            raise ValueError(
                f"{checkpoint} belongs to a run with another network, recipe or seed. Delete it, or train with the "
                "settings it was made with."
            )
        model = keras.models.load_model(checkpoint)
        # The checkpoint decides: a kill between the two files leaves a history that is one epoch ahead.
        first_epoch = int(model.optimizer.iterations.numpy()) // steps_per_epoch
        history = saved["history"][:first_epoch]
        print(f"Going on after epoch {first_epoch} of {recipe.epochs} from {checkpoint}")

    def keep(epoch, logs):
        history.append({"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}})
        command.write_atomically(
            history_path, lambda path: path.write_text(json.dumps({"run": run, "history": history}))
        )
        command.write_atomically(checkpoint, model.save)

    augment = data.random_affine(**recipe.augmentation) if recipe.augmentation else None
    model.fit(
        data.batches(dataset.x_train, dataset.y_train, dataset.classes, recipe.batch_size, augment, seed, first_epoch),
        epochs=recipe.epochs,
        initial_epoch=first_epoch,
        validation_data=_Evaluation(dataset),
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=keep)],
        shuffle=False,
        verbose=verbose,
    )
    trained = model_fn()  # Without the optimizer's state, which would double the file.
    trained.set_weights(model.get_weights())
    command.write_atomically(output, trained.save)
    command.write_atomically(output.with_suffix(".png"), lambda path: plot_history(history, path))
    checkpoint.unlink(missing_ok=True)
    return history


class _Evaluation(keras.utils.PyDataset):
    """The test set in order, batch by batch."""

    def __init__(self, dataset: data.Dataset, batch_size: int = 500):
        super().__init__()
        self.dataset = dataset
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.dataset.y_test) // self.batch_size)

    def __getitem__(self, index):
        part = np.arange(index * self.batch_size, min((index + 1) * self.batch_size, len(self.dataset.y_test)))
        labels = np.eye(self.dataset.classes, dtype=np.float32)[self.dataset.y_test[part]]
        return np.asarray(self.dataset.x_test[part], np.float32), labels


def plot_history(history: list[dict[str, float]], path: str | os.PathLike) -> None:
    """Draws loss and error rate on training and test set against the epoch, as a PNG."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, error = figure.subplots(1, 2)
    for prefix, label in (("", "training"), ("val_", "test")):
        loss.plot(epochs, [row[f"{prefix}loss"] for row in history], label=label)
        error.plot(epochs, [100 * (1 - row[f"{prefix}accuracy"]) for row in history], label=label)
    loss.set(xlabel="epoch", ylabel="loss")
    error.set(xlabel="epoch", ylabel="error rate, %", yscale="symlog", ylim=(0, None))
    for axes in (loss, error):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def parse_ratio(text: str) -> float | dict[str, float]:
    """A number, or a schedule ``pattern=number,pattern=number``: first match counts."""
    try:
        if "=" not in text:
            return float(text)
        return {pattern: float(value) for pattern, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ValueError(f"--ratio takes a number or 'pattern=number,...'; got {text!r}.") from None


def parse_options(texts: list[str]) -> dict[str, Any]:
    """Network options ``name=value``, the value a Python literal or else a string."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option takes name=value; got {text!r}.")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


_FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of the command line."""
    flags.DEFINE_enum("dataset", "digits", data.DATASETS, "Image set.")
    flags.DEFINE_string("data_dir", None, "Where <dataset>.npz, or the folder's train/ and test/, are.")
    flags.DEFINE_enum("network", "dbfnet_micro", sorted(networks.NETWORKS), "Network.")
    flags.DEFINE_string("ratio", "0.25", "Share of the codes kept: a number, or 'pattern=number,...' by layer name.")
    flags.DEFINE_string("selection", "ovsf", "Which codes are kept: ovsf, natural, sequency, random[:SEED], sp_ovsf.")
    flags.DEFINE_multi_string("option", [], "Another option of the network, e.g. --option kernel_size=3.")
    flags.DEFINE_integer("epochs", None, "Epochs, if not the recipe's; drops of the learning rate move along.")
    flags.DEFINE_enum("recipe", None, sorted(RECIPES), "Recipe; by default one for the dataset.")
    flags.DEFINE_integer("image_size", 224, "Side of the images of a folder, in pixels.")
    flags.DEFINE_integer("seed", 0, "Seed of weights, order and augmentation.")
    flags.DEFINE_string("output", None, "The .keras file to write.", required=True)


def main(arguments: list[str]) -> None:
    """Trains as the flags say and prints the test accuracy of the last epoch."""
    dataset = data.load(_FLAGS.dataset, _FLAGS.data_dir, _FLAGS.image_size)
    recipe = RECIPES[_FLAGS.recipe or DEFAULT_RECIPES[_FLAGS.dataset]]
    if _FLAGS.epochs is not None:
        if _FLAGS.epochs < 1:
            raise ValueError(f"--epochs must be at least 1; got {_FLAGS.epochs}.")
        drops = tuple(round(drop * _FLAGS.epochs / recipe.epochs) for drop in recipe.drops)
        recipe = dataclasses.replace(recipe, epochs=_FLAGS.epochs, drops=drops)
    options = {
        "input_shape": dataset.image_shape,
        "classes": dataset.classes,
        "ratio": parse_ratio(_FLAGS.ratio),
        "selection": _FLAGS.selection,
        **parse_options(_FLAGS.option),
    }
    history = train(lambda: networks.build(_FLAGS.network, **options), dataset, recipe, _FLAGS.output, _FLAGS.seed)
    print(
        f"Test accuracy after epoch {recipe.epochs}: {100 * history[-1]['val_accuracy']:.2f} %. Wrote {_FLAGS.output}"
    )


if __name__ == "__main__":
    define_flags()
    command.run(main)
