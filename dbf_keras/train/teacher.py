"""A trained model that another learns from (distillation)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from typing import Any, NamedTuple

from dbf_keras import data, data_checks, keras_file
from dbf_keras.backend import LEGACY, all_layers, keras, ops, settle
from dbf_keras.layers import DBFConv2D, DBFDense
from dbf_keras.train import engine
from dbf_keras.train.numbers import check_number

_SURE = 1e-30  # Probabilities below this count as this.


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model to learn from (Hinton et al., 2015).

    Attributes:
        path: the path of its .keras file; images as the model takes them to class probabilities or logits.
        temperature: what teacher's and student's logits are divided by.
        weight: share of the loss that is the distance to the teacher's logits.
        model: the model itself, if it has no file; then `path` is what to call it.
        features: weight of the errors of `shared_features`, for a model of the teacher's topology.

    Raises:
        ValueError: a number out of its range.
    """

    path: str
    temperature: float = 4.0
    weight: float = 0.9
    model: Any = dataclasses.field(default=None, compare=False, repr=False)
    features: float = 0.0

    def __post_init__(self) -> None:
        check_number("--temperature", self.temperature, over=0)
        check_number("--teacher_weight", self.weight, least=0, most=1)
        check_number("features", self.features, least=0)

    def summary(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        kept: dict[str, Any] = {"path": self.path, "temperature": self.temperature, "weight": self.weight}
        if self.features:
            kept["features"] = self.features
        if self.model is not None:
            digest = hashlib.sha256()
            for weight in self.model.get_weights():
                digest.update(weight.tobytes())
            kept["weights_sha256"] = digest.hexdigest()
        return kept

    def load(self, dataset: data.Dataset) -> keras.Model:
        """The model, to logits.

        Raises:
            ValueError: it is no .keras file, or does not fit the images or classes.
            FileNotFoundError: there is no such file.
        """
        if self.model is None:
            model = keras_file.load(self.path, "--teacher")
        else:
            model = keras.models.clone_model(self.model)
            model.set_weights(self.model.get_weights())
            settle(model)
        model = to_logits(model)
        shapes = tuple(model.input_shape[1:]), model.output_shape[-1]
        if not data_checks.agree(shapes[0], dataset.image_shape) or shapes[1] != dataset.classes:
            raise ValueError(
                f"The teacher {self.path} takes images {shapes[0]} to {shapes[1]} classes; the data has images "
                f"{dataset.image_shape} and {dataset.classes} classes."
            )
        model.trainable = False
        return model

    def lesson(self, dataset: data.Dataset, model: keras.Model) -> engine.Lesson:
        """What a model, to logits, learns from this one; raises as `load` does."""
        teacher = self.load(dataset)
        shared = shared_features(model, teacher) if self.features else []
        if not shared:
            return engine.Lesson(teacher, self.temperature, self.weight)
        student, teacher = (
            keras.Model(part.inputs[0], [part.outputs[0], *tensors])
            for part, tensors in zip((model, teacher), zip(*shared, strict=True), strict=True)
        )
        teacher.trainable = False
        return engine.Lesson(teacher, self.temperature, self.weight, student, self.features)


def last_layer(model: keras.Model) -> Any:
    """The layer, or function of keras.ops, that makes a model's output, also inside of a nested model."""
    maker = "layer" if LEGACY else "operation"  # What Keras calls it in a tensor's history.
    origin = model.outputs[0]._keras_history
    while isinstance(getattr(origin, maker), keras.Model):
        origin = getattr(origin, maker).outputs[origin.tensor_index]._keras_history
    return getattr(origin, maker)


def to_logits(model: keras.Model) -> keras.Model:
    """A model of the logits of a classifier, with its layers; takes the softmax off the last one, in place.

    Args:
        model: its last layer has softmax as its activation, or sigmoid for a single score of the second of two
            classes, or none, or is a Softmax layer or ``keras.ops.softmax``.

    Returns:
        The model; or another of the same layers, where there are two classes with one score, or a Softmax layer.

    Raises:
        ValueError: the last layer is none of these.
    """
    last = last_layer(model)
    activations = keras.activations
    if type(last).__name__ == "Softmax":  # The layer, or the operation of keras.ops.
        shares = ops.cast(model.outputs[0], "float32")
        return keras.Model(model.inputs[0], ops.log(ops.maximum(shares, _SURE)), name=model.name)
    activation = getattr(last, "activation", None)
    single = model.output_shape[-1] == 1
    if activation not in (activations.linear, activations.sigmoid if single else activations.softmax):
        raise ValueError(
            f"The last layer of {model.name}, '{last.name}', must be a dense layer or the like with "
            f"{'sigmoid' if single else 'softmax'} or no activation."
        )
    last.activation = activations.linear
    if single:
        logit = model.outputs[0]
        return keras.Model(model.inputs[0], ops.concatenate([ops.zeros_like(logit), logit], axis=-1), name=model.name)
    return model


def shared_features(model: keras.Model, teacher: keras.Model) -> list[tuple[Any, Any]]:
    """Pairs of tensors of a model and its teacher at which both networks are cut in two: the ends of their blocks.

    All that a network computes of its input passes through such a tensor. Between two of them, and after the last,
    there is a DBF layer. A nested model counts as one layer.

    Args:
        model: of the teacher's topology and names, with DBF layers in place of some layers.
        teacher: the other.

    Returns:
        Symbolic tensors of the same shape; none where the names differ.
    """
    known = {cut.name: cut.tensor for cut in _cuts(teacher)}
    pairs: list[tuple[Any, Any]] = []
    last: list[tuple[Any, Any]] = []
    for cut in _cuts(model):
        if cut.has_codes:
            pairs, last = pairs + last, []
        there = known.get(cut.name)
        if (pairs or last or cut.has_codes) and there is not None and there.shape == cut.tensor.shape:
            last = [(cut.tensor, there)]
    return pairs


class _Cut(NamedTuple):
    """A tensor that all paths from a model's input to its output pass.

    Attributes:
        name: of the layer that makes it.
        tensor: the symbolic tensor.
        has_codes: whether there is a DBF layer between the one before and this one.
    """

    name: str
    tensor: Any
    has_codes: bool


def _cuts(model: keras.Model) -> list[_Cut]:
    """The cuts of a model from its input to its output, but for what dropout makes, which differs each time."""
    nodes = _nodes(model.outputs[0])
    waiting = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    found, has_codes, open_tensors = [], False, 0
    for node in nodes:
        operation = node.operation
        layers = all_layers(operation) if isinstance(operation, keras.Model) else [operation]
        has_codes |= any(isinstance(layer, DBFConv2D | DBFDense) for layer in layers)
        for tensor in node.input_tensors:
            waiting[id(tensor)] -= 1
            open_tensors -= not waiting[id(tensor)]
        open_tensors += len(node.output_tensors)
        if open_tensors == 1 and node.input_tensors and not hasattr(operation, "seed_generator"):
            found.append(_Cut(operation.name, node.output_tensors[0], has_codes))
            has_codes = False
    return found


def _nodes(output: Any) -> list[Any]:
    """The calls of layers that a symbolic tensor comes from, each after those that it takes tensors of."""
    order: dict[int, Any] = {}
    stack = [(output, False)]
    while stack:
        tensor, ready = stack.pop()
        operation, number, _ = tensor._keras_history
        node = operation._inbound_nodes[number]
        if id(node) in order:
            continue
        if ready:
            order[id(node)] = node
        else:
            stack += [(tensor, True), *((source, False) for source in node.input_tensors)]
    return list(order.values())
