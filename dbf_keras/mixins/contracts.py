"""What Keras and tensorflow-model-optimization ask of a layer: saving, configuration, and what does not apply."""

from __future__ import annotations

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
_COEFFICIENTS, _SCALE = "0", "scale"


class ContractsMixin(MixinBase):
    """Serialises a DBF layer and refuses what a generated kernel cannot do."""

    # The twin's own would save its kernel.

    def save_own_variables(self, store: Any) -> None:
        """Saves the coefficients, the scale that they are held at, and the bias."""
        keras.layers.Layer.save_own_variables(self, store)
        store[_SCALE] = np.float64(self.coefficient_scale)

    def load_own_variables(self, store: Any) -> None:
        """Loads coefficients, at whatever scale they were held, and bias."""
        values = {key: store[key] for key in store.keys()}  # noqa: SIM118 - a store is no mapping
        scale = float(np.asarray(values.pop(_SCALE, 1.0)))  # Before version 0.2 it was always 1.
        if scale != self.coefficient_scale and _COEFFICIENTS in values:
            values[_COEFFICIENTS] = np.asarray(values[_COEFFICIENTS]) * (self.coefficient_scale / scale)
        keras.layers.Layer.load_own_variables(self, values)

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

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Not available: a generated kernel has no low-rank update to train."""
        raise ValueError(f"{type(self).__name__} generates its kernel and does not support LoRA.")

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Not available in Keras; quantise at export, with `dbf_keras.export`."""
        raise ValueError(f"{type(self).__name__} is quantised at export: python -m dbf_keras.export --quantize weights")

    def get_prunable_weights(self) -> list:
        """The coefficients: what tensorflow-model-optimization prunes."""
        return [self.coefficients]

    def get_clusterable_weights(self) -> list:
        """The coefficients: what tensorflow-model-optimization clusters."""
        return [("coefficients", self.coefficients)]
