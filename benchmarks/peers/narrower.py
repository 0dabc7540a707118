"""Narrower networks: the same graph with fewer filters in every layer but the classifier."""

import itertools
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

from dbf_keras.backend import keras
from dbf_keras.networks.cost import calls
from rebuild import Parts, classifier, is_convolution, is_dense, rebuild

_layers = keras.layers
# Layers whose inputs and outputs have the same channels.
_ALIKE = (
    *(_layers.BatchNormalization, _layers.LayerNormalization, _layers.Normalization, _layers.Rescaling),
    *(_layers.Activation, _layers.ReLU, _layers.LeakyReLU, _layers.Dropout, _layers.ZeroPadding2D),
    *(_layers.MaxPooling2D, _layers.AveragePooling2D, _layers.GlobalAveragePooling2D, _layers.GlobalMaxPooling2D),
    *(_layers.Add, _layers.Multiply, _layers.Average, _layers.Maximum),
)


class _Kept(NamedTuple):
    """The channels that a layer keeps, of its inputs and of its outputs."""

    inputs: np.ndarray
    outputs: np.ndarray


def narrow(model: keras.Model, width: float) -> keras.Model:
    """Keeps the strongest filters (Li et al., "Pruning filters for efficient ConvNets", ICLR 2017).

    Layers of equally many filters keep the same ones, so that shortcuts fit: those whose L2 norms, relative to the mean
    of their layer, are the largest in all these layers together.

    Args:
        model: the trained network.
        width: share of the filters of each layer that is kept; the classifier keeps all.

    Raises:
        ValueError: a layer of a kind whose channels are not known.
    """
    kept = _kept(model, width)

    def change(layer: keras.layers.Layer) -> Parts | None:
        channels = kept.get(id(layer))
        if channels is None:
            return None
        inputs, outputs = channels
        weights, config = layer.get_weights(), layer.get_config()
        if is_convolution(layer) or is_dense(layer):
            config["filters" if is_convolution(layer) else "units"] = len(outputs)
            cut = [weights[0][..., inputs, :][..., outputs], *(bias[outputs] for bias in weights[1:])]
        elif isinstance(layer, _layers.DepthwiseConv2D):
            cut = [weights[0][..., inputs, :], *(bias[outputs] for bias in weights[1:])]
        else:
            cut = [weight[..., outputs] if weight.ndim else weight for weight in weights]
        return [(type(layer).from_config(config), cut)]

    return rebuild(model, change)


def _kept(model: keras.Model, width: float) -> dict[int, _Kept]:
    """What layers with weights keep, by id; those that keep all are not in it."""
    last, chosen = classifier(model), _chosen(model, width)
    by_tensor: dict[int, np.ndarray] = {}
    found = {}
    network = calls(model)  # Holds the tensors, so that their ids stay theirs.
    for layer, arguments, result in network:
        tensors = keras.tree.flatten(arguments)
        sources = [by_tensor.get(id(tensor), np.arange(tensor.shape[-1])) for tensor in tensors]
        counts = [tensor.shape[-1] for tensor in tensors]
        if is_convolution(layer) or is_dense(layer):
            outputs = np.arange(result.shape[-1]) if layer is last else chosen[result.shape[-1]]
        else:
            outputs = _passed_on(layer, sources, counts, result.shape[-1])
        by_tensor[id(result)] = outputs
        if getattr(layer, "weights", None) and (len(sources[0]) < counts[0] or len(outputs) < result.shape[-1]):
            found[id(layer)] = _Kept(sources[0], outputs)
    return found


def _chosen(model: keras.Model, width: float) -> dict[int, np.ndarray]:
    """The filters that are kept by layers of so many filters, ascending."""
    strengths: dict[int, Any] = defaultdict(float)
    for layer, _, result in calls(model):
        if is_convolution(layer) or is_dense(layer):
            norms = np.linalg.norm(keras.ops.convert_to_numpy(layer.kernel).reshape(-1, result.shape[-1]), axis=0)
            strengths[result.shape[-1]] += norms / max(norms.mean(), 1e-12)
    return {
        count: np.sort(np.argsort(-strength, kind="stable")[: max(1, round(width * count))])
        for count, strength in strengths.items()
    }


def _passed_on(layer: Any, sources: list[np.ndarray], counts: list[int], outputs: int) -> np.ndarray:
    """The channels that are left of what a layer without filters of its own makes of those that are left to it."""
    kept, count = sources[0], counts[0]
    if all(len(each) == number for each, number in zip(sources, counts, strict=True)):
        return np.arange(outputs)
    if isinstance(layer, _ALIKE) and outputs == count and all(np.array_equal(kept, each) for each in sources):
        return kept
    if isinstance(layer, _layers.DepthwiseConv2D):
        return (kept[:, None] * layer.depth_multiplier + np.arange(layer.depth_multiplier)).ravel()
    if isinstance(layer, _layers.Flatten):
        return (np.arange(outputs // count)[:, None] * count + kept).ravel()
    if isinstance(layer, _layers.Concatenate) and layer.axis in (-1, 3):
        offsets = itertools.accumulate(counts, initial=0)
        return np.concatenate([offset + each for offset, each in zip(offsets, sources, strict=False)])
    raise ValueError(f"How to make the layer '{layer.name}', a {type(layer).__name__}, narrower is not known.")
