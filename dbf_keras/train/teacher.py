"""A trained model that another learns from (distillation)."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from dbf_keras import data, data_checks, keras_file
from dbf_keras.backend import LEGACY, keras, ops, settle
from dbf_keras.train import engine
from dbf_keras.train.numbers import check_number

_SURE = 1e-30  # Probabilities below this count as this.


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model to learn from (Hinton et al., 2015).

    Attributes:
        path: the path of its .keras file; images as the model takes them to class probabilities or logits.
        temperature: what teacher's and student's logits are divided by.
        weight: share of the loss that is the distance to the teacher.
        model: the model itself, if it has no file; then `path` is what to call it.

    Raises:
        ValueError: a number out of its range.
    """

    path: str
    temperature: float = 4.0
    weight: float = 0.9
    model: Any = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_number("--temperature", self.temperature, over=0)
        check_number("--teacher_weight", self.weight, least=0, most=1)

    def summary(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        kept = {"path": self.path, "temperature": self.temperature, "weight": self.weight}
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

    def lesson(self, dataset: data.Dataset) -> engine.Lesson:
        """What is learnt from the model; raises as `load` does."""
        return engine.Lesson(self.load(dataset), self.temperature, self.weight)


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
