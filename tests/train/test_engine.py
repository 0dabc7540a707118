import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dbf_keras import data, networks
from dbf_keras.backend import keras, ops
from dbf_keras.layers import DBFConv2D
from dbf_keras.train import augmentation, engine, recipes

HERE = pathlib.Path(__file__).parent
DIGITS = data.load("digits").part(320)
STEPS = 10


def small(seed=0, normalized=False):
    """One DBF layer, and BatchNorm if wanted: quick to compile."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = DBFConv2D(8, 3, ratio=0.5, strides=2, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    if normalized:
        x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))


def make(model, **options):
    return engine.Engine(model, recipes.Recipe(2, 32, 0.05).optimizer(STEPS), 10, **options)


def order(steps=STEPS, batch=32):
    return np.random.default_rng(0).permutation(320)[: steps * batch].reshape(steps, batch).astype(np.int32)


SEEDS = np.random.default_rng(1).integers(2**30, size=(STEPS, 2), dtype=np.int32)


def values(variables):
    return [ops.convert_to_numpy(variable) for variable in variables]


def test_an_epoch_is_keras_s_steps_on_the_same_batches():
    """Against ``keras.Model.train_on_batch`` with the same optimizer."""
    trainer = make(small(normalized=True), label_smoothing=0.1)
    loss, accuracy = trainer.train(engine.resident(DIGITS.x_train, DIGITS.y_train), order(), SEEDS)
    twin = small(normalized=True)
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    twin.compile(recipes.Recipe(2, 32, 0.05).optimizer(STEPS), crossentropy, metrics=["accuracy"])
    results = []
    for chosen in order():
        results.append(
            twin.train_on_batch(DIGITS.x_train[chosen].astype("f"), np.eye(10, dtype="f")[DIGITS.y_train[chosen]])
        )
        twin.reset_metrics()
    np.testing.assert_allclose([loss, accuracy], np.mean(results, axis=0), rtol=1e-3)
    for ours, theirs in zip(values(trainer.model.weights), twin.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert int(trainer.optimizer.iterations) == STEPS


@pytest.mark.parametrize("channels", [4, 16, 21])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_batch_normalization_in_one_op_is_keras_s(policy, channels):
    """Outputs, gradients, moving mean and variance of few pixels, where the estimates of a variance differ."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    inputs, weights = (tf.constant(rng.standard_normal((2, 3, 3, channels)), tf.float32) for _ in range(2))
    results = []
    for fuse in (lambda layer: None, engine._fuse_batch_normalization):
        layer = keras.layers.BatchNormalization(momentum=0.9, dtype=policy)
        layer.build(inputs.shape)
        layer.gamma.assign(np.linspace(1, 4, channels))
        fuse(layer)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = tf.cast(layer(inputs, training=True), "float32")
            loss = tf.reduce_sum(weights * outputs)
        sources = [inputs, layer.gamma.value, layer.beta.value]
        results.append([outputs, *tape.gradient(loss, sources), layer.moving_mean, layer.moving_variance])
        results[-1].append(layer(inputs, training=False))
    tolerance = 1e-5 if policy == "float32" else 0.05
    for theirs, ours in zip(*map(values, results), strict=True):
        np.testing.assert_allclose(ours.astype("f"), theirs.astype("f"), rtol=tolerance, atol=tolerance)


def test_streamed_images_train_as_resident_ones_do():
    results = []
    for source in (engine.resident, lambda x, y: engine.streamed(x, y, steps=4)):
        trainer = make(small(), augmentation=augmentation.Augmentation(shift=1, mirror=True))
        figures = trainer.train(source(DIGITS.x_train, DIGITS.y_train), order(), SEEDS)
        test = trainer.evaluate(source(DIGITS.x_test, DIGITS.y_test), 360, batch_size=100)
        results.append([*figures, *test, *values(trainer.variables)])
    for resident, streamed in zip(*results, strict=True):
        np.testing.assert_allclose(resident, streamed, rtol=1e-3, atol=1e-4)


