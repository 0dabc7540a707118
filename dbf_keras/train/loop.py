"""The training loop: epochs, checkpoints, and the files of a finished training."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dbf_keras import command, data, data_checks, keras_file, plots
from dbf_keras.backend import all_layers, computing_in, keras, settle
from dbf_keras.layers import DBFConv2D, DBFDense
from dbf_keras.progress import progress
from dbf_keras.train import augmentation, checkpoint, distributed, engine
from dbf_keras.train.coding import Coding
from dbf_keras.train.curve import plot_history
from dbf_keras.train.numbers import check_number
from dbf_keras.train.recipes import Recipe
from dbf_keras.train.start import start_from
from dbf_keras.train.teacher import Teacher, last_layer, to_logits
from dbf_keras.version import __version__


# Long for its docstring, with a parameter for each part of `dbf_keras.train.settings.Settings`, which calls this.
def train(
    model_fn: Callable[[], keras.Model],
    dataset: data.Dataset,
    recipe: Recipe,
    output: str | os.PathLike,
    *,
    seed: int = 0,
    teacher: Teacher | None = None,
    precision: str = "float32",
    start: str | None = None,
    coding: Coding = Coding(),  # noqa: B008 - it cannot be changed.
    normalization: tuple[Any, Any] | None = None,
    patience: int | None = None,
    overwrite: bool = False,
    verbose: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> checkpoint.History:
    """Trains a model, or goes on from the checkpoint that a killed run left beside the output.

    Writes ``<output>`` (.keras), ``<stem>.history.json``, ``<stem>.png``, and while it runs ``<stem>.checkpoint.npz``
    after each epoch; every file whole or not at all. Order, augmentation and dropout depend on seed and epoch only, so
    that a resumed run does what it would have done. Arrays are held on the device, folders of images are streamed.
    Of several processes (`dbf_keras.train.distributed`) each calls this; the first alone reads and writes these files.
    A training that is done already is not done again.

    Args:
        model_fn: builds the model, images 0–255 [batch, H, W, C] to class probabilities.
        dataset: the images.
        recipe: how to train.
        output: path of the .keras file.
        seed: seed of weights, order, augmentation and dropout.
        teacher: a model to learn from besides the labels.
        precision: the dtype policy to compute with, the teacher too: ``"float32"``, ``"mixed_bfloat16"`` or
            ``"mixed_float16"``. The file written is float32.
        start: the path of a trained model whose weights to start from, see `dbf_keras.train.start.start_from`.
        coding: the price of coded coefficients; by default that of the layers.
        normalization: mean and standard deviation of pixels, by channel, if the model does not normalise them itself.
        patience: keep the epoch that is best on the images to test with, and stop this many epochs after it; of a
            target that coded bytes fall to only epochs count that keep it. None keeps the last epoch.
        overwrite: replace a model at the output that was trained with other settings.
        verbose: whether to print a line an epoch and to show a bar.
        settings: what else was asked for, such as network and data set, to be kept in the file.

    Returns:
        The history, a row an epoch: epoch, loss, accuracy, val_loss, val_accuracy (on the test set).

    Raises:
        ValueError: the output is no .keras path or has a model of other settings, the checkpoint belongs to a run with
            other settings, the data set cannot be trained on (see `dbf_keras.data.Dataset.check`) or does not fit the
            model, fewer images than one batch, a batch that the devices cannot share, or a loss that is not finite:
            then the checkpoint of the last epoch before stays.
    """
    output = pathlib.Path(output)
    keras_file.check_suffix(output, "--output")
    check_number("--seed", seed, whole=True, least=0, most=2**32 - 1)
    check_precision(precision)
    steps = _steps(dataset.check(), recipe)
    verbose = verbose and distributed.is_first()
    keras.utils.set_random_seed(seed)
    model = model_fn()
    _check_fit(model, dataset)
    run = {
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "precision": precision,
        "start": start,
        "teacher": teacher and teacher.summary(),
        **({} if coding == Coding() else {"coding": coding.summary()}),
        **({} if patience is None else {"patience": patience}),
        **({} if normalization is None else {"normalization": [np.asarray(part).tolist() for part in normalization]}),
        **_fingerprint(model, dataset),
    }
    coded = coding.layers(model)
    done = None if overwrite else checkpoint.finished(output, run)
    if done is not None:
        if verbose:
            print(f"{output} is trained already, with these settings; --overwrite trains it again.")
        return done

    last = last_layer(model)
    activation = getattr(last, "activation", None)
    logits = to_logits(model)
    lesson = teacher.lesson(dataset, logits) if teacher else None
    with computing_in(precision, [*all_layers(model), *(all_layers(lesson.teacher) if lesson else [])]):
        scale_loss = precision == "mixed_float16"
        trainer = engine_of(logits, dataset, recipe, steps, lesson, scale_loss, normalization)
        best = checkpoint.Best(trainer.model.weights, coding.most_kb) if patience is not None else None
        saved = checkpoint.Checkpoint(output, run, [*trainer.variables, *(best.variables if best else [])])
        history = saved.restore()
        settle(model)
        if start is not None and not history:
            start_from(model, start, verbose)
        if history and verbose:
            print(f"Going on after epoch {len(history)} of {recipe.epochs} from {saved.path}")
        training = source_of(dataset.x_train, dataset.y_train, recipe.crop)
        test = source_of(dataset.x_test, dataset.y_test)
        with progress(output.name) if verbose else contextlib.nullcontext(lambda done: None) as show:
            for epoch in range(len(history), recipe.epochs):
                if best is not None and patience is not None and best.age(history) >= patience:
                    break
                coding.set_price(coded, history, recipe.epochs)
                row, seconds = _epoch(trainer, dataset, training, test, recipe, steps, seed, epoch)
                _check_finite(row, recipe, steps, saved)
                row |= coding.row(coded)
                history.append(row)
                if best is not None:
                    best.note(history)
                if distributed.is_first():
                    saved.save(history)
                if verbose:
                    print(_line(row, recipe.epochs, seconds, dataset.held_out), flush=True)
                show(len(history) / recipe.epochs)
        if best is not None:
            best.restore()
    if activation is not None:
        last.activation = activation
    provenance = {
        **({} if settings is None else {"settings": settings}),
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "precision": precision,
        "train_images": len(dataset.y_train),
        **({} if coding == Coding() else {"coding": coding.summary()}),
        "held_out_accuracy" if dataset.held_out else "test_accuracy": round(_reached(history, best), 6),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "dbf_keras": __version__,
    }
    _finish(model, dataset, output, saved, history, provenance)
    return history


def check_precision(precision: str) -> None:
    """Raises ValueError if a precision is none of those that can be trained in."""
    known = ("float32", "mixed_bfloat16", "mixed_float16")
    if precision not in known:
        raise ValueError(f"`precision` must be one of {', '.join(known)}; got {precision!r}.")


def _reached(history: checkpoint.History, best: checkpoint.Best | None) -> float:
    """The accuracy of the weights that are kept."""
    return (history[-1] if best is None else best.row(history))["val_accuracy"]


def _check_fit(model: keras.Model, dataset: data.Dataset) -> None:
    """Raises ValueError if a model takes other images, or makes other classes of them."""
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    wanted = [(None, *dataset.image_shape), (None, dataset.classes)]
    if dataset.classes == 2 and shapes[-1][-1] == 1:
        wanted[1] = (None, 1)  # A score of the second class.
    if len(shapes) != 2 or not all(map(data_checks.agree, shapes, wanted)):
        given = [", ".join(str(tuple(tensor.shape[1:])) for tensor in part) for part in (model.inputs, model.outputs)]
        raise ValueError(
            f"The model takes inputs of shape {given[0]} to outputs of shape {given[1]}; the data has images of "
            f"{dataset.image_shape} and {dataset.classes} classes, so needs {dataset.image_shape} to "
            f"({dataset.classes},)."
        )


def _check_finite(row: dict[str, float], recipe: Recipe, steps: int, saved: checkpoint.Checkpoint) -> None:
    """Raises ValueError if a loss of an epoch is not finite; takes what it knows of the step out of the row."""
    step = int(row.pop("finite_steps"))
    broken = next((name for name in ("loss", "val_loss") if not math.isfinite(row[name])), None)
    if broken is None:
        return
    epoch, where = int(row["epoch"]), "in the test"
    if broken == "loss":
        where = f"at step {min(step + 1, steps)} of {steps}"
    rate = float(recipe.rates(steps)((epoch - 1) * steps + min(step, steps - 1)))
    kept = (
        f"The checkpoint of epoch {epoch - 1} stays at {saved.path}" if saved.path.exists() else "Nothing was written"
    )
    raise ValueError(
        f"The loss is {row[broken]} in epoch {epoch} of {recipe.epochs}, {where}, with a learning rate of {rate:.3g}. "
        f"{kept}. Try a lower --learning_rate than {recipe.learning_rate:g}."
    )


def _fingerprint(model: keras.Model, dataset: data.Dataset) -> dict[str, Any]:
    """What says of which network, data and backend a training is."""
    return {
        "architecture_sha256": hashlib.sha256(model.to_json().encode()).hexdigest(),
        "train_images": len(dataset.y_train),
        "labels_sha256": hashlib.sha256(np.ascontiguousarray(dataset.y_train, np.int64).data).hexdigest(),
        "backend": keras.backend.backend(),
    }


def engine_of(
    model: keras.Model,
    dataset: data.Dataset,
    recipe: Recipe,
    steps: int | None,
    lesson: engine.Lesson | None,
    scale_loss: bool = False,
    normalization: tuple[Any, Any] | None = None,
) -> engine.Engine:
    """The compiled loops of a training of so many steps an epoch.

    The model gives logits (`dbf_keras.train.teacher.to_logits`).
    """
    changes = augmentation.Augmentation(**recipe.augmentation) if recipe.augmentation else None
    return engine.Engine(
        model,
        recipe.optimizer(steps),
        dataset.classes,
        recipe.label_smoothing,
        changes,
        lesson,
        scale_loss=scale_loss,
        normalization=normalization,
    )


def _finish(
    model: keras.Model,
    dataset: data.Dataset,
    output: pathlib.Path,
    saved: checkpoint.Checkpoint,
    history: checkpoint.History,
    training: dict[str, Any],
) -> None:
    """Writes what a finished training leaves: the history, the curve, and last the model."""
    for layer in all_layers(model):
        if isinstance(layer, DBFConv2D | DBFDense):
            layer.fix_rounding()
    if distributed.is_first():
        saved.write_history(history)
        plots.write(output.with_suffix(".png"), lambda path: plot_history(history, path))
        names = dataset.class_names if model.output_shape[-1] == dataset.classes else ()  # One score has none.
        command.write_atomically(output, lambda path: keras_file.save(model, path, names, training))
        saved.remove()


def _steps(dataset: data.Dataset, recipe: Recipe) -> int:
    """Steps of an epoch.

    Raises:
        ValueError: a batch does not fit the images or the devices.
    """
    steps = len(dataset.y_train) // recipe.batch_size
    if not steps:
        raise ValueError(f"A batch of {recipe.batch_size} is more than the {len(dataset.y_train)} training images.")
    if recipe.batch_size % distributed.devices():
        raise ValueError(f"{distributed.devices()} devices cannot share a batch of {recipe.batch_size} evenly.")
    return steps


def _epoch(
    trainer: engine.Engine,
    dataset: data.Dataset,
    training: engine.Source,
    test: engine.Source,
    recipe: Recipe,
    steps: int,
    seed: int,
    epoch: int,
) -> tuple[dict[str, float], float]:
    """Trains an epoch, counted from 0, and evaluates: a row of the history and the seconds of the training."""
    begin = time.perf_counter()
    rng = np.random.default_rng([seed, epoch])
    chosen = rng.permutation(len(dataset.y_train))[: steps * recipe.batch_size]
    order = chosen.astype(np.int32).reshape(steps, recipe.batch_size)
    loss, accuracy = trainer.train(training, order, rng.integers(2**30, size=(steps, 2), dtype=np.int32))
    seconds = time.perf_counter() - begin
    val_loss = val_accuracy = math.nan
    if math.isfinite(loss):
        val_loss, val_accuracy = trainer.evaluate(test, len(dataset.y_test), recipe.batch_size)
    row = {"loss": loss, "accuracy": accuracy, "val_loss": val_loss, "val_accuracy": val_accuracy}
    row["finite_steps"] = trainer.finite_steps
    return {"epoch": epoch + 1, **row}, seconds


def _line(row: dict[str, float], epochs: int, seconds: float, held_out: bool) -> str:
    coded = f"; coded in {row['coded_kb']:.1f} kB" if "coded_kb" in row else ""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}; "
        f"{'held out' if held_out else 'test'}: loss "
        f"{row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}{coded}; {seconds:.1f} s"
    )


def source_of(images: Any, labels: np.ndarray, crop: float | None = None) -> engine.Source:
    """What hands out images to the loops: all at once, as they are read, or as they come."""
    if isinstance(images, np.ndarray):
        return engine.resident(images, labels)
    if hasattr(images, "batches"):
        return engine.sequential(images)
    return engine.streamed(images, labels, crop=crop)
