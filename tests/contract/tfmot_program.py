"""Prints what tensorflow-model-optimization makes of DBF networks and their twin, in Keras 2; see test_tfmot.py."""

import json
import sys
import traceback

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from ai_edge_litert.interpreter import Interpreter
from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as preserving

import dbf_keras
from dbf_keras.backend import keras
from dbf_keras.layers import DBFConv2D, DBFDense

folder = sys.argv[1]
layers, sparsity, quantization = keras.layers, tfmot.sparsity.keras, tfmot.quantization.keras
clustering, random = tfmot.clustering.keras, tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
rng = np.random.default_rng(0)
y = rng.integers(0, 4, 64)
x = (rng.standard_normal((4, 8, 8, 4))[y] + rng.standard_normal((64, 8, 8, 4))).astype("float32")
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(convolution, dense, **options):
    return keras.Sequential(
        [
            layers.InputLayer((8, 8, 4)),
            convolution(8, 4, padding="same", use_bias=False, name="first", **options),
            layers.BatchNormalization(),
            layers.ReLU(),
            convolution(16, 4, strides=2, padding="same", activation="relu", name="second", **options),
            layers.GlobalAveragePooling2D(),
            dense(4, name="last", **options),
        ]
    )


def train(model, epochs, rate=0.02, **options):
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), cross_entropy)
    model.fit(x, y, epochs=epochs, verbose=0, **options)
    return float(cross_entropy(y, model(x)))


def weights(model):
    return [layer.get_weights()[0] for layer in model.layers if layer.name in ("first", "second", "last")]


def pruned(model):
    schedule = sparsity.ConstantSparsity(0.5, begin_step=0, frequency=1)
    wrapped = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
    train(wrapped, 2, callbacks=[sparsity.UpdatePruningStep()])
    stripped = sparsity.strip_pruning(wrapped)
    return stripped, {"zeros": [float((w == 0).mean()) for w in weights(stripped)]}


def clustered(model):
    wrapped = clustering.cluster_weights(model, number_of_clusters=8, cluster_centroids_init=random)
    train(wrapped, 2)
    stripped = clustering.strip_clustering(wrapped)
    return stripped, {"values": [len(np.unique(w)) for w in weights(stripped)]}


def pruned_and_clustered(model):
    sparse, _ = pruned(model)
    wrapped = preserving.cluster_weights(
        sparse, number_of_clusters=8, cluster_centroids_init=random, preserve_sparsity=True
    )
    train(wrapped, 2)
    stripped = clustering.strip_clustering(wrapped)
    return stripped, {
        "zeros": [float((w == 0).mean()) for w in weights(stripped)],
        "values": [len(np.unique(w)) for w in weights(stripped)],
    }


def quantized(model, annotated=False):
    if annotated:

        def annotate(layer):
            return quantization.quantize_annotate_layer(layer) if layer.name == "second" else layer

        aware = quantization.quantize_apply(keras.models.clone_model(model, clone_function=annotate))
    else:
        aware = quantization.quantize_model(model)
    train(aware, 2, 0.01)
    found = {"layers": [layer.name for layer in aware.layers]}
    aware.save(folder + "/aware.h5")
    with quantization.quantize_scope(dbf_keras.custom_objects()):
        loaded = keras.models.load_model(folder + "/aware.h5")
    found["loaded"] = float(np.abs(loaded.predict(x, verbose=0) - aware.predict(x, verbose=0)).max())
    if not annotated:
        converter = tf.lite.TFLiteConverter.from_keras_model(aware)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        file = converter.convert()
        interpreter = Interpreter(model_content=file)
        found["bytes"] = len(file)
        found["ops"] = [op["op_name"] for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]
        run = interpreter.get_signature_runner()
        (name,) = run.get_input_details()
        outputs = np.concatenate([next(iter(run(**{name: image[None]}).values())) for image in x])
        found["error"] = float(np.abs(outputs - aware.predict(x, verbose=0)).max() / np.abs(outputs).max())
    return aware, found


def annotated(model):
    return quantized(model, annotated=True)


def per_channel(model):
    options = {"number_of_clusters": 8, "cluster_centroids_init": random, "cluster_per_channel": True}
    return clustering.cluster_weights(model, **options), {}


KINDS = {
    "ours": lambda: network(DBFConv2D, DBFDense),
    "quarter": lambda: network(DBFConv2D, DBFDense, ratio=0.25),
    "twin": lambda: network(layers.Conv2D, layers.Dense),
}
findings = {}
for name, make in KINDS.items():
    keras.utils.set_random_seed(0)
    trained = make()
    before = train(trained, 8)
    for way in (pruned, clustered, pruned_and_clustered, quantized, annotated, per_channel):
        model = make()
        model.set_weights(trained.get_weights())
        try:
            result, found = way(model)
            found |= {"before": before, "after": float(cross_entropy(y, result(x)))}
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
        findings.setdefault(way.__name__, {})[name] = found
print(json.dumps(findings))
