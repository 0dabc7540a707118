import numpy as np
import pytest

from dbf_keras.backend import keras
from dbf_keras.export import calibration, converter, flatfile, verify

from .tools import layers, ops


def image_model(batch_size=None):
    inputs = keras.Input((6, 6, 2), batch_size=batch_size)
    return keras.Model(inputs, layers.ReLU()(inputs))


def test_batches_become_examples():
    batches = np.random.default_rng(0).standard_normal((3, 4, 6, 6, 2))
    samples = calibration.to_samples(image_model(), iter(batches))
    assert len(samples) == 12
    assert all(array.shape == (1, 6, 6, 2) and array.dtype == np.float32 for [array] in samples)
    np.testing.assert_array_equal(samples[5][0], batches[1, 1:2].astype(np.float32))


def test_a_fixed_batch_stays_whole():
    samples = calibration.to_samples(image_model(4), np.zeros((3, 4, 6, 6, 2)))
    assert [array.shape for [array] in samples] == [(4, 6, 6, 2)] * 3


def test_several_inputs_are_lists():
    first, second = keras.Input((3,)), keras.Input((5,), dtype="uint8")
    model = keras.Model([first, second], [layers.ReLU()(first), second])
    samples = calibration.to_samples(model, [[np.zeros((2, 3)), np.ones((2, 5))]])
    assert [[(array.shape, array.dtype) for array in sample] for sample in samples] == [
        [((1, 3), np.float32), ((1, 5), np.uint8)]
    ] * 2
    with pytest.raises(ValueError, match=r"takes them, \(None, 3\) and \(None, 5\); batch 0 is \(2, 3\)\."):
        calibration.to_samples(model, [np.zeros((2, 3))])


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "`representative_data` is empty; give some hundred typical inputs"),
        (np.zeros((0, 4, 6, 6, 2)), "`representative_data` is empty"),
        (np.zeros((2, 6, 6, 2)), r"takes them, \(None, 6, 6, 2\); batch 0 is \(6, 6, 2\)"),
        ([np.zeros((4, 6, 6, 2)), np.zeros((4, 6, 6, 3))], r"batch 1 is \(4, 6, 6, 3\)"),
    ],
)
def test_what_the_model_does_not_take_is_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        calibration.to_samples(image_model(), batches)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides, dilation", [((1, 1), (1, 1)), ((2, 3), (1, 1)), ((1, 1), (2, 1))])
def test_windows_are_what_a_convolution_sees(padding, strides, dilation):
    # A convolution with one filter for each tap, in integers that int8 and float32 hold exactly.
    inputs = keras.Input((7, 8, 2))
    layer = layers.Conv2D(12, (3, 2), strides=strides, dilation_rate=dilation, padding=padding, use_bias=False)
    model = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(np.eye(12).reshape(3, 2, 2, 12))
    images = np.random.default_rng(0).integers(-127, 128, (3, 7, 8, 2)).astype(np.float32)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 127, -128
    samples = calibration.to_samples(model, [images])
    data = converter.to_flatbuffer(model, [], samples)
    assert ops(data) == ["QUANTIZE", "CONV_2D", "DEQUANTIZE"]
    graph = flatfile.load(data).subgraphs[0]
    site = calibration.Site.of(graph, graph.operators[1])
    [windows] = calibration.draw_windows(model, data, [site], samples)
    seen = np.asarray(model(images)).reshape(-1, 12)
    assert site.zero_point == 0 and windows.dtype == np.int8 and windows.shape == (len(seen), 6, 2)
    assert sorted(windows.reshape(-1, 12).tolist()) == sorted(seen.tolist())


def test_the_draw_is_bounded_and_always_the_same(monkeypatch):
    monkeypatch.setattr(calibration, "_PIXELS", 9 * 40)
    monkeypatch.setattr(calibration, "_SAMPLES", 10)
    inputs = keras.Input((8, 8, 2))
    model = keras.Model(inputs, layers.Conv2D(4, 3)(inputs))
    samples = calibration.to_samples(model, [verify.random_inputs(model, batch=35)])
    data = converter.to_flatbuffer(model, [], samples)
    graph = flatfile.load(data).subgraphs[0]
    site = calibration.Site.of(graph, graph.operators[1])
    first, second = (calibration.draw_windows(model, data, [site], samples)[0] for _ in range(2))
    assert 36 <= len(first) <= 45
    np.testing.assert_array_equal(first, second)
