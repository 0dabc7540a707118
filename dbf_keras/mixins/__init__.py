"""What the layers of `dbf_keras.layers` are made of, one concern a file.

`coefficients` ← `kernel` ← `folded`, and `contracts`, what Keras and tensorflow-model-optimization ask of a layer.
"""

from dbf_keras import backend  # noqa: F401 - whoever imports it has Keras import the layers, and so these modules.