class Stream:
    """Images in one order, with what else is left over in the end."""

    def __init__(self, images):
        self._images = images

    def batches(self, size):
        for start in range(0, 320 - size + 1, size):
            yield self._images[start : start + size], DIGITS.y_train[start : start + size]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_stream_trains_as_resident_images_in_its_order(dtype):
    """As many steps as are asked for; images of either type, their numbers being the same."""
    images, chosen = DIGITS.x_train.astype(dtype), np.arange(STEPS * 30, dtype=np.int32).reshape(STEPS, 30)
    results = []
    for source in (engine.resident(DIGITS.x_train, DIGITS.y_train), engine.sequential(Stream(images))):
        trainer = make(small(), augmentation=augmentation.Augmentation(shift=1, mirror=True))
        for steps in (STEPS, 4):
            figures = trainer.train(source, chosen[:steps], SEEDS[:steps])
        assert int(trainer.optimizer.iterations) == STEPS + 4
        results.append([*figures, *values(trainer.variables)])
    for resident, sequential in zip(*results, strict=True):
        np.testing.assert_allclose(resident, sequential, rtol=1e-3, atol=1e-4)


def test_pixels_are_normalised_by_channel():
    trainer = make(small(), normalization=([10.0, 20.0], [2.0, 4.0]))
    pixels = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    np.testing.assert_array_equal(trainer.normalized(pixels)[..., 1], (pixels[..., 1] - 20) / 4)
    np.testing.assert_array_equal(trainer.normalized(pixels)[..., 0], (pixels[..., 0] - 10) / 2)
    assert make(small()).normalized(pixels) is pixels


def test_evaluation_counts_every_image_once():
    trainer = make(small())
    logits = trainer.model.predict(DIGITS.x_test.astype("f"), verbose=0)
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(360), DIGITS.y_test]
    for batch_size in (100, 500):
        loss, accuracy = trainer.evaluate(engine.resident(DIGITS.x_test, DIGITS.y_test), 360, batch_size)
        assert loss == pytest.approx(losses.mean(), rel=1e-4)
        assert accuracy == pytest.approx((logits.argmax(axis=1) == DIGITS.y_test).mean(), abs=1e-6)


