"""What a training takes from a trained model: its weights, or the order of its codes."""

from __future__ import annotations

import numpy as np

from dbf_keras import codes, keras_file
from dbf_keras.backend import all_layers, keras, settle
from dbf_keras.layers import DBFConv2D, DBFDense


def ranked_by_energy(path: str) -> dict[str, list[int]]:
    """The codes of each convolution of a trained model, those that carry most of its filters first.

    Args:
        path: the path of a .keras file, plain or with DBF layers of ρ = 1.

    Returns:
        From layer name to grid indices; layers of one code, and names that another network lacks, do no harm.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .keras file.
    """
    kernels = {
        layer.name: keras.ops.convert_to_numpy(layer.kernel)
        for layer in all_layers(keras_file.load(path, "--selection=energy:…"))
        if isinstance(layer, keras.layers.Conv2D)
    }
    return {name: codes.order_by_energy(np.moveaxis(kernel, -1, 0)).tolist() for name, kernel in kernels.items()}


def start_from(model: keras.Model, path: str, verbose: bool = False) -> None:
    """Sets a network's weights to a trained one's, filters of DBF layers as near as their codes come (paper Eq. 2).

    For transfer learning the classifier, the last layer with weights, stays as it is where the file has another number
    of classes.

    Args:
        model: built; changed in place.
        path: the path of a .keras file, plain or with DBF layers of any ρ, whose layers have the same names and shapes.
        verbose: whether to print that the classifier is new.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .keras file, or a layer of the network is not in it or has another shape there.
    """
    sources = {layer.name: layer for layer in all_layers(keras_file.load(path, "--start"))}
    layers = [layer for layer in all_layers(model) if layer.weights and not hasattr(layer, "layers")]
    for layer in layers:
        source = sources.get(layer.name)
        if source is None:
            raise ValueError(f"--start={path}: it has no layer '{layer.name}'; it has {', '.join(sources)}.")
        theirs, ours = _shape(source), _shape(layer)
        if theirs == ours:
            _copy(source, layer)
        elif layer is layers[-1] and theirs[:-1] == ours[:-1]:
            if verbose:
                print(f"Layer '{layer.name}' is new: {path} has one of {theirs[-1]} classes, the data {ours[-1]}.")
        else:
            raise ValueError(
                f"--start={path}: layer '{layer.name}' has weights of shape {theirs} there and {ours} here. Start from "
                "a model of the same network and options; another number of classes is fine."
            )


def _shape(layer: keras.layers.Layer) -> tuple[int, ...]:
    """The shape of a layer's kernel or, without one, of its first weight; () of a layer without weights."""
    if isinstance(layer, DBFConv2D | DBFDense):
        return layer.twin_shape
    return tuple(layer.weights[0].shape) if layer.weights else ()


def _copy(source: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    if not isinstance(layer, DBFConv2D | DBFDense):
        layer.set_weights(source.get_weights())
        settle(layer)
        return
    layer.fit_kernel(keras.ops.convert_to_numpy(source.kernel))
    if layer.steps is not None and getattr(source, "steps", None) is not None:
        layer.steps.assign(source.steps)
    if layer.bias is not None:
        layer.bias.assign(source.bias)
