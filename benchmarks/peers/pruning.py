"""Pruning and clustering by tensorflow-model-optimization, which knows Keras 2 only, in a process of its own.

Its own guides are followed: pruned by magnitude on a rising schedule, clustered at a twentieth of the learning rate,
with zeros kept.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dbf_keras import data, networks, zoo
from dbf_keras.backend import LEGACY, keras
from dbf_keras.train import settings
from dbf_keras.train.teacher import to_logits


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do with a network of the zoo.

    Attributes:
        model: its name.
        dataset: name of the image set.
        data_dir: where that is.
        train_images: None for all.
        batch_size: images a step.
        learning_rate: the highest; it falls in a cosine.
        prune_epochs: 0 for none; pruning comes first.
        cluster_epochs: 0 for none.
        sparsity: share of zeros that pruning ends with.
        clusters: values of each layer's kernel, zero included if there are zeros to keep.
        clip: largest norm of a gradient while clustering, which few clusters need: theirs are sums over many weights.
        shift: pixels by which images are shifted at random.
        mirror: whether half of the images are mirrored.
        teacher_weight: share of the loss that is the distance to the network as it was; 0 for labels alone.
        temperature: what both logits are divided by for that.
    """

    model: str
    dataset: str
    data_dir: str | None
    prune_epochs: int
    cluster_epochs: int
    train_images: int | None = None
    batch_size: int = 128
    learning_rate: float = 0.02
    sparsity: float = 0.5
    clusters: int = 16
    clip: float | None = None
    shift: int = 4
    mirror: bool = True
    teacher_weight: float = 0.0
    temperature: float = 4.0


def run(job: Job, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Prunes and clusters in a process with Keras 2.

    Args:
        job: what to do.
        weights: the network's; also those of its teacher.

    Returns:
        The weights after it.

    Raises:
        ValueError: they are not finite.
    """
    environment = os.environ | {"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "tensorflow"}
    with tempfile.TemporaryDirectory() as folder:
        exchange = pathlib.Path(folder, "weights.npz")
        np.savez(exchange, *weights)
        subprocess.run(
            [sys.executable, __file__, json.dumps(dataclasses.asdict(job)), str(exchange)], env=environment, check=True
        )
        with np.load(exchange) as arrays:
            found = list(arrays.values())
    if not all(np.isfinite(each).all() for each in found):
        raise ValueError(f"Weights of {job.model} are not finite after {job}; try a lower learning rate.")
    return found


def _build(job: Job, weights: Sequence[np.ndarray]) -> keras.Model:
    """The network, to logits."""
    options = re.findall(r"--option=(\S+)", zoo.training(job.model)["command"])
    model = networks.build(zoo.entry(job.model)["network"], **settings.parse_options(options))
    model.set_weights(weights)
    return to_logits(model)


def _examples(job: Job, dataset: data.Dataset, teacher: keras.Model) -> Any:
    """Batches of images with, side by side, one-hot labels and the teacher's logits."""
    import tensorflow as tf

    margins = [[job.shift, job.shift], [job.shift, job.shift], [0, 0]]

    def change(image, label):
        image = tf.image.random_crop(tf.pad(tf.cast(image, tf.float32), margins), image.shape)
        return tf.image.random_flip_left_right(image) if job.mirror else image, label

    def teach(images, labels):
        targets = tf.one_hot(labels, dataset.classes)
        return images, tf.concat([targets, teacher(images, training=False)], -1)

    images = tf.data.Dataset.from_tensor_slices((dataset.x_train, dataset.y_train.astype("int32")))
    images = images.shuffle(len(dataset.y_train)).map(change).batch(job.batch_size, drop_remainder=True)
    return images.map(teach).prefetch(2)


def _loss(job: Job, classes: int) -> Callable[[Any, Any], Any]:
    """As `dbf_keras.train.engine` has it: cross-entropy and, by the teacher's weight, divergence times T²."""
    import tensorflow as tf

    divergence = keras.losses.KLDivergence(reduction="none")

    def loss(targets, logits):
        labels = tf.nn.softmax_cross_entropy_with_logits(targets[:, :classes], logits)
        soft = [tf.nn.softmax(each / job.temperature) for each in (targets[:, classes:], logits)]
        return (1 - job.teacher_weight) * labels + job.teacher_weight * job.temperature**2 * divergence(*soft)

    return loss


def _prune_and_cluster(job: Job, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Does what `run` says; with Keras 2."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    dataset = data.load(job.dataset, job.data_dir)
    if job.train_images is not None:
        dataset = dataset.part(job.train_images)
    model, steps = _build(job, weights), len(dataset.y_train) // job.batch_size
    examples = _examples(job, dataset, _build(job, weights))

    def accuracy(targets, logits):
        return tf.cast(tf.argmax(targets[:, : dataset.classes], -1) == tf.argmax(logits, -1), tf.float32)

    def fit(wrapped: Any, rate: float, epochs: int, callbacks: list, clip: float | None = None) -> None:
        schedule = keras.optimizers.schedules.CosineDecay(rate, steps * epochs)
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, clipnorm=clip)
        wrapped.compile(optimizer, _loss(job, dataset.classes), metrics=[accuracy])
        wrapped.fit(examples, epochs=epochs, callbacks=callbacks, verbose=2)

    if job.prune_epochs:
        rise = max(1, steps * job.prune_epochs * 3 // 4)
        every = min(100, max(1, rise // 10))  # Steps from one look at the weights to the next; the last is at the end.
        rising = tfmot.sparsity.keras.PolynomialDecay(0.0, job.sparsity, 0, rise // every * every, frequency=every)
        wrapped = _wrapped(model, lambda layer: tfmot.sparsity.keras.prune_low_magnitude(layer, rising))
        fit(wrapped, job.learning_rate, job.prune_epochs, [tfmot.sparsity.keras.UpdatePruningStep()])
        model = tfmot.sparsity.keras.strip_pruning(wrapped)
    if job.cluster_epochs:
        start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
        wrapped = _wrapped(
            model,
            lambda layer: cluster.cluster_weights(
                layer,
                number_of_clusters=job.clusters,
                cluster_centroids_init=start,
                preserve_sparsity=job.prune_epochs > 0,
            ),
        )
        fit(wrapped, job.learning_rate / 20, job.cluster_epochs, [], job.clip)
        model = tfmot.clustering.keras.strip_clustering(wrapped)
    return model.get_weights()


def _wrapped(model: keras.Model, wrap: Callable) -> keras.Model:
    """A model of the same weights whose layers with kernels are wrapped."""
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    return keras.models.clone_model(
        model, clone_function=lambda layer: wrap(layer) if isinstance(layer, kinds) else layer
    )


def main(job: Mapping[str, Any], path: str) -> None:
    """Takes the weights from a file and puts them back."""
    if not LEGACY:
        raise SystemExit("This file is run by others of its folder, in Keras 2.")
    with np.load(path) as arrays:
        weights = list(arrays.values())
    np.savez(path, *_prune_and_cluster(Job(**job), weights))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
