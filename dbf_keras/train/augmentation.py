"""Random changes of training images, inside the compiled step: one affine map, cutout and mixup."""

from __future__ import annotations

import math
from typing import Any

from dbf_keras.backend import keras, ops
from dbf_keras.train.numbers import check_number


class Augmentation:
    """Shifts, turns, zooms, mirrors, cuts out and mixes images, the same for the same seed.

    Args:
        shift: largest shift in pixels, along each axis; whole pixels unless rotated or zoomed. Zeros come in.
        rotation: largest angle in degrees.
        zoom: largest relative change of size, along each axis.
        mirror: whether half of the images are mirrored left to right.
        cutout: side of a square of zeros in each image, as a share of the image's side (DeVries and Taylor, 2017, but
            wholly inside the image); by ``keras.layers.RandomErasing``.
        mixup: α of mixup (Zhang et al., 2018), by ``keras.layers.MixUp``; 0 for none.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        shift: float = 0,
        rotation: float = 0,
        zoom: float = 0,
        mirror: bool = False,
        cutout: float = 0,
        mixup: float = 0,
    ):
        check_number("--cutout is a share of the image's side and", cutout, least=0, under=1)
        check_number("--mixup", mixup, least=0)
        check_number("shift, in pixels,", shift, least=0)
        check_number("rotation, in degrees,", rotation, least=0)
        check_number("zoom", zoom, least=0, under=1)
        self.shift, self.rotation, self.zoom, self.mirror = shift, rotation, zoom, mirror
        self._affine = bool(shift or rotation or zoom or mirror)
        self._generator = keras.random.SeedGenerator(0)
        self._generators = [self._generator]
        self._layers = []
        if cutout:
            share = cutout**2
            layer = keras.layers.RandomErasing(
                (1.0, 1.0), scale=(share, share), fill_value=0.0, data_format="channels_last", dtype="float32"
            )
            self._layers.append(layer)
        if mixup:
            self._layers.append(keras.layers.MixUp(mixup, data_format="channels_last", dtype="float32"))
        self._generators += [layer.generator for layer in self._layers]

    def __call__(self, images: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
        """Changes a batch.

        Args:
            images: float32 [batch, H, W, C].
            targets: float32 [batch, classes].
            seed: integer tensor [2].

        Returns:
            (images, targets) of the same shapes.
        """
        # Keras's generators are told their state, and what they make of it is dropped: no state outlives the call.
        dtype = self._generator.state.dtype
        states = [
            (generator.state, ops.cast(seed, dtype) + ops.convert_to_tensor([0, part << 16], dtype))
            for part, generator in enumerate(self._generators)
        ]
        with keras.StatelessScope(state_mapping=states):
            if self._affine:
                images = self._move(images)
            for layer in self._layers:
                changed = layer({"images": images, "labels": targets}, training=True)
                images, targets = changed["images"], changed["labels"]
        return images, targets

    def _move(self, images: Any) -> Any:
        count, height, width, _ = images.shape

        def uniform(low: float = -1.0, high: float = 1.0) -> Any:
            return keras.random.uniform((count,), low, high, seed=self._generator)

        blended = self.rotation or self.zoom
        if blended:
            shift_y, shift_x = uniform() * self.shift, uniform() * self.shift
        else:  # Whole pixels, each shift equally likely.
            largest = int(self.shift)
            shift_y, shift_x = (ops.minimum(ops.floor(uniform(-largest, largest + 1)), largest) for _ in range(2))
        scale_y, scale_x = 1 + uniform() * self.zoom, 1 + uniform() * self.zoom
        if self.mirror:
            scale_x = ops.where(uniform() < 0, -scale_x, scale_x)
        angle = uniform() * math.radians(self.rotation)
        maps = affine_maps(height, width, angle, scale_y, scale_x, shift_y, shift_x)
        return ops.image.affine_transform(
            images, maps, interpolation="bilinear" if blended else "nearest", data_format="channels_last"
        )


def affine_maps(height: int, width: int, angle: Any, scale_y: Any, scale_x: Any, shift_y: Any, shift_x: Any) -> Any:
    """Maps about the image's centre, for ``keras.ops.image.affine_transform``.

    Args:
        height: the images' height, in pixels.
        width: the images' width, in pixels.
        angle: radians, tensor [batch], as all that follow.
        scale_y: factor on input rows.
        scale_x: factor on input columns; negative mirrors.
        shift_y: pixels down from which the output is taken.
        shift_x: pixels to the right from which the output is taken.

    Returns:
        float32 [batch, 8]: output pixel (x, y) takes input pixel (a0 x + a1 y + a2, b0 x + b1 y + b2).
    """
    a0, a1 = ops.cos(angle) * scale_x, -ops.sin(angle) * scale_y
    b0, b1 = ops.sin(angle) * scale_x, ops.cos(angle) * scale_y
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    a2 = centre_x - a0 * centre_x - a1 * centre_y + shift_x
    b2 = centre_y - b0 * centre_x - b1 * centre_y + shift_y
    zero = ops.zeros_like(a0)
    return ops.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)
