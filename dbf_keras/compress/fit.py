"""Fits DBF layers to the trained filters of any Keras model (paper Eq. 2), and leaves all else as it is."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import LEGACY, all_layers, keras, ops, own_variables, settle
from dbf_keras.layers import DBFConv2D, DBFDense

# What the two layers that a SeparableConv2D becomes are called, after its own name.
INPUT, DEPTHWISE, POINTWISE = "_input", "_depthwise", "_pointwise"

# Arguments of a plain layer that its DBF twin does not take: what a kernel starts as, and what only a kernel that is
# trained itself can be held to.
_OF_KERNELS = ("kernel_initializer", "kernel_constraint", "lora_rank", "lora_alpha", "quantization_config")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layer whose filters can be combinations of codes.

    Attributes:
        name: the layer's name, led by those of the models around it if another layer has the same. For a
            SeparableConv2D, whose second half it is, with ``_pointwise`` at the end.
        layer: the layer.
        shape: (kh, kw, C) of its filters.
        codes: the grid codes that they are combinations of, ascending: all, or those that a DBF layer keeps.
    """

    name: str
    layer: Any
    shape: dbf_codes.KernelShape
    codes: np.ndarray

    @property
    def filters(self) -> int:
        """K."""
        return int(self.kernel.shape[-1])

    @property
    def kernel(self) -> np.ndarray:
        """The filters [kh, kw, C, K]."""
        held = (
            self.layer.pointwise_kernel if isinstance(self.layer, keras.layers.SeparableConv2D) else self.layer.kernel
        )
        return np.reshape(ops.convert_to_numpy(held), (*self.shape, -1))


@dataclasses.dataclass(frozen=True)
class Survey:
    """The layers with filters of a model.

    Attributes:
        candidates: those that can be DBF layers, in the model's order.
        others: names of the others with why they stay as they are.
    """

    candidates: list[Candidate]
    others: dict[str, str]


def survey(model: keras.Model) -> Survey:
    """Looks at which layers of a model can be DBF layers.

    Raises:
        ValueError: the model is neither functional nor Sequential, is not built, has no layer for it, or is quantised.
    """
    _check(model)
    candidates: list[Candidate] = []
    others: dict[str, str] = {}
    for name, layer in _named(model):
        reason = _reason_to_stay(layer)
        if reason is None:
            candidates.append(_candidate(name, layer))
        elif any(len(variable.shape) > 1 for variable in own_variables(layer)) or isinstance(
            layer, keras.layers.Wrapper
        ):
            others[name] = reason
    if not candidates:
        raise ValueError(
            f"The model {model.name!r} has no Conv2D, SeparableConv2D or Dense layer to compress"
            + (f": {', '.join(f'{name} ({reason})' for name, reason in others.items())}." if others else ".")
        )
    return Survey(candidates, others)


def fit(model: keras.Model, options: Mapping[str, Mapping[str, Any]]) -> tuple[keras.Model, dict[str, Any]]:
    """Rebuilds a model with DBF layers in place of some of its layers.

    Args:
        model: functional or Sequential, with trained weights; it stays as it is.
        options: for layers by the names of their `Candidate`, arguments of `DBFConv2D` or `DBFDense` that their twins
            have not, such as ``ratio`` and ``selection``. Layers that are not in it stay as they are.

    Returns:
        A model of the same names, topology and weights, of which the filters are as near to the given as their codes
        come; and its DBF layers by the names in ``options``.

    Raises:
        ValueError: as `survey`, or no layer has a name in ``options``.
    """
    known = {candidate.name: candidate for candidate in survey(model).candidates}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"No layer to compress is called {', '.join(unknown)}; there are {', '.join(known)}.")
    chosen = {id(known[name].layer): name for name in options}
    pairs: list[tuple[Any, Any]] = []
    made: dict[str, Any] = {}

    def clone(layer: Any) -> Any:
        name = chosen.get(id(layer))
        if name is None:
            copy = layer.__class__.from_config(layer.get_config())
        elif isinstance(layer, keras.layers.SeparableConv2D):
            copy = _separable(layer, options[name])
            made[name] = copy.layers[-1]
        else:
            copy = made[name] = _twin(layer, options[name])
        if isinstance(layer, keras.layers.Layer):  # And no function of keras.ops.
            pairs.append((layer, copy))
        return copy

    fitted = rebuilt(model, clone)
    for layer, copy in pairs:
        _take_weights(layer, copy)
    return fitted, made


