"""Configurations, copies and files: what brings the plain twin back brings a DBF network back."""

import copy
import pickle

import numpy as np
import pytest

from .tools import CROSS_ENTROPY, LEGACY, LEGACY_REASON, DBFConv2D, DBFDense, examples, images, keras, layers, networks

pytestmark = pytest.mark.skipif(LEGACY, reason=LEGACY_REASON)
tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a format of TensorFlow")
ratios = pytest.mark.parametrize("ratio", [1, 0.25])


@pytest.fixture(scope="module")
def trained():
    """Networks by ratio, trained a little, so that nothing in them is as it starts."""
    x, y = examples()
    found = {}
    for ratio in (1, 0.25):
        found[ratio] = networks(ratio=ratio)
        for model in found[ratio]:
            model.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY)
            model.fit(x, y, verbose=0)
    return found


X = examples(8, seed=1)[0]


def same(model, other):
    np.testing.assert_array_equal(model.predict(X, verbose=0), other.predict(X, verbose=0))


def through_json(model, path):
    return keras.models.model_from_json(model.to_json())


def through_config(model, path):
    return type(model).from_config(model.get_config())


def cloned(model, path):
    return keras.models.clone_model(model)


def cloned_by_function(model, path):
    def again(layer):
        return type(layer).from_config(layer.get_config() | {"name": f"{layer.name}_again"})

    clone = keras.models.clone_model(model, clone_function=again)
    assert clone.layers[0].name == "first_again"
    return clone


@ratios
@pytest.mark.parametrize("way", [through_json, through_config, cloned, cloned_by_function])
def test_architectures_come_back(trained, way, ratio):
    for model in trained[ratio]:
        copied = way(model, None)
        copied.set_weights(model.get_weights())
        same(model, copied)


def keras_file(model, path):
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras")


def legacy_file(model, path):
    model.save(path / "model.h5")
    return keras.models.load_model(path / "model.h5")


def weights_file(model, path):
    model.save_weights(path / "m.weights.h5")
    copied = cloned(model, path)
    copied.load_weights(path / "m.weights.h5")
    return copied


def sharded_weights(model, path):
    largest = max(np.asarray(variable).nbytes for variable in model.variables)
    model.save_weights(path / "m.weights.json", max_shard_size=1.1 * largest / 2**30)
    assert len(list(path.glob("*.h5"))) > 1
    copied = cloned(model, path)
    copied.load_weights(path / "m.weights.json")
    return copied


def legacy_weights_by_name(model, path):
    model.save(path / "model.h5")
    copied = cloned(model, path)
    copied.load_weights(path / "model.h5", by_name=True)
    return copied


def pickled(model, path):
    return pickle.loads(pickle.dumps(model))


def deep_copied(model, path):
    return copy.deepcopy(model)


def checkpoint(model, path):
    import tensorflow as tf

    saved = tf.train.Checkpoint(layers=model.layers).save(path / "checkpoint")
    copied = cloned(model, path)
    tf.train.Checkpoint(layers=copied.layers).restore(saved).assert_consumed()
    return copied


def checkpoint_callback(model, path):
    x, y = examples()
    callback = keras.callbacks.ModelCheckpoint(path / "best.weights.h5", save_weights_only=True)
    model.fit(x, y, verbose=0, callbacks=[callback])
    copied = cloned(model, path)
    copied.load_weights(path / "best.weights.h5")
    return copied


FILES = [keras_file, legacy_file, weights_file, sharded_weights, legacy_weights_by_name, pickled, deep_copied]
FILES += [pytest.param(way, marks=tensorflow_only) for way in (checkpoint, checkpoint_callback)]


@ratios
@pytest.mark.parametrize("way", FILES)
def test_models_come_back(trained, tmp_path, way, ratio):
    for index, model in enumerate(trained[ratio]):
        path = tmp_path / str(index)
        path.mkdir()
        same(model, way(model, path))


