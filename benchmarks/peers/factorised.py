"""Networks of factorised layers that start near a trained one's: Tucker-2, depthwise-separable and squeezed."""

import math
from typing import Any

import numpy as np
import tensorly
from tensorly.decomposition import partial_tucker

import vbmf
from dbf_keras.backend import keras
from narrower import narrow
from rebuild import Parts, classifier, is_convolution, is_dense, rebuild

_CHANNELS, _FILTERS = 2, 3  # Axes of a kernel [kh, kw, C, K].
_POINTWISE = {"kernel_size": 1, "strides": 1, "dilation_rate": 1}
_LINEAR = {"use_bias": False, "activation": None}


def tucker(model: keras.Model, share: float) -> keras.Model:
    """Tucker-2 (Kim et al., "Compression of deep convolutional neural networks", ICLR 2016), by tensorly.

    A convolution becomes three: 1×1 to fewer channels, one of the kernel's size, 1×1 to the filters. A 1×1 convolution
    or dense layer becomes two, by its singular values. Layers that would not be smaller stay, and the classifier does.

    Args:
        model: the trained network.
        share: 1 for the ranks of variational Bayesian matrix factorisation; less for that share of each; from 1 to 2
            for ranks that are weakened, up to full ones (MUSCO, Gusak et al., 2019, weakens them so too).
    """
    last = classifier(model)

    def change(layer: keras.layers.Layer) -> Parts | None:
        if layer is last or not (is_convolution(layer) or is_dense(layer)):
            return None
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        if math.prod(kernel.shape) == kernel.shape[-2] * kernel.shape[-1]:
            return _two_layers(layer, kernel, share)
        ranks = [_rank(tensorly.unfold(kernel, axis), share) for axis in (_CHANNELS, _FILTERS)]
        inward, outward = kernel.shape[_CHANNELS] * ranks[0], kernel.shape[_FILTERS] * ranks[1]
        if inward + outward + math.prod(kernel.shape[:2]) * math.prod(ranks) >= kernel.size:
            return None
        (core, factors), _ = partial_tucker(kernel, ranks, modes=[_CHANNELS, _FILTERS])
        return [
            (_like(layer, "in", filters=ranks[0], **_POINTWISE, **_LINEAR), [factors[0][None, None]]),
            (_like(layer, "core", filters=ranks[1], **_LINEAR), [core]),
            (_like(layer, "out", **_POINTWISE), [factors[1].T[None, None], *_bias(layer)]),
        ]

    return rebuild(model, change)


def _rank(matrix: np.ndarray, share: float) -> int:
    found, full = max(1, vbmf.factorise(matrix).rank), min(matrix.shape)
    return max(1, round(share * found if share <= 1 else found + (share - 1) * (full - found)))


def _two_layers(layer: keras.layers.Layer, kernel: np.ndarray, share: float) -> Parts | None:
    """A 1×1 convolution or dense layer as two, if these have fewer weights."""
    matrix = kernel.reshape(kernel.shape[-2:])
    rank = _rank(matrix, share)
    if rank * sum(matrix.shape) >= matrix.size:
        return None
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    lead = kernel.shape[:-2]
    factors = [
        (left[:, :rank] * np.sqrt(values[:rank])).reshape(*lead, -1, rank),
        (np.sqrt(values[:rank])[:, None] * right[:rank]).reshape(*lead, rank, -1),
    ]
    narrower, one = ({"units": rank}, {}) if is_dense(layer) else ({"filters": rank}, {"strides": 1})
    first, second = _like(layer, "in", **narrower, **_LINEAR), _like(layer, "out", **one)
    return [(first, factors[:1]), (second, [factors[1], *_bias(layer)])]


def separable(model: keras.Model, size: float) -> keras.Model:
    """The depthwise-separable twin (as MobileNet, Howard et al., 2017), nearest to the trained filters.

    Args:
        model: the trained network.
        size: the number of spatial filters for each channel, `depth_multiplier`; less than 1 for one each, in a network
            that is made so narrow before.
    """
    multiplier = max(1, int(size))

    def change(layer: keras.layers.Layer) -> Parts | None:
        if not _is_spatial(layer):
            return None
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        height, width, channels, filters = kernel.shape
        kept = min(multiplier, height * width, filters)
        if channels * kept * (height * width + filters) >= kernel.size:
            return None
        left, values, right = np.linalg.svd(
            kernel.transpose(2, 0, 1, 3).reshape(channels, -1, filters), full_matrices=False
        )
        roots = np.sqrt(values[:, :kept])
        depthwise = (left[:, :, :kept] * roots[:, None]).reshape(channels, height, width, kept)
        pointwise = (roots[..., None] * right[:, :kept]).reshape(1, 1, channels * kept, filters)
        names = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias", "name")
        config = {key: value for key, value in layer.get_config().items() if key in names}
        twin = keras.layers.SeparableConv2D(
            **config, depth_multiplier=kept, depthwise_initializer="he_normal", pointwise_initializer="he_normal"
        )
        return [(twin, [depthwise.transpose(1, 2, 0, 3), pointwise, *_bias(layer)])]

    return rebuild(narrow(model, min(size, 1)), change)


def squeeze(model: keras.Model, share: float) -> keras.Model:
    """Each convolution behind a layer of 1×1 that squeezes its channels (as SqueezeNet's, Iandola et al., 2016).

    The squeeze layers have BatchNorm and ReLU, so the network has to be trained even if no channel is lost. They start
    from the main directions of the trained filters.

    Args:
        model: the trained network.
        share: of the channels, that the squeeze layers have.
    """

    def change(layer: keras.layers.Layer) -> Parts | None:
        if not _is_spatial(layer):
            return None
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        channels = kernel.shape[_CHANNELS]
        squeezed = max(1, round(share * channels))
        if squeezed * channels + kernel.size // channels * squeezed >= kernel.size:
            return None
        (core, [factor]), _ = partial_tucker(kernel, [squeezed], modes=[_CHANNELS])
        norm = keras.layers.BatchNormalization(momentum=0.9, name=f"{layer.name}_squeeze_bn")
        return [
            (_like(layer, "squeeze", filters=squeezed, **_POINTWISE, **_LINEAR), [factor[None, None]]),
            (norm, None),
            (keras.layers.ReLU(name=f"{layer.name}_squeeze_relu"), []),
            (_like(layer, "expand"), [core, *_bias(layer)]),
        ]

    return rebuild(model, change)


def _is_spatial(layer: keras.layers.Layer) -> bool:
    return is_convolution(layer) and max(layer.kernel_size) > 1


def _bias(layer: keras.layers.Layer) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(layer.bias)] if layer.use_bias else []


def _like(layer: keras.layers.Layer, part: str, **changes: Any) -> keras.layers.Layer:
    """A layer of the same settings, but for some."""
    return type(layer).from_config({**layer.get_config(), "name": f"{layer.name}_{part}", **changes})
