import numpy as np
import pytest

from dbf_keras.export import coded
from dbf_keras.export.filters import Filters
from dbf_keras.export.level_search import Levels, Search, coded_bytes, plain

CODES = np.arange(64)


def layer(alpha, codes=CODES):
    return Filters("layer", (2, 2, len(codes) // 4), (1, 1), (1, 1), np.asarray(alpha, np.float64), codes)


def heavy_tailed(filters=24, seed=0):
    """Coefficients of which few are large, and a curvature of features that depend on each other."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((500, 64)) @ random.standard_normal((64, 64)) * np.geomspace(1, 0.1, 64)
    alpha = random.laplace(size=(filters, 64)) * np.geomspace(1, 0.2, 64)
    return layer(alpha), random.uniform(0.5, 2, filters), features.T @ features / 500


def is_valid(filters, found):
    data = coded.encode(coded.CodedLayer(filters.shape, filters.grid_codes, found.levels, found.steps))
    read = coded.decode(data, filters.shape, len(filters.alpha))
    np.testing.assert_array_equal(read.levels * read.steps[:, None], found.alpha)
    assert found.levels.dtype == np.int8 and found.levels.min() >= -127 and found.steps.min() > 0
    # Besides there are flags, an exponent and the set of codes.
    assert len(data) == pytest.approx(coded_bytes(filters, found), rel=0.02, abs=8 + filters.taps / 8)


def test_plain_levels_are_those_of_int8():
    alpha = np.random.default_rng(0).standard_normal((5, 64)) * [[1], [1e-4], [30], [0], [2]]
    found = plain(layer(alpha))
    np.testing.assert_array_equal(np.abs(found.levels).max(axis=1), [127, 127, 127, 0, 127])
    assert np.all(np.abs(found.alpha - alpha) <= 0.51 * np.abs(alpha).max(axis=1, keepdims=True) / 127)
    is_valid(layer(alpha), found)


def test_plain_levels_of_zeros():
    is_valid(layer(np.zeros((3, 64))), plain(layer(np.zeros((3, 64)))))


def test_bytes_fall_and_errors_rise_with_the_price():
    filters, weights, curvature = heavy_tailed()
    search = Search(filters, weights, [curvature])
    found = [search.at(price) for price in np.geomspace(1e-2, 100, 8)]
    for levels in found:
        is_valid(filters, levels)
    sizes, errors = [coded_bytes(filters, levels) for levels in found], [search.error(levels) for levels in found]
    assert sizes == sorted(sizes, reverse=True) and errors == sorted(errors)
    assert sizes[0] > 4 * sizes[-1]


@pytest.mark.parametrize("price", [1e-3, 3e-2, 0.3])
def test_levels_are_better_than_rounding(price):
    """At the price, rounding to the nearest level costs more, whatever the step."""
    filters, weights, curvature = heavy_tailed()
    search = Search(filters, weights, [curvature])

    def cost(levels):
        return search.error(levels) + price * 8 * coded_bytes(filters, levels)

    def rounded(share):
        steps = coded.short(share * np.sqrt(np.square(filters.alpha).mean(axis=1)))
        return Levels(np.clip(np.rint(filters.alpha / steps[:, None]), -127, 127).astype(np.int8), steps)

    best = min(cost(rounded(share)) for share in np.geomspace(0.02, 3, 40))
    assert cost(search.at(price)) < 0.9 * best


def test_bits_go_where_errors_weigh():
    filters, weights, curvature = heavy_tailed()
    weights = np.where(np.arange(len(weights)) < 12, 100.0, 1.0)
    found = Search(filters, weights, [curvature]).at(0.3)
    errors = np.square(found.alpha - filters.alpha).mean(axis=1)
    assert errors[:12].mean() < 0.1 * errors[12:].mean()


def test_trained_levels_stay_at_a_low_price_and_yield_at_a_high_one():
    random = np.random.default_rng(0)
    levels = random.choice([-2, -1, 0, 1, 2], (16, 64), p=[0.05, 0.2, 0.5, 0.2, 0.05]).astype(np.int8)
    steps = coded.short(random.uniform(0.1, 0.2, 16))
    kept = Levels(levels, steps)
    _, weights, curvature = heavy_tailed(16)
    search = Search(layer(kept.alpha), weights, [curvature], kept)
    found = search.at(1e-5)
    np.testing.assert_array_equal(found.levels, levels)
    np.testing.assert_allclose(found.steps, steps, rtol=1e-3)
    fewer = search.at(0.3)
    assert np.count_nonzero(fewer.levels) < np.count_nonzero(levels)
    assert coded_bytes(layer(kept.alpha), fewer) < coded_bytes(layer(kept.alpha), kept)


def test_filters_of_zeros_and_idle_ones_stay_valid():
    filters, weights, curvature = heavy_tailed()
    filters.alpha[3] = 0
    weights[5] = 0
    found = Search(filters, weights, [curvature]).at(1e-2)
    is_valid(filters, found)
    assert not found.levels[3].any() and found.levels[5].any()


def test_a_curvature_may_be_singular():
    filters, weights, curvature = heavy_tailed()
    curvature[:, :10] = curvature[:10] = 0
    found = Search(filters, weights, [curvature]).at(1e-2)
    is_valid(filters, found)
    assert np.count_nonzero(found.levels[:, :10]) < np.count_nonzero(found.levels[:, 10:20])


def test_codes_of_few_spatial_codes_and_one_column():
    codes = np.array([5, 20, 21, 40])
    filters = Filters("layer", (2, 2, 16), (1, 1), (1, 1), np.random.default_rng(0).standard_normal((3, 4)), codes)
    is_valid(filters, Search(filters, np.ones(3), [np.eye(4)]).at(1e-3))
    one = Filters("layer", (1, 1, 16), (1, 1), (1, 1), np.ones((3, 1)), np.array([7]))
    is_valid(one, Search(one, np.ones(3), [np.eye(1)]).at(1e-3))


def test_blocks_are_searched_as_the_matrix_that_they_make():
    filters, weights, curvature = heavy_tailed()
    parts = [curvature[:24, :24], curvature[24:, 24:]]
    whole = np.zeros_like(curvature)
    whole[:24, :24], whole[24:, 24:] = parts
    found = [Search(filters, weights, blocks) for blocks in ([whole], parts)]
    levels = [search.at(1e-2) for search in found]
    np.testing.assert_array_equal(levels[0].levels, levels[1].levels)
    np.testing.assert_array_equal(levels[0].steps, levels[1].steps)
    assert found[0].error(levels[0]) == pytest.approx(found[1].error(levels[1]), rel=1e-9)
