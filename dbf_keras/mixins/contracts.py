"""What Keras and tensorflow-model-optimization ask of a layer: saving, configuration, and what does not apply."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import MixinBase, keras

# Options of α and the Keras module that serialises each.
_ALPHA_OPTIONS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}

# Names in a layer's store: Keras numbers variables, the coefficients first.
_COEFFICIENTS, _SCALE, _CODES = "0", "scale", "codes"


# Modes of ``model.quantize`` that look at the layers once more, with data, after they called `quantize` of each.
_CALIBRATED = ("gptq", "awq")


class NotQuantized(NotImplementedError, ValueError):
    """A DBF layer was to be quantised by Keras, which skips layers that do not implement this."""


class ContractsMixin(MixinBase):
    """Serialises a DBF layer and refuses what a generated kernel cannot do."""

    # The twin's own would save its kernel.

    def save_own_variables(self, store: Any) -> None:
        """Saves the coefficients, the scale that they are held at, the codes that they belong to, and the bias."""
        keras.layers.Layer.save_own_variables(self, store)
        if self.built:
            store[_SCALE] = np.float64(self.coefficient_scale)
            store[_CODES] = np.frombuffer(json.dumps(self._codes_record()).encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Loads coefficients, at whatever scale they were held, and bias.

        Raises:
            ValueError: they belong to other codes or to a layer of another kind.
        """
        values = {key: store[key] for key in store.keys()}  # noqa: SIM118 - a store is no mapping
        if not self.built:
            keras.layers.Layer.load_own_variables(self, values)
            return
        scale = values.pop(_SCALE, None)
        codes = values.pop(_CODES, None)
        stored = values.get(_COEFFICIENTS)
        if codes is not None:
            self._check_codes(json.loads(bytes(np.asarray(codes, np.uint8))))
        elif scale is None:
            self._check_unmarked(None if stored is None else tuple(stored.shape))
        if stored is not None and tuple(stored.shape) != tuple(self.coefficients.shape):
            raise self._cannot_load(
                f"coefficients of shape {tuple(stored.shape)}", "Make the layer as the saved one was."
            )
        scale = 1.0 if scale is None else float(np.asarray(scale))  # Before version 0.2 it was always 1.
        if scale != self.coefficient_scale and stored is not None:
            values[_COEFFICIENTS] = np.asarray(stored) * (self.coefficient_scale / scale)
        keras.layers.Layer.load_own_variables(self, values)

    def _codes_record(self) -> dict[str, Any]:
        """What the coefficients mean: the layer's kind, its taps and its codes in the order of α's first axis."""
        selection = self.selection if isinstance(self.selection, str) else "a list"
        if self.codes is None:
            codes = f"{dbf_codes.SP_OVSF} {dbf_codes.ORDER_VERSION}".encode()
        else:
            codes = np.asarray(self.codes, "<i8").tobytes()
        return {
            "layer": "dense" if len(self.twin_shape) == 2 else "convolution",
            "filter_shape": list(self.filter_shape),
            "count": int(self.coefficients.shape[0]),
            "selection": selection,
            "sha256": hashlib.sha256(codes).hexdigest(),
        }

    def _check_codes(self, stored: dict[str, Any]) -> None:
        own = self._codes_record()
        same = ("layer", "filter_shape", "count", "sha256")  # Selections of two names may keep the same codes.
        if any(stored.get(key) != own[key] for key in same):
            raise self._cannot_load(
                _described(stored),
                "Make the layer with the kind, kernel size, `ratio` and `selection` of the saved one; or load that one "
                "and fit its filters to this layer: layer.fit_kernel(saved_layer.kernel).",
            )

    def _check_unmarked(self, shape: tuple[int, ...] | None) -> None:
        """Tells a plain layer's weights from those of a DBF layer of before version 0.2, neither of which say."""
        fit = "Load the plain model and fit its filters: layer.fit_kernel(plain_layer.kernel)."
        if shape is None:
            raise self._cannot_load(
                "nothing under this layer's path, as where the saved model has another kind of layer", fit
            )
        if shape == self.twin_shape and (shape != tuple(self.coefficients.shape) or self.unit_norm):
            if len(shape) == 2 and shape == tuple(self.coefficients.shape):
                fit += (
                    " Weights that version 0.1 saved of a DBFDense of ratio 1 look the same: load the .keras file that "
                    "they belong to."
                )
            raise self._cannot_load(f"a plain kernel of shape {shape}", fit)

    def _cannot_load(self, given: str, remedy: str) -> ValueError:
        return ValueError(
            f"Layer '{self.name}' cannot load these weights: they are {given}; the layer has "
            f"{_described(self._codes_record())} and {self.coefficients.shape[-1]} filters. {remedy}"
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the version of the orders, and whether coefficients are of unit-norm codes."""
        config = super().get_config()
        for gone in ("lora_rank", "lora_alpha", "quantization_config"):
            config.pop(gone, None)
        config.update(
            ratio=self.ratio,
            selection=self.selection,
            alpha_bits=self.alpha_bits,
            alpha_step=self.alpha_step,
            dead_zone=self.dead_zone,
            rate_weight=self.rate_weight,
            order_version=dbf_codes.ORDER_VERSION,
            unit_norm=self.unit_norm,
        )
        for option, module in _ALPHA_OPTIONS.items():
            config[f"alpha_{option}"] = module.serialize(getattr(self, f"alpha_{option}"))
        # None cannot pass through `initializers.serialize` of every Keras.
        for name in ("alpha_initializer", "kernel_initializer"):
            if getattr(self, name) is None:
                config[name] = None
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ContractsMixin:
        """A layer from `get_config`'s dictionary.

        Raises:
            ValueError: the layer was saved with a version of the orders that this package does not know.
        """
        config = dict(config)
        version = config.pop("order_version", dbf_codes.ORDER_VERSION)
        if version != dbf_codes.ORDER_VERSION:
            raise ValueError(
                f"Layer '{config.get('name')}' was saved with code orders of version {version}; this dbf_keras knows "
                f"version {dbf_codes.ORDER_VERSION}. Use the dbf_keras that saved it."
            )
        unit_norm = config.pop("unit_norm", False)  # Before version 0.2 the variable held α itself.
        layer = super().from_config(config)
        layer.unit_norm = unit_norm
        return layer

    def rematerialized_call(self, layer_call: Callable, *args: Any, **kwargs: Any) -> Callable:
        """The call under ``keras.RematScope``, without the keywords that TensorFlow refuses to compute twice."""
        call = super().rematerialized_call(functools.partial(layer_call, **kwargs), *args)
        return lambda *arguments, **_: call(*arguments)

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Not available: a generated kernel has no low-rank update to train."""
        raise ValueError(f"{type(self).__name__} generates its kernel and does not support LoRA.")

    def quantize(self, mode: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Not available in Keras, whose ``model.quantize`` skips the layer; quantise at export."""
        if mode in _CALIBRATED:
            _skip_in_blocks(mode)
        raise NotQuantized(
            f"Layer '{self.name}' is quantised at export: dbf export --quantize weights (or int8, int4)."
        )

    def get_prunable_weights(self) -> list:
        """The coefficients: what tensorflow-model-optimization prunes."""
        return [self.coefficients]

    def get_clusterable_weights(self) -> list:
        """The coefficients: what tensorflow-model-optimization clusters."""
        return [("coefficients", self.coefficients)]

    def get_clusterable_algorithm(self, weight_name: str) -> None:
        """None: the algorithm that is for every layer."""


def _skip_in_blocks(mode: str) -> None:
    """Has Keras skip DBF layers where it calibrates dense layers: it finds these by their class."""
    module: Any = importlib.import_module(f"keras.src.quantizers.{mode}_core")
    find = module.find_layers_in_block
    if getattr(find, "skips_dbf_layers", False):
        return

    def found(block: Any) -> dict[str, Any]:
        return {path: layer for path, layer in find(block).items() if not isinstance(layer, ContractsMixin)}

    found.skips_dbf_layers = True  # type: ignore[attr-defined]
    module.find_layers_in_block = found


def _described(record: dict[str, Any]) -> str:
    """The record of `_codes_record` in words."""
    size = "×".join(
        map(str, record["filter_shape"] if record["layer"] == "convolution" else record["filter_shape"][2:])
    )
    return (
        f"coefficients of a {record['layer']} layer with {record['count']} codes of {size} taps "
        f"(selection {record['selection']!r}, sha256 {record['sha256'][:8]})"
    )
