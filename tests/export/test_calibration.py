import numpy as np
import pytest
import tensorflow as tf

from dbf_keras.backend import LEGACY, keras
from dbf_keras.export import calibration, converter, flatfile, verify

from .tools import layers, ops


def image_model(batch_size=None):
    inputs = keras.Input((6, 6, 2), batch_size=batch_size, name="image")
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


class Batches(keras.utils.Sequence if LEGACY else keras.utils.PyDataset):
    """Two batches by index; any further index gives one too, as such a class may."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return IMAGES[4 * (index % 2) :][:4], np.zeros(4)


IMAGES = np.random.default_rng(1).standard_normal((8, 6, 6, 2)).astype(np.float32)


def batches_of_one():
    for image in IMAGES:
        yield [image[None]]


@pytest.mark.parametrize(
    "data",
    [
        IMAGES,
        IMAGES[:, None],
        [IMAGES],
        [(IMAGES, np.zeros(8))],
        [[IMAGES, np.zeros(8), np.ones(8)]],
        [(IMAGES, None)],
        {"image": IMAGES},
        [{"image": IMAGES}],
        [({"image": IMAGES}, {"label": np.zeros(8)})],
        [("serving_default", {"image": IMAGES})],
        batches_of_one,
        batches_of_one(),
        lambda: IMAGES,
        lambda: [{"image": IMAGES[:4]}, {"image": IMAGES[4:]}],
        tf.constant(IMAGES),
        tf.lite.RepresentativeDataset(batches_of_one),
        Batches(),
        tf.data.Dataset.from_tensor_slices(IMAGES).batch(3),
        tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(8))).batch(3),
        tf.data.Dataset.from_tensor_slices({"image": IMAGES}).batch(3),
        tf.data.Dataset.from_tensor_slices(({"image": IMAGES}, np.zeros(8))).batch(3),
        tf.data.Dataset.from_tensor_slices(IMAGES).batch(3).as_numpy_iterator(),
    ],
)
def test_every_form_of_data_gives_the_same_examples(data):
    samples = calibration.to_samples(image_model(), data)
    np.testing.assert_array_equal(np.concatenate([image for [image] in samples]), IMAGES)


@pytest.mark.parametrize(
    "structure, batch",
    [
        (list, lambda first, second: [first, second]),
        (list, lambda first, second: ((first, second), np.zeros(2))),
        (list, lambda first, second: {"second": second, "first": first}),
        (list, lambda first, second: ({"second": second, "first": first}, np.zeros(2))),
        (lambda inputs: dict(zip("ab", inputs, strict=True)), lambda first, second: {"b": second, "a": first}),
        (lambda inputs: dict(zip("ba", inputs, strict=True)), lambda first, second: {"b": first, "a": second}),
        (lambda inputs: dict(zip("ba", inputs, strict=True)), lambda first, second: {"first": first, "second": second}),
    ],
)
def test_several_inputs_go_by_position_or_name(structure, batch):
    first, second = keras.Input((3,), name="first"), keras.Input((5,), name="second")
    model = keras.Model(structure([first, second]), layers.Concatenate()([first, second]))
    samples = calibration.to_samples(model, [batch(np.zeros((2, 3)), np.ones((2, 5)))])
    order = [tensor.shape[-1] for tensor in model.inputs]
    assert len(samples) == 2 and [array.shape for array in samples[0]] == [(1, size) for size in order]
    assert all((array == (array.shape[-1] == 5)).all() for array in samples[0])


def test_an_array_is_divided_into_batches_of_a_fixed_size():
    samples = calibration.to_samples(image_model(3), IMAGES)
    assert [array.shape for [array] in samples] == [(3, 6, 6, 2)] * 2
    with pytest.raises(ValueError, match=r"batch 0 is \(2, 6, 6, 2\)"):
        calibration.to_samples(image_model(3), IMAGES[:2])


@pytest.mark.parametrize(
    "data, message",
    [
        ([], "`representative_data` is empty; give some hundred typical inputs"),
        (np.zeros((0, 4, 6, 6, 2)), "`representative_data` is empty"),
        (np.zeros((0, 6, 6, 2)), "`representative_data` is empty"),
        (iter([]), "`representative_data` is empty"),
        (np.zeros((6, 6, 2)), r"takes them, \(None, 6, 6, 2\); batch 0 is \(6, 2\)"),
        ([np.zeros((6, 6, 2))], r"batch 0 is \(6, 6, 2\)\. Give examples in batches: array\[None\]"),
        (tf.data.Dataset.from_tensor_slices(IMAGES), r"batch 0 is \(6, 6, 2\)\. .* dataset.batch\(1\)"),
        ([np.zeros((4, 6, 6, 2)), np.zeros((4, 6, 6, 3))], r"batch 1 is \(4, 6, 6, 3\)"),
        ([{"picture": IMAGES}], "batch 0 has the names 'picture'; the model takes 'image'"),
        ([{"image": IMAGES, "more": IMAGES}], "batch 0 has the names 'image', 'more'; the model takes 'image'"),
        (tf.data.Dataset.from_tensors(IMAGES).repeat(), r"never ends; .* dataset.take\(100\)"),
        (lambda count: IMAGES, "is a function with arguments; give one without"),
        (lambda: None, "is an array, an iterable of batches, a tf.data.Dataset, or a function .*; got None"),
        ("images.npz", "is an array, an iterable of batches, .*; got 'images.npz'"),
        (7, "is an array, an iterable of batches, .*; got 7"),
        (["a.png"], "batch 0 is 'a.png'"),
        ([IMAGES[:2].tolist()], r"batch 0 is \(\) and \(\) and .* and 136 more"),
        ([np.full_like(IMAGES, np.nan)], "batch 0 has numbers that are not finite"),
    ],
)
def test_what_the_model_does_not_take_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        calibration.to_samples(image_model(), data)


def test_inputs_of_several_batch_sizes_are_refused():
    first, second = keras.Input((3,)), keras.Input((5,))
    model = keras.Model([first, second], layers.Concatenate()([first, second]))
    with pytest.raises(ValueError, match="batch 0 has inputs of several batch sizes"):
        calibration.to_samples(model, [[np.zeros((2, 3)), np.zeros((3, 5))]])


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
