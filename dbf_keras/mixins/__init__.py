"""What the layers of `dbf_keras.layers` are made of, one concern a file.

`coefficients` ← `kernel` ← `folded`, and `contracts`, what Keras and tensorflow-model-optimization ask of a layer.
"""
