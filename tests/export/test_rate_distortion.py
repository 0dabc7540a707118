import numpy as np
import pytest

from dbf_keras.backend import keras, ops
from dbf_keras.export import calibration, coded, rate_distortion
from dbf_keras.export.filters import Filters
from dbf_keras.layers import DBFConv2D, DBFDense

layers = keras.layers


@pytest.fixture(scope="module")
def task():
    """A classifier of blurred shapes, its DBF layers, samples and labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 600)
    shapes = random.standard_normal((4, 8, 8, 1)).astype(np.float32)
    images = shapes[labels] + 0.8 * random.standard_normal((600, 8, 8, 1)).astype(np.float32)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            DBFConv2D(16, 4, padding="same", activation="relu"),
            DBFConv2D(16, 2, strides=2, ratio=0.5, activation="relu"),
            layers.Flatten(),
            DBFDense(4, ratio=0.5),
            layers.Softmax(),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, epochs=5, batch_size=50, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[1] > 0.9
    chosen = [layer for layer in model.layers if isinstance(layer, DBFConv2D | DBFDense)]
    return model, chosen, calibration.to_samples(model, images), labels


def kilobytes(chosen, found):
    return (
        sum(rate_distortion.coded_bytes(Filters.of(chosen[place]), levels) for place, levels in enumerate(found)) / 1000
    )


def outputs(task, found):
    """The model's outputs with other coefficients; the model is as it was afterwards."""
    model, chosen, given, _ = task
    held = [np.array(ops.convert_to_numpy(layer.coefficients)) for layer in chosen]
    for place, levels in enumerate(found):
        alpha = np.empty_like(levels.alpha)
        alpha[:, np.argsort(chosen[place].codes)] = levels.alpha
        chosen[place].coefficients.assign(alpha.T * chosen[place].coefficient_scale)
    result = model.predict(np.concatenate([sample[0] for sample in given]), verbose=0)
    for layer, old in zip(chosen, held, strict=True):
        layer.coefficients.assign(old)
    return result


def divergence(first, now):
    return (first * np.log(np.maximum(first, 1e-9) / np.maximum(now, 1e-9))).sum(axis=1).mean()


def test_as_many_bytes_as_are_allowed_and_the_less_change_the_more_they_are(task):
    model, chosen, given, _ = task
    first = outputs(task, [])
    plain = [rate_distortion.plain(Filters.of(layer)) for layer in chosen]
    whole = kilobytes(chosen, plain)
    changes = []
    for share in (0.25, 0.4, 0.7):
        found = rate_distortion.choose(model, chosen, given, max_kb=share * whole)
        assert 0.97 * share * whole < kilobytes(chosen, found) <= share * whole
        changes.append(divergence(first, outputs(task, found)))
        for levels, layer in zip(found, chosen, strict=True):
            assert levels.levels.shape == Filters.of(layer).alpha.shape
            np.testing.assert_array_equal(coded.short(levels.steps), levels.steps)
    assert changes == sorted(changes, reverse=True) and changes[-1] < 1e-3
    np.testing.assert_array_equal(outputs(task, []), first)


@pytest.mark.parametrize("with_labels", [True, False])
def test_more_may_be_lost_in_fewer_bytes(task, with_labels):
    model, chosen, given, labels = task
    first = outputs(task, [])
    right = (first.argmax(axis=1) == labels).mean()
    sizes = []
    for loss in (0.05, 1.0, 8.0):
        found = rate_distortion.choose(model, chosen, given, max_loss=loss, labels=labels if with_labels else None)
        sizes.append(kilobytes(chosen, found))
        now = outputs(task, found)
        assert divergence(first, now) < 0.03 * loss
        flips = (now.argmax(axis=1) != first.argmax(axis=1)).mean()
        if with_labels:
            lost = right - (now.argmax(axis=1) == labels).mean()
            assert 100 * lost <= loss + 100 * np.sqrt(flips / len(labels)) + 1e-9
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.3 * sizes[-1]


@pytest.mark.parametrize("loss", [0.0, 1e-12])
def test_where_nothing_may_be_lost_levels_are_fine(task, loss):
    model, chosen, given, _ = task
    found = rate_distortion.choose(model, chosen, given, max_loss=loss)
    first = outputs(task, [])
    assert divergence(first, outputs(task, found)) < 1e-3


def test_arguments_that_make_no_sense_are_refused(task):
    model, chosen, given, labels = task
    with pytest.raises(ValueError, match="not both"):
        rate_distortion.choose(model, chosen, given)
    with pytest.raises(ValueError, match="not both"):
        rate_distortion.choose(model, chosen, given, max_loss=1, max_kb=1)
    with pytest.raises(ValueError, match=r"at least; got max_kb=0\.0"):
        rate_distortion.choose(model, chosen, given, max_kb=0.01)
    with pytest.raises(ValueError, match="599 labels"):
        rate_distortion.choose(model, chosen, given, max_loss=1, labels=labels[1:])


def test_trained_levels_are_the_layers_own():
    layer = DBFConv2D(8, 4, ratio=0.5, alpha_step=0.5, dead_zone=0.1, selection="random:2")
    layer.build((None, 9, 9, 4))
    found = rate_distortion.trained(layer)
    np.testing.assert_array_equal(found.alpha, Filters.of(layer).alpha)
    assert 3 < np.abs(found.levels).max() < 20


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_levels_of_few_bits_are_the_layers_own(bits):
    layer = DBFDense(16, alpha_bits=bits)
    layer.build((None, 32))
    found = rate_distortion.trained(layer)
    assert np.abs(found.levels).max() <= 2 ** (bits - 1) - 1
    np.testing.assert_allclose(found.alpha, Filters.of(layer).alpha, rtol=2**-11)


def test_other_layers_have_no_trained_levels():
    for arguments in ({}, {"selection": "sp_ovsf"}):
        layer = DBFDense(4, ratio=0.5, **arguments)
        layer.build((None, 8))
        assert rate_distortion.trained(layer) is None


def test_trained_levels_stay_where_bytes_allow_and_go_below_where_they_do_not():
    inputs = keras.Input((16,))
    x = DBFDense(32, alpha_step=0.8, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Softmax()(DBFDense(5, alpha_bits=3)(x)))
    chosen = [model.layers[1], model.layers[2]]
    own = [rate_distortion.trained(layer) for layer in chosen]
    random = np.random.default_rng(0)
    given = calibration.to_samples(model, random.standard_normal((300, 16)).astype(np.float32))
    found = rate_distortion.choose(model, chosen, given, max_kb=1.03 * kilobytes(chosen, own))
    for levels, trained in zip(found, own, strict=True):
        assert (levels.levels == trained.levels).mean() > 0.9
    for share in (0.97, 0.7):
        less = rate_distortion.choose(model, chosen, given, max_kb=share * kilobytes(chosen, own))
        assert kilobytes(chosen, less) <= share * kilobytes(chosen, own)
    assert np.abs(less[0].levels).sum() < np.abs(own[0].levels).sum()


def test_layers_that_nothing_depends_on_keep_plain_levels():
    inputs = keras.Input((8,))
    used, idle = DBFDense(4), DBFDense(4)
    idle(inputs)
    model = keras.Model(inputs, used(inputs))
    given = calibration.to_samples(model, np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32))
    found = rate_distortion.choose(model, [idle, used], given, max_kb=0.1)
    np.testing.assert_array_equal(found[0].levels, rate_distortion.plain(Filters.of(idle)).levels)
