"""Copies of a trained network with other layers in place of some."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dbf_keras.backend import all_layers, keras

# Layers that take a layer's place, one after the other, each with its weights; None for those that it is built with.
Parts = Sequence[tuple[keras.layers.Layer, Sequence[np.ndarray] | None]]


def rebuild(model: keras.Model, change: Callable[[keras.layers.Layer], Parts | None]) -> keras.Model:
    """Copies a network.

    Args:
        model: functional or Sequential, with trained weights; it stays as it is.
        change: what takes a layer's place, under its name; None for a copy with the same weights.

    Returns:
        The network; several parts of a layer are a Sequential in it.
    """
    made: list[tuple[keras.layers.Layer, Sequence[np.ndarray] | None]] = []

    def clone(layer: Any) -> Any:
        parts = change(layer) if isinstance(layer, keras.layers.Layer) else None  # Or a function of keras.ops.
        if parts is None:
            copy = type(layer).from_config(layer.get_config())
            if isinstance(layer, keras.layers.Layer):
                made.append((copy, layer.get_weights()))
            return copy
        made.extend(parts)
        return parts[0][0] if len(parts) == 1 else keras.Sequential([part for part, _ in parts], name=layer.name)

    rebuilt = keras.models.clone_model(model, clone_function=clone, recursive=True)
    for layer, weights in made:
        if weights is not None:
            layer.set_weights(weights)
            if hasattr(layer, "finalize_state"):  # What Normalization was adapted to.
                layer.finalize_state()
    return rebuilt


def renew(model: keras.Model) -> keras.Model:
    """The same network before any training: with new weights, but for those that are not trained."""

    def change(layer: keras.layers.Layer) -> Parts | None:
        return [(type(layer).from_config(layer.get_config()), None)] if layer.trainable_weights else None

    return rebuild(model, change)


def classifier(model: keras.Model) -> keras.layers.Layer:
    """The last layer with a kernel, whose outputs are the classes."""
    return [layer for layer in all_layers(model) if is_convolution(layer) or is_dense(layer)][-1]


def is_convolution(layer: keras.layers.Layer) -> bool:
    """Whether a layer is an ordinary convolution, not grouped."""
    return type(layer) is keras.layers.Conv2D and layer.groups == 1 and layer.data_format == "channels_last"


def is_dense(layer: keras.layers.Layer) -> bool:
    """Whether a layer is an ordinary dense layer."""
    return type(layer) is keras.layers.Dense
