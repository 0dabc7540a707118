"""Accuracy of an interpreter on labelled images."""

from collections.abc import Callable

import numpy as np

from dbf_keras.images import Images
from dbf_keras.runtime import Interpreter


def answers(
    interpreter: Interpreter,
    images: np.ndarray | Images,
    tick: Callable[[float], None] = lambda done: None,
) -> np.ndarray:
    """Invokes a classifier on images, one at a time.

    Args:
        interpreter: An allocated interpreter with one image [1, H, W, C] in (raw pixels; quantised as its input says if
            that is an integer type) and class scores [1, classes] out, see `classes_of`.
        images: uint8 [N, H, W, C]; an array, or `Images`, which reads what is indexed.
        tick: Called now and then with the share done, from 0 to 1.

    Returns:
        The class of the highest score of each image, int [N].

    Raises:
        ValueError: If the images do not fit the model's input.
    """
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = target["quantization"]
    single = int(target["shape"][-1]) == 1
    wanted = tuple(int(size) for size in source["shape"])
    if wanted != (1, *images.shape[1:]):
        raise ValueError(
            f"The model takes images of shape {wanted[1:]}, but those of the data set are {images.shape[1:]}."
        )
    found = np.empty(len(images), np.float32 if single else np.int64)
    for number, image in enumerate(images):
        interpreter.set_tensor(source["index"], quantize(image[None], source))
        interpreter.invoke()
        scores = interpreter.get_tensor(target["index"])
        if single and scale:  # What one score means depends on its value.
            scores = np.float32(scale) * (scores.astype(np.float32) - zero_point)
        found[number] = scores[0, 0] if single else classes_of(scores)[0]
        if number % 64 == 0:
            tick(number / len(images))
    return classes_of(found[:, None]) if single else found


def classes_of(scores: np.ndarray) -> np.ndarray:
    """The classes that scores name.

    Args:
        scores: [N, classes], of which the highest counts; or [N, 1] of the second of two classes, a probability or, if
            they are not all from 0 to 1, a logit.

    Returns:
        int [N].
    """
    if scores.shape[-1] > 1:
        return scores.argmax(axis=-1)
    middle = 0.5 if scores.min() >= 0 and scores.max() <= 1 else 0.0
    return (scores[:, 0] > middle).astype(np.int64)


def accuracy(
    interpreter: Interpreter,
    images: np.ndarray | Images,
    labels: np.ndarray,
    tick: Callable[[float], None] = lambda done: None,
) -> float:
    """The share of images whose highest score is their label's.

    Args:
        interpreter: As for `answers`, as are images and tick.
        images: uint8 [N, H, W, C].
        labels: int [N].
        tick: Called now and then with the share done, from 0 to 1.

    Raises:
        ValueError: If the images do not fit the model's input, or there is not one label for each.
    """
    return float(np.equal(answers(interpreter, images, tick), labels).mean())


def quantize(values: np.ndarray, detail: dict) -> np.ndarray:
    """Turns real values into what a tensor holds.

    Args:
        values: Real values of any shape.
        detail: The tensor's entry of `get_input_details()`.

    Returns:
        The values in the tensor's type; rounded and clipped by its scale and zero point if that is an integer type.
    """
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    if not np.issubdtype(dtype, np.integer) or not scale:
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / scale + zero_point), limits.min, limits.max).astype(dtype)
