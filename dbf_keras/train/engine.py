"""Training and evaluation in compiled loops of many steps, over images that are on the device: TensorFlow and JAX.

A step takes its batch from uint8 images on the device by index, changes it (`dbf_keras.train.augmentation`) and updates
the model. All that is random in it follows from a seed a step, which the caller draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from dbf_keras.backend import keras, on_accelerator, ops
from dbf_keras.train import distributed
from dbf_keras.train.augmentation import Augmentation

# A source hands out an epoch: from the images' order, int32 [steps, batch], and seeds, int32 [steps, 2], or None if
# nothing is to be random, to parts (images, labels, index), of one or more steps each. A step's batch is
# images[index[step]], and likewise of the labels.
Source = Callable[[np.ndarray, np.ndarray | None], Iterator[tuple]]


def resident(images: np.ndarray, labels: np.ndarray) -> Source:
    """All images on the device at once: an epoch is one part.

    Args:
        images: uint8 or float32 [N, H, W, C].
        labels: [N].
    """
    tensors = distributed.whole(images, images.dtype.name), distributed.whole(labels, "int32")
    return lambda order, seeds: iter([(*tensors, order)])


def sequential(stream: Any) -> Source:
    """Images in the order in which a stream hands them out, each step's when it is due.

    Args:
        stream: has ``batches(size)``, which yields (images, labels) of so many examples each.
    """

    def parts(order: np.ndarray, seeds: np.ndarray | None) -> Iterator[tuple]:
        batches = stream.batches(order.shape[1])
        for _, (images, labels) in zip(order, batches, strict=False):
            index = np.arange(order.shape[1], dtype=np.int32)[None]
            yield distributed.whole(images, images.dtype.name), distributed.whole(labels, "int32"), index

    return parts


def streamed(images: Any, labels: np.ndarray, steps: int = 4, crop: float | None = None) -> Source:
    """Images read as they are needed, the next part while one is in use.

    Args:
        images: `dbf_keras.images.Images`, or another array of uint8 [N, H, W, C] if there is no `crop`.
        labels: [N].
        steps: how many steps a part has.
        crop: trains on random parts of the images, of this share of the area at least.
    """

    def read(order: np.ndarray, seeds: np.ndarray | None) -> tuple:
        here = distributed.share(order)
        if crop is None or seeds is None:
            read_images = images[here.ravel()]
        else:
            read_images = images.crops(here.ravel(), np.repeat(seeds, here.shape[1], axis=0), crop)
        return (
            distributed.divided(read_images.reshape(*here.shape, *images.shape[1:]), "uint8"),
            distributed.divided(labels[here], "int32"),
            np.arange(len(order), dtype=np.int32),
        )

    def parts(order: np.ndarray, seeds: np.ndarray | None) -> Iterator[tuple]:
        pieces = [slice(start, start + steps) for start in range(0, len(order), steps)]
        with ThreadPoolExecutor(1) as reader:

            def submit(piece: slice) -> Future:
                return reader.submit(read, order[piece], None if seeds is None else seeds[piece])

            ahead = submit(pieces[0])
            for following in [*pieces[1:], None]:
                part = ahead.result()
                if following is not None:
                    ahead = submit(following)
                yield part

    return parts


class Lesson(NamedTuple):
    """What a model learns from another (Hinton et al., 2015).

    Attributes:
        teacher: images as the model's to logits, or to logits and features; it sees the images as they are after
            augmentation.
        temperature: what both logits are divided by.
        weight: share of the loss that is the distance to the teacher's logits; the rest is that to the labels.
        student: the model with features of the same shapes as the teacher's (Romero et al., 2015), if that has any.
        feature_weight: of the features' mean squared errors, each as a share of the teacher's mean square.
    """

    teacher: keras.Model
    temperature: float = 4.0
    weight: float = 0.9
    student: keras.Model | None = None
    feature_weight: float = 0.0


class Engine:
    """Trains and evaluates a classifier.

    Attributes:
        model: images, raw pixels as float32 [batch, H, W, C], to logits [batch, classes].
        trained: what a step of training calls: the model, or the model with features, of the same variables.
        optimizer: built on the model's variables.
        finite_steps: steps of the epoch that was trained last whose loss was finite.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        classes: int,
        label_smoothing: float = 0.0,
        augmentation: Augmentation | None = None,
        lesson: Lesson | None = None,
        scale_loss: bool = False,
        normalization: tuple[Any, Any] | None = None,
    ):
        """Prepares the loops; they are compiled when they are first used.

        Args:
            model: see above; it is changed in place.
            optimizer: not yet built.
            classes: number of classes.
            label_smoothing: share of the target spread over all classes.
            augmentation: random changes of the training images.
            lesson: a model to learn from.
            scale_loss: whether to scale the loss, so that gradients of half precision do not vanish.
            normalization: what is subtracted from pixels, and what they are then divided by, before the model and the
                teacher get to see them: numbers by channel.
        """
        self.model = model
        self._normalization = normalization
        if scale_loss:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
        self.optimizer = optimizer
        self._classes = classes
        self._augmentation = augmentation
        self._lesson = lesson
        self.trained = model if lesson is None or lesson.student is None else lesson.student
        self._to_labels = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
        # Its default, the name "kl_divergence", makes Keras 3.15 compare the logits themselves, not their softmax.
        divergence = keras.losses.KLDivergence()
        if lesson is not None:
            self._to_teacher = keras.distillation.LogitsDistillation(temperature=lesson.temperature, loss=divergence)
        kept = {id(weight) for weight in model.weights}
        self._seed_states = [variable for variable in model.variables if id(variable) not in kept]
        loops = _JAXLoops if keras.backend.backend() == "jax" else _TensorFlowLoops
        self._loops = loops(self)
        self.finite_steps = 0

    @property
    def variables(self) -> list:
        """All that training changes and that is not drawn anew each epoch: of the model and of the optimizer."""
        return [*self.model.weights, *self.optimizer.variables]

    def train(self, source: Source, order: np.ndarray, seeds: np.ndarray) -> tuple[float, float]:
        """Trains one epoch.

        Args:
            source: hands out the training images.
            order: int32 [steps, batch], indices of the images.
            seeds: int32 [steps, 2], not negative; of augmentation. The first also seeds dropout.

        Returns:
            (loss, accuracy), means over the steps' batches as they were trained on; not finite as soon as a loss is
            not, in which case the rest of the epoch may be left out.
        """
        for number, state in enumerate(self._seed_states):
            state.assign(np.add(seeds[0], [0, number]))
        sums, done = np.zeros(3), 0
        for images, labels, index in source(order, seeds):
            part = slice(done, done + len(index))
            sums += self._loops.train(images, labels, index, seeds[part])
            done += len(index)
            if not np.isfinite(sums[0]):
                break
        self.finite_steps = int(sums[2])
        loss, accuracy, _ = sums / len(order)
        return float(loss), float(accuracy)

    def evaluate(self, source: Source, count: int, batch_size: int) -> tuple[float, float]:
        """Evaluates on all images of a source.

        Args:
            source: hands out the images.
            count: number of images.
            batch_size: images a step.

        Returns:
            (cross-entropy, accuracy).
        """
        devices = distributed.devices()
        batch_size = -(-min(batch_size, count) // devices) * devices
        steps = -(-count // batch_size)
        order = np.arange(steps * batch_size, dtype=np.int32).reshape(steps, batch_size)
        weights = (order < count).astype(np.float32)
        sums, done = np.zeros(2), 0
        for images, labels, index in source(np.minimum(order, count - 1), None):
            sums += self._loops.evaluate(images, labels, index, weights[done : done + len(index)])
            done += len(index)
        loss, accuracy = sums / count
        return float(loss), float(accuracy)

    # The parts of a step, in ``keras.ops`` on either backend.

    def batch(self, images: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
        """Images as float32 and one-hot labels, augmented."""
        images, targets = ops.cast(images, "float32"), ops.one_hot(labels, self._classes, dtype="float32")
        if self._augmentation is not None:
            images, targets = self._augmentation(images, targets, seed)
        return self.normalized(images), targets

    def normalized(self, images: Any) -> Any:
        """Images, float32, as the model takes them."""
        if self._normalization is None:
            return images
        mean, std = (ops.convert_to_tensor(np.asarray(values, np.float32)) for values in self._normalization)
        return (images - mean) / std

    def loss(self, targets: Any, outputs: Any, teacher_outputs: Any, penalties: Iterable[Any]) -> Any:
        """The loss of a batch, a float32 scalar, of logits, or logits and features."""
        logits, *features = (ops.cast(output, "float32") for output in keras.tree.flatten(outputs))
        loss = self._to_labels(targets, logits)
        if self._lesson is not None:
            wanted, *others = (ops.cast(output, "float32") for output in keras.tree.flatten(teacher_outputs))
            distance = self._to_teacher.compute_loss(wanted, logits)
            loss = (1 - self._lesson.weight) * loss + self._lesson.weight * distance
            errors = [_relative_error(*pair) for pair in zip(features, others, strict=True)]
            if errors:
                loss += self._lesson.feature_weight * sum(errors) / len(errors)
        return loss + sum(ops.cast(penalty, "float32") for penalty in penalties)

    def ask_teacher(self, state: Sequence[Any], images: Any) -> Any:
        """The teacher's logits, or logits and features; None if there is no teacher."""
        if self._lesson is None:
            return None
        return self._lesson.teacher.stateless_call(*state, images, training=False)[0]

    def teacher_state(self) -> tuple:
        """Values of the teacher's variables, trainable and others."""
        if self._lesson is None:
            return ()
        teacher = self._lesson.teacher
        return [v.value for v in teacher.trainable_variables], [v.value for v in teacher.non_trainable_variables]

    def score(self, state: Sequence[Any], images: Any, labels: Any, weights: Any) -> Any:
        """Sums of cross-entropy and of right answers over a batch, [2]."""
        logits, _ = self.model.stateless_call(*state, self.normalized(ops.cast(images, "float32")), training=False)
        logits = ops.cast(logits, "float32")
        targets = ops.one_hot(labels, self._classes, dtype="float32")
        losses = ops.categorical_crossentropy(targets, logits, from_logits=True)
        right = ops.cast(ops.argmax(logits, -1) == ops.argmax(targets, -1), "float32")
        return ops.stack([ops.sum(weights * losses), ops.sum(weights * right)])


def _relative_error(feature: Any, wanted: Any) -> Any:
    """The mean squared error of a feature, as a share of the mean square of what it should be."""
    return ops.mean(ops.square(feature - wanted)) / ops.maximum(ops.mean(ops.square(wanted)), 1e-12)


def _training_row(loss: Any, targets: Any, outputs: Any) -> Any:
    """What is added up over the steps of training, [3]: loss, accuracy, and whether the loss is finite."""
    logits = keras.tree.flatten(outputs)[0]
    accuracy = ops.mean(ops.cast(ops.argmax(targets, -1) == ops.argmax(logits, -1), "float32"))
    return ops.stack([loss, accuracy, ops.cast(ops.isfinite(loss), "float32")])


# On CPUs TensorFlow's op for BatchNorm is several times faster for multiples of so many channels.
_VECTOR = 16


def _fuse_batch_normalization(layer: keras.layers.Layer) -> None:
    """Has a BatchNorm layer train by TensorFlow's one op for it, the same function as Keras's many and much faster."""
    import tensorflow as tf

    keras_call = layer.call
    channels = layer.gamma.shape[0]
    spare = 0 if on_accelerator() else -channels % _VECTOR

    def padded_batch_norm(inputs):
        gamma, beta = (tf.pad(variable.value, [[0, spare]]) for variable in (layer.gamma, layer.beta))
        if spare:  # Products with parts of the identity are a much faster tf.pad and slice.
            widening = tf.eye(channels, channels + spare, dtype=inputs.dtype)
            inputs = tf.tensordot(inputs, widening, 1)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, gamma, beta, epsilon=layer.epsilon, is_training=True
        )
        if spare:
            outputs = tf.tensordot(outputs, tf.transpose(widening), 1)
        return outputs, mean[:channels], variance[:channels]

    def call(inputs, training=None, mask=None):
        if not (training and layer.trainable) or mask is not None:
            return keras_call(inputs, training=training, mask=mask)
        outputs, mean, variance = padded_batch_norm(inputs)
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), variance.dtype)
        variance *= (count - 1) / count  # The op's is the unbiased estimate; Keras keeps the biased.
        for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(moving * layer.momentum + value * (1 - layer.momentum))
        return outputs

    layer.call = call


