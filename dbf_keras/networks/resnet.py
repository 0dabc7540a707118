"""ResNet-8, -18 and -34 with DBF layers, thin for CIFAR as in the paper, full for ImageNet."""

from __future__ import annotations

from typing import Any

from dbf_keras.backend import keras
from dbf_keras.networks.builder import NetworkBuilder, plain_convolution_bn


def ResNet8(stem_strides: int = 1, name: str = "resnet8", **options: Any) -> keras.Model:  # noqa: N802 - named as in keras.applications
    """ResNet-8 with DBF layers, for studies: one block a stage.

    Three stages of 16, 32 and 64 channels, or four of 64 to 512 for images of 64 pixels or more.

    Args:
        stem_strides: strides of the first convolution for images under 64 pixels; 2 makes all four times cheaper.
        name: the model's name.
        **options: the attributes of `dbf_keras.networks.builder.NetworkBuilder`.

    Returns:
        A Keras model, images [batch, height, width, channels] to [batch, classes].
    """
    return _resnet(NetworkBuilder(**options), (1, 1, 1), (1, 1, 1, 1), name, stem_strides)


def ResNet18(name: str = "resnet18", **options: Any) -> keras.Model:  # noqa: N802 - named as in keras.applications
    """ResNet-18 (He et al., CVPR 2016) with DBF layers.

    For images under 64 pixels thin: stages of 16, 32 and 64 channels with 3, 3 and 2 blocks, which with 4×4 filters
    is the paper's 1.37 MB at ρ = 1 (the widths are our reading). For larger images the usual stages of 64, 128, 256
    and 512 channels with 2 blocks each behind a 7×7 convolution and max-pooling.

    Args:
        name: the model's name.
        **options: the attributes of `dbf_keras.networks.builder.NetworkBuilder`.

    Returns:
        A Keras model, images [batch, height, width, channels] to [batch, classes].
    """
    return _resnet(NetworkBuilder(**options), (3, 3, 2), (2, 2, 2, 2), name)


def ResNet34(name: str = "resnet34", **options: Any) -> keras.Model:  # noqa: N802
    """ResNet-34 with DBF layers: 5, 6 and 5 thin blocks (the paper's 3.39 MB), or 3, 4, 6 and 3 for large images.

    Args:
        name: the model's name.
        **options: the attributes of `dbf_keras.networks.builder.NetworkBuilder`.

    Returns:
        A Keras model, images [batch, height, width, channels] to [batch, classes].
    """
    return _resnet(NetworkBuilder(**options), (5, 6, 5), (3, 4, 6, 3), name)


def _resnet(
    build: NetworkBuilder, thin: tuple[int, ...], full: tuple[int, ...], name: str, stem_strides: int = 1
) -> keras.Model:
    inputs, x = build.image()
    first = build.channels(64 if build.large else 16)
    if build.large:
        x = plain_convolution_bn(x, first, 7, "stem", strides=2)
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    else:
        x = plain_convolution_bn(x, first, build.kernel_size, "stem", strides=stem_strides)
    for stage, blocks in enumerate(full if build.large else thin, 1):
        channels = build.channels((64 if build.large else 16) << (stage - 1))
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(build, x, channels, strides, f"stage{stage}_block{block}")
    return build.model(inputs, build.classifier(x), name)


def _block(build: NetworkBuilder, x: Any, channels: int, strides: int, name: str) -> Any:
    """Two DBF layers with a shortcut; a plain 1×1 convolution on it where the shape changes."""
    shortcut = x
    if strides > 1 or x.shape[-1] != channels:
        shortcut = plain_convolution_bn(x, channels, 1, f"{name}_shortcut", strides=strides, relu=False)
    x = build.convolution_bn(x, channels, f"{name}_conv1", strides=strides)
    x = build.convolution_bn(x, channels, f"{name}_conv2", relu=False)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_relu")(x)