def _check(model: Any) -> None:
    """Raises ValueError if a model is none that can be rebuilt."""
    if LEGACY:
        raise ValueError("Trained networks are compressed in Keras 3; unset TF_USE_LEGACY_KERAS.")
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` is a Keras model; got {type(model).__name__}.")
    for part in (model, *(layer for layer in all_layers(model) if isinstance(layer, keras.Model))):
        if not isinstance(part, keras.Sequential) and not hasattr(part, "_run_through_graph"):
            raise ValueError(
                f"The model {part.name!r} is a subclass of keras.Model with a call of its own, so which layers follow "
                "which is not known. Build it with the functional API: keras.Model(inputs, outputs)."
            )
        if not part.built or not getattr(part, "inputs", None):
            raise ValueError(
                f"The model {part.name!r} is not built, so it has no weights yet. Start it with "
                "keras.layers.Input(shape), and train it."
            )
    for layer in all_layers(model):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                f"Layer {layer.name!r} is quantised ({layer.quantization_mode}); compress the model as it was before "
                "model.quantize(…)."
            )


def _named(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Each layer that is no model once, by a name of its own."""
    paths: dict[int, tuple[str, ...]] = {}
    found: dict[int, Any] = {}

    def walk(part: Any, path: tuple[str, ...]) -> None:
        for layer in part.layers:
            if id(layer) in found:
                continue
            found[id(layer)], paths[id(layer)] = layer, (*path, layer.name)
            if isinstance(layer, keras.Model):
                walk(layer, paths[id(layer)])

    walk(model, ())
    counts = Counter(path[-1] for path in paths.values())
    for key, layer in found.items():
        if not isinstance(layer, keras.Model):
            path = paths[key]
            yield (path[-1] if counts[path[-1]] == 1 else "/".join(path)), layer


def _reason_to_stay(layer: Any) -> str | None:
    """Why a layer cannot be a DBF layer; None if it can."""
    kind = type(layer).__name__
    if isinstance(layer, keras.layers.Wrapper):
        return f"it is inside of a {kind}"
    if isinstance(layer, DBFConv2D | DBFDense):
        return "its codes are flat (sp_ovsf)" if layer.codes is None else None
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return "depthwise convolutions are small"
    if type(layer) not in (keras.layers.Conv2D, keras.layers.SeparableConv2D, keras.layers.Dense):
        return f"a {kind} has no DBF form"
    if getattr(layer, "groups", 1) != 1:
        return "grouped convolutions are small"
    if getattr(layer, "data_format", "channels_last") not in (None, "channels_last"):
        return "its channels come first"
    if getattr(layer, "lora_enabled", False):
        return "it has a LoRA part, which is to be merged first"
    return None


def _candidate(name: str, layer: Any) -> Candidate:
    if isinstance(layer, keras.layers.SeparableConv2D):
        name, shape = name + POINTWISE, tuple(layer.pointwise_kernel.shape[:3])
    else:
        shape = (1, 1, 1, *layer.kernel.shape)[-4:-1]
    kept = layer.codes if isinstance(layer, DBFConv2D | DBFDense) else None
    codes = np.arange(int(np.prod(shape))) if kept is None else np.sort(kept)
    return Candidate(name, layer, shape, codes)


def rebuilt(model: keras.Model, clone: Callable[[Any], Any]) -> keras.Model:
    """A model of the same graph, of what ``clone`` makes of each layer, those of nested models included."""
    inputs = None
    if not isinstance(model, keras.Sequential):  # Keras gives the clones of input layers other names.
        inputs = keras.tree.map_structure(
            lambda tensor: keras.Input(
                batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor._keras_history.operation.name
            ),
            model.input,
        )
    return keras.models.clone_model(model, input_tensors=inputs, clone_function=clone, recursive=True)


def _twin(layer: Any, options: Mapping[str, Any]) -> Any:
    """The DBF layer that takes a layer's place."""
    config = layer.get_config()
    if not isinstance(layer, DBFConv2D | DBFDense):
        config = {key: value for key, value in config.items() if key not in _OF_KERNELS}
    kind = DBFConv2D if isinstance(layer, keras.layers.Conv2D) else DBFDense
    return kind.from_config({**config, **options})


def _separable(layer: Any, options: Mapping[str, Any]) -> keras.Sequential:
    """A depthwise and a DBF 1×1 convolution, for a SeparableConv2D."""
    own = layer.get_config()
    shared = {key: own[key] for key in ("trainable", "dtype", "data_format")}
    depthwise = keras.layers.DepthwiseConv2D(
        own["kernel_size"],
        strides=own["strides"],
        padding=own["padding"],
        depth_multiplier=own["depth_multiplier"],
        dilation_rate=own["dilation_rate"],
        use_bias=False,
        depthwise_initializer=own["depthwise_initializer"],
        depthwise_regularizer=own["depthwise_regularizer"],
        depthwise_constraint=own["depthwise_constraint"],
        name=layer.name + DEPTHWISE,
        **shared,
    )
    pointwise = DBFConv2D(
        own["filters"],
        1,
        activation=own["activation"],
        use_bias=own["use_bias"],
        bias_initializer=own["bias_initializer"],
        kernel_regularizer=own["pointwise_regularizer"],
        bias_regularizer=own["bias_regularizer"],
        activity_regularizer=own["activity_regularizer"],
        bias_constraint=own["bias_constraint"],
        name=layer.name + POINTWISE,
        **shared,
        **options,
    )
    # Keras would number an input of its own by how many there were before: the same network were another each time.
    inputs = keras.Input(batch_shape=tuple(layer.get_build_config()["input_shape"]), name=layer.name + INPUT)
    return keras.Sequential([inputs, depthwise, pointwise], name=layer.name)


def _take_weights(layer: Any, copy: Any) -> None:
    """Gives the copy of a layer its weights."""
    if isinstance(copy, DBFConv2D | DBFDense):
        copy.fit_kernel(ops.convert_to_numpy(layer.kernel))
        if copy.bias is not None:
            copy.bias.assign(layer.bias)
    elif isinstance(layer, keras.layers.SeparableConv2D) and isinstance(copy, keras.Sequential):
        depthwise, pointwise = copy.layers
        depthwise.kernel.assign(layer.depthwise_kernel)
        pointwise.fit_kernel(ops.convert_to_numpy(layer.pointwise_kernel))
        if pointwise.bias is not None:
            pointwise.bias.assign(layer.bias)
    else:
        copy.set_weights(layer.get_weights())
        settle(copy)
