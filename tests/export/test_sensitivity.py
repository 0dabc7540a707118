import numpy as np
import pytest

from dbf_keras.backend import keras, ops
from dbf_keras.export import calibration, sensitivity
from dbf_keras.export.filters import Filters
from dbf_keras.export.sensitivity import probing
from dbf_keras.layers import DBFConv2D, DBFDense

layers = keras.layers


def samples(model, count=400, seed=0):
    random = np.random.default_rng(seed)
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    arrays = [random.standard_normal((count, *(size or 8 for size in shape))).astype(np.float32) for shape in shapes]
    return [[array[place : place + 1] for array in arrays] for place in range(count)]


def classifier(**arguments):
    inputs = keras.Input((8, 8, 3))
    x = DBFConv2D(8, 3, ratio=0.5, padding="same", name="convolution", **arguments)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Softmax()(DBFDense(5, ratio=1, name="dense", **arguments)(x)))


def dbf_layers(model):
    return [layer for layer in model.layers if isinstance(layer, DBFConv2D | DBFDense)]


def predicted(curvature, delta):
    [matrix] = curvature.blocks
    return curvature.weights @ ((delta @ matrix) * delta).sum(axis=1)


def test_the_curvature_of_a_linear_layer_is_that_of_its_features():
    model = keras.Sequential([keras.Input((12,)), DBFDense(4, ratio=0.5, selection="random:1")])
    [layer] = model.layers
    given = samples(model, 1500)
    with probing(model, [layer], given, classes=False) as probe:
        [curvature] = probe.curvatures()
        alpha = Filters.of(layer).alpha
        for seed in range(3):
            delta = np.random.default_rng(seed).standard_normal(alpha.shape)
            probe.assign(0, alpha + delta)
            assert probe.distance(probe.features()) == pytest.approx(predicted(curvature, delta), rel=0.25)


@pytest.mark.parametrize("position", [0, 1])
def test_the_curvature_foretells_what_probabilities_change_by(position):
    model = classifier()
    with probing(model, dbf_layers(model), samples(model, 1000), classes=False) as probe:
        curvature = probe.curvatures()[position]
        alpha = Filters.of(dbf_layers(model)[position]).alpha
        found, foretold, divergence = 0.0, 0.0, 0.0
        for seed in range(8):
            delta = 0.02 * np.std(alpha) * np.random.default_rng(seed).standard_normal(alpha.shape)
            probe.assign(position, alpha + delta)
            [features] = probe.features()
            found += probe.distance([features])
            foretold += predicted(curvature, delta)
            now, first = np.square(features / 2), np.square(probe.first[0] / 2)
            divergence += (first * np.log(first / now)).sum(axis=1).mean()
        assert found == pytest.approx(divergence, rel=0.05)
        assert found == pytest.approx(foretold, rel=0.5)


@pytest.mark.parametrize("activation", ["linear", "sigmoid"])
def test_single_scores_are_those_of_two_classes(activation):
    model = keras.Sequential([keras.Input((8,)), DBFDense(1, activation=activation)])
    given = samples(model, 20)
    scores = model.predict(np.concatenate([sample[0] for sample in given]), verbose=0)[:, 0]
    chance = scores if activation == "sigmoid" else 1 / (1 + np.exp(-scores))
    with probing(model, model.layers, given, classes=True) as probe:
        np.testing.assert_allclose(np.square(probe.first[0] / 2), np.stack([1 - chance, chance], 1), atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("kind", ["logits", "probabilities", "logit", "probability"])
def test_distances_at_a_temperature_are_divergences_of_softened_classes(kind, temperature):
    """T²·KL of softmax(logits/T), to second order: those of a change and its opposite have no third order."""
    single = kind in ("logit", "probability")
    activation = {"probabilities": "softmax", "probability": "sigmoid"}.get(kind)
    model = keras.Sequential([keras.Input((8,)), DBFDense(1 if single else 5, activation=activation)])
    given = samples(model, 200)
    inputs = np.concatenate([sample[0] for sample in given])
    [layer] = model.layers

    def softened():
        logits = inputs.astype(np.float64) @ np.asarray(ops.convert_to_numpy(layer.kernel), np.float64)
        logits = np.pad(logits, ((0, 0), (1, 0))) if single else logits
        powers = np.exp(logits / temperature)
        return powers / powers.sum(axis=1, keepdims=True)

    with probing(model, [layer], given, classes=True, temperature=temperature) as probe:
        first, alpha = softened(), Filters.of(layer).alpha
        delta = 0.02 * np.random.default_rng(0).standard_normal(alpha.shape)
        found, divergence = 0.0, 0.0
        for step in (-1, 1):
            probe.assign(0, alpha + step * delta)
            found += probe.distance(probe.features())
            divergence += temperature**2 * (first * np.log(first / softened())).sum(axis=1).mean()
        assert found == pytest.approx(divergence, rel=0.01) and found > 1e-5


def test_curvatures_know_the_temperature():
    """Of logits that soften to all but equal classes it is that of a linear layer: T² and the two 1/T cancel."""
    model = keras.Sequential([keras.Input((12,)), DBFDense(4, ratio=0.5, selection="random:1")])
    [layer] = model.layers
    alpha, found, foretold = Filters.of(layer).alpha, 0.0, 0.0
    with probing(model, [layer], samples(model, 1500), classes=True, temperature=50.0) as probe:
        [curvature] = probe.curvatures()
        for seed in range(16):
            delta = np.random.default_rng(seed).standard_normal(alpha.shape)
            probe.assign(0, alpha + delta)
            found += probe.distance(probe.features())
            foretold += predicted(curvature, delta)
    assert found == pytest.approx(foretold, rel=0.25)


def test_other_outputs_are_in_units_of_their_deviation():
    model = keras.Sequential([keras.Input((8,)), DBFDense(3)])
    with probing(model, model.layers, samples(model, 50), classes=False) as probe:
        assert probe.first[0].std() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"alpha_step": 0.4}, {"alpha_bits": 4}])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_it_was(arguments, fails):
    model = classifier(**arguments)
    given = samples(model, 12)
    inputs = np.concatenate([sample[0] for sample in given])
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]
    output = model.predict(inputs, verbose=0)
    with np.errstate(all="ignore"):
        try:
            with probing(model, dbf_layers(model), given, classes=False) as probe:
                np.testing.assert_allclose(np.square(probe.first[0] / 2), output, atol=1e-6)
                probe.assign(0, np.full_like(Filters.of(dbf_layers(model)[0]).alpha, 0.3))
                assert probe.distance(probe.features()) > 1e-3
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), old)
    np.testing.assert_array_equal(model.predict(inputs, verbose=0), output)
    np.testing.assert_allclose(np.asarray(model(inputs)), output, atol=1e-6)


