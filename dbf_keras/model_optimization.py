"""What tensorflow-model-optimization is told of DBF layers, so that it takes them as it takes plain ones.

It works on Keras 2 only and knows layers by lists of its own, which `register` adds to once it is imported:

- pruning asks a layer for `get_prunable_weights` and needs nothing here,
- clustering wants `ClusterableLayer`, and clusters α,
- quantisation-aware training quantises the generated filters, as it does the twin's, and trains α through them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tensorflow_model_optimization.python.core.clustering.keras import cluster_wrapper
from tensorflow_model_optimization.python.core.clustering.keras.clusterable_layer import ClusterableLayer
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry as registry,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_transforms as transforms,
)

from dbf_keras.backend import keras
from dbf_keras.layers import DBFConv2D, DBFDense


class _FilterQuantizer:
    """A quantizer of TFMOT that is given α and quantises the filters that it generates."""

    def __init__(self, layer: DBFConv2D | DBFDense, quantizer: Any):
        self._layer, self._quantizer = layer, quantizer

    def build(self, shape: Any, name: str, wrapper: Any) -> dict[str, Any]:
        """The quantizer's variables; α and filters have the same last axis, of which there may be one range each."""
        return self._quantizer.build(shape, name, wrapper)

    def __call__(self, coefficients: Any, training: bool, weights: dict[str, Any], **options: Any) -> Any:
        self._layer.given_kernel = None
        return self._quantizer(self._layer.generate_kernel(), training, weights, **options)


@keras.utils.register_keras_serializable(package="dbf_keras")
class FilterQuantizeConfig(registry.Default8BitConvQuantizeConfig):
    """The ``QuantizeConfig`` of a DBF layer: its filters in 8 bits as those of the plain twin, α in float32."""

    def __init__(
        self,
        weight_attrs: Any = ("coefficients",),
        activation_attrs: Any = ("activation",),
        quantize_output: bool = False,
    ):
        super().__init__(list(weight_attrs), list(activation_attrs), quantize_output)
        plain = registry.Default8BitQuantizeConfig(["kernel"], ["activation"], False)
        self._dense_quantizer = plain.weight_quantizer

    def get_weights_and_quantizers(self, layer: DBFConv2D | DBFDense) -> list[tuple[Any, _FilterQuantizer]]:
        """α, with what quantises its filters: with a range each, or one range of a dense layer."""
        quantizer = self._dense_quantizer if isinstance(layer, DBFDense) else self.weight_quantizer
        return [(layer.coefficients, _FilterQuantizer(layer, quantizer))]

    def set_quantize_weights(self, layer: DBFConv2D | DBFDense, quantize_weights: list[Any]) -> None:
        """Has the layer compute with these filters."""
        (layer.given_kernel,) = quantize_weights


def register() -> None:
    """Adds DBF layers to the lists of tensorflow-model-optimization."""
    for layer in (DBFConv2D, DBFDense):
        ClusterableLayer.register(layer)
        config = FilterQuantizeConfig()
        config.layer_type = layer
        registry.Default8BitQuantizeRegistry._LAYER_QUANTIZE_INFO.append(config)
    transforms.LayerPattern = _pattern
    cluster_wrapper.ClusterWeights.__init__ = _checked(cluster_wrapper.ClusterWeights.__init__)


def _checked(init: Callable) -> Callable:
    """The constructor of a clustering wrapper, which refuses what it could not do to α."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked(*arguments: Any, **options: Any) -> None:
        given = signature.bind(*arguments, **options).arguments
        layer = given["layer"]
        if given.get("cluster_per_channel") and isinstance(layer, DBFConv2D):
            raise ValueError(
                f"Layer '{layer.name}' stores coefficients [codes, filters], which tensorflow-model-optimization "
                "cannot cluster per channel; leave out cluster_per_channel=True, and each layer has its own clusters."
            )
        init(*arguments, **options)

    return checked


_plain_pattern, _CONVOLUTIONS = transforms.LayerPattern, "Conv2D|DepthwiseConv2D"


def _pattern(class_name: str, *arguments: Any, **options: Any) -> Any:
    """`LayerPattern` in which BatchNorm after a DBF convolution is what it is after a plain one."""
    if class_name == _CONVOLUTIONS:
        class_name += "|.*DBFConv2D"
    return _plain_pattern(class_name, *arguments, **options)
