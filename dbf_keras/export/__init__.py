"""Export Keras models with DBF layers to TensorFlow Lite.

    data = dbf_keras.export.to_tflite(model, mode="onthefly")

or, with a check against the Keras model and a table, `python -m dbf_keras.export`. The modes are

- ``explicit``: filters baked into standard ops; runs on every TFLite runtime;
- ``folded``: separable sets in folded form, pooling, a ±1 channel projection and a smaller convolution; standard ops
  too;
- ``onthefly``: the ops of `export/FORMAT.md`, which hold the coefficients α only and need our C library.
"""

from __future__ import annotations

from dbf_keras import lazy

# Late, so that the command line can say --help or complain without importing TensorFlow.
__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {"convert": "conversion", "to_tflite": "conversion", "ExportResult": "report", "LayerReport": "report"},
)