def test_nested_frozen_shared_and_idle_layers():
    shared = DBFDense(6, name="shared")
    inner_inputs = keras.Input((6,))
    inner = keras.Model(inner_inputs, shared(layers.ReLU()(shared(inner_inputs))))
    frozen = DBFDense(6, ratio=0.5, name="frozen", trainable=False)
    inputs = keras.Input((4,))
    x = frozen(inputs)
    idle = DBFDense(3, name="idle")
    idle(x)
    model = keras.Model(inputs, layers.Softmax()(inner(x)))
    with probing(model, [shared, frozen, idle], samples(model, 50), classes=False) as probe:
        found = probe.curvatures()
        assert found[0] is not None and found[1] is not None and found[2] is None
        assert [block.shape for block in found[1].blocks] == [(2, 2)]


def test_several_inputs_and_outputs_and_open_sizes():
    first, second = keras.Input((None, None, 3), name="a"), keras.Input((5,), name="b")
    convolution, dense = DBFConv2D(4, 2), DBFDense(3)
    pixels = layers.Softmax()(convolution(first))
    model = keras.Model({"a": first, "b": second}, {"pixels": pixels, "numbers": dense(second)})
    random = np.random.default_rng(0)
    given = [
        [random.standard_normal((1, 6 + place // 8, 9, 3)).astype(np.float32), random.standard_normal((1, 5))]
        for place in range(32)
    ]
    given = calibration.to_samples(model, [dict(zip("ab", sample, strict=True)) for sample in given])
    with probing(model, [convolution, dense], given, classes=True) as probe:
        assert all(found is not None for found in probe.curvatures())
        assert sorted(features.shape[-1] for features in probe.first) == [3, 4]


def test_half_precision_counts_as_float32():
    half = {"dtype": "mixed_bfloat16"}
    model = keras.Sequential([keras.Input((8,)), DBFDense(16, **half), layers.ReLU(**half), DBFDense(4)])
    chosen = [model.layers[0], model.layers[2]]
    with probing(model, chosen, samples(model, 64), classes=True) as probe:
        assert model.layers[0].compute_dtype == "float32"
        assert all(found is not None for found in probe.curvatures())
    assert model.layers[0].compute_dtype == "bfloat16"


def test_a_batch_size_may_be_fixed():
    model = keras.Sequential([keras.Input((8,), batch_size=4), DBFDense(5)])
    given = calibration.to_samples(model, np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32))
    assert len(given) == 10
    with probing(model, model.layers, given, classes=True) as probe:
        assert probe.curvatures()[0] is not None and probe.first[0].shape == (40, 5)


def test_many_codes_are_taken_in_blocks(monkeypatch):
    model = keras.Sequential([keras.Input((16,)), DBFDense(5, ratio=0.7)])

    def blocks():
        with probing(model, model.layers, samples(model, 50), classes=False) as probe:
            return probe.curvatures()[0].blocks

    [whole] = blocks()
    monkeypatch.setattr(sensitivity, "_MOST_COLUMNS", 4)
    parts = blocks()
    assert [len(part) for part in parts] == [3, 4, 4] and len(whole) == 11
    for part, (start, end) in zip(parts, [(0, 3), (3, 7), (7, 11)], strict=True):
        np.testing.assert_allclose(part, whole[start:end, start:end], rtol=1e-6)
