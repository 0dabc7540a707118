"""The methods that are compared: what each makes of a trained network, and the knob that sets its bytes."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from dbf_keras.backend import keras
from factorised import separable, squeeze, tucker
from narrower import narrow
from quantized import CONVERTED, RECIPES, Int4Conv2D, to_int4
from rebuild import Parts, is_convolution, is_dense, rebuild, renew

_WIDTHS = np.linspace(0.05, 1, 96).tolist()
_SPARSITIES = (1 - np.geomspace(0.01, 0.9, 120)).tolist()


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to make a trained network smaller.

    Attributes:
        words: what tables call it.
        start: takes the network and the knob; returns what is to be trained.
        knobs: its values, by ascending bytes; none if there is nothing to set.
        trained: whether it is trained at all.
        taught: whether the network as it was is its teacher.
        new: whether it starts from new weights, and so is trained at the recipe's own learning rate.
        finish: makes the plain network of a trained one.
        few_values: if tensorflow-model-optimization trains it, the sparsity and the number of clusters, 0 for none of
            that, by the knob. The bytes of its files are counted zipped, as those who use it do.
        kinds: how its file can be written, as `quantized.write` says. Budgets are of the first, of small weights and
            float or dynamic arithmetic, or of the second, of int8 arithmetic.
    """

    words: str
    start: Callable[[keras.Model, float], keras.Model]
    knobs: Sequence[float] = ()
    trained: bool = True
    taught: bool = True
    new: bool = False
    finish: Callable[[keras.Model], keras.Model] = lambda model: model
    few_values: Callable[[float], tuple[float, int]] | None = None
    kinds: Sequence[str] = ("weights", "int8", "static_wi4_ai8", "dynamic_wi4_afp32")


def _for_int4(model: keras.Model, width: float) -> keras.Model:
    """A narrower network whose convolutions round their kernels in training; the dense classifier does not."""

    def change(layer: keras.layers.Layer) -> Parts | None:
        return [(Int4Conv2D.from_config(layer.get_config()), layer.get_weights())] if is_convolution(layer) else None

    return rebuild(narrow(model, width), change)


def _with_int4(model: keras.Model) -> keras.Model:
    """The plain network of one that was trained for int4."""

    def change(layer: keras.layers.Layer) -> Parts | None:
        if not isinstance(layer, Int4Conv2D):
            return None
        kernel, *bias = layer.get_weights()
        return [(keras.layers.Conv2D.from_config(layer.get_config()), [np.asarray(to_int4(kernel)), *bias])]

    return rebuild(model, change)


def _tfmot(words: str, knobs: Sequence[float], few_values: Callable[[float], tuple[float, int]]) -> Method:
    """A method of tensorflow-model-optimization, which starts without training from kernels of as few values."""

    def start(model: keras.Model, knob: float) -> keras.Model:
        def change(layer: keras.layers.Layer) -> Parts | None:
            if not (is_convolution(layer) or is_dense(layer)):
                return None
            kernel, *bias = layer.get_weights()
            return [(type(layer).from_config(layer.get_config()), [_rounded(kernel, *few_values(knob)), *bias])]

        return rebuild(model, change)

    return Method(words, start, knobs, few_values=few_values, kinds=tuple(CONVERTED))


def _rounded(kernel: np.ndarray, sparsity: float, clusters: int) -> np.ndarray:
    """A kernel whose smallest values are zero, and the others the means of clusters."""
    from sklearn.cluster import KMeans

    kept = np.abs(kernel) >= np.quantile(np.abs(kernel), sparsity)
    values = np.where(kept, kernel, 0)
    if 0 < clusters < kept.sum():
        means = KMeans(clusters - (sparsity > 0), n_init=1, random_state=0).fit(kernel[kept][:, None])
        values[kept] = means.cluster_centers_[means.labels_, 0]
    return values


METHODS = {
    "original": Method("as it is", lambda model, _: model, trained=False, kinds=(*CONVERTED, *RECIPES)),
    "tucker": Method("Tucker-2, VBMF ranks", tucker, np.linspace(0.05, 2, 79).tolist()),
    "separable": Method("depthwise-separable", separable, [*np.linspace(0.1, 1, 46).tolist(), *range(2, 9)]),
    "squeeze": Method("squeeze layers", squeeze, np.linspace(0.02, 1, 50).tolist()),
    "filters": Method("filter pruning", narrow, _WIDTHS),
    "narrow": Method("narrow, new", lambda *knob: renew(narrow(*knob)), _WIDTHS, taught=False, new=True),
    "distilled": Method("narrow, new, distilled", lambda *knob: renew(narrow(*knob)), _WIDTHS, new=True),
    "int4": Method(
        "filter pruning, trained for int4",
        _for_int4,
        _WIDTHS,
        finish=_with_int4,
        kinds=("dynamic_wi4_afp32", "static_wi4_ai8"),
    ),
    "pruned": _tfmot("TFMOT, pruned", _SPARSITIES, lambda knob: (knob, 0)),
    "clustered": _tfmot("TFMOT, clustered", range(2, 65), lambda knob: (0.0, int(knob))),
    "pruned_clustered": _tfmot("TFMOT, pruned, clustered", _SPARSITIES, lambda knob: (knob, 16)),
}
