"""Accuracy of an interpreter on labelled images."""

from collections.abc import Callable

import numpy as np

from dbf_keras.images import Images
from dbf_keras.runtime import Interpreter


def accuracy(
    interpreter: Interpreter,
    images: np.ndarray | Images,
    labels: np.ndarray,
    tick: Callable[[float], None] = lambda done: None,
) -> float:
    """Invokes a classifier on images, one at a time.

    Args:
        interpreter: An allocated interpreter with one image [1, H, W, C] in (raw pixels; quantised as its input says if
            that is an integer type) and class scores [1, classes] out.
        images: uint8 [N, H, W, C]; an array, or `Images`, which reads what is indexed.
        labels: int [N].
        tick: Called now and then with the share done, from 0 to 1.

    Returns:
        The share of images whose highest score is their label's.

    Raises:
        ValueError: If the images do not fit the model's input.
    """
    source, scores = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
    wanted = tuple(int(size) for size in source["shape"])
    if wanted != (1, *images.shape[1:]):
        raise ValueError(
            f"The model takes images of shape {wanted[1:]}, but those of the data set are {images.shape[1:]}."
        )
    correct = 0
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        interpreter.set_tensor(source["index"], quantize(image[None], source))
        interpreter.invoke()
        correct += int(np.argmax(interpreter.get_tensor(scores)) == label)
        if number % 64 == 0:
            tick(number / len(images))
    return correct / len(images)


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
