"""Trains narrow plain networks to be small: for int4 weights, or pruned and clustered by tensorflow-model-optimization.

    python benchmarks/plain_rivals.py --data_dir=$DBF_DATA_DIR --output=rivals              # two hours on two cores
    python benchmarks/small_files.py --data_dir=$DBF_DATA_DIR --rivals=rivals

Each starts from a trained control of the zoo. With int4, kernels are rounded in training, per filter, as
ai-edge-quantizer rounds them, and the network learns from a teacher, as our models trained to levels did. Pruning and
clustering follow that tool's own guides: pruned by magnitude on a rising schedule, then clustered with zeros kept; it
takes networks of Keras 2 only, so it runs in a process of its own. What is written is a plain .keras file whose kernels
are on int4's grid, or have few values.
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from dbf_keras import command, data, networks, zoo
from dbf_keras.backend import LEGACY, keras, ops
from dbf_keras.train import settings
from dbf_keras.train.loop import train
from dbf_keras.train.recipes import RECIPES
from dbf_keras.train.teacher import Teacher

_FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["resnet18_cifar10_narrow", "resnet18_k4_taught_cifar10_narrow"], "Controls of the zoo.")
flags.DEFINE_list("kinds", ["int4", "pruned"], "What to do with each: int4, pruned.")
flags.DEFINE_string("data_dir", None, "Where cifar10.npz is.")
flags.DEFINE_string("output", "rivals", "Folder to write MODEL_KIND.keras to.")
flags.DEFINE_string("teacher", "resnet18_k4_taught_large_cifar10", "Model of the zoo that int4 networks learn from.")
flags.DEFINE_integer("epochs", 8, "Epochs for int4; pruning and clustering take half of them each.")
flags.DEFINE_float("sparsity", 0.5, "Share of zeros that pruning ends with.")
flags.DEFINE_integer("clusters", 16, "Values of each layer's kernel, zero included.")
flags.DEFINE_list("option", None, "Of the network; only for the process with Keras 2, which this program starts.")

_BATCH = 128
_LARGEST = 7  # The largest multiple that int4 holds; the range is symmetric.


def to_int4(kernel: Any) -> Any:
    """Multiples, at most 7, of a step for each filter; the last axis is the filters'."""
    axes = tuple(range(len(kernel.shape) - 1))
    steps = ops.maximum(ops.max(ops.abs(kernel), axis=axes, keepdims=True), 1e-9) / _LARGEST
    return ops.round(kernel / steps) * steps


class Int4Conv2D(keras.layers.Conv2D):
    """A convolution whose kernel is rounded, with the gradient of one that is not."""

    def call(self, inputs: Any) -> Any:
        """Convolves."""
        rounded = self.kernel + ops.stop_gradient(to_int4(self.kernel) - self.kernel)
        outputs = self.convolution_op(inputs, rounded)
        return outputs if self.bias is None else outputs + self.bias


def int4(name: str, dataset: data.Dataset, output: pathlib.Path) -> keras.Model:
    """A control whose convolutions are trained for int4 weights; its dense classifier is not."""

    def build() -> keras.Model:
        return keras.models.clone_model(
            zoo.load_zoo(name),
            clone_function=lambda layer: (
                Int4Conv2D if type(layer) is keras.layers.Conv2D else type(layer)
            ).from_config(layer.get_config()),
        )

    recipe = dataclasses.replace(RECIPES["cosine"], epochs=_FLAGS.epochs, batch_size=_BATCH, learning_rate=0.02)
    trained = output.parent / "training" / output.name  # With its checkpoint and curve.
    trained.parent.mkdir(exist_ok=True)
    teacher = Teacher(str(zoo.path(_FLAGS.teacher, "weights")))
    train(build, dataset, recipe, trained, teacher=teacher, start=str(zoo.path(name, "weights")))
    with keras.saving.custom_object_scope({"Int4Conv2D": Int4Conv2D}):
        rounded = keras.models.load_model(trained)
    model = zoo.load_zoo(name)
    for plain, layer in zip(model.layers, rounded.layers, strict=True):
        weights = layer.get_weights()
        if isinstance(layer, Int4Conv2D):
            weights[0] = np.asarray(to_int4(weights[0]))
        plain.set_weights(weights)
    return model


