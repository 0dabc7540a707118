import numpy as np
import pytest

from dbf_keras import codes as dbf_codes
from dbf_keras.compress import losses
from dbf_keras.export.filters import Filters
from dbf_keras.export.sensitivity import Curvature

SHAPES = [(3, 3, 5), (4, 4, 4), (2, 2, 3), (1, 1, 12)]


def layer(shape, filters=6, blocks=1, seed=0):
    """A layer's losses, its filters and the whole damped matrix H."""
    random = np.random.default_rng(seed)
    taps = int(np.prod(shape))
    alpha = random.standard_normal((filters, taps)) * np.exp(random.standard_normal(taps))
    own = Filters("layer", shape, (1, 1), (1, 1), alpha, np.arange(taps))
    sizes = [len(part) for part in np.array_split(np.arange(taps), blocks)]
    factors = [random.standard_normal((size, 2 * size)) for size in sizes]
    curvature = Curvature(random.uniform(0.5, 2, filters), [factor @ factor.T for factor in factors])
    found = losses.LayerLosses(own, curvature)
    whole, start = np.zeros((taps, taps)), 0
    for block in found._blocks:
        whole[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return found, own, whole, curvature.weights


def least_loss(own, whole, weights, codes):
    """What dropping all but some codes loses, by least squares on the whole matrix."""
    kept = np.isin(own.codes, codes)
    schur = whole[~kept][:, ~kept]
    if kept.any():
        pull = np.linalg.solve(whole[kept][:, kept], whole[kept][:, ~kept])
        schur = schur - whole[~kept][:, kept] @ pull
    dropped = own.alpha[:, ~kept]
    return float(weights @ np.einsum("kp,pq,kq->k", dropped, schur, dropped))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("blocks", [1, 3])
def test_the_loss_of_a_set_is_what_is_left_after_the_kept_codes_make_up_for_the_dropped(shape, blocks):
    found, own, whole, weights = layer(shape, blocks=blocks)
    sets = list(found.code_sets())
    assert len(sets) > 3
    for each in sets:
        assert each.loss == pytest.approx(least_loss(own, whole, weights, each.codes), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_fitted_coefficients_lose_that(shape):
    found, own, whole, weights = layer(shape, blocks=2)
    for each in found.code_sets():
        ascending = np.sort(each.codes)
        delta = -own.alpha
        delta[:, ascending] += found.fitted(ascending)
        loss = float(weights @ np.einsum("kp,pq,kq->k", delta, whole, delta))
        assert loss == pytest.approx(each.loss, rel=1e-8, abs=1e-9)


def test_sets_are_of_their_kind():
    found, own, _, _ = layer((4, 4, 4))
    kinds = set()
    for each in found.code_sets():
        kinds.add(each.selection)
        if each.selection != losses.ENERGY:
            separable = dbf_codes.separable(each.codes, own.shape)
            pools = {losses.PRODUCT: (1, 1), losses.GROUPED: (1, 1), losses.POOLED: (2, 2)}
            assert separable.pool_size == pools[each.selection]
        if each.selection == losses.GROUPED:
            channels = np.unique(each.codes % 4)
            assert channels.tolist() in ([0, 2], [0])
        assert len(np.unique(each.codes)) == len(each.codes)
    assert kinds == set(losses.SELECTIONS)
    every = [tuple(sorted(each.codes)) for each in found.code_sets()]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("channels, kept", [(24, 12), (6, 3), (7, 4)])
def test_groups_are_of_neighbouring_channels(channels, kept):
    """Half of the codes, or one more than that, are sums of two channels."""
    found, own, _, _ = layer((1, 1, channels))
    (only,) = found.sets_at(0.5, losses.GROUPED)
    filters = dbf_codes.synthesize(np.eye(len(only.codes)), np.sort(only.codes), own.shape)[:, 0, 0]
    pairs = channels // 2 * 2
    assert len(only.codes) == kept and np.array_equal(filters[:, 0:pairs:2], filters[:, 1:pairs:2])


def test_a_share_that_is_of_no_groups_is_kept_by_energy():
    (only,) = layer((1, 1, 24))[0].sets_at(0.3, losses.GROUPED)
    assert only.selection == losses.ENERGY and len(only.codes) == 7


def test_codes_are_ranked_by_what_dropping_them_alone_loses():
    found, own, whole, weights = layer((2, 2, 4))
    alone = np.diag(whole) * (weights @ np.square(own.alpha))
    np.testing.assert_allclose(found.energies, alone)
    ranked = next(each for each in found.code_sets() if each.selection == losses.ENERGY and len(each.codes) > 3).codes
    assert ranked.tolist() == np.argsort(-alone)[: len(ranked)].tolist()


def test_a_layer_that_no_output_depends_on_loses_nothing():
    own = Filters("idle", (1, 1, 4), (1, 1), (1, 1), np.ones((2, 4)), np.arange(4))
    found = losses.LayerLosses(own, None)
    assert all(each.loss == 0 for each in found.code_sets())
    assert all(np.isfinite(size) for size, _ in found.coded(np.arange(4), [1e-6, 1e-3]))


def test_dearer_bits_are_fewer_and_lose_more():
    found, own, _, _ = layer((4, 4, 8), filters=32)
    sizes, lost = zip(*found.coded(own.codes, np.geomspace(1e-4, 1e3, 8)), strict=True)
    assert list(sizes) == sorted(sizes, reverse=True) and list(lost) == sorted(lost)
    assert sizes[0] > 3 * sizes[-1] and lost[-1] > 100 * lost[0]


def test_the_estimate_of_bytes_is_near_what_the_search_finds():
    from dbf_keras.export import coded

    found, own, _, _ = layer((4, 4, 16), filters=32)
    for each in (each for each in found.code_sets() if len(each.codes) in (64, 128, 256)):
        ascending = np.sort(each.codes)
        for price in (1e-2, 1e-1, 1.0):
            ((size, _),) = found.coded(ascending, [price])
            levels = found.levels(ascending, price)
            real = coded.coded_bytes(own.shape, ascending, levels.levels) + 2 * len(levels.steps)
            assert 0.7 * real < size < 1.6 * real


@pytest.mark.parametrize("selection", [None, *losses.SELECTIONS, "ovsf", "spatial_tree"])
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(4, 4, 4), (3, 3, 1), (3, 3, 3)])
def test_sets_of_a_given_share(selection, ratio, shape):
    """Also of one channel, of which the product with all spatial codes would be the whole."""
    found, own, whole, weights = layer(shape)
    sets = found.sets_at(ratio, selection)
    assert sets
    for each in sets:
        assert abs(len(each.codes) - ratio * own.taps) <= max(1, 0.1 * ratio * own.taps)
        assert each.loss == pytest.approx(least_loss(own, whole, weights, each.codes), rel=1e-8, abs=1e-9)
    if selection == "ovsf":
        (only,) = found.sets_at(ratio, selection)
        assert only.codes.tolist() == dbf_codes.select(own.shape, ratio, "ovsf").tolist()


def test_an_unknown_selection_is_refused():
    with pytest.raises(ValueError, match="Unknown selection"):
        layer((2, 2, 4))[0].sets_at(0.5, "nothing")
