"""What the rows of the contract share: a DBF layer or network, and the plain twin of the same filters."""

import numpy as np

from dbf_keras.backend import LEGACY, keras, ops
from dbf_keras.layers import DBFConv2D, DBFDense
from dbf_keras.runtime import Interpreter

layers = keras.layers

# kind: (DBF layer, plain twin, arguments, input shape). At ρ = 1 the codes of these shapes are orthogonal.
KINDS = {
    "conv": (DBFConv2D, layers.Conv2D, {"filters": 8, "kernel_size": 4, "padding": "same"}, (8, 8, 4)),
    "dense": (DBFDense, layers.Dense, {"units": 8}, (16,)),
}
LEGACY_REASON = "Keras 2 has its own ways; tests/test_backend.py and test_tfmot.py are for it"


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def numpy(value):
    return ops.convert_to_numpy(value)


def inputs(kind, batch=4, seed=0):
    return images(batch, *KINDS[kind][3], seed=seed)


def pair(kind, **options):
    """A built DBF layer at ρ = 1, unless ``ratio`` says another, and its plain twin with the same filters and bias."""
    dbf, plain, arguments, shape = KINDS[kind]
    ours = dbf(**arguments, **options)
    theirs = plain(**arguments, **{key: value for key, value in options.items() if key != "ratio"})
    for layer in (ours, theirs):
        layer.build((None, *shape))
    alike(ours, theirs)
    return ours, theirs


def alike(ours, theirs):
    """Gives the twin the filters of a DBF layer."""
    theirs.set_weights([numpy(ours.kernel), *ours.get_weights()[1:]])


def network(convolution, dense, **options):
    """A small classifier: two convolutions and a dense layer, of either kind."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            convolution(8, 4, padding="same", activation="relu", name="first", **options),
            convolution(16, 4, strides=2, padding="same", activation="relu", name="second", **options),
            layers.GlobalAveragePooling2D(),
            dense(4, name="last", **options),
        ]
    )


def networks(**options):
    """A DBF network, at ρ = 1 unless ``ratio`` says another, and its plain twin with the same filters."""
    plain = {key: value for key, value in options.items() if key not in ("ratio", "selection")}
    ours, theirs = network(DBFConv2D, DBFDense, **options), network(layers.Conv2D, layers.Dense, **plain)
    for layer, twin in zip(ours.layers, theirs.layers, strict=True):
        if hasattr(layer, "coefficients"):
            alike(layer, twin)
    return ours, theirs


def examples(count=64, seed=0):
    """Pictures with noisy labels, and so something to learn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    patterns = rng.standard_normal((4, 8, 8, 4))
    return (patterns[labels] + rng.standard_normal((count, 8, 8, 4))).astype(np.float32), labels


def run_file(file, images):
    """Outputs of a TFLite file for one image at a time, as floats, and the names of its operations."""
    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    outputs = []
    for image in images:
        if source["dtype"] != np.float32:
            limits, (scale, zero) = np.iinfo(source["dtype"]), source["quantization"]
            image = np.clip(np.rint(image / scale) + zero, limits.min, limits.max).astype(source["dtype"])
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        output = interpreter.get_tensor(target["index"]).astype(np.float32)
        if target["dtype"] != np.float32:
            scale, zero = target["quantization"]
            output = (output - zero) * scale
        outputs.append(output)
    names = [operation["op_name"] for operation in interpreter._get_ops_details()]
    return np.concatenate(outputs), [name for name in names if name != "DELEGATE"]


CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

__all__ = ["CROSS_ENTROPY", "KINDS", "LEGACY", "LEGACY_REASON", "DBFConv2D", "DBFDense", "alike", "examples", "images"]
__all__ += ["inputs", "keras", "layers", "network", "networks", "numpy", "ops", "pair", "run_file"]