class _TensorFlowLoops:
    """A ``tf.function`` with a loop inside. Not by XLA, whose convolutions in loops are far slower on a CPU."""

    def __init__(self, engine: Engine):
        import tensorflow as tf

        model, optimizer = engine.model, engine.optimizer
        for layer in model.layers:
            channels_last = isinstance(layer, keras.layers.BatchNormalization) and layer.axis in (-1, 3)
            if channels_last and layer.input_spec.ndim == 4 and layer.center and layer.scale:
                _fuse_batch_normalization(layer)

        def step(images, labels, seed):
            images, targets = engine.batch(images, labels, seed)
            teacher_outputs = engine.ask_teacher(engine.teacher_state(), images)
            with tf.GradientTape() as tape:
                outputs = engine.trained(images, training=True)
                loss = engine.loss(targets, outputs, teacher_outputs, engine.trained.losses)
                scaled = optimizer.scale_loss(loss)
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(scaled, [variable.value for variable in variables]), variables)
            return _training_row(loss, targets, outputs)

        def score(images, labels, weights):
            state = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
            return engine.score(state, images, labels, weights)

        def loop(step, numbers):
            @tf.function(reduce_retracing=True)
            def multi_step_on_images(images, labels, index, extra):  # A name that `may_be_exported` knows.
                sums = tf.zeros(numbers)
                for number in tf.range(tf.shape(index)[0]):
                    chosen = index[number]
                    sums += step(tf.gather(images, chosen), tf.gather(labels, chosen), extra[number])
                return sums

            return lambda images, labels, index, extra: multi_step_on_images(
                images, labels, tf.constant(index), tf.constant(extra)
            ).numpy()

        self.train, self.evaluate = loop(step, 3), loop(score, 2)


