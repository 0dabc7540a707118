"""Labelled images in whatever form people have them: arrays, batches of a ``tf.data.Dataset``, our data sets."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dbf_keras import data_checks
from dbf_keras.backend import keras, ops
from dbf_keras.data import Dataset
from dbf_keras.export.calibration import to_classes
from dbf_keras.images import Images
from dbf_keras.train.augmentation import Augmentation
from dbf_keras.train.recipes import Recipe

# Images that are set aside of the training set: this share, and no more than so many.
_SHARE, _MOST = 0.1, 2000

# Images that are augmented at once.
_TOGETHER = 250

_FORMS = (
    "`data` is (images, labels), a tf.data.Dataset or keras.utils.PyDataset of such batches, or a "
    "dbf_keras.data.Dataset"
)


def to_dataset(data: Any, model: keras.Model, labels: Sequence[str] | None = None) -> Dataset:
    """Training images of a model as a data set, some of them set aside to test on.

    Args:
        data: ``(images, labels)``, arrays; batches of such, as a ``tf.data.Dataset`` or ``keras.utils.PyDataset``; or a
            `Dataset`, whose test part is left alone. Images are as the model takes them, uint8 or float32; labels are
            numbers of classes or one-hot.
        model: of images to scores of classes.
        labels: names of the classes.

    Raises:
        ValueError: it is none of these, or does not fit the model; says what would work.
    """
    shape, classes = _shapes(model)
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, tuple | list) and len(data) == 2:
        dataset = _of_arrays(np.asarray(data[0]), data[1], classes)
    elif hasattr(data, "element_spec") or isinstance(data, keras.utils.PyDataset):
        dataset = _of_batches(data, classes)
    else:
        raise ValueError(f"{_FORMS}; got {type(data).__name__}.")
    if dataset.classes != classes or not data_checks.agree(dataset.image_shape, shape):
        raise ValueError(
            f"The model {model.name!r} takes images {_text(shape)} to {classes} classes; the data has images "
            f"{_text(dataset.image_shape)} of {dataset.classes} classes. Give the data that it was trained on."
        )
    if labels is not None:
        dataset = dataclasses.replace(dataset, class_names=tuple(labels))
    dataset.check()
    if dataset.held_out:
        return dataset
    count = min(_MOST, max(1, round(_SHARE * len(dataset.y_train))))
    return dataset.hold_out(count)


def _shapes(model: keras.Model) -> tuple[tuple[int | None, ...], int]:
    """The shape of a classifier's images, and its number of classes."""
    inputs, outputs = ([tuple(tensor.shape[1:]) for tensor in part] for part in (model.inputs, model.outputs))
    if len(inputs) != 1 or len(inputs[0]) != 3 or len(outputs) != 1 or len(outputs[0]) != 1:
        raise ValueError(
            f"What is fine-tuned takes images (height, width, channels) to scores of classes; {model.name!r} takes "
            f"{inputs} to {outputs}. Without data it is fitted only, to a given ratio."
        )
    return inputs[0], max(int(outputs[0][0]), 2)


def _text(shape: Sequence[int | None]) -> str:
    return "×".join("?" if size is None else str(size) for size in shape)


def _of_arrays(images: np.ndarray, labels: Any, classes: int) -> Dataset:
    images, numbers = _images(images), _numbers(labels, len(images))
    # Its test part is replaced by what is held out.
    return Dataset(
        images,
        numbers,
        images[:1],
        numbers[:1],
        _known(numbers, classes),
        is_part=True,
        preprocessed=images.dtype != np.uint8,
    )


def _images(images: np.ndarray) -> np.ndarray:
    if not images.ndim or images.dtype.kind not in "biufV":  # bfloat16 is of kind V.
        raise ValueError(f"Images are arrays of numbers; got {images.dtype} of shape {images.shape}.")
    images = images[..., None] if images.ndim == 3 else images
    return images if images.dtype == np.uint8 else images.astype(np.float32)


def _numbers(labels: Any, count: int) -> np.ndarray:
    found = to_classes(labels, count)
    if found is None:
        raise ValueError(
            f"Labels are numbers of classes, or one-hot, one for each of {count} images; got shape {np.shape(labels)}."
        )
    return found


def _known(numbers: np.ndarray, classes: int) -> int:
    """The number of classes, unless there are labels beyond."""
    return max(classes, int(numbers.max(initial=0)) + 1)


