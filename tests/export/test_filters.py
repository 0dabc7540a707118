import numpy as np
import pytest

from dbf_keras.export.filters import Filters
from dbf_keras.export.records import choose
from dbf_keras.layers import DBFConv2D, DBFDense


def built(layer, channels):
    layer.build((None, 9, 9, channels) if isinstance(layer, DBFConv2D) else (None, channels))
    return layer, Filters.of(layer)


@pytest.mark.parametrize("selection", ["ovsf", "natural", "sequency", "random:3", "sp_ovsf"])
@pytest.mark.parametrize("kernel_size, channels", [(3, 5), ((2, 4), 8), (1, 7)])
def test_explicit_filters_are_the_layers_kernel(selection, kernel_size, channels):
    layer, filters = built(DBFConv2D(6, kernel_size, ratio=0.4, selection=selection), channels)
    expected = np.asarray(layer.kernel)
    assert filters.shape == expected.shape[:3]
    np.testing.assert_allclose(np.moveaxis(filters.explicit, 0, -1), expected, rtol=0, atol=1e-6)


def test_a_dense_layer_is_a_filter_of_one_pixel():
    layer, filters = built(DBFDense(6, ratio=0.4), 10)
    assert filters.shape == (1, 1, 10)
    assert filters.strides == (1, 1)
    np.testing.assert_allclose(filters.explicit[:, 0, 0].T, np.asarray(layer.kernel), rtol=0, atol=1e-6)


def test_codes_ascend_and_coefficients_follow_them():
    layer, filters = built(DBFConv2D(2, 2, ratio=1, selection=[5, 1, 7, 0, 2, 6, 3, 4]), 2)
    layer.coefficients.assign(np.stack([layer.codes, layer.codes + 100], axis=1) * layer.coefficient_scale)
    filters = Filters.of(layer)
    np.testing.assert_array_equal(filters.codes, range(8))
    np.testing.assert_allclose(filters.alpha, [np.arange(8), np.arange(8) + 100], rtol=1e-6)


@pytest.mark.parametrize("channels, ratio", [(16, 0.25), (64, 0.125), (12, 1 / 3)])
def test_folded_factors_multiply_to_the_explicit_filters(channels, ratio):
    # All spatial codes × the channel codes of an ovsf prefix: separable for any number of channels.
    kept = round(ratio * channels)
    codes = [s * channels + w for s in range(9) for w in range(channels - kept, channels)]
    layer, filters = built(DBFConv2D(32, 3, ratio=ratio, selection=codes), channels)
    assert choose([layer], "folded")[0].form == "folded"
    np.testing.assert_array_equal(filters.folding.channels, range(channels - kept, channels))
    projection, smaller = filters.folding.projection, filters.folding.filters(filters.alpha)
    assert filters.folding.pool_size == (1, 1)
    assert projection.shape == (channels, kept) and smaller.shape == (32, 3, 3, kept)
    assert set(np.unique(projection)) == {-1, 1}
    np.testing.assert_allclose(np.einsum("kyxw,cw->kyxc", smaller, projection), filters.explicit, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "kernel_size, spatial, pool",
    [((4, 4), [0, 2, 8], (2, 2)), ((4, 2), [0, 4], (2, 2)), ((4, 3), [0, 6], (2, 1)), ((4, 4), [5, 8], (1, 1))],
)
def test_codes_are_constant_over_pools_of_taps(kernel_size, spatial, pool):
    """Spatial codes u·kw + v of any kernel; a filter repeats over its pools what is left over their sums."""
    codes = np.array([s * 6 + w for s in spatial for w in (1, 4)])
    alpha = np.random.default_rng(0).standard_normal((5, len(codes)))
    filters = Filters("layer", (*kernel_size, 6), (1, 1), (1, 1), alpha, codes)
    assert filters.pool_size == pool
    left = filters.over_pools()
    assert left.shape == (kernel_size[0] // pool[0], kernel_size[1] // pool[1], 6)
    np.testing.assert_array_equal(left.explicit.repeat(pool[0], axis=1).repeat(pool[1], axis=2), filters.explicit)


@pytest.mark.parametrize("ratio, pool", [(0.5, (2, 1)), (0.25, (2, 2)), (0.125, (2, 2))])
def test_filters_constant_over_pools_fold_to_one_tap_a_pool(ratio, pool):
    layer, filters = built(DBFConv2D(32, 4, ratio=ratio, selection="spatial_tree"), 16)
    assert choose([layer], "folded")[0].form == "folded"
    folding = filters.folding
    assert folding.pool_size == pool
    assert folding.projected == (ratio < 0.25)
    smaller = folding.filters(filters.alpha)
    assert smaller.shape == (32, 4 // pool[0], 4 // pool[1], 16 if ratio >= 0.25 else 8)
    if folding.projected:
        smaller = np.einsum("kyxw,cw->kyxc", smaller, folding.projection)
    repeated = smaller.repeat(pool[0], 1).repeat(pool[1], 2)
    np.testing.assert_allclose(repeated, filters.explicit, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "layer, channels, reason, impossible",
    [
        (DBFConv2D(8, 3, ratio=0.25, selection="sequency"), 16, "no separable set", True),
        (DBFConv2D(8, 3, ratio=0.25, selection="sp_ovsf"), 16, "flat codes", True),
        (DBFConv2D(8, 3), 16, "every code", False),
        (DBFConv2D(8, 4, ratio=0.25, selection="spatial_tree", dilation_rate=2), 16, "dilated", True),
        (
            DBFConv2D(2, 1, ratio=0.5, selection="ovsf"),
            16,
            "would take 144 multiply-adds an output pixel, explicit takes 32",
            False,
        ),
        (
            DBFConv2D(2, 3, strides=2, ratio=0.5, selection="ovsf"),
            16,
            "would take 656 multiply-adds an output pixel",
            False,
        ),
        (DBFDense(4, ratio=0.5, selection="ovsf"), 16, "would take 160 multiply-adds", False),
    ],
)
def test_reasons_not_to_fold(layer, channels, reason, impossible):
    built(layer, channels)
    [record] = choose([layer], "folded")
    assert record.form == "explicit" and reason in record.reason
    assert record.failed == impossible
