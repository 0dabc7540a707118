"""Prints what DBF networks and their twins do on two devices, on whichever backend; see test_distribution.py."""

import json
import sys

import keras
import numpy as np

from dbf_keras.layers import DBFConv2D, DBFDense

layers = keras.layers
rng = np.random.default_rng(0)
y = rng.integers(0, 4, 64)
x = (rng.standard_normal((4, 8, 8, 4))[y] + rng.standard_normal((64, 8, 8, 4))).astype("float32")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
KINDS = {"ours": (DBFConv2D, DBFDense, {}), "twin": (layers.Conv2D, layers.Dense, {})}
KINDS["quarter"] = (DBFConv2D, DBFDense, {"ratio": 0.25})
first = {}  # The filters that a network and its twin start with.


def network(kind, **options):
    convolution, dense, own = KINDS[kind]
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            convolution(8, 4, padding="same", activation="relu", **own, **options),
            layers.GlobalAveragePooling2D(),
            dense(4, **own, **options),
        ]
    )
    for index in (0, 2):
        layer = model.layers[index]
        shape = tuple(layer.kernel.shape)
        if kind == "quarter":
            layer.set_weights(
                [np.asarray(rng_of(index).standard_normal(layer.coefficients.shape) * 0.2), np.zeros(shape[-1])]
            )
        else:
            first.setdefault(shape, rng_of(index).standard_normal(shape) * 0.2)
            layer.kernel.assign(first[shape].astype("float32"))
    return model


def rng_of(index):
    return np.random.default_rng(index)


def losses(model, epochs=6, compiled=True):
    if compiled:
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY)
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history["loss"]


def on_tensorflow():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices("CPU")])
    found = {}
    for kind in KINDS:
        with strategy.scope():
            model = network(kind, kernel_regularizer="l2")
            model.compile(keras.optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY)
        found[kind] = [losses(model, compiled=False), losses(network(kind, kernel_regularizer="l2"))]
    return {"devices": strategy.num_replicas_in_sync, "mirrored": found}


def rows():
    """A few rows of the contract: what ours gives, and the twin's."""
    found = {row: [] for row in ("penalties", "frozen", "spectral", "mixed", "seeds", "batches")}
    for kind in ("ours", "twin"):
        model = network(kind, kernel_regularizer="l2")
        before = [float(loss) for loss in model.losses]
        found["penalties"].append([*before, *losses(model)])
        model.layers[0].trainable = False
        kernel = np.asarray(model.layers[0].kernel)
        losses(model)
        found["frozen"].append([len(model.losses), float(np.abs(np.asarray(model.layers[0].kernel) - kernel).max())])
        inner = network(kind).layers[0]
        wrapped = keras.Sequential(
            [keras.Input((8, 8, 4)), layers.SpectralNormalization(inner), layers.GlobalAveragePooling2D()]
        )
        wrapped.layers[0].vector_u.assign(np.full((1, 8), 0.3, "float32"))
        found["spectral"].append([*losses(wrapped), *np.asarray(inner.kernel).reshape(-1)[:5].tolist()])
        half = network(kind, dtype="mixed_bfloat16")
        found["mixed"].append(np.asarray(half(x), "float32").mean(0).round(2).tolist())
        found["seeds"].append([losses(network(kind)) == losses(network(kind))])
        model = network(kind)
        found["batches"].append([float(np.sum(np.asarray(model(x[:count])))) for count in (0, 1, 3)])
    return found


def on_jax():
    found = {
        "devices": len(keras.distribution.list_devices()),
        "data_parallel": {},
        "model_parallel": {},
        "sharding": {},
    }
    found["rows"] = rows()
    alone = {kind: losses(network(kind, kernel_regularizer="l2")) for kind in KINDS}
    path = f"{sys.argv[1]}/model.keras"
    model = network("quarter")
    model.save(path)
    found["loaded"] = float(
        np.abs(keras.saving.load_model(path).predict(x, verbose=0) - model.predict(x, verbose=0)).max()
    )
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    for kind in KINDS:
        found["data_parallel"][kind] = [losses(network(kind, kernel_regularizer="l2")), alone[kind]]
    mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), keras.distribution.list_devices())
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*conv2d.*/kernel"] = (None, None, None, "model")
    layout[".*dbf_conv2d.*/alpha"] = (None, "model")
    keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch"))
    for kind in ("ours", "twin"):
        model = network(kind, kernel_regularizer="l2")
        found["model_parallel"][kind] = [losses(model), alone[kind]]
        found["sharding"][kind] = list(model.layers[0].trainable_variables[0].value.sharding.spec)
    return found


print(json.dumps(on_jax() if keras.backend.backend() == "jax" else on_tensorflow()))