@ratios
def test_training_goes_on_after_loading(trained, tmp_path, ratio):
    """With the optimizer's state: a step of the loaded model is that of the saved one."""
    x, y = examples()
    for model in networks(ratio=ratio):
        model.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY)
        model.fit(x, y, verbose=0)
        loaded = keras_file(model, tmp_path)
        for each in (model, loaded):
            each.train_on_batch(x, y)
        for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@tensorflow_only
@ratios
def test_saved_models(trained, tmp_path, ratio):
    import tensorflow as tf

    for index, model in enumerate(trained[ratio]):
        expected = model.predict(X, verbose=0)
        model.export(tmp_path / f"export{index}", format="tf_saved_model", verbose=False)
        loaded = tf.saved_model.load(tmp_path / f"export{index}")  # It is to live as long as what it serves.
        np.testing.assert_allclose(loaded.serve(X), expected, rtol=0, atol=1e-5)
        layer = keras.layers.TFSMLayer(tmp_path / f"export{index}", call_endpoint="serve")
        np.testing.assert_allclose(layer(X), expected, rtol=0, atol=1e-5)
        tf.saved_model.save(model, tmp_path / f"saved{index}")
        loaded = tf.saved_model.load(tmp_path / f"saved{index}")
        served = loaded.signatures["serving_default"](tf.constant(X))
        np.testing.assert_allclose(next(iter(served.values())), expected, rtol=0, atol=1e-5)


@tensorflow_only
def test_onnx(trained, tmp_path):
    pytest.importorskip("tf2onnx", reason="Keras exports to ONNX with tf2onnx, which is not installed")
    for index, model in enumerate(trained[0.25]):
        model.export(tmp_path / f"{index}.onnx", format="onnx", verbose=False)
        assert (tmp_path / f"{index}.onnx").stat().st_size > 0


@ratios
def test_layers_come_back_on_their_own(ratio):
    for layer in (DBFConv2D(4, 4, ratio=ratio, strides=2), DBFDense(4, ratio=ratio, activation="relu")):
        x = images(2, 8, 8, 4)
        expected = layer(x)
        again = type(layer).from_config(layer.get_config())
        again.build(x.shape)
        again.set_weights(layer.get_weights())
        for copied in (again, copy.deepcopy(layer)):
            np.testing.assert_array_equal(copied(x), expected)
            assert copied.get_config() == layer.get_config()
        described = keras.saving.serialize_keras_object(layer)
        assert keras.saving.deserialize_keras_object(described).get_config() == layer.get_config()


# ---- Weights of another layer ----------------------------------------------------------------------------------------


def model_of(layer, shape=(8, 8, 4)):
    return keras.Sequential([keras.Input(shape), layer])


def stored(layer):
    """A layer's own store, as in a file."""
    store = {}
    layer.save_own_variables(store)
    return {key: np.asarray(value) for key, value in store.items()}


