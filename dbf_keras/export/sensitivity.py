"""How much the outputs of a model change with the coefficients of its DBF layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dbf_keras.backend import LEGACY, all_layers, computing_in, keras
from dbf_keras.export import converter

_BATCH = 250  # Examples that are computed at once.

# Gradients that curvatures are averaged over, if there are enough examples, and the most examples of one.
_GRADIENTS, _MOST_EXAMPLES = 96, 16

# Columns of a block of a curvature at most: time and memory of a layer's search grow with columns times this.
_MOST_COLUMNS = 2048

_SURE = 1e-12  # Probabilities below this count as this.


class Curvature(NamedTuple):
    """What the outputs' distance to those of the unchanged model is, to second order, for errors δ of one layer's α.

    It is Σ_k w_k·δ_kᵀ·H·δ_k: the Gauss–Newton matrix as a Kronecker product, of whose first factor only the diagonal
    is kept, and of the second, where there are many codes, blocks along the diagonal (Martens and Grosse, ICML 2015).

    Attributes:
        weights: w [K].
        blocks: of H, for successive columns in ascending order of grid index.
    """

    weights: np.ndarray
    blocks: list[np.ndarray]


class Probe:
    """A model whose coefficients can be set to any numbers, and typical inputs to try it on.

    The distance of two outputs is half the squared difference of their features, per example. Features of class
    probabilities p are 2·√p, whose distance is the Kullback–Leibler divergence to second order; those of other outputs
    are the numbers themselves, in units of their standard deviation.
    """

    def __init__(
        self,
        model: keras.Model,
        layers: Sequence[Any],
        samples: list[list[np.ndarray]],
        classes: bool,
        temperature: float = 1.0,
    ):
        """Computes the outputs of the model as it is. Use `probing`, which also puts everything back.

        Args:
            model: the model.
            layers: its DBF layers, which compute with coefficients as they are held.
            samples: as `calibration.to_samples` returns them.
            classes: whether outputs that are no probabilities are logits of classes.
            temperature: what logits of classes are divided by, and distances multiplied by the square of. Over 1,
                classes that are all but certain, as on training images, count, too.
        """
        import tensorflow as tf

        self._model, self._layers, self._temperature = model, layers, temperature
        self._samples = samples
        self._forward = tf.function(lambda inputs: converter.run(model, inputs), reduce_retracing=True)
        self._kinds: list[tuple[str, float]] = []
        outputs = self._outputs()
        self._kinds = [_kind(output, classes) for output in outputs]
        self._first = self.features(outputs)

    def assign(self, position: int, alpha: np.ndarray) -> None:
        """Sets the coefficients [K, n] of a layer, columns in ascending order of grid index."""
        layer = self._layers[position]
        held = np.empty_like(alpha)
        held[:, np.argsort(layer.codes)] = alpha
        layer.coefficients.assign((held.T * layer.coefficient_scale).astype(np.float32))

    def features(self, outputs: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """The features of all outputs for all examples, by default as the model is now; each [rows, features]."""
        outputs = self._outputs() if outputs is None else outputs
        pairs = zip(outputs, self._kinds, strict=True)
        return [np.asarray(_features(output, *kind, self._temperature)) for output, kind in pairs]

    def distance(self, features: list[np.ndarray]) -> float:
        """The mean distance, per example, to the outputs of the model as it was."""
        pairs = zip(features, self._first, strict=True)
        return sum(float(np.square(now - first, dtype=np.float64).sum()) for now, first in pairs) / 2 / self._examples

    @property
    def first(self) -> list[np.ndarray]:
        """The features of the model as it was."""
        return self._first

    @property
    def _examples(self) -> int:
        return sum(len(sample[0]) for sample in self._samples)

    def _outputs(self) -> list[np.ndarray]:
        parts = [self._forward(batch) for batch in _batches(self._samples, _BATCH)]
        # Outputs of open sizes differ in all but the last axis, along which their features lie.
        return [
            np.concatenate([np.asarray(part).reshape(-1, part.shape[-1]) for part in parts])
            for parts in zip(*parts, strict=True)
        ]

    def curvatures(self, seed: int = 0) -> list[Curvature | None]:
        """The curvature of each layer; None for one that no output depends on.

        Args:
            seed: seed of the signs: the squared gradient of the sum of randomly signed features has the Gauss–Newton
                matrix as its mean.
        """
        import tensorflow as tf

        variables = [layer.coefficients if LEGACY else layer.coefficients.value for layer in self._layers]

        @tf.function(reduce_retracing=True)
        def gradients(inputs: list, seeds: Any) -> list:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                for variable in variables:  # Also those of frozen layers.
                    tape.watch(variable)
                total = 0.0
                for number, output in enumerate(converter.run(self._model, inputs)):
                    part = _features(output, *self._kinds[number], self._temperature)
                    draw = tf.random.stateless_uniform(tf.shape(part), (seeds, number))
                    total += tf.reduce_sum(tf.where(draw < 0.5, part, -part))
            return tape.gradient(total, variables)

        examples = min(max(self._examples // _GRADIENTS, 1), _MOST_EXAMPLES)
        batches = list(_batches(self._samples, examples))
        batches = batches[:: -(-len(batches) // (2 * _GRADIENTS))]
        batches *= -(-_GRADIENTS // len(batches))
        sums = [_Sums(layer) for layer in self._layers]
        for number, batch in enumerate(batches):
            for position, gradient in enumerate(gradients(batch, tf.constant(seed + number))):
                if gradient is not None:
                    sums[position].add(np.asarray(gradient))
        count = sum(len(batch[0]) for batch in batches)
        return [found.curvature(count) for found in sums]


@contextlib.contextmanager
def probing(
    model: keras.Model,
    layers: Sequence[Any],
    samples: list[list[np.ndarray]],
    classes: bool,
    temperature: float = 1.0,
) -> Iterator[Probe]:
    """A `Probe` of a model, which is as it was when the context ends."""
    held = [np.asarray(layer.coefficients) for layer in layers]
    every = all_layers(model)
    with computing_in("float32", (layer for layer in every if layer.compute_dtype != layer.variable_dtype)):
        try:
            for layer in layers:
                rounded = np.asarray(layer.rounded_coefficients)
                layer._rounded = _unrounded(layer.coefficient_scale)
                layer.coefficients.assign(rounded * layer.coefficient_scale)
            yield Probe(model, layers, samples, classes, temperature)
        finally:
            for layer, coefficients in zip(layers, held, strict=True):
                layer.__dict__.pop("_rounded", None)
                layer.coefficients.assign(coefficients)


def _unrounded(scale: float) -> Any:
    """What takes the place of a layer's rounding."""
    return lambda held, steps: held / scale