def pruned(name: str, output: pathlib.Path) -> keras.Model:
    """A control that another process, with Keras 2, has pruned and clustered."""
    model = zoo.load_zoo(name)
    exchange = output.with_suffix(".npz")
    np.savez(exchange, *model.get_weights())
    own = [f"--{flag}={getattr(_FLAGS, flag)}" for flag in ("data_dir", "epochs", "sparsity", "clusters")]
    options = re.findall(r"--option=(\S+)", zoo.training(name)["command"])
    own += [f"--models={name}", f"--option={','.join(options)}", f"--output={exchange}"]
    environment = os.environ | {"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, __file__, *own], env=environment, check=True)
    with np.load(exchange) as weights:
        model.set_weights(list(weights.values()))
    exchange.unlink()
    return model


def prune(name: str, exchange: pathlib.Path) -> None:
    """Takes the weights from a file, prunes and clusters, and puts them back; with Keras 2."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    dataset = data.load("cifar10", _FLAGS.data_dir)
    model = networks.build(zoo.entry(name)["network"], **settings.parse_options(_FLAGS.option))
    with np.load(exchange) as weights:
        model.set_weights(list(weights.values()))
    steps = len(dataset.y_train) // _BATCH
    epochs = max(1, _FLAGS.epochs // 2)

    def change(image, label):
        image = tf.image.random_crop(tf.pad(tf.cast(image, tf.float32), [[4, 4], [4, 4], [0, 0]]), image.shape)
        return tf.image.random_flip_left_right(image), label

    images = tf.data.Dataset.from_tensor_slices((dataset.x_train, dataset.y_train.astype("int32")))
    images = images.shuffle(len(dataset.y_train)).map(change).batch(_BATCH, drop_remainder=True).prefetch(2)
    test = dataset.x_test.astype("float32"), dataset.y_test.astype("int32")

    def fit(wrapped: Any, rate: float, callbacks: list) -> None:
        schedule = keras.optimizers.schedules.CosineDecay(rate, steps * epochs)
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9)
        wrapped.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        wrapped.fit(images, epochs=epochs, validation_data=test, callbacks=callbacks, verbose=2)

    rising = tfmot.sparsity.keras.PolynomialDecay(0.0, _FLAGS.sparsity, 0, steps * epochs * 3 // 4)
    wrapped = _wrapped(model, lambda layer: tfmot.sparsity.keras.prune_low_magnitude(layer, rising))
    fit(wrapped, 0.02, [tfmot.sparsity.keras.UpdatePruningStep()])
    model = tfmot.sparsity.keras.strip_pruning(wrapped)
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    wrapped = _wrapped(
        model,
        lambda layer: cluster.cluster_weights(
            layer, number_of_clusters=_FLAGS.clusters, cluster_centroids_init=start, preserve_sparsity=True
        ),
    )
    fit(wrapped, 0.001, [])
    np.savez(exchange, *tfmot.clustering.keras.strip_clustering(wrapped).get_weights())


def _wrapped(model: keras.Model, wrap: Callable) -> keras.Model:
    """A model of the same weights whose layers with kernels are wrapped."""
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    return keras.models.clone_model(
        model, clone_function=lambda layer: wrap(layer) if isinstance(layer, kinds) else layer
    )


def main(_: list[str]) -> None:
    """Writes a file for each model and kind."""
    if LEGACY:
        return prune(_FLAGS.models[0], pathlib.Path(_FLAGS.output))
    folder = pathlib.Path(_FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = data.load("cifar10", _FLAGS.data_dir)
    for kind in _FLAGS.kinds:
        for name in _FLAGS.models:
            path = folder / f"{name}_{kind}.keras"
            model = int4(name, dataset, path) if kind == "int4" else pruned(name, path)
            model.compile(metrics=["accuracy"], loss="sparse_categorical_crossentropy")
            accuracy = model.evaluate(dataset.x_test.astype("f"), dataset.y_test, verbose=0)[1]
            command.write_atomically(path, model.save)
            print(f"{path}: {accuracy:.2%} on the test images", flush=True)
    return None


if __name__ == "__main__":
    command.run(main)
