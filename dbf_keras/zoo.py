"""The model zoo: trained models that come with the package, listed in ``models/index.json``."""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dbf_keras.backend import keras

# Parts of the index: the models, and plain networks to compare them with.
GROUPS = ("models", "controls")


class Choice(NamedTuple):
    """A file of the zoo, as `best` found it.

    Attributes:
        name: the zoo entry's name.
        role: the file's role, as for `path`; ``dbf export`` makes it from the weights if it is not kept.
        bytes: size of the file.
        accuracy: on the test set.
    """

    name: str
    role: str
    bytes: int
    accuracy: float


@functools.cache
def folder() -> pathlib.Path:
    """Where the zoo is: inside an installed package, or beside the package in a checkout.

    Raises:
        FileNotFoundError: the installation has no zoo.
    """
    package = pathlib.Path(__file__).resolve().parent
    for candidate in (package / "models", package.parent / "models"):
        if (candidate / "index.json").is_file():
            return candidate
    raise FileNotFoundError(f"The zoo's index.json is not with the package in {package}; install dbf_keras again.")


def index() -> dict[str, Any]:
    """The index: ``default``, the name of the default model; ``models`` and ``controls``, from name to entry.

    An entry has ``network``, ``dataset``, ``seed``, ``epochs``; ``input_shape`` (of an image), ``classes``,
    ``parameters`` and ``test_images`` (their number); ``accuracy`` (on the test set), ``bytes`` and ``seconds`` (median
    latency of an image on ``machine``), each by exported file; and ``files`` (from role to file name, SHA-256 and
    bytes; ``check`` is test input and expected output). Models also have ``ratio``, ``overall_ratio`` (of all DBF
    layers together) and ``selection``; controls, plain networks to compare with, do not. Some large networks have no
    ``weights``, and most of these no file at all.
    """
    listed: dict[str, Any] = json.loads((folder() / "index.json").read_text())
    return listed


def entry(name: str | None = None) -> dict[str, Any]:
    """The entry of a model or control; by default of the default model.

    Raises:
        ValueError: no such model.
    """
    listed = index()
    name = name or listed["default"]
    entries = _entries(listed)
    if name not in entries:
        here = sorted(key for key, value in entries.items() if "weights" in value["files"])
        without = sorted(entries.keys() - here)
        raise ValueError(
            f"Unknown zoo model {name!r}. The zoo has: {', '.join(here)}. Without their weights, for their size: "
            f"{', '.join(without)}."
        )
    return {"name": name, **entries[name]}


def _entries(listed: dict[str, Any], groups: tuple[str, ...] = GROUPS) -> dict[str, dict[str, Any]]:
    return {key: value for group in groups for key, value in listed[group].items()}


def best(*, max_kb: float, dataset: str, controls: bool = False) -> Choice:
    """The most accurate file of at most so many bytes that is here or can be exported from weights that are.

    Args:
        max_kb: its largest size in kB, of 1000 bytes.
        dataset: the data set that it was trained on.
        controls: whether plain networks count too.

    Returns:
        The file; of equally accurate ones the smallest.

    Raises:
        ValueError: no network of the zoo was trained on that data set, or none is so small.
    """
    listed = index()
    entries = _entries(listed, GROUPS if controls else GROUPS[:1])
    choices = [
        Choice(name, role, size, value["accuracy"][role])
        for name, value in entries.items()
        for role, size in value["bytes"].items()
        if value["dataset"] == dataset and {"weights", role} & value["files"].keys()
    ]
    if not choices:
        known = sorted({value["dataset"] for value in entries.values()})
        raise ValueError(f"The zoo has no model of the dataset {dataset!r}; it has models of {', '.join(known)}.")
    fitting = [choice for choice in choices if choice.bytes <= 1000 * max_kb]
    if not fitting:
        smallest = min(choices, key=lambda choice: choice.bytes)
        raise ValueError(
            f"No model of {dataset} has {max_kb:g} kB or less; the smallest is {smallest.name}, {smallest.role}, with "
            f"{smallest.bytes / 1000:.1f} kB."
        )
    return max(fitting, key=lambda choice: (choice.accuracy, -choice.bytes))


def path(name: str | None = None, role: str = "weights") -> pathlib.Path:
    """The file of a model, after a look at whether it is the one that was published.

    Args:
        name: the model; by default the default model.
        role: ``"weights"`` for the .keras file, ``"check"``, or a key of the entry's files, such as ``"onthefly"``.

    Raises:
        ValueError: no such model or file, or it is not the one that the index lists.
        FileNotFoundError: the index lists it, but it is not there.
    """
    model = entry(name)
    if role == "weights" and role not in model["files"]:
        raise ValueError(f"The weights of {model['name']} are not kept, for their size; its card says how to train it.")
    if role not in model["files"]:
        raise ValueError(f"{model['name']} has no file {role!r}; it has {', '.join(sorted(model['files']))}.")
    listed = model["files"][role]
    found: pathlib.Path = folder() / model["name"] / listed["file"]
    instead = "Install the package, or check it out, again; or publish the model again."
    if not found.is_file():
        raise FileNotFoundError(f"The zoo lists {found}, but there is no such file. {instead}")
    if hashlib.sha256(found.read_bytes()).hexdigest() != listed["sha256"]:
        raise ValueError(f"{found} is damaged or of another version: its SHA-256 is not the index's. {instead}")
    return found


def training(name: str | None = None) -> dict[str, Any]:
    """How a model was trained: its network, data set, seed, command, recipe and the test accuracy that it reached.

    Args:
        name: the model; by default the default model.

    Raises:
        ValueError: no such model.
    """
    model = entry(name)
    kept = json.loads((folder() / model["name"] / "recipe.json").read_text())
    known: dict[str, Any] = {
        key: model[key] for key in ("network", "dataset", "ratio", "selection", "epochs") if key in model
    }
    known |= {key: kept[key] for key in ("command", "recipe", "seed") if key in kept}
    return known | {"test_accuracy": round(model["accuracy"]["keras"], 6)}


def load_zoo(name: str | None = None) -> keras.Model:
    """Loads a trained model, offline.

    It can be compiled and trained further as any Keras model, for its outputs are class probabilities::

        model = load_zoo("digits")
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(images, labels)

    Args:
        name: the model; by default the default model.

    Returns:
        A Keras model that takes raw pixels 0–255 [batch, H, W, C].

    Raises:
        ValueError: no such model, its weights are not kept, or they are not those that the index lists.
        FileNotFoundError: the index lists them, but they are not there.
    """
    from dbf_keras import keras_file

    return keras_file.load(path(name))
