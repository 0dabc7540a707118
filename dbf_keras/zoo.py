"""The model zoo: trained models that come with the package, listed in ``models/index.json``."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

# Of the index: the models, and plain networks to compare them with.
GROUPS = ("models", "controls")


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

    An entry has ``network``, ``dataset``, ``seed``, ``epochs``; ``accuracy`` (on the test set), ``bytes`` and
    ``seconds`` (median latency of an image on ``machine``), each by exported file; and ``files`` (from role to file
    name, SHA-256 and bytes; ``check`` is test input and expected output). Models also have ``ratio``, ``overall_ratio``
    (of all DBF layers together) and ``selection``; controls, plain networks to compare with, do not. Some large
    networks have no ``weights``, and most of these no file at all.
    """
    return json.loads((folder() / "index.json").read_text())


def entry(name: str | None = None) -> dict[str, Any]:
    """The entry of a model or control; by default of the default model.

    Raises:
        ValueError: no such model.
    """
    listed = index()
    name = name or listed["default"]
    entries = {key: value for group in GROUPS for key, value in listed[group].items()}
    if name not in entries:
        raise ValueError(f"Unknown zoo model {name!r}. The zoo has: {', '.join(sorted(entries))}.")
    return {"name": name, **entries[name]}


def path(name: str | None = None, role: str = "weights") -> pathlib.Path:
    """The file of a model.

    Args:
        name: the model; by default the default model.
        role: ``"weights"`` for the .keras file, ``"check"``, or a key of the entry's files, such as ``"onthefly"``.

    Raises:
        ValueError: no such model or file.
    """
    model = entry(name)
    if role == "weights" and role not in model["files"]:
        raise ValueError(f"The weights of {model['name']} are not kept, for their size; its card says how to train it.")
    if role not in model["files"]:
        raise ValueError(f"{model['name']} has no file {role!r}; it has {', '.join(sorted(model['files']))}.")
    return folder() / model["name"] / model["files"][role]["file"]


def load_zoo(name: str | None = None):
    """Loads a trained model, offline.

    Args:
        name: the model; by default the default model.

    Returns:
        A Keras model that takes raw pixels 0–255 [batch, H, W, C].

    Raises:
        ValueError: no such model.
    """
    from dbf_keras.backend import keras
    from dbf_keras.layers import custom_objects

    return keras.models.load_model(path(name), custom_objects=custom_objects(), compile=False)
