"""Deterministic binary filters for Keras and TensorFlow Lite.

Nothing heavy is imported until it is used: `dbf_keras.codes` and `dbf_keras.runtime` run where neither TensorFlow nor
Keras is installed. Where Keras is, it knows the layers as soon as it is imported, so that ``import dbf_keras`` is
enough for ``keras.saving.load_model``.
"""

import contextlib
import importlib
import os
import sys
from typing import Any

from dbf_keras import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "CodeSGD": "train.optimizers",
        "CompiledModel": "compiled_model",
        "DBFConv2D": "layers",
        "DBFDense": "layers",
        "Interpreter": "runtime",
        "__version__": "version",
        "compress": "compress.compression",
        "custom_objects": "layers",
        "load_zoo": "zoo",
        "to_tflite": "export",
    },
)


def _register(_: Any) -> None:
    """Imports what Keras is to know by name, which registers itself."""
    importlib.import_module("dbf_keras.layers")
    importlib.import_module("dbf_keras.train.optimizers")


def _import_backend(_: Any) -> None:
    """Imports `dbf_keras.backend`, unless that is what imports Keras."""
    if "dbf_keras.backend" not in sys.modules:
        importlib.import_module("dbf_keras.backend")


def _register_with_model_optimization(_: Any) -> None:
    """Tells tensorflow-model-optimization of the layers."""
    importlib.import_module("dbf_keras.model_optimization").register()


def _register_with_keras() -> None:
    """Calls `_register` when Keras is imported, or now if it is."""
    with contextlib.suppress(ImportError):  # A board has neither wrapt nor Keras.
        import wrapt

        legacy = os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")
        wrapt.register_post_import_hook(_register, "dbf_keras.backend")
        wrapt.register_post_import_hook(_import_backend, "tf_keras" if legacy else "keras")
        if legacy:  # It knows no other Keras.
            wrapt.register_post_import_hook(_register_with_model_optimization, "tensorflow_model_optimization")


_register_with_keras()