class _Sums:
    """Adds up what a layer's `Curvature` is made of.

    Args:
        layer: the layer.
    """

    def __init__(self, layer: Any):
        self._ascending = np.argsort(layer.codes)
        self._scale = layer.coefficient_scale
        count = len(self._ascending)
        parts = -(-count // _MOST_COLUMNS)
        self._columns = [slice(part * count // parts, (part + 1) * count // parts) for part in range(parts)]
        self._energies: Any = np.zeros(1)
        self._blocks: list[Any] = [0.0] * parts

    def add(self, gradient: np.ndarray) -> None:
        """Adds the gradient of a layer's coefficients as they are held, [n, K]."""
        rows = gradient.T[:, self._ascending] * self._scale
        self._energies = self._energies + np.square(rows).sum(axis=1, dtype=np.float64)
        for part, columns in enumerate(self._columns):
            self._blocks[part] += (rows[:, columns].T @ rows[:, columns]).astype(np.float64)

    def curvature(self, examples: int) -> Curvature | None:
        """The curvature, if there is any, from gradients of so many examples."""
        if not self._energies.any():
            return None
        count = len(self._ascending)
        mean = sum(np.trace(block) for block in self._blocks) / count
        return Curvature(self._energies / (2 * examples * count), [block / mean for block in self._blocks])


def _batches(samples: list[list[np.ndarray]], most: int) -> Iterator[list[np.ndarray]]:
    """Samples of one shape that follow each other, as batches of no more than so many, or one sample."""
    waiting: list[list[np.ndarray]] = []
    for sample in [*samples, None]:
        together = (
            sample is not None
            and waiting
            and sum(len(arrays[0]) for arrays in waiting) + len(sample[0]) <= most
            and all(one.shape[1:] == other.shape[1:] for one, other in zip(sample, waiting[0], strict=True))
        )
        if waiting and not together:
            yield [np.concatenate(arrays) for arrays in zip(*waiting, strict=True)]
            waiting = []
        if sample is not None:
            waiting.append(sample)


def _kind(output: np.ndarray, classes: bool) -> tuple[str, float]:
    """What an output [rows, numbers] is, and the unit of its numbers."""
    width = output.shape[-1]
    shares = bool(((output >= 0) & (output <= 1)).all())
    if width > 1 and shares and np.abs(output.sum(axis=-1) - 1).max() < 1e-3:
        return "probabilities", 1.0
    if classes:
        return ("probability" if shares else "logit") if width == 1 else "logits", 1.0
    return "numbers", float(output.std()) or 1.0


def _features(output: Any, kind: str, unit: float, temperature: float) -> Any:
    """The features of an output [..., numbers]: [rows, features], float32."""
    import tensorflow as tf

    values = tf.cast(tf.reshape(output, (-1, output.shape[-1])), tf.float32)
    if kind == "numbers":
        return values / unit
    if kind == "probability":
        values = tf.concat([1 - values, values], axis=-1)
    elif kind == "logit":
        values = tf.nn.softmax(tf.concat([tf.zeros_like(values), values], axis=-1) / temperature)
    elif kind == "logits":
        values = tf.nn.softmax(values / temperature)
    if temperature != 1 and kind.startswith("probabilit"):
        values = tf.nn.softmax(tf.math.log(tf.maximum(values, _SURE)) / temperature)
    return 2 * temperature * tf.sqrt(tf.maximum(values, _SURE))