class Stream:  # In place of `dbf_keras.images.Images`, but without an index.
    """Images that come in batches, and are read anew for every epoch, each time in whatever order.

    Images are told apart by a hash of their pixels: a number that looks random, so that those of the smallest hashes
    are a random draw, and always the same one, also if the images are shuffled, or sorted by class.

    Attributes:
        shape: (N, height, width, channels).
        labels: of all images, [N], in ascending order of the images' hashes.
    """

    def __init__(self, data: Any):
        """Reads all once.

        Args:
            data: yields (images, labels) batches each time that it is iterated over.

        Raises:
            ValueError: it has no images, never ends, or yields something else.
        """
        if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
            raise ValueError("The data never ends; give it without repeat(): it is read once for each epoch.")
        self._data, self._least = data, 0
        hashes, labels, shapes = [], [], set()
        for images, numbers, found in self._read():
            shapes.add(images.shape[1:])
            labels.append(numbers)
            hashes.append(found)
        if not labels:
            raise ValueError("The data has no images.")
        if len(shapes) > 1:
            raise ValueError(
                f"Images of one shape are wanted; the data has {' and '.join(map(_text, sorted(shapes)))}."
            )
        self._hashes = np.concatenate(hashes)
        order = np.argsort(self._hashes, kind="stable")
        self._hashes, self.labels = self._hashes[order], np.concatenate(labels)[order]
        self.shape = (len(self.labels), *shapes.pop())

    def __len__(self) -> int:
        return self.shape[0]

    def part(self, indices: np.ndarray) -> Any:
        """Not possible; images are taken as they come."""
        raise ValueError("A stream of batches has no parts.")

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Images of the smallest hashes and their labels: so many, or all if there are fewer.

        Raises:
            ValueError: the images are others than in the first reading.
        """
        most = self._hashes[:count][-1]
        parts = []
        for images, labels, hashes in self._read():
            chosen = hashes <= most
            parts.append((images[chosen], labels[chosen], hashes[chosen]))
        images, labels, hashes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(hashes, kind="stable")
        if not np.array_equal(hashes[order][:count], self._hashes[:count]):
            raise ValueError(
                "The data has other images each time that it is read, so that none can be set aside; give it without "
                "its random changes of images, which need to be only shuffled."
            )
        return images[order][:count], labels[order][:count]

    def without(self, count: int) -> Stream:
        """The stream without the images that `draw` returns, and without others that equal one of them.

        Raises:
            ValueError: nothing is left.
        """
        rest = copy.copy(self)
        rest._least = int(self._hashes[:count][-1]) + 1
        left = self._hashes >= rest._least
        if not left.any():
            raise ValueError("The data has no images besides those that are set aside; give more that differ.")
        rest._hashes, rest.labels = self._hashes[left], self.labels[left]
        rest.shape = (len(rest.labels), *self.shape[1:])
        return rest

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All images and labels, so many at a time; what is left in the end, fewer than that, is left out."""
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        for images, labels, _ in self._read():
            waiting.append((images, labels))
            if sum(len(labels) for _, labels in waiting) < size:
                continue
            images, labels = (np.concatenate(arrays) for arrays in zip(*waiting, strict=True))
            whole = len(labels) // size * size
            for start in range(0, whole, size):
                yield images[start : start + size], labels[start : start + size]
            waiting = [(images[whole:], labels[whole:])]

    def _read(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Batches of images, labels and hashes."""
        batches = (
            (self._data[number] for number in range(len(self._data)))
            if isinstance(self._data, keras.utils.PyDataset)
            else iter(self._data)
        )
        for batch in batches:
            if not isinstance(batch, tuple | list) or len(batch) < 2:
                raise ValueError(f"{_FORMS}; its elements are no (images, labels).")
            images, labels = (np.asarray(part) for part in batch[:2])
            if not labels.ndim:
                raise ValueError("The data yields single images; give it in batches, as dataset.batch(32).")
            images = _images(images)
            numbers, hashes = _numbers(labels, len(images)), _hashes(images)
            kept = hashes >= self._least
            yield images[kept], numbers[kept], hashes[kept]


def _hashes(images: np.ndarray) -> np.ndarray:
    digests = (hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in images)
    return np.frombuffer(b"".join(digests), "<u8")


def _of_batches(data: Any, classes: int) -> Dataset:
    """A data set of batches, of whose images some are set aside."""
    whole = Stream(data)
    count = min(_MOST, max(1, round(_SHARE * len(whole))))
    images, labels = whole.draw(count)
    rest = whole.without(count)
    return Dataset(
        rest,
        rest.labels,
        images,
        labels,
        _known(whole.labels, classes),
        is_part=True,
        preprocessed=images.dtype != np.uint8,
        held_out=True,
    )


def calibration_examples(dataset: Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images, float32, and labels, to look at what layers do."""
    if isinstance(dataset.x_train, Stream):
        images, labels = dataset.x_train.draw(count)
        return images.astype(np.float32), labels
    return dataset.calibration_examples(count)


def augmented_examples(dataset: Dataset, recipe: Recipe, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images, float32, as they are and as a recipe changes them, and their labels.

    Args:
        dataset: has them.
        recipe: its augmentation and crop count.
        count: how many images.
    """
    images, labels = calibration_examples(dataset, count)
    changed = images
    if recipe.crop is not None and isinstance(dataset.x_train, Images):
        indices = dataset.calibration_indices(count)
        seeds = np.zeros((len(indices), 2), int)
        changed = dataset.x_train.crops(indices, seeds, recipe.crop).astype(np.float32)
    if recipe.augmentation:
        change, targets = Augmentation(**recipe.augmentation), np.eye(dataset.classes, dtype=np.float32)[labels]
        parts = [slice(start, start + _TOGETHER) for start in range(0, len(labels), _TOGETHER)]
        augmented = [change(changed[part], targets[part], np.array([0, number])) for number, part in enumerate(parts)]
        changed = np.concatenate([ops.convert_to_numpy(part) for part, _ in augmented])
    return images, changed, labels


def in_batches(dataset: Dataset, size: int = 250) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images to test on, float32, and labels."""
    for start in itertools.count(0, size):
        labels = dataset.y_test[start : start + size]
        if not len(labels):
            return
        yield np.asarray(dataset.x_test[start : start + size], np.float32), labels
