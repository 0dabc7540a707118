"""SqueezeNet 1.0 with DBF layers."""

from __future__ import annotations

from typing import Any

from dbf_keras.backend import keras
from dbf_keras.networks.builder import NetworkBuilder, plain_convolution_bn

# Squeeze and expand channels of the fire modules; None is a max-pooling.
_FIRES = ((16, 64), (16, 64), (32, 128), None, (32, 128), (48, 192), (48, 192), (64, 256), None, (64, 256))


def SqueezeNet(name: str = "squeezenet", dropout: float = 0.5, **options: Any) -> keras.Model:  # noqa: N802 - as in keras.applications
    """SqueezeNet 1.0 (Iandola et al., 2016) with DBF layers in all fire modules, 1×1 layers included.

    Two things are not as published: each convolution but the classifier has a BatchNorm, which is gone in exported
    files, and the classifier has no ReLU, behind which a class that is negative on all images never learns again. As
    published, it stops learning within some hundred steps at learning rates of 0.05 and more, as our recipes have.

    With 4×4 expand filters and 10 classes it has the paper's 4.41 MB (MiB) at ρ = 1. Images under 64 pixels enter
    through a 3×3 convolution of stride 1 without the first pooling (our reading); larger ones through 7×7 of stride 2.

    Args:
        name: the model's name.
        dropout: rate before the classifier.
        **options: the attributes of `dbf_keras.networks.builder.NetworkBuilder`.

    Returns:
        A Keras model, images [batch, height, width, channels] to [batch, classes].
    """
    build = NetworkBuilder(**options)
    inputs, x = build.image()
    size, strides = (7, 2) if build.large else (3, 1)
    x = plain_convolution_bn(x, build.channels(96), size, "stem", strides=strides)
    if build.large:
        x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    pools = 0
    for index, fire in enumerate(_FIRES, 2):
        if fire is None:
            pools += 1
            x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"pool{pools}")(x)
        else:
            x = _fire(build, x, build.channels(fire[0]), build.channels(fire[1]), f"fire{index - pools}")
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    x = keras.layers.Conv2D(build.classes, 1, kernel_initializer="he_normal", name="classifier")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Activation(build.classifier_activation or "linear", name="predictions")(x)
    return build.model(inputs, outputs, name)


def _fire(build: NetworkBuilder, x: Any, squeeze: int, expand: int, name: str) -> Any:
    """A 1×1 squeeze layer, then 1×1 and k×k expand layers side by side."""
    x = build.convolution_bn(x, squeeze, f"{name}_squeeze", kernel_size=1)
    narrow = build.convolution_bn(x, expand, f"{name}_expand1", kernel_size=1)
    wide = build.convolution_bn(x, expand, f"{name}_expand")
    return keras.layers.Concatenate(name=f"{name}_concat")([narrow, wide])
