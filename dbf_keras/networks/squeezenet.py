"""SqueezeNet 1.0 with DBF layers."""

from __future__ import annotations

from dbf_keras.backend import keras
from dbf_keras.networks.blocks import Blocks

# Squeeze and expand channels of the fire modules; None is a max-pooling.
_FIRES = ((16, 64), (16, 64), (32, 128), None, (32, 128), (48, 192), (48, 192), (64, 256), None, (64, 256))


def SqueezeNet(name: str = "squeezenet", dropout: float = 0.5, **options):  # noqa: N802 - as in keras.applications
    """SqueezeNet 1.0 (Iandola et al., 2016) with DBF layers in all fire modules, 1×1 layers included.

    With 4×4 expand filters and 10 classes it has the paper's 4.41 MB (MiB) at ρ = 1. Images under 64 pixels enter
    through a 3×3 convolution of stride 1 without the first pooling (our reading); larger ones through 7×7 of stride 2.

    Args:
        name: of the model.
        dropout: rate before the classifier.
        **options: the attributes of `dbf_keras.networks.blocks.Blocks`.

    Returns:
        A Keras model, images [batch, height, width, channels] to [batch, classes].
    """
    build = Blocks(**options)
    inputs, x = build.image()
    size, strides = (7, 2) if build.large else (3, 1)
    x = keras.layers.Conv2D(
        build.channels(96),
        size,
        strides=strides,
        padding="same",
        activation="relu",
        kernel_initializer="he_normal",
        name="stem",
    )(x)
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
    x = keras.layers.Conv2D(build.classes, 1, activation="relu", kernel_initializer="he_normal", name="classifier")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Activation(build.classifier_activation or "linear", name="predictions")(x)
    return build.model(inputs, outputs, name)


def _fire(build: Blocks, x, squeeze: int, expand: int, name: str):
    """A 1×1 squeeze layer, then 1×1 and k×k expand layers side by side."""
    x = _convolution(build, x, squeeze, f"{name}_squeeze", kernel_size=1)
    narrow = _convolution(build, x, expand, f"{name}_expand1", kernel_size=1)
    wide = _convolution(build, x, expand, f"{name}_expand")
    return keras.layers.Concatenate(name=f"{name}_concat")([narrow, wide])


def _convolution(build: Blocks, x, filters: int, name: str, **arguments):
    """A DBF convolution with ReLU whose filters start so that activations neither grow nor fade from fire to fire.

    There is no BatchNorm to see to that. The codes that the orders keep first hold more than their share ρ of the
    input's energy, about √ρ of it: so much less variance than He's for inputs that are white do the filters need.
    """
    if not build.plain and build.kernel_initializer is None:
        scale = 2 / build.layer_ratio(name) ** 0.5
        arguments["kernel_initializer"] = keras.initializers.VarianceScaling(scale, distribution="untruncated_normal")
    return build.convolution(x, filters, name, activation="relu", **arguments)
