"""The paper's networks and their plain twins, in the manner of ``keras.applications``."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from dbf_keras import keras_file
from dbf_keras.backend import keras
from dbf_keras.networks.builder import NetworkBuilder
from dbf_keras.networks.dbfnet import DBFNet, DBFNetMicro
from dbf_keras.networks.resnet import ResNet8, ResNet18, ResNet34
from dbf_keras.networks.squeezenet import SqueezeNet

NETWORKS: dict[str, Callable] = {
    "dbfnet": DBFNet,
    "dbfnet_micro": DBFNetMicro,
    "resnet8": ResNet8,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "squeezenet": SqueezeNet,
}


def build(name: str, **arguments: Any) -> keras.Model:
    """Builds a network.

    Args:
        name: a name in `NETWORKS`, such as ``"resnet18"``; ``"MODULE:FUNCTION"``, a function that returns a Keras model
            and takes at least ``input_shape`` and ``classes``; or the path of a .keras file, whose model is taken as it
            is.
        **arguments: those of the network's function. A function of another module is not given ``ratio`` and
            ``selection`` if it does not take them.

    Raises:
        ValueError: no such network, an argument that it does not take, or a file whose model has other images or
            classes.
        FileNotFoundError: there is no such file.
    """
    if name.endswith(keras_file.SUFFIX):
        return _of_file(name, **arguments)
    if ":" in name:
        function, known = _imported(name)
        arguments = {
            key: value for key, value in arguments.items() if key in known or key not in ("ratio", "selection")
        }
    elif name in NETWORKS:
        function = NETWORKS[name]
        known = _parameters(function) | {field.name for field in dataclasses.fields(NetworkBuilder)}
    else:
        raise ValueError(
            f"Unknown network {name!r}. Known networks: {', '.join(sorted(NETWORKS))}. MODULE:FUNCTION is one of your "
            "own, FILE.keras one that is trained."
        )
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}. Its options: {', '.join(sorted(known))}.")
    return function(**arguments)


def _parameters(function: Callable) -> set[str]:
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    return {name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind not in kinds}


def _imported(name: str) -> tuple[Callable, set[str]]:
    """A function MODULE:FUNCTION, the module being on Python's path or in this folder, and its parameters."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"The network {name} is to be MODULE:FUNCTION, and cannot be imported: {error}.") from error
    return function, _parameters(function)


def _of_file(
    path: str, input_shape: tuple[int, ...], classes: int, ratio: Any = None, selection: Any = None, **options: Any
) -> keras.Model:
    """The model of a .keras file, if it takes these images; ``ratio`` and ``selection`` are its own."""
    if options:
        raise ValueError(f"{path} is a network as it is, without options; got {', '.join(sorted(options))}.")
    model = keras_file.load(path, "the network")
    shapes = tuple(model.input_shape[1:]), model.output_shape[-1]
    if shapes != (tuple(input_shape), classes):
        raise ValueError(
            f"{path} takes images {shapes[0]} to {shapes[1]} classes; the data has images {tuple(input_shape)} and "
            f"{classes} classes. For other classes, give the network by its name, and --start={path}."
        )
    return model


__all__ = ["NETWORKS", "DBFNet", "DBFNetMicro", "ResNet8", "ResNet18", "ResNet34", "SqueezeNet", "build"]