def test_a_teacher_is_followed():
    """With all weight on the teacher the labels do not matter, and the loss is its definition."""
    teacher, model = small(seed=1), small()
    chosen = order(steps=1)
    images = DIGITS.x_train[chosen[0]].astype("f")
    soft = [np.asarray(ops.softmax(m(images) / 3.0), np.float64) for m in (teacher, model)]
    expected = 9 * np.sum(soft[0] * np.log(soft[0] / soft[1]), axis=1).mean()
    losses = []
    for labels in (DIGITS.y_train, np.zeros_like(DIGITS.y_train)):
        trainer = make(small(), lesson=engine.Lesson(teacher, temperature=3.0, weight=1.0))
        losses.append(trainer.train(engine.resident(DIGITS.x_train, labels), chosen, SEEDS[:1])[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(expected, rel=1e-3)


def followed(teacher, model, weight=2.0):
    """A lesson of logits and of the feature before the classifier."""
    both = [keras.Model(part.inputs[0], [part.outputs[0], part.layers[-2].output]) for part in (teacher, model)]
    return engine.Lesson(both[0], 3.0, 1.0, both[1], weight)


def test_features_are_followed():
    """Their squared errors, as a share of the teacher's mean square, are added to the loss."""
    chosen = order(steps=1)
    images = DIGITS.x_train[chosen[0]].astype("f")
    teacher, model = small(seed=1), small()
    wanted, feature = (
        np.asarray(keras.Model(m.inputs[0], m.layers[-2].output)(images), float) for m in (teacher, model)
    )
    error = np.square(feature - wanted).mean() / np.square(wanted).mean()
    losses = []
    for weight in (0.0, 2.0):
        trainer = make(model := small(), lesson=followed(teacher, model, weight))
        source = engine.resident(DIGITS.x_train, DIGITS.y_train)
        losses.append(trainer.train(source, chosen, SEEDS[:1])[0])
        assert all(one is other for one, other in zip(trainer.trained.weights, model.weights, strict=True))
    assert losses[1] - losses[0] == pytest.approx(2 * error, rel=1e-3)


def test_features_come_near_the_teacher_s():
    teacher, model = small(seed=1), small()
    images = DIGITS.x_test[:64].astype("f")

    def error():
        one, other = (np.asarray(keras.Model(m.inputs[0], m.layers[-2].output)(images)) for m in (teacher, model))
        return np.square(one - other).mean()

    before = error()
    trainer = make(model, lesson=followed(teacher, model))
    for _ in range(2):
        trainer.train(engine.resident(DIGITS.x_train, DIGITS.y_train), order(), SEEDS)
    assert error() < 0.7 * before


def test_penalties_count():
    """A filter decay adds ½·decay·‖f‖² of each layer."""
    model = networks.DBFNetMicro(width=0.25, classifier_activation=None, filter_decay=0.3)
    norms = [np.sum(np.square(layer.kernel)) for layer in model.layers if hasattr(layer, "coefficients")]
    assert len(norms) == 6
    model(DIGITS.x_train[:2].astype("f"), training=True)
    assert float(sum(model.losses)) == pytest.approx(0.15 * sum(norms), rel=1e-5)
    trainer = make(small())
    targets, logits = np.eye(10, dtype="f"), np.zeros((10, 10), "f")
    assert float(trainer.loss(targets, logits, None, [1.5, 2.0])) == pytest.approx(np.log(10) + 3.5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_float32_weights(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        trainer = make(small())
        source = engine.resident(DIGITS.x_train, DIGITS.y_train)
        first, _ = trainer.train(source, order(), SEEDS)
        for _ in range(3):
            last, _ = trainer.train(source, order(), SEEDS)
    finally:
        keras.config.set_dtype_policy(before)
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in trainer.model.weights} == {"float32"}
    assert trainer.model.layers[-1].compute_dtype == policy.removeprefix("mixed_")
    assert last < 0.8 * first


def test_dropout_follows_the_seed():
    def train(seeds):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(inputs))
        trainer = make(keras.Model(inputs, keras.layers.Dense(10)(x)))
        return trainer.train(engine.resident(DIGITS.x_train, DIGITS.y_train), order(2), seeds)[0]

    assert train(SEEDS[:2]) == train(SEEDS[:2])
    assert train(SEEDS[:2]) != train(SEEDS[2:4])


_SCAN = """
import sys

class NoTensorFlow:
    def find_spec(self, name, *_):
        if name == "tensorflow":
            raise ImportError("TensorFlow is not there")

sys.meta_path.insert(0, NoTensorFlow())
import numpy as np
import test_engine as t
results = []
for scan in (True, False):
    augmentation = t.augmentation.Augmentation(shift=1, mixup=0.2)
    model = t.small()
    trainer = t.make(model, augmentation=augmentation, lesson=t.followed(t.small(), model))
    trainer._loops = t.engine._JAXLoops(trainer, scan)
    source = t.engine.resident(t.DIGITS.x_train, t.DIGITS.y_train)
    figures = trainer.train(source, t.order(3), t.SEEDS[:3])
    results.append([*figures, *trainer.evaluate(source, 50, 50), *t.values(trainer.variables)])
for one, other in zip(*results, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
print("equal")
"""


def test_jax_trains_without_tensorflow_and_alike_in_a_scan(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{HERE.parent}")
    result = subprocess.run([sys.executable, "-c", _SCAN], capture_output=True, text=True)
    assert result.stdout.strip() == "equal", result.stderr
