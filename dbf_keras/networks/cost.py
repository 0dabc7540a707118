"""What a network costs: multiply-adds of an image."""

from __future__ import annotations

import numpy as np

from dbf_keras.backend import keras


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of the convolutions and dense layers of a network for one image.

    A DBF layer counts one for each coefficient and output pixel, as the op computes it; the sums and differences of its
    transforms are not counted.

    Args:
        model: built, images to outputs; convolutions without groups.
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            weights = layer.coefficients if hasattr(layer, "coefficients") else layer.kernel
            total += int(np.prod(layer.output.shape[1:-1]) * np.prod(weights.shape))
    return total
