"""ai-edge-quantizer: its recipes on our float files in each form, held to the same recipe on the plain twin's file."""

import numpy as np
import pytest

from dbf_keras.backend import keras

from .tools import LEGACY, LEGACY_REASON, DBFConv2D, DBFDense, images, layers, numpy, run_file

quantizer = pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer is not installed")
pytestmark = [
    pytest.mark.skipif(LEGACY, reason=LEGACY_REASON),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export needs TensorFlow"),
    pytest.mark.filterwarnings("ignore"),
]
FORMS = ["explicit", "folded", "onthefly"]

# recipe: the largest error, as a share of the largest output. Ranges of static recipes are averages over pictures,
# which clips the largest numbers.
RECIPES = {
    "dynamic_wi8_afp32": 0.05,
    "dynamic_wi4_afp32": 0.6,
    "weight_only_wi8_afp32": 0.03,
    "weight_only_wi4_afp32": 0.5,
    "static_wi8_ai8": 0.4,
    "static_wi8_ai16": 0.4,
}


def network(convolution, dense, **options):
    return keras.Sequential(
        [
            keras.Input((8, 8, 16), batch_size=1, name="image"),
            convolution(32, 4, padding="same", use_bias=False, name="first", **options),
            layers.BatchNormalization(),
            layers.ReLU(),
            convolution(32, 4, padding="same", activation="relu", name="second", **options),
            layers.GlobalAveragePooling2D(),
            dense(16, name="last", **options),
        ]
    )


@pytest.fixture(scope="module")
def files():
    """The model, and its file in each form."""
    from dbf_keras.export import to_tflite

    ours, theirs = network(DBFConv2D, DBFDense, ratio=0.25), network(layers.Conv2D, layers.Dense)
    for layer, twin in zip(ours.layers, theirs.layers, strict=True):
        weights = layer.get_weights()
        twin.set_weights([numpy(layer.kernel), *weights[1:]] if hasattr(layer, "coefficients") else weights)
    return ours, {form: bytes(to_tflite(ours, form)) for form in FORMS} | {"twin": bytes(to_tflite(theirs, "explicit"))}


PICTURES = images(16, 8, 8, 16)


def quantized(file, recipe):
    """The file by a recipe, with the runtime that calibrates it if the recipe wants ranges."""
    tool = quantizer.quantizer.Quantizer(file, getattr(quantizer.recipe, recipe)())
    calibration = None
    if tool.need_calibration:
        calibration = tool.calibrate({"serving_default": [{"image": picture[None]} for picture in PICTURES]})
    return bytes(tool.quantize(calibration).quantized_model)


@pytest.mark.parametrize("form", FORMS)
def test_layers_that_are_called_twice_and_nested(form):
    """Models in which names could meet: the tool wants each tensor's once."""
    from dbf_keras.export import to_tflite

    inputs = keras.Input((8, 8, 16), batch_size=1, name="image")
    layer = DBFConv2D(16, 4, padding="same", activation="relu", ratio=0.25)
    inner = keras.Sequential([keras.Input((8, 8, 16)), DBFConv2D(16, 4, padding="same", ratio=0.25), layers.ReLU()])
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(inner(layer(inner(layer(inputs))))))
    expected = model.predict(PICTURES, batch_size=1, verbose=0)
    file = quantized(bytes(to_tflite(model, form)), "weight_only_wi8_afp32")
    np.testing.assert_allclose(run_file(file, PICTURES)[0], expected, rtol=0, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize("form", [*FORMS, "twin"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(files, form, recipe):
    model, by_form = files
    x = PICTURES[:8]
    expected = model.predict(x, batch_size=1, verbose=0)
    if form == "onthefly" and recipe.startswith("static"):
        pytest.skip(
            "calibration runs the file in the tool's own interpreter, which has no place for a custom op's library"
        )
    file = quantized(by_form[form], recipe)
    np.testing.assert_allclose(run_file(file, x)[0], expected, rtol=0, atol=RECIPES[recipe] * np.abs(expected).max())
    if recipe.startswith("static") and form != "twin":
        errors = [np.abs(run_file(each, x)[0] - expected).mean() for each in (file, quantized(by_form["twin"], recipe))]
        assert errors[0] < 2 * errors[1]  # Folded files round once more, between their two convolutions.
    if form != "onthefly":  # Its coefficients are quantised by `dbf export --quantize weights`.
        assert len(file) < 0.75 * len(by_form[form])