class _JAXLoops:
    """One compiled ``lax.scan``; on a CPU one compiled step, as XLA's convolutions in loops are far slower there."""

    def __init__(self, engine: Engine, scan: bool | None = None):
        import jax

        model, optimizer = engine.model, engine.optimizer
        if scan is None:
            scan = on_accelerator()

        def step(state, teacher_state, images, labels, seed):
            trainable, others, optimizer_state = state
            images, targets = engine.batch(images, labels, seed)
            teacher_outputs = engine.ask_teacher(teacher_state, images)

            def objective(trainable, others):
                outputs, others, penalties = engine.trained.stateless_call(
                    trainable, others, images, training=True, return_losses=True
                )
                loss = engine.loss(targets, outputs, teacher_outputs, penalties)
                with keras.StatelessScope(list(zip(optimizer.variables, optimizer_state, strict=True))):
                    scaled = optimizer.scale_loss(loss)
                return scaled, (loss, outputs, others)

            gradients, (loss, outputs, others) = jax.grad(objective, has_aux=True)(trainable, others)
            trainable, optimizer_state = optimizer.stateless_apply(optimizer_state, gradients, trainable)
            return (trainable, others, optimizer_state), _training_row(loss, targets, outputs)

        def score(state, _, images, labels, weights):
            return state, engine.score(state[:2], images, labels, weights)

        def loop(step, numbers):
            def one(state, teacher_state, images, labels, index, extra):
                return step(state, teacher_state, *distributed.divide(images[index], labels[index]), extra)

            def many(state, teacher_state, images, labels, index, extra):
                state, rows = jax.lax.scan(
                    lambda state, row: one(state, teacher_state, images, labels, *row), state, (index, extra)
                )
                return state, rows.sum(axis=0)

            run = jax.jit(many if scan else one, donate_argnums=0, out_shardings=distributed.everywhere())

            def call(images, labels, index, extra):
                variables = model.trainable_variables, model.non_trainable_variables, optimizer.variables
                state = tuple([variable.value for variable in group] for group in variables)
                parts = [(index, extra)] if scan else zip(index, extra, strict=True)
                sums = np.zeros(numbers)
                for part in parts:
                    state, row = run(state, engine.teacher_state(), images, labels, *part)
                    sums += np.asarray(row)
                for group, values in zip(variables, state, strict=True):
                    for variable, value in zip(group, values, strict=True):
                        variable.assign(value)
                return sums

            return call

        self.train, self.evaluate = loop(step, 3), loop(score, 2)
