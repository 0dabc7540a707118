"""What is trained, and how: the flags of the command line, or a run of a sweep."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
from typing import Any

from dbf_keras import codes, data, data_checks, networks
from dbf_keras.backend import keras
from dbf_keras.networks.schedule import read_plan
from dbf_keras.train.checkpoint import History
from dbf_keras.train.coding import Coding
from dbf_keras.train.loop import train
from dbf_keras.train.recipes import DEFAULT_RECIPES, RECIPES, Recipe
from dbf_keras.train.start import ranked_by_energy
from dbf_keras.train.teacher import Teacher

# Settings that a model file names even if they are the defaults.
_ALWAYS_KEPT = ("dataset", "network", "ratio", "selection")


def parse_ratio(text: str) -> float | dict[str, float]:
    """A number, or a schedule ``pattern=number,pattern=number``: first match counts; or ``@FILE``, a plan's."""
    if text.startswith("@"):
        return read_plan(text[1:])[0]
    try:
        if "=" not in text:
            return float(text)
        return {pattern: float(value) for pattern, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ValueError(f"--ratio takes a number, 'pattern=number,...' or @FILE of a plan; got {text!r}.") from None


def precision_of(half: str | None) -> str:
    """The dtype policy that computes in ``"bfloat16"`` or ``"float16"`` and keeps float32 weights; None for float32."""
    return "float32" if half is None else f"mixed_{half}"


def parse_selection(selection: Any) -> Any:
    """A selection of `dbf_keras.networks.builder.NetworkBuilder`: text as for the flag; all else as it is.

    ``pattern=selection,pattern=selection`` is a mapping, and ``energy:FILE`` the ranked codes of each layer of that
    trained model.
    """
    if not isinstance(selection, str):
        return selection
    if selection.startswith("energy:"):
        return ranked_by_energy(selection.removeprefix("energy:"))
    return dict(part.split("=", 1) for part in selection.split(",")) if "=" in selection else selection


def parse_options(texts: list[str]) -> dict[str, Any]:
    """Network options ``name=value``, the value a Python literal or else a string."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option takes name=value; got {text!r}.")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that says what is trained, and how: the flags of the command line, or a run of a sweep.

    Attributes whose value is None leave the recipe's.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    image_size: int = 224
    train_images: int | None = None
    network: str = "dbfnet_micro"
    ratio: Any = "0.25"
    selection: Any = codes.DEFAULT_SELECTION
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    recipe: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    alpha_rate: float | None = None
    label_smoothing: float | None = None
    crop: float | None = None
    cutout: float | None = None
    mixup: float | None = None
    start: str | None = None
    rate: float | None = None
    coded_kb: float | None = None
    teacher: str | None = None
    temperature: float = 4.0
    teacher_weight: float = 0.9
    mixed_precision: str | None = None
    seed: int = 0
    overwrite: bool = False

    def load_data(self) -> data.Dataset:
        """The data set, with so many of the training images as `train_images` says.

        Raises:
            ValueError: there are fewer training images, or they are no pixels.
        """
        if not isinstance(self.image_size, int):
            raise ValueError(f"--image_size must be a whole number; got {self.image_size!r}.")
        dataset = data.load(self.dataset, self.data_dir, self.image_size)
        if dataset.preprocessed:
            data_checks.check_images("x_train", dataset.x_train)  # Says what to make of them.
        return dataset if self.train_images is None else dataset.part(self.train_images)

    def training_recipe(self) -> Recipe:
        """The recipe with what the settings change in it.

        Raises:
            ValueError: an unknown recipe, or a number out of its range.
        """
        name = self.recipe or DEFAULT_RECIPES[self.dataset]
        if name not in RECIPES:
            raise ValueError(f"Unknown recipe {name!r}. Known: {', '.join(sorted(RECIPES))}.")
        names = ("epochs", "batch_size", "learning_rate", "weight_decay", "alpha_rate", "label_smoothing", "crop")
        added = {name: getattr(self, name) for name in ("cutout", "mixup") if getattr(self, name) is not None}
        return RECIPES[name].change(augmentation=added, **{name: getattr(self, name) for name in names})

    def build(self, dataset: data.Dataset) -> keras.Model:
        """The network, for the images of a data set, with its first weights; not those of `start`."""
        ratio = parse_ratio(self.ratio) if isinstance(self.ratio, str) else self.ratio
        selection = parse_selection(self.selection)
        if isinstance(self.ratio, str) and self.ratio.startswith("@") and self.selection == codes.DEFAULT_SELECTION:
            selection = read_plan(self.ratio[1:])[1]
        return networks.build(
            self.network,
            **{
                "input_shape": dataset.image_shape,
                "classes": dataset.classes,
                "ratio": ratio,
                "selection": selection,
                **self.options,
            },
        )

    def train(self, dataset: data.Dataset, output: str | os.PathLike, verbose: bool = True) -> History:
        """Trains as the settings say; see `train`."""
        return train(
            lambda: self.build(dataset),
            dataset,
            self.training_recipe(),
            output,
            seed=self.seed,
            teacher=Teacher(self.teacher, self.temperature, self.teacher_weight) if self.teacher else None,
            precision=precision_of(self.mixed_precision),
            start=self.start,
            coding=Coding(self.rate, self.coded_kb),
            overwrite=self.overwrite,
            verbose=verbose,
            settings=self.summary(),
        )

    def summary(self) -> dict[str, Any]:
        """The settings that a model file keeps: those that are no defaults, without folders, which are this machine's.

        Ranked codes, which can be thousands, are not repeated.
        """
        chosen = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_default = field.default_factory is not dataclasses.MISSING and not value or value == field.default
            if field.name in ("data_dir", "overwrite", "seed") or (is_default and field.name not in _ALWAYS_KEPT):
                continue
            if isinstance(value, str) and os.sep in value:
                prefix = next((lead for lead in ("energy:", "@") if value.startswith(lead)), "")
                value = prefix + os.path.basename(value)
            chosen[field.name] = value if len(json.dumps(value, default=str)) < 1000 else "its own"
        return json.loads(json.dumps(chosen, default=str))
