import numpy as np
import pytest

from dbf_keras.backend import LEGACY, all_layers, keras
from dbf_keras.compress import fit
from dbf_keras.layers import DBFConv2D, DBFDense

if LEGACY:
    pytest.skip("trained networks are compressed in Keras 3", allow_module_level=True)

layers = keras.layers


def randomized(model, seed=0):
    """Weights, biases and statistics of all layers at random, those that have to be so over zero."""
    random = np.random.default_rng(seed)
    for layer in all_layers(model):
        if isinstance(layer, keras.Model) or not layer.weights:
            continue
        values = [random.standard_normal(weight.shape) * 0.3 for weight in layer.weights]
        if isinstance(layer, layers.BatchNormalization | layers.Normalization):
            values = [np.abs(value) + 0.5 for value in values]
        layer.set_weights(values)
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def sequential():
    return keras.Sequential(
        [
            layers.Input((12, 12, 3)),
            layers.Rescaling(0.5),
            layers.Conv2D(20, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SeparableConv2D(24, 3, activation="relu", depth_multiplier=2),
            layers.SeparableConv2D(9, (3, 2), padding="same", dilation_rate=2, use_bias=False),
            layers.Conv2D(7, (2, 3), dilation_rate=(2, 1), kernel_constraint="non_neg"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="tanh", kernel_regularizer="l2"),
            layers.Dense(3),
        ],
        name="sequential",
    )


def nested():
    """Two branches share a model and a layer; two layers have the same name; an operation of keras.ops."""
    part = keras.Sequential(
        [layers.Input((8, 8, 4)), layers.Conv2D(6, 3, padding="same", name="twice"), layers.ReLU()], name="part"
    )
    shared = layers.Conv2D(5, 1, name="shared")
    inputs = keras.Input((8, 8, 4))
    normalized = layers.Normalization(mean=[0.1] * 4, variance=[2.0] * 4)(inputs)
    one, two = part(normalized), part(2.0 * normalized + 1.0)
    joined = layers.Add()([shared(one), shared(two)])
    joined = layers.Conv2D(4, 3, name="twice")(joined)
    return keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(joined)), name="nested")


def adapted():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, (50, 6)))
    return keras.Sequential([layers.Input((6,)), normalization, layers.Dense(16, activation="relu"), layers.Dense(4)])


def several_outputs():
    inputs = {"image": keras.Input((8, 8, 3), name="image"), "more": keras.Input((4,), name="more")}
    x = layers.Conv2D(8, 3)(inputs["image"])
    x = layers.Concatenate()([layers.GlobalMaxPooling2D()(x), inputs["more"]])
    return keras.Model(inputs, [layers.Dense(3, name="a")(x), layers.Dense(1, name="b")(x)])


MODELS = [sequential, nested, adapted, several_outputs]


