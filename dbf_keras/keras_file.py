"""Keras models in .keras files, with the names of their classes and how they were trained."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from dbf_keras.backend import keras
from dbf_keras.layers import custom_objects

SUFFIX = ".keras"

# Files of a whole model that Keras loads: its own, and those of its older format.
_LOADED = (SUFFIX, ".h5", ".hdf5")

# A .keras file is a zip archive, in which Keras leaves alone what it does not know.
_DETAILS = "dbf_keras.json"


def check_suffix(path: str | os.PathLike, what: str) -> None:
    """Raises ValueError if a path does not end in .keras; ``what`` says what it is, as in ``"--output"``."""
    if not os.fspath(path).endswith(SUFFIX):
        raise ValueError(f"{what} must end in {SUFFIX}; got {os.fspath(path)!r}.")


def load(path: str | os.PathLike, what: str = "the model") -> keras.Model:
    """Loads a model with DBF or ordinary layers, not compiled.

    Args:
        path: the .keras file, or an .h5 or .hdf5 file of Keras's older format.
        what: what the file is to the caller, for errors: ``"--teacher"``, for example.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .keras file, or Keras cannot load it.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{what}: there is no file {path!r}.")
    if not path.endswith(_LOADED):
        raise ValueError(f"{what}: {path!r} is not a {SUFFIX} file. Save the model with model.save('NAME{SUFFIX}').")
    try:
        return keras.models.load_model(path, custom_objects=custom_objects(), compile=False)
    except Exception as error:  # Keras raises whatever its parts do: zip, json, h5py, a layer's constructor.
        raise ValueError(f"{what}: Keras cannot load {path!r}: {error}") from error


def save(
    model: keras.Model, path: str | os.PathLike, labels: Sequence[str], training: Mapping[str, Any] | None = None
) -> None:
    """Saves a model together with the names of its classes.

    Args:
        model: the model.
        path: the path of the .keras file.
        labels: the names by number of the class.
        training: what says how it was trained, for JSON.
    """
    model.save(path)
    details = {"labels": list(labels), **({} if training is None else {"training": training})}
    with zipfile.ZipFile(path, "a") as archive:  # Without a date, so always the same.
        archive.writestr(zipfile.ZipInfo(_DETAILS), json.dumps(details))


def labels(path: str | os.PathLike) -> list[str] | None:
    """The names of the classes that `save` wrote into a .keras file; None if there are none."""
    return _details(path).get("labels") or None


def training(path: str | os.PathLike) -> dict[str, Any] | None:
    """What `save` wrote of the training of a .keras file; None if there is nothing."""
    return _details(path).get("training")


def _details(path: str | os.PathLike) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):  # A file of the older format.
        return {}
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(_DETAILS)) if _DETAILS in archive.namelist() else {}
