"""A trained model that another learns from (distillation)."""

from __future__ import annotations

import dataclasses

from dbf_keras import data, keras_file
from dbf_keras.backend import keras
from dbf_keras.train.numbers import check_number


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model to learn from (Hinton et al., 2015).

    Attributes:
        path: the path of its .keras file; images 0–255 to class probabilities or logits.
        temperature: what teacher's and student's logits are divided by.
        weight: share of the loss that is the distance to the teacher.

    Raises:
        ValueError: a number out of its range.
    """

    path: str
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        check_number("--temperature", self.temperature, over=0)
        check_number("--teacher_weight", self.weight, least=0, most=1)

    def load(self, dataset: data.Dataset) -> keras.Model:
        """The model, to logits.

        Raises:
            ValueError: it is no .keras file, or does not fit the images or classes.
            FileNotFoundError: there is no such file.
        """
        model = to_logits(keras_file.load(self.path, "--teacher"))
        shapes = tuple(model.input_shape[1:]), model.output_shape[-1]
        if shapes != (dataset.image_shape, dataset.classes):
            raise ValueError(
                f"The teacher {self.path} takes images {shapes[0]} to {shapes[1]} classes; the data has images "
                f"{dataset.image_shape} and {dataset.classes} classes."
            )
        model.trainable = False
        return model


def to_logits(model: keras.Model) -> keras.Model:
    """Takes the softmax off a model's last layer, in place.

    Raises:
        ValueError: the last layer is neither linear nor a layer with softmax as its activation.
    """
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    if activation not in (keras.activations.softmax, keras.activations.linear):
        raise ValueError(
            f"The last layer of {model.name}, '{last.name}', must be a dense layer or the like with softmax or no "
            "activation."
        )
    last.activation = keras.activations.linear
    return model
