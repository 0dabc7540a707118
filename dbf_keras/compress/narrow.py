"""A narrower plain network: the rival of every compressed one."""

from __future__ import annotations

from typing import Any

from dbf_keras.backend import keras, settle
from dbf_keras.compress.fit import rebuilt
from dbf_keras.train.teacher import last_layer

# Widths between which the one of a wanted size is sought, and how often their distance is halved.
_NARROWEST, _HALVINGS = 1 / 64, 10


def narrowed(model: keras.Model, width: float) -> keras.Model:
    """A network of the same graph whose layers have fewer filters or units, except the one that makes the output.

    Its weights are new, except those of layers that were adapted to the data, such as Normalization.

    Args:
        model: functional or Sequential.
        width: factor on the numbers of filters and units; each is 1 at least.

    Raises:
        ValueError: layers no longer fit each other, as where a shape is written down.
    """
    last = last_layer(model)
    adapted: list[tuple[Any, Any]] = []

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if layer is not last:
            for key in ("filters", "units"):
                if isinstance(config.get(key), int):
                    config[key] = max(1, round(width * config[key]))
        copy = layer.__class__.from_config(config)
        if hasattr(layer, "adapt"):
            adapted.append((layer, copy))
        return copy

    try:
        small = rebuilt(model, clone)
    except Exception as error:  # Keras raises what its layers do.
        raise ValueError(f"{model.name} cannot be made narrower: {error}") from error
    for layer, copy in adapted:
        copy.set_weights(layer.get_weights())
        settle(copy)
    return small


def narrowed_to(model: keras.Model, weights: float) -> tuple[keras.Model, float]:
    """The widest such network of no more than so many weights, and its width.

    Raises:
        ValueError: as `narrowed`, or even the narrowest has more.
    """
    low, high, best = _NARROWEST, 1.0, None
    for _ in range(_HALVINGS):
        width = (low + high) / 2
        small = narrowed(model, width)
        if small.count_params() <= weights:
            low, best = width, (small, width)
        else:
            high = width
    if best is None:
        raise ValueError(f"{model.name} has more than {weights:.0f} weights however narrow it is.")
    return best
