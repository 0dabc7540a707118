"""The training loop: epochs, checkpoints, and the files of a finished training."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from dbf_keras import command, data, keras_file, plots
from dbf_keras.backend import all_layers, computing_in, keras
from dbf_keras.layers import DBFConv2D, DBFDense
from dbf_keras.progress import progress
from dbf_keras.train import augmentation, checkpoint, distributed, engine
from dbf_keras.train.curve import plot_history
from dbf_keras.train.recipes import Recipe
from dbf_keras.train.start import start_from
from dbf_keras.train.teacher import Teacher, to_logits
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
        precision: the dtype policy to compute with: ``"float32"``, ``"mixed_bfloat16"`` or ``"mixed_float16"``. The
            file written is float32.
        start: the path of a trained model whose weights to start from, see `dbf_keras.train.start.start_from`.
        overwrite: replace a model at the output that was trained with other settings.
        verbose: whether to print a line an epoch and to show a bar.
        settings: what else was asked for, such as network and data set, to be kept in the file.

    Returns:
        The history, a row an epoch: epoch, loss, accuracy, val_loss, val_accuracy (on the test set).

    Raises:
        ValueError: the output is no .keras path or has a model of other settings, the checkpoint belongs to a run with
            other settings, fewer images than one batch, or a batch that the devices cannot share.
    """
    output = pathlib.Path(output)
    keras_file.check_suffix(output, "--output")
    steps = _steps(dataset, recipe)
    verbose = verbose and distributed.is_first()
    keras.utils.set_random_seed(seed)
    model = model_fn()
    run = {
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "precision": precision,
        "start": start,
        "teacher": teacher and dataclasses.asdict(teacher),
        **_fingerprint(model, dataset),
    }
    done = None if overwrite else checkpoint.finished(output, run)
    if done is not None:
        if verbose:
            print(f"{output} is trained already, with these settings; --overwrite trains it again.")
        return done

    activation = model.layers[-1].activation
    with computing_in(precision, all_layers(model)):
        lesson = engine.Lesson(teacher.load(dataset), teacher.temperature, teacher.weight) if teacher else None
        trainer = _engine(model, dataset, recipe, steps, lesson, scale_loss=precision == "mixed_float16")
        saved = checkpoint.Checkpoint(output, run, trainer.variables)
        history = saved.restore()
        if start is not None and not history:
            start_from(model, start, verbose)
        if history and verbose:
            print(f"Going on after epoch {len(history)} of {recipe.epochs} from {saved.path}")
        with progress(output.name) if verbose else contextlib.nullcontext(lambda done: None) as show:
            for row, seconds in _epochs(trainer, dataset, recipe, steps, seed, len(history)):
                history.append(row)
                if distributed.is_first():
                    saved.save(history)
                if verbose:
                    print(_line(row, recipe.epochs, seconds), flush=True)
                show(len(history) / recipe.epochs)
    model.layers[-1].activation = activation
    training = {
        **({} if settings is None else {"settings": settings}),
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "precision": precision,
        "train_images": len(dataset.y_train),
        "test_accuracy": round(history[-1]["val_accuracy"], 6),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "dbf_keras": __version__,
    }
    _finish(model, dataset, output, saved, history, training)
    return history


def _fingerprint(model: keras.Model, dataset: data.Dataset) -> dict[str, Any]:
    """What says of which network, data and backend a training is."""
    return {
        "architecture_sha256": hashlib.sha256(model.to_json().encode()).hexdigest(),
        "train_images": len(dataset.y_train),
        "labels_sha256": hashlib.sha256(np.ascontiguousarray(dataset.y_train, np.int64).data).hexdigest(),
        "backend": keras.backend.backend(),
    }


def _engine(
    model: keras.Model,
    dataset: data.Dataset,
    recipe: Recipe,
    steps: int,
    lesson: engine.Lesson | None,
    scale_loss: bool,
) -> engine.Engine:
    """The compiled loops of a training; the model loses its softmax."""
    changes = augmentation.Augmentation(**recipe.augmentation) if recipe.augmentation else None
    return engine.Engine(
        to_logits(model),
        recipe.optimizer(steps),
        dataset.classes,
        recipe.label_smoothing,
        changes,
        lesson,
        scale_loss=scale_loss,
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
        command.write_atomically(output, lambda path: keras_file.save(model, path, dataset.class_names, training))
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


def _epochs(
    trainer: engine.Engine, dataset: data.Dataset, recipe: Recipe, steps: int, seed: int, done: int
) -> Iterator[tuple[dict[str, float], float]]:
    """Trains the epochs after the first ``done``: yields a row of the history and the seconds of its training."""
    training = _source(dataset.x_train, dataset.y_train, recipe.crop)
    test = _source(dataset.x_test, dataset.y_test)
    for epoch in range(done, recipe.epochs):
        begin = time.perf_counter()
        rng = np.random.default_rng([seed, epoch])
        chosen = rng.permutation(len(dataset.y_train))[: steps * recipe.batch_size]
        order = chosen.astype(np.int32).reshape(steps, recipe.batch_size)
        loss, accuracy = trainer.train(training, order, rng.integers(2**30, size=(steps, 2), dtype=np.int32))
        seconds = time.perf_counter() - begin
        val_loss, val_accuracy = trainer.evaluate(test, len(dataset.y_test), recipe.batch_size)
        row = {"loss": loss, "accuracy": accuracy, "val_loss": val_loss, "val_accuracy": val_accuracy}
        yield {"epoch": epoch + 1, **row}, seconds


def _line(row: dict[str, float], epochs: int, seconds: float) -> str:
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}; test: loss "
        f"{row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}; {seconds:.1f} s"
    )


def _source(images: Any, labels: np.ndarray, crop: float | None = None) -> engine.Source:
    if isinstance(images, np.ndarray):
        return engine.resident(images, labels)
    return engine.streamed(images, labels, crop=crop)
