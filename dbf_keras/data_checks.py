"""Says what is wrong with images and labels before anything is trained on them, and what would work instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Classes that an error lists by name.
_LISTED = 5


def check_images(name: str, images: Any, preprocessed: bool = False) -> None:
    """Checks an array of images, uint8 [N, H, W, C].

    Args:
        name: what the array is called, for errors.
        images: the array; or `dbf_keras.images.Images` or the like, which are what they say.
        preprocessed: whether they are float32 numbers, as a model takes them.

    Raises:
        ValueError: it is something else; says what, and how to make it what it has to be.
    """
    given = f"got {getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}".rstrip()
    kind = "float32 [N, H, W, C]" if preprocessed else "uint8 [N, H, W, C], pixels 0–255"
    wanted = f"{name} must be {kind}; {given}"
    if not isinstance(images, np.ndarray):
        if getattr(images, "shape", None) is None or not hasattr(images, "part"):
            raise ValueError(f"{wanted}. Give a NumPy array.")
        return
    if not images.size:
        raise ValueError(f"{wanted}: it holds no images.")
    if preprocessed and (images.dtype != np.float32 or not np.isfinite(images).all()):
        raise ValueError(f"{wanted}. Give finite numbers: images.astype('float32').")
    if not preprocessed and images.dtype != np.uint8:
        raise ValueError(f"{wanted}{_instead_of(images)}.")
    if images.ndim != 4:
        raise ValueError(f"{wanted}. Reshape it; grey images have one channel, [N, H, W, 1].")
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise ValueError(f"{wanted}: its channels come first. Move them to the end: np.moveaxis(images, 1, -1).")


def agree(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether two shapes can be one; None is any length."""
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def check_brightness(name: str, images: Any) -> None:
    """Checks that an array of images is more than black, which floats from 0 to 1 become as bytes.

    Raises:
        ValueError: it is black.
    """
    if isinstance(images, np.ndarray) and images.max() <= 1:
        raise ValueError(
            f"{name} is black: of its pixels, which may be 0–255, the brightest is {images.max()}. If it was made of "
            "numbers from 0 to 1, multiply by 255 before you make them uint8."
        )


def _instead_of(images: np.ndarray) -> str:
    """What is in an array that is not uint8, and how it becomes that."""
    kind = images.dtype.kind
    if kind == "b":
        return ". Convert it: images.astype('uint8') * 255"
    if kind not in "iuf":
        return ". Give numbers"
    if kind == "f" and not np.isfinite(images).all():
        return (
            f": {np.count_nonzero(~np.isfinite(images))} of its numbers are NaN or infinite. Repair these images first"
        )
    low, high = images.min(), images.max()
    given = f", numbers from {low:.4g} to {high:.4g}"
    if kind == "f" and 0 <= low and high <= 1:
        return f"{given}. Convert it: (images * 255).round().astype('uint8')"
    if kind == "f" and -1 <= low and high <= 1:
        return f"{given}. Convert it: ((images + 1) * 127.5).round().astype('uint8')"
    if 0 <= low and high <= 255:
        return f"{given}. Convert it: images.{'round().' if kind == 'f' else ''}astype('uint8')"
    if 0 <= low and high <= 65535:
        return f"{given}. If it has 16 bits a pixel, convert it: (images.astype('uint16') >> 8).astype('uint8')"
    return f"{given}. Scale it to 0–255 first; the networks normalise pixels themselves"


def check_labels(name: str, labels: Any, count: int) -> None:
    """Checks labels, whole numbers from 0 [N].

    Args:
        name: what the array is called, for errors.
        labels: the array.
        count: how many images there are.

    Raises:
        ValueError: it is something else; says what, and how to make it what it has to be.
    """
    labels = np.asarray(labels)
    wanted = f"{name} must be {count} integers from 0, one an image; got {labels.dtype} {labels.shape}"
    if labels.ndim == 2 and labels.shape[1] > 1 and len(labels) == count:
        raise ValueError(f"{wanted}, one-hot or scores. Convert it: labels.argmax(axis=1).")
    if labels.shape != (count,):
        advice = " Convert it: labels.ravel()." if labels.size == count else " Images and labels are pairs."
        raise ValueError(f"{wanted}.{advice}")
    if not count:
        raise ValueError(f"{wanted}: there are no images.")
    if labels.dtype.kind == "f":
        broken = np.count_nonzero(~np.isfinite(labels))
        if broken:
            raise ValueError(f"{wanted}, of which {broken} are NaN or infinite. Leave these images out.")
        fractional = labels[labels != np.floor(labels)]
        if fractional.size:
            raise ValueError(f"{wanted}, such as {fractional[0]:g}. Classes are numbered 0, 1, 2, …")
        raise ValueError(f"{wanted}. Convert it: labels.astype('int64').")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{wanted}. Number the classes: names, labels = np.unique(labels, return_inverse=True).")
    if labels.min() < 0:
        raise ValueError(f"{wanted}, the smallest {labels.min()}. Leave images without a class out, and count from 0.")


def check_classes(labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Checks that there are two classes, and training images of each.

    Args:
        labels: of the training images, [N].
        names: the names of the classes, by label.

    Raises:
        ValueError: there are not.
    """
    if len(names) < 2:
        raise ValueError(
            f"All training images are of one class, {names[0]!r}; there is nothing to tell apart. Give two or more."
        )
    counts = np.bincount(labels, minlength=len(names))
    empty = [names[label] for label in np.flatnonzero(counts == 0)]
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(names)} classes have no training image: {listed(empty)}. Add images of them, or "
            "leave the classes out and number the others 0, 1, 2, …"
        )


def listed(names: list[str]) -> str:
    """Some names for an error."""
    more = len(names) - _LISTED
    return ", ".join(map(repr, names[:_LISTED])) + (f" and {more} more" if more > 0 else "")
