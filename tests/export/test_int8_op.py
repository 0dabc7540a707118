import numpy as np
import pytest

from dbf_keras.export import int8_op
from dbf_keras.export.filters import Filters

S_X, S_Y = 0.05, 0.1


def held(kernel, selection, channels, filters=6, ratio=0.25, seed=0):
    """Filters with random coefficients on a set of codes."""
    from dbf_keras import codes

    shape = (*kernel, channels)
    if selection == "separable":
        kept = np.random.default_rng(seed).permutation(channels)[: max(1, round(ratio * channels))]
        chosen = (np.arange(kernel[0] * kernel[1])[:, None] * channels + kept).ravel()
    else:
        chosen = codes.select(shape, ratio, selection)
    alpha = np.random.default_rng(seed).standard_normal((filters, len(chosen)))
    return Filters("layer", shape, (1, 1), (1, 1), alpha, np.sort(chosen))


def draw(layer, count=300, low=-128, seed=0):
    kh, kw, channels = layer.shape
    random = np.random.default_rng(seed)
    return np.clip(np.rint(random.normal(low + 128, 30, (count, kh * kw, channels))), low, 127).astype(np.int8)


def quantize(layer, windows, bias=0.0, zero_point=0, s_y=S_Y):
    bias = np.full(len(layer.alpha), bias)
    return int8_op.quantize(layer, bias, int8_op.Quantization(S_X, zero_point), int8_op.Quantization(s_y), windows)


def roundings(integers):
    return np.frombuffer(integers.options["features"], np.int8).reshape(-1, 3)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("channels", [1, 12, 32])
@pytest.mark.parametrize("selection", ["ovsf", "sequency", "random", "separable"])
def test_features_before_rounding_times_coefficients_are_the_filters(kernel, channels, selection):
    layer = held(kernel, selection, channels)
    windows = draw(layer) // 16  # So small that nothing is shifted.
    features = int8_op._Features(layer)
    values, staged = int8_op._stage(features, windows, 3)
    assert not staged.any()
    expected = (windows.astype(int) - 3).reshape(len(windows), -1) @ layer.explicit.reshape(len(layer.alpha), -1).T
    np.testing.assert_allclose(values @ features.coefficients(layer, layer.alpha).T, expected, rtol=0, atol=1e-6)


def test_more_than_256_channels_are_halved():
    layer = held((1, 1), "random", 700)
    windows = draw(layer)
    features = int8_op._Features(layer)
    values, _ = int8_op._stage(features, windows, 0)
    expected = windows.reshape(len(windows), -1) @ layer.explicit.reshape(len(layer.alpha), -1).T
    assert features.halvings == 2
    np.testing.assert_allclose(
        4 * values @ features.coefficients(layer, layer.alpha).T, expected, rtol=0, atol=0.01 * expected.std() * 4
    )


def test_a_layer_of_all_codes_reads_its_input_itself():
    layer = held((3, 3), "ovsf", 16, ratio=1)
    integers = quantize(layer, draw(layer, low=-20), zero_point=-20)
    assert roundings(integers).tolist() == [[0, -20, 0]]
    filters = layer.explicit.reshape(6, -1)
    np.testing.assert_array_equal(integers.coefficients, np.rint(filters / integers.scales[:, None]))


def test_shifts_fit_the_features():
    layer = held((1, 1), "separable", 64, seed=3)
    integers = quantize(layer, draw(layer))
    # Sums of 64 numbers of standard deviation 30: 240, so that ±127·2^3 is four of them.
    assert roundings(integers)[:, 0].tolist() == [3] * 16
    assert np.all(np.abs(roundings(integers)[:, 1]) < 20)


@pytest.mark.parametrize("selection, ratio", [("ovsf", 1 / 16), ("separable", 1)])
def test_values_far_from_zero_fit_too(selection, ratio):
    layer = held((1, 1), selection, 16, ratio=ratio)
    layer = Filters("layer", layer.shape, (1, 1), (1, 1), layer.alpha[:, :1], np.array([0]))  # The sum of all channels.
    windows = draw(layer) // 4 + 80
    [[shift, zero, _]] = roundings(quantize(layer, windows, zero_point=0))
    largest = windows.astype(int).sum(-1).max()
    assert largest / 2.0**shift + zero < 128 < largest / 2.0 ** (shift - 1) - 128 + 1


def test_a_filter_of_zeros_keeps_its_bias():
    layer = held((3, 3), "sequency", 16)
    layer.alpha[2] = 0
    integers = quantize(layer, draw(layer), bias=1.7)
    assert not integers.coefficients[2].any() and np.abs(integers.coefficients[[0, 1, 3]]).max() == 127
    multipliers = S_X * integers.scales / S_Y
    assert np.all(multipliers < 1) and np.all(multipliers > 2.0**-31)
    np.testing.assert_allclose(integers.bias[2] * multipliers[2], 1.7 / S_Y, rtol=1e-3)


def test_multipliers_are_less_than_1():
    layer = held((1, 1), "random", 8, ratio=1)
    windows = draw(layer)
    usual, fine = quantize(layer, windows), quantize(layer, windows, s_y=1e-3)
    assert S_X * usual.scales.max() / S_Y < 0.5 and not roundings(usual)[:, 2].any()
    assert 0.5 <= S_X * fine.scales.max() / 1e-3 < 1
    [exponent] = set(roundings(fine)[:, 2].tolist())
    np.testing.assert_array_equal(fine.coefficients, usual.coefficients)
    np.testing.assert_array_equal(fine.scales * 2**exponent, usual.scales)


def test_sums_that_could_overflow_are_refused():
    layer = held((3, 3), "random", 64)
    with pytest.raises(int8_op.CannotQuantize, match="sums could pass"):
        quantize(layer, draw(layer), s_y=1e-6)


def test_large_coefficients_get_an_exponent_only_if_it_pays():
    layer = held((1, 1), "separable", 64, seed=3)
    assert not roundings(quantize(layer, draw(layer)))[:, 2].any()
    layer.alpha[:, 5] *= 50
    integers = quantize(layer, draw(layer))
    exponents = roundings(integers)[:, 2]
    assert exponents[5] > 0 and not np.delete(exponents, 5).any()
    # What it is for: the others are more than a few steps.
    assert np.abs(np.delete(integers.coefficients, 5, axis=1)).max(1).min() > 20


def test_the_bias_takes_the_mean_of_what_rounding_adds():
    layer = held((3, 3), "separable", 32, seed=1)
    windows = draw(layer, low=10, count=500)
    integers = quantize(layer, windows, zero_point=0)
    features = int8_op._Features(layer)
    values, _ = int8_op._stage(features, windows, 0)
    shift, zero, exponent = roundings(integers).astype(np.int64)[features.rounding].T
    numbers = (int8_op._rounded(values, shift, zero) - zero) * 2.0**exponent
    got = S_X * integers.scales * (numbers @ integers.coefficients.T + integers.bias)
    expected = S_X * windows.reshape(len(windows), -1) @ layer.explicit.reshape(6, -1).T
    error = got - expected
    assert np.all(np.abs(error.mean(0)) < 0.51 * S_X * integers.scales)  # The bias's own rounding.
