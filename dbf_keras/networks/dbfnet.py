"""DBFNet, the paper's own network, and a micro version of it."""

from __future__ import annotations

from typing import Any

from dbf_keras.backend import keras
from dbf_keras.networks.builder import NetworkBuilder, plain_convolution_bn


def DBFNet(stem_strides: int | None = None, name: str = "dbfnet", **options: Any) -> keras.Model:  # noqa: N802 - as in keras.applications
    """DBFNet: a first convolution, then eight modules of three DBF layers with a bypass, in three cascades.

    The paper does not publish the widths. Ours: cascades of 3, 2 and 3 modules with 32, 64 and 128 channels, which
    with 4×4 filters is near its 10.32 MB at ρ = 1; for images of 64 pixels or more 64, 128 and 256 channels. MNIST is
    ``input_shape=(28, 28, 1)``, CIFAR (32, 32, 3), ImageNet (224, 224, 3) with ``classes=1000``.

    Args:
        stem_strides: strides of the first convolution; by default 1, and 4 for images of 64 pixels or more.
        name: the model's name.
        **options: the attributes of `dbf_keras.networks.builder.NetworkBuilder`.

    Returns:
        A Keras model, images [batch, height, width, channels] to [batch, classes].
    """
    build = NetworkBuilder(**options)
    cascades = ((3, 64), (2, 128), (3, 256)) if build.large else ((3, 32), (2, 64), (3, 128))
    return _cascades(build, cascades, stem_strides or (4 if build.large else 1), name)


def DBFNetMicro(
    name: str = "dbfnet_micro", input_shape: tuple[int, int, int] = (8, 8, 1), **options: Any
) -> keras.Model:  # noqa: N802
    """DBFNet with one module each of 16 and 32 channels: under 100 KB at ρ = 0.25, for tiny images.

    Args:
        name: the model's name.
        input_shape: (height, width, channels); by default that of scikit-learn's digits.
        **options: the other attributes of `dbf_keras.networks.builder.NetworkBuilder`.

    Returns:
        A Keras model, images [batch, height, width, channels] to [batch, classes].
    """
    return _cascades(NetworkBuilder(input_shape=input_shape, **options), ((1, 16), (1, 32)), 1, name)


def _cascades(
    build: NetworkBuilder, cascades: tuple[tuple[int, int], ...], stem_strides: int, name: str
) -> keras.Model:
    """A first convolution and cascades of (modules, channels), separated by max-pooling."""
    inputs, x = build.image()
    x = plain_convolution_bn(x, build.channels(cascades[0][1]), build.kernel_size, "stem", stem_strides)
    for index, (modules, channels) in enumerate(cascades, 1):
        if index > 1:
            x = keras.layers.MaxPooling2D(2, padding="same", name=f"pool{index - 1}")(x)
        for module in range(1, modules + 1):
            x = _module(build, x, build.channels(channels), f"cascade{index}_module{module}")
    return build.model(inputs, build.classifier(x), name)


def _module(build: NetworkBuilder, x: Any, channels: int, name: str) -> Any:
    """Three DBF layers with a bypass; a 1×1 convolution on the bypass where the channel count changes."""
    bypass = x
    if x.shape[-1] != channels:
        bypass = plain_convolution_bn(x, channels, 1, f"{name}_bypass", relu=False)
    x = build.convolution_bn(x, channels, f"{name}_conv1")
    x = build.convolution_bn(x, channels, f"{name}_conv2")
    x = build.convolution_bn(x, channels, f"{name}_conv3", relu=False)
    x = keras.layers.Add(name=f"{name}_add")([bypass, x])
    return keras.layers.ReLU(name=f"{name}_relu")(x)
