"""What the networks share: their common options, convolution with BatchNorm, preprocessing and the head."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from dbf_keras.backend import keras
from dbf_keras.codes import DEFAULT_SELECTION, Selection
from dbf_keras.layers import DBFConv2D
from dbf_keras.networks.schedule import PlannedRatios

# Mean and standard deviation of raw pixels by number of channels: MNIST's for grey images, ImageNet's for RGB
# (0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 of 255).
_PIXEL_STATISTICS = {1: ([33.3], [78.6]), 3: ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4])}


@dataclasses.dataclass
class NetworkBuilder:
    """The options that all networks take, and the layers built by them.

    Attributes:
        input_shape: (height, width, channels) of the images.
        classes: number of classes.
        ratio: ρ of the DBF layers: a number, or a mapping from layer name or ``fnmatch`` pattern to number, of which
            the first that matches counts, e.g. ``{"stage3_*": 0.0625, "*": 1.0}``.
        selection: which codes the DBF layers keep; see `dbf_keras.codes.order`; or a mapping as of `ratio`.
        alpha_bits: None, or the bits to which the DBF layers round α, see `DBFConv2D`.
        alpha_step: None, or the first step of the DBF layers' levels as a share of a filter, see `DBFConv2D`.
        dead_zone: the dead zone of these levels, see `DBFConv2D`.
        kernel_initializer: initialiser of the filters; DBF layers start from those closest to them. By default He's,
            and for DBF layers white noise of He's variance. With ``"he_normal"`` and the same seed a network of ρ = 1
            starts as the same function as its plain twin.
        filter_decay: weight of ½‖f‖² of the generated filters f in the loss, beside what the optimizer does to α.
        kernel_size: spatial taps of the DBF layers along each axis; 4 as in the paper (a power of two: orthogonal
            codes) or 3.
        plain: build the plain twin, with ``keras.layers.Conv2D`` in place of `DBFConv2D`.
        width: factor on all channel counts, for narrower controls.
        include_preprocessing: take raw pixel values 0–255 and scale them in the graph; otherwise inputs are expected
            with zero mean and unit variance.
        weights: None, or the path of a weights file to load.
        classifier_activation: activation of the last layer; None for logits.
    """

    input_shape: tuple[int, int, int] = (32, 32, 3)
    classes: int = 10
    ratio: float | Mapping[str, float] = 1.0
    selection: Selection | Mapping[str, Selection] = DEFAULT_SELECTION
    alpha_bits: int | None = None
    alpha_step: float | None = None
    dead_zone: float = 0.0
    kernel_initializer: str | None = None
    filter_decay: float = 0.0
    kernel_size: int = 4
    plain: bool = False
    width: float = 1.0
    include_preprocessing: bool = True
    weights: str | None = None
    classifier_activation: str | None = "softmax"

    def __post_init__(self) -> None:
        self._ratios: Mapping[str, float] = self.ratio if isinstance(self.ratio, Mapping) else {"*": self.ratio}
        self._selections: Mapping[str, Selection] = (
            self.selection if isinstance(self.selection, Mapping) else {"*": self.selection}
        )
        self._unused = set() if isinstance(self._ratios, PlannedRatios) else set(self._ratios)

    @property
    def large(self) -> bool:
        """Whether the images are of ImageNet's kind, 64 pixels or more, and the network starts with more striding."""
        return min(self.input_shape[:2]) >= 64

    def channels(self, count: int) -> int:
        """A channel count under the width factor, at least 1."""
        return max(1, round(count * self.width))

    def layer_ratio(self, name: str) -> float:
        """ρ of a layer by the schedule.

        Raises:
            ValueError: no entry matches.
        """
        pattern = _first_match(self._ratios, name, "ratio")
        self._unused.discard(pattern)
        return self._ratios[pattern]

    def convolution(self, x: Any, filters: int, name: str, kernel_size: int | None = None, **arguments: Any) -> Any:
        """A DBF convolution, in the plain twin a Conv2D, with 'same' padding: [batch, h, w, c] to [..., filters]."""
        kernel_size = kernel_size or self.kernel_size
        arguments = {"padding": "same", "name": name, **arguments}
        if self.plain:
            arguments["kernel_initializer"] = self.kernel_initializer or "he_normal"
            return keras.layers.Conv2D(filters, kernel_size, **arguments)(x)
        if self.filter_decay:
            arguments["kernel_regularizer"] = keras.regularizers.L2(self.filter_decay / 2)
        arguments["selection"] = self._selections[_first_match(self._selections, name, "selection")]
        arguments.update(alpha_bits=self.alpha_bits, alpha_step=self.alpha_step, dead_zone=self.dead_zone)
        arguments.setdefault("kernel_initializer", self.kernel_initializer)
        return DBFConv2D(filters, kernel_size, ratio=self.layer_ratio(name), **arguments)(x)

    def convolution_bn(self, x: Any, filters: int, name: str, relu: bool = True, **arguments: Any) -> Any:
        """`convolution` without bias, BatchNorm and, if asked, ReLU."""
        return normalized(self.convolution(x, filters, name, use_bias=False, **arguments), name, relu)

    def image(self) -> tuple[Any, Any]:
        """The input layer and, if the network includes it, the scaling of raw pixels.

        Returns:
            (input tensor, tensor to go on with), both [batch, height, width, channels].
        """
        inputs = keras.layers.Input(self.input_shape, name="image")
        if not self.include_preprocessing:
            return inputs, inputs
        channels = self.input_shape[-1]
        if channels not in _PIXEL_STATISTICS:
            raise ValueError(f"Preprocessing knows grey and RGB images; got input shape {tuple(self.input_shape)}.")
        mean, deviation = _PIXEL_STATISTICS[channels]
        variance = [value**2 for value in deviation]
        return inputs, keras.layers.Normalization(mean=mean, variance=variance, name="preprocessing")(inputs)

    def classifier(self, x: Any) -> Any:
        """Global average pooling and a plain dense layer: [batch, h, w, c] to [batch, classes]."""
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        return keras.layers.Dense(self.classes, activation=self.classifier_activation, name="classifier")(x)

    def model(self, inputs: Any, outputs: Any, name: str) -> keras.Model:
        """The Keras model, with its weights loaded if a file is given.

        Raises:
            ValueError: an entry of the ratio schedule matched no layer.
        """
        if self._unused and not self.plain:
            raise ValueError(f"No DBF layer of {name} takes its ratio from {sorted(self._unused)} of the schedule.")
        model = keras.Model(inputs, outputs, name=name)
        if self.weights is not None:
            model.load_weights(self.weights)
        return model


def _first_match(schedule: Mapping[str, object], name: str, option: str) -> str:
    for pattern in schedule:
        if fnmatch.fnmatchcase(name, pattern):
            return pattern
    known = ", ".join(schedule)
    raise ValueError(f"The {option} schedule of {known} has no entry for layer '{name}'; add a '*'.")


def normalized(x: Any, name: str, relu: bool = True) -> Any:
    """BatchNorm and, if asked, ReLU."""
    # Keras's momentum of 0.99 lags behind the weights for whole epochs of small data sets.
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def plain_convolution_bn(x: Any, filters: int, kernel_size: int, name: str, strides: int = 1, relu: bool = True) -> Any:
    """An ordinary convolution with BatchNorm and, if asked, ReLU: first layers and shortcuts, which stay plain."""
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return normalized(x, name, relu)
