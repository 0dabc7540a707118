"""The stock converter, by `TFLiteConverter.from_keras_model`: the DBF network's file is that of its plain twin."""

import numpy as np
import pytest

from dbf_keras.backend import keras

from .tools import LEGACY, LEGACY_REASON, DBFConv2D, DBFDense, examples, layers, numpy, run_file

pytestmark = [
    pytest.mark.skipif(LEGACY, reason=LEGACY_REASON),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the converter is TensorFlow's"),
    pytest.mark.filterwarnings("ignore"),
]
RATIOS = [1, 0.5, 0.25]


def network(convolution, dense, **options):
    return keras.Sequential(
        [
            keras.Input((8, 8, 4), batch_size=1),
            convolution(16, 4, padding="same", use_bias=False, name="first", **options),
            layers.BatchNormalization(),
            layers.ReLU(),
            convolution(32, 4, strides=2, padding="same", activation="relu", name="second", **options),
            convolution(32, 3, padding="same", activation="relu", name="third", **options),
            layers.GlobalAveragePooling2D(),
            dense(4, name="last", **options),
        ]
    )


@pytest.fixture(scope="module")
def networks():
    """DBF networks by ratio, each with its twin of the same filters."""
    found = {}
    for ratio in RATIOS:
        ours, theirs = network(DBFConv2D, DBFDense, ratio=ratio), network(layers.Conv2D, layers.Dense)
        for layer, twin in zip(ours.layers, theirs.layers, strict=True):
            weights = layer.get_weights()
            twin.set_weights([numpy(layer.kernel), *weights[1:]] if hasattr(layer, "coefficients") else weights)
        found[ratio] = ours, theirs
    return found


X = examples(16)[0]


def representative():
    return ([image[None]] for image in X)


def float32(tf, converter):
    pass


def float16(tf, converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def dynamic_range(tf, converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def dynamic_range_per_tensor(tf, converter):
    dynamic_range(tf, converter)
    converter._experimental_disable_per_channel = True


def int8(tf, converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8


def int8_per_tensor(tf, converter):
    int8(tf, converter)
    converter._experimental_disable_per_channel = True


def int8_or_float(tf, converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative


def int16x8(tf, converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]


def saved_model(tf, converter):
    """As `float32`; the converter is made from a SavedModel."""


# way: the largest error, as a share of the largest output of the model in float32.
WAYS = {
    float32: 1e-5,
    saved_model: 1e-5,
    float16: 5e-3,
    dynamic_range: 0.03,
    dynamic_range_per_tensor: 0.05,
    int8: 0.08,
    int8_per_tensor: 0.15,
    int8_or_float: 0.08,
    int16x8: 0.03,
}


def convert(model, way, folder):
    import tensorflow as tf

    if way is saved_model:
        model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    else:
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
    way(tf, converter)
    return converter.convert()


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("way", WAYS)
def test_the_file_is_the_twin_s(networks, way, ratio, tmp_path):
    ours, theirs = networks[ratio]
    expected = theirs.predict(X, batch_size=1, verbose=0)
    files = [convert(model, way, tmp_path / name) for model, name in ((ours, "ours"), (theirs, "theirs"))]
    (outputs, operations), (twin_outputs, twin_operations) = (run_file(file, X) for file in files)
    assert operations == twin_operations
    assert abs(len(files[0]) - len(files[1])) <= 0.01 * len(files[1]) + 64  # Names have other lengths.
    for found in (outputs, twin_outputs):
        np.testing.assert_allclose(found, expected, rtol=0, atol=WAYS[way] * np.abs(expected).max())


@pytest.mark.parametrize("ratio", RATIOS)
def test_export_by_keras_itself(networks, ratio, tmp_path):
    try:
        from keras.src.export.litert import export_litert  # noqa: F401
    except ImportError:
        pytest.skip("this Keras does not export LiteRT files")
    files = []
    for model, name in zip(networks[ratio], ("ours", "theirs"), strict=True):
        model.export(tmp_path / f"{name}.tflite", format="litert", verbose=False)
        files.append((tmp_path / f"{name}.tflite").read_bytes())
    (outputs, operations), (twin_outputs, twin_operations) = (run_file(file, X[:4]) for file in files)
    assert operations == twin_operations
    np.testing.assert_allclose(outputs, twin_outputs, rtol=0, atol=1e-5 * np.abs(twin_outputs).max())
    assert abs(len(files[0]) - len(files[1])) <= 0.01 * len(files[1]) + 64