def example(model, seed=1):
    random = np.random.default_rng(seed)
    inputs = [random.standard_normal((3, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]
    if isinstance(getattr(model, "input", None), dict):
        return dict(zip(sorted(model.input), inputs, strict=True))
    return inputs if len(inputs) > 1 else inputs[0]


def outputs(model, inputs):
    result = model(inputs, training=False)
    return [np.asarray(output) for output in (result if isinstance(result, list) else [result])]


@pytest.mark.parametrize("make", MODELS)
def test_at_ratio_1_the_outputs_are_the_original_s(make):
    model = randomized(make())
    inputs = example(model)
    before, weights = outputs(model, inputs), [np.array(weight) for weight in model.weights]
    survey = fit.survey(model)
    assert not survey.others
    fitted, made = fit.fit(model, {candidate.name: {} for candidate in survey.candidates})
    assert all(isinstance(layer, DBFConv2D | DBFDense) for layer in made.values())
    plain = (layers.Conv2D, layers.Dense, layers.SeparableConv2D)
    left = [layer for layer in all_layers(fitted) if isinstance(layer, plain)]
    assert all(isinstance(layer, DBFConv2D | DBFDense | layers.DepthwiseConv2D) for layer in left)
    for expected, actual in zip(before, outputs(fitted, inputs), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert all(np.array_equal(weight, held) for weight, held in zip(model.weights, weights, strict=True))


@pytest.mark.parametrize("make", MODELS)
def test_the_same_fit_is_the_same_model(make):
    """However many layers Keras has numbered before: a training that was killed goes on in another process."""
    model = make()
    every = {candidate.name: {"ratio": 0.5} for candidate in fit.survey(model).candidates}
    texts = []
    for count in (0, 3):
        for _ in range(count):
            sequential()
        texts.append(fit.fit(model, every)[0].to_json())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("make", MODELS)
def test_names_and_shapes_stay(make):
    model = make()
    fitted, _ = fit.fit(model, {candidate.name: {"ratio": 0.5} for candidate in fit.survey(model).candidates})
    assert fitted.name == model.name
    assert [layer.name for layer in fitted.layers] == [layer.name for layer in model.layers]
    assert [tensor.shape for tensor in fitted.outputs] == [tensor.shape for tensor in model.outputs]
    assert fitted.count_params() < model.count_params()


def test_layers_of_one_name_are_told_apart_by_the_models_around_them():
    names = [candidate.name for candidate in fit.survey(nested()).candidates]
    assert names == ["part/twice", "shared", "twice", "out"]


def test_only_what_is_asked_for_changes():
    model = randomized(sequential())
    names = [candidate.name for candidate in fit.survey(model).candidates]
    fitted, made = fit.fit(model, {names[1]: {"ratio": 0.25, "selection": "natural"}})
    (layer,) = made.values()
    assert list(made) == [names[1]] and names[1].endswith(fit.POINTWISE)
    assert layer.ratio == 0.25 and layer.filter_shape == (1, 1, 40)
    # What is kept is the least-squares fit, exact for the 10 codes of 40 that are kept.
    twin = DBFConv2D(24, 1, ratio=0.25, selection="natural")
    twin.build((None, 4, 4, 40))
    (separable, _) = (layer for layer in model.layers if isinstance(layer, layers.SeparableConv2D))
    twin.fit_kernel(np.asarray(separable.pointwise_kernel))
    np.testing.assert_array_equal(np.asarray(layer.coefficients), np.asarray(twin.coefficients))


def test_what_stays_is_told_with_a_reason():
    inputs = keras.Input((8, 8, 4))
    x = layers.DepthwiseConv2D(3, name="depthwise")(inputs)
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    x = layers.Conv2DTranspose(4, 2, name="transposed")(x)
    x = layers.TimeDistributed(layers.Dense(3), name="wrapped")(layers.Reshape((-1, 4))(x))
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(x)))
    survey = fit.survey(model)
    assert [candidate.name for candidate in survey.candidates] == ["out"]
    assert {name: reason.split()[0] for name, reason in survey.others.items()} == {
        "depthwise": "depthwise",
        "grouped": "grouped",
        "transposed": "a",
        "wrapped": "it",
    }


def test_a_dbf_layer_may_keep_fewer_of_its_codes():
    model = keras.Sequential([layers.Input((6, 6, 4)), DBFConv2D(5, 2, ratio=0.5, selection="ovsf", name="dbf")])
    (candidate,) = fit.survey(model).candidates
    assert candidate.codes.tolist() == sorted(model.layers[0].codes.tolist())
    fitted, made = fit.fit(model, {"dbf": {}})
    inputs = example(model)
    np.testing.assert_allclose(outputs(fitted, inputs)[0], outputs(model, inputs)[0], atol=1e-6)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def unbuilt():
    return keras.Sequential([layers.Dense(3)], name="unbuilt")


def without_filters():
    return keras.Sequential([layers.Input((4, 4, 2)), layers.GlobalAveragePooling2D()], name="empty")


def quantized():
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3)])
    model.quantize("int8")
    return model


def around_subclassed():
    inputs = keras.Input((4,))
    return keras.Model(inputs, Subclassed()(inputs))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Subclassed, "functional API"),
        (around_subclassed, "functional API"),
        (unbuilt, r"keras.layers.Input\(shape\)"),
        (without_filters, "no Conv2D, SeparableConv2D or Dense"),
        (quantized, r"before model.quantize"),
        (lambda: "model.keras", "got str"),
    ],
)
def test_models_that_cannot_be_rebuilt_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        fit.survey(make())


def test_an_unknown_layer_is_refused():
    with pytest.raises(ValueError, match="No layer to compress is called nothing; there are"):
        fit.fit(sequential(), {"nothing": {}})


def test_a_saved_fit_loads_as_any_keras_model(tmp_path):
    model = randomized(sequential())
    fitted, _ = fit.fit(model, {candidate.name: {"ratio": 0.5} for candidate in fit.survey(model).candidates})
    fitted.save(tmp_path / "fitted.keras")
    loaded = keras.models.load_model(tmp_path / "fitted.keras")
    inputs = example(model)
    np.testing.assert_array_equal(outputs(loaded, inputs)[0], outputs(fitted, inputs)[0])
