"""The paper's networks and their plain twins, in the manner of ``keras.applications``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

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


def build(name: str, **arguments):
    """Builds a network by its name in `NETWORKS`.

    Args:
        name: for example ``"resnet18"``.
        **arguments: those of the network's function.

    Raises:
        ValueError: no such network, or an argument that it does not take.
    """
    if name not in NETWORKS:
        raise ValueError(f"Unknown network {name!r}. Known networks: {', '.join(sorted(NETWORKS))}.")
    own = [parameter.name for parameter in inspect.signature(NETWORKS[name]).parameters.values()]
    known = {*own, *(field.name for field in dataclasses.fields(NetworkBuilder))} - {"options"}
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}. Its options: {', '.join(sorted(known))}.")
    return NETWORKS[name](**arguments)


__all__ = ["NETWORKS", "DBFNet", "DBFNetMicro", "ResNet8", "ResNet18", "ResNet34", "SqueezeNet", "build"]
