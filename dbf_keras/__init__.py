"""Deterministic binary filters for Keras and TensorFlow Lite.

Nothing heavy is imported until it is used: `dbf_keras.codes` and `dbf_keras.runtime` run where neither TensorFlow nor
Keras is installed.
"""

import importlib

_HOMES = {
    "DBFConv2D": "layers",
    "DBFDense": "layers",
    "custom_objects": "layers",
    "Interpreter": "runtime",
    "load_zoo": "zoo",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'dbf_keras' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dbf_keras.{_HOMES[name]}"), name)
