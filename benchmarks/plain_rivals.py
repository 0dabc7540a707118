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
import pathlib

import numpy as np
from absl import flags

from dbf_keras import command, data, zoo
from dbf_keras.backend import keras
from dbf_keras.train.loop import train
from dbf_keras.train.recipes import RECIPES
from dbf_keras.train.teacher import Teacher
from peers import pruning
from peers.quantized import Int4Conv2D, to_int4

_FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["resnet18_cifar10_narrow", "resnet18_k4_taught_cifar10_narrow"], "Controls of the zoo.")
flags.DEFINE_list("kinds", ["int4", "pruned"], "What to do with each: int4, pruned.")
flags.DEFINE_string("data_dir", None, "Where cifar10.npz is.")
flags.DEFINE_string("output", "rivals", "Folder to write MODEL_KIND.keras to.")
flags.DEFINE_string("teacher", "resnet18_k4_taught_large_cifar10", "Model of the zoo that int4 networks learn from.")
flags.DEFINE_integer("epochs", 8, "Epochs for int4; pruning and clustering take half of them each.")
flags.DEFINE_float("sparsity", 0.5, "Share of zeros that pruning ends with.")
flags.DEFINE_integer("clusters", 16, "Values of each layer's kernel, zero included.")

_BATCH = 128


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
    rounded = keras.models.load_model(trained)
    model = zoo.load_zoo(name)
    for plain, layer in zip(model.layers, rounded.layers, strict=True):
        weights = layer.get_weights()
        if isinstance(layer, Int4Conv2D):
            weights[0] = np.asarray(to_int4(weights[0]))
        plain.set_weights(weights)
    return model


def pruned(name: str) -> keras.Model:
    """A control that has been pruned and clustered."""
    model = zoo.load_zoo(name)
    epochs = max(1, _FLAGS.epochs // 2)
    job = pruning.Job(
        name, "cifar10", _FLAGS.data_dir, epochs, epochs, sparsity=_FLAGS.sparsity, clusters=_FLAGS.clusters
    )
    model.set_weights(pruning.run(job, model.get_weights()))
    return model


def main(_: list[str]) -> None:
    """Writes a file for each model and kind."""
    folder = pathlib.Path(_FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = data.load("cifar10", _FLAGS.data_dir)
    for kind in _FLAGS.kinds:
        for name in _FLAGS.models:
            path = folder / f"{name}_{kind}.keras"
            model = int4(name, dataset, path) if kind == "int4" else pruned(name)
            model.compile(metrics=["accuracy"], loss="sparse_categorical_crossentropy")
            accuracy = model.evaluate(dataset.x_test.astype("f"), dataset.y_test, verbose=0)[1]
            command.write_atomically(path, model.save)
            print(f"{path}: {accuracy:.2%} on the test images", flush=True)


if __name__ == "__main__":
    command.run(main)
