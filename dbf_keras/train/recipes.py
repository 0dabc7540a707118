"""How to train: the paper's recipes and ours, and the optimizer and learning rates that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dbf_keras.backend import keras
from dbf_keras.train import optimizers
from dbf_keras.train.numbers import check_number

SCHEDULES = ("step", "cosine", "one_cycle")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training set.
        batch_size: images a step.
        learning_rate: the highest.
        schedule: ``"step"``, a tenth after each of `drops`; ``"cosine"`` to zero after a linear rise over the first
            twentieth; ``"one_cycle"``, a straight rise and fall, see `dbf_keras.train.optimizers.OneCycle`.
        drops: epochs, out of `epochs`, after which the learning rate of ``"step"`` falls to a tenth.
        weight_decay: decoupled, times the learning rate, on α and plain kernels.
        alpha_rate: factor on the learning rate of α.
        label_smoothing: share of the target spread over all classes.
        augmentation: arguments of `dbf_keras.train.augmentation.Augmentation`.
        crop: if not None, images of files are trained on in random parts of this share of their area at least; arrays
            are not.

    Raises:
        ValueError: a schedule that is not one of these, drops without ``"step"`` or the other way round, or a number
            out of its range.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: str = "cosine"
    drops: tuple[int, ...] = ()
    weight_decay: float = 5e-4
    alpha_rate: float = 1.0
    label_smoothing: float = 0.0
    augmentation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    crop: float | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"Unknown schedule {self.schedule!r}. Known: {', '.join(SCHEDULES)}.")
        if bool(self.drops) != (self.schedule == "step"):
            raise ValueError(
                f"The schedule 'step' needs drops, and only that takes them; got {self.schedule!r} with {self.drops}."
            )
        for name in ("epochs", "batch_size"):
            check_number(f"--{name}", getattr(self, name), whole=True, least=1)
        check_number("--learning_rate", self.learning_rate, over=0)
        for name in ("alpha_rate", "weight_decay"):
            check_number(f"--{name}", getattr(self, name), least=0)
        if self.crop is not None:
            check_number("--crop is a share of an image's area and", self.crop, over=0, most=1)
        check_number("--label_smoothing", self.label_smoothing, least=0, under=1)
        if self.learning_rate * self.weight_decay >= 1:
            raise ValueError(
                f"--weight_decay={self.weight_decay:g} at --learning_rate={self.learning_rate:g} takes all of a weight "
                "at each step, or more; their product must be under 1. Usual are 1e-4 to 5e-4."
            )
        if any(not isinstance(drop, int) or drop < 0 for drop in self.drops) or sorted(self.drops) != [*self.drops]:
            raise ValueError(f"The drops of a schedule are epochs in ascending order; got {self.drops}.")

    def change(self, epochs: int | None = None, augmentation: Mapping[str, Any] | None = None, **fields: Any) -> Recipe:
        """The recipe with other values.

        Args:
            epochs: if not None, the number of epochs; drops of the learning rate move along.
            augmentation: what to add to its augmentation.
            **fields: other attributes; None leaves the recipe's.
        """
        fields = {name: value for name, value in fields.items() if value is not None}
        if fields.get("schedule", "step") != "step":
            fields["drops"] = ()
        elif epochs is not None:
            check_number("--epochs", epochs, whole=True, least=1)
            fields["drops"] = tuple(round(drop * epochs / self.epochs) for drop in self.drops)
        return dataclasses.replace(
            self,
            epochs=self.epochs if epochs is None else epochs,
            augmentation={**self.augmentation, **(augmentation or {})},
            **fields,
        )

    def optimizer(self, steps_per_epoch: int | None) -> keras.optimizers.Optimizer:
        """`CodeSGD` with Nesterov momentum 0.9 and the recipe's learning rates; with None, a constant one to be set."""
        return optimizers.CodeSGD(
            self.learning_rate if steps_per_epoch is None else self.rates(steps_per_epoch),
            momentum=0.9,
            nesterov=True,
            weight_decay=self.weight_decay,
            alpha_rate=self.alpha_rate,
        )

    def rates(self, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
        """The learning rate by step."""
        steps = self.epochs * steps_per_epoch
        if self.schedule == "step":
            return keras.optimizers.schedules.PiecewiseConstantDecay(
                [epoch * steps_per_epoch for epoch in self.drops],
                [self.learning_rate * 0.1**drop for drop in range(len(self.drops) + 1)],
            )
        if self.schedule == "cosine":
            rise = max(1, steps // 20)
            return keras.optimizers.schedules.CosineDecay(
                0.0, max(1, steps - rise), warmup_target=self.learning_rate, warmup_steps=rise
            )
        return optimizers.OneCycle(self.learning_rate, steps)


_CROP_AND_MIRROR = {"shift": 4, "mirror": True}
RECIPES: dict[str, Recipe] = {
    # The paper's, section 5: CIFAR-10 networks; DBFNet on MNIST and CIFAR-10; ImageNet.
    "paper": Recipe(250, schedule="step", drops=(90, 150, 190, 220), weight_decay=1e-4, augmentation=_CROP_AND_MIRROR),
    "paper_dbfnet": Recipe(100, schedule="step", drops=(40, 70, 90), weight_decay=1e-4, augmentation={"shift": 4}),
    "paper_imagenet": Recipe(
        100, 64, schedule="step", drops=(30, 60, 90), weight_decay=1e-4, augmentation={"mirror": True}, crop=0.08
    ),
    # Ours.
    "digits": Recipe(60, 32, 0.05, augmentation={"shift": 1, "rotation": 10, "zoom": 0.1}),
    "mnist": Recipe(25, 128, 0.1, label_smoothing=0.1, augmentation={"shift": 2, "rotation": 12, "zoom": 0.12}),
    "npz": Recipe(100, 128, 0.1, augmentation={"shift": 2}),  # Images of who knows what: not mirrored.
    "cosine": Recipe(100, 128, 0.1, augmentation=_CROP_AND_MIRROR),
    "one_cycle": Recipe(30, 128, 0.2, "one_cycle", augmentation=_CROP_AND_MIRROR),
}

DEFAULT_RECIPES = {
    "digits": "digits",
    "mnist": "mnist",
    "cifar10": "cosine",
    "npz": "npz",
    "folder": "paper_imagenet",
    "tfrecords": "paper_imagenet",
}