# Layers of as many coefficients and filters, whose weights would fit in number.
STRANGERS = {
    "another order": (DBFConv2D(4, 4, ratio=0.5, selection="ovsf"), DBFConv2D(4, 4, ratio=0.5, selection="sequency")),
    "another list": (DBFDense(4, ratio=0.5, selection=[0, 1]), DBFDense(4, ratio=0.5, selection=[1, 0])),
    "another seed": (
        DBFConv2D(4, 3, ratio=0.5, selection="random:1"),
        DBFConv2D(4, 3, ratio=0.5, selection="random:2"),
    ),
    "flat codes": (DBFConv2D(4, 4, selection="sp_ovsf"), DBFConv2D(4, 4)),
    "another kernel size": (DBFConv2D(4, (2, 4)), DBFConv2D(4, (4, 2))),
    "another ratio": (DBFConv2D(4, 4, ratio=0.5), DBFConv2D(4, 2, ratio=1.0)),
    "dense into convolution": (DBFDense(4), DBFConv2D(4, 1)),
    "convolution into dense": (DBFConv2D(4, 1), DBFDense(4)),
    "convolution": (layers.Conv2D(4, 4), DBFConv2D(4, 4)),
    "pointwise convolution": (layers.Conv2D(4, 1), DBFConv2D(4, 1)),
    "dense": (layers.Dense(4), DBFDense(4)),
    "dense at a lower ratio": (layers.Dense(4), DBFDense(4, ratio=0.5)),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_weights_of_another_layer_are_refused(name, tmp_path):
    source, target = (type(layer).from_config(layer.get_config()) for layer in STRANGERS[name])
    model, other = model_of(source), model_of(target)
    before = target.get_weights()
    with pytest.raises(ValueError, match=rf"Layer '{target.name}' cannot load.*fit_kernel|Make the layer"):
        target.load_own_variables(stored(source))
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match=rf"Layer '{target.name}' cannot load"):
        other.load_weights(tmp_path / "m.weights.h5")
    with pytest.warns(UserWarning, match=rf"Layer '{target.name}' cannot load"):
        other.load_weights(tmp_path / "m.weights.h5", skip_mismatch=True)
    for ours, theirs in zip(before, target.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ours, plain", [(DBFConv2D(4, 1), layers.Conv2D(4, 1)), (DBFDense(4), layers.Dense(4))])
def test_plain_layers_refuse_weights_of_dbf_layers(ours, plain, tmp_path):
    model, other = (
        model_of(type(ours).from_config(ours.get_config())),
        model_of(type(plain).from_config(plain.get_config())),
    )
    with pytest.raises(ValueError, match=f"'{other.layers[0].name}' expected 2 variables"):
        other.layers[0].load_own_variables(stored(model.layers[0]))
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="expected 2 variables"):
        other.load_weights(tmp_path / "m.weights.h5")


def test_other_names_of_the_same_codes_load():
    source = DBFConv2D(4, 4, ratio=0.5, selection="ovsf")
    source.build((None, 8, 8, 4))
    target = DBFConv2D(4, 4, ratio=0.5, selection=source.codes.tolist() + sorted(set(range(64)) - set(source.codes)))
    target.build((None, 8, 8, 4))
    target.load_own_variables(stored(source))
    np.testing.assert_array_equal(np.asarray(target.kernel), np.asarray(source.kernel))


@pytest.mark.parametrize("layer", [DBFConv2D(4, 4, ratio=0.5), DBFConv2D(4, 1), DBFDense(4, ratio=0.5)])
@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_weights_of_before_codes_were_stored_load(layer, version):
    source, target = (type(layer).from_config(layer.get_config()) for _ in range(2))
    for each in (source, target):
        each.build((None, 8, 8, 4))
    store = stored(source)
    del store["codes"]
    if version == "0.1":  # It held α itself, and did not say so.
        store["0"] = store["0"] / store.pop("scale")
    target.load_own_variables(store)
    np.testing.assert_allclose(np.asarray(target.kernel), np.asarray(source.kernel), rtol=0, atol=1e-6)


def test_layers_of_version_0_1_load_their_own_dense_weights():
    """At ratio 1 these look like a plain layer's; the layer's configuration says whose they are."""
    config = {key: value for key, value in DBFDense(4).get_config().items() if key != "unit_norm"}
    source, target = (DBFDense.from_config(config) for _ in range(2))
    for each in (source, target):
        each.build((None, 8))
    store = {key: value for key, value in stored(source).items() if key in ("0", "1")}
    target.load_own_variables(store)
    np.testing.assert_array_equal(target.get_weights()[0], source.get_weights()[0])


def test_weights_of_unbuilt_layers_are_refused_as_the_twin_refuses_them():
    built = model_of(DBFDense(4))
    store = stored(built.layers[0])
    for layer in (DBFDense(4), layers.Dense(4)):
        with pytest.raises(ValueError, match="never built"):
            layer.load_own_variables(store)


def test_wrong_numbers_of_weights_are_refused_as_the_twin_refuses_them(trained):
    for model in trained[0.25]:
        weights = model.get_weights()
        with pytest.raises(ValueError, match="was expecting 6 weights"):
            model.set_weights(weights[:-1])
        with pytest.raises(ValueError, match="shape"):
            model.set_weights([weights[0][:, :-1], *weights[1:]])
