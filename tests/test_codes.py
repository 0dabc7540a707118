import itertools
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from dbf_keras import codes

SHAPES = [(1, 1, 1), (1, 1, 48), (3, 3, 5), (4, 4, 8), (3, 3, 64), (5, 2, 12), (7, 1, 3), (8, 8, 3)]
POWERS = [(1, 1, 16), (4, 4, 8), (2, 8, 4)]
NAMES = ["ovsf", "natural", "sequency", "random", "random:7"]


def dense(kernel_shape, indices):
    """The clipped grid codes from their definition, [n, P], bit by bit."""
    kh, kw, channels = kernel_shape
    rows = []
    for index in indices:
        u, v, w = index // (kw * channels), index // channels % kw, index % channels
        rows.append(
            [
                (-1) ** (bin(u & y).count("1") + bin(v & x).count("1") + bin(w & c).count("1"))
                for y, x, c in itertools.product(range(kh), range(kw), range(channels))
            ]
        )
    return np.array(rows)


@pytest.mark.parametrize("length", [1, 2, 4, 64, 256])
def test_tree_equals_closed_form(length):
    tree = codes.ovsf_tree(length)
    np.testing.assert_array_equal(tree, codes.ovsf_codes(np.arange(length), length))
    np.testing.assert_array_equal(tree.astype(int) @ tree.T, length * np.eye(length))


def test_the_tree_has_the_paper_s_first_codes():
    np.testing.assert_array_equal(codes.ovsf_tree(4), [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])


@pytest.mark.parametrize("length", [0, 3, 12, -4])
def test_lengths_that_are_no_power_of_two_are_refused(length):
    with pytest.raises(ValueError, match="powers of two"):
        codes.ovsf_tree(length)
    with pytest.raises(ValueError, match="powers of two"):
        codes.ovsf_codes(0, length)


@pytest.mark.parametrize("index", [-1, 8])
def test_code_indices_out_of_range_are_refused(index):
    with pytest.raises(ValueError, match="0 to 7"):
        codes.ovsf_codes(index, 8)


def test_every_leading_block_is_invertible():
    """A grid is a Kronecker product of leading blocks, so it is invertible exactly when they are."""
    for size in [*range(1, 71), 96, 100, 127, 129, 200, 255]:
        block = codes.short_codes(size).astype(float)
        assert np.linalg.matrix_rank(block) == size
        np.testing.assert_allclose(codes._short_inverse(block), np.eye(size), atol=1e-12)


@pytest.mark.parametrize("kh, kw", itertools.product(range(1, 9), repeat=2))
def test_the_grid_is_a_basis_for_every_kernel(kh, kw):
    for channels in (1, 2, 3, 5, 8, 48, 70):
        rng = np.random.default_rng(channels)
        filters = rng.standard_normal((2, kh, kw, channels))
        shape = (kh, kw, channels)
        np.testing.assert_allclose(codes.forward(codes.inverse(filters, shape), shape), filters, atol=1e-12)


@pytest.mark.parametrize("shape", POWERS)
def test_grids_of_powers_of_two_are_orthogonal(shape):
    taps = int(np.prod(shape))
    grid = dense(shape, range(taps))
    np.testing.assert_array_equal(grid @ grid.T, taps * np.eye(taps, dtype=int))


@pytest.mark.parametrize("shape", POWERS)
def test_ovsf_order_is_the_tree_order_of_flat_codes(shape):
    taps = int(np.prod(shape))
    np.testing.assert_array_equal(dense(shape, codes.order(shape, "ovsf")), codes.ovsf_tree(taps))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_orders_are_permutations(shape, name):
    taps = int(np.prod(shape))
    np.testing.assert_array_equal(np.sort(codes.order(shape, name)), np.arange(taps))


def test_orders_are_what_the_file_format_says():
    """Frozen by ORDER_VERSION: a change of these values is a change of saved models."""
    assert codes.ORDER_VERSION == 1
    assert codes.order((2, 2, 3), "ovsf").tolist() == [0, 6, 3, 9, 2, 8, 5, 11, 1, 7, 4, 10]
    assert codes.order((2, 2, 3), "natural").tolist() == list(range(12))
    assert codes.order((2, 2, 3), "sequency").tolist() == [0, 2, 3, 6, 1, 5, 8, 9, 4, 7, 11, 10]
    assert codes.order((2, 2, 3), "random").tolist() == [6, 11, 4, 10, 2, 8, 1, 7, 9, 3, 0, 5]
    assert codes.order((2, 2, 3), [4, 0, 7]).tolist() == [4, 0, 7]


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_sequency_counts_changes_of_sign(size):
    changes = (np.diff(codes.short_codes(size), axis=1) != 0).sum(axis=1)
    np.testing.assert_array_equal(codes.sequency(np.arange(size), size), changes)


def test_sequency_sets_are_prefixes_per_spatial_code():
    shape = (3, 3, 64)
    u, v, w = codes.grid_indices(shape)
    kept = codes.select(shape, 0.25, "sequency")
    for spatial in {(u[g], v[g]) for g in kept}:
        ranks = sorted(int(codes.sequency(w[g], 64)) for g in kept if (u[g], v[g]) == spatial)
        assert ranks == list(range(len(ranks)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.3, 0.01])
def test_fast_transforms_equal_dense_ones(shape, ratio):
    rng = np.random.default_rng(3)
    taps = int(np.prod(shape))
    for name in NAMES:
        kept = codes.select(shape, ratio, name)
        assert len(kept) == max(1, round(ratio * taps))
        matrix = dense(shape, kept)
        alpha = rng.integers(-9, 9, (2, 3, len(kept))).astype(float)
        filters = rng.integers(-9, 9, (3, *shape)).astype(float)
        np.testing.assert_array_equal(codes.synthesize(alpha, kept, shape).reshape(2, 3, -1), alpha @ matrix)
        np.testing.assert_array_equal(codes.analyze(filters, kept, shape), filters.reshape(3, -1) @ matrix.T)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_adjoint_is_the_adjoint(shape):
    rng = np.random.default_rng(4)
    kept = codes.select(shape, 0.4, "random")
    alpha, filters = rng.standard_normal(len(kept)), rng.standard_normal(shape)
    np.testing.assert_allclose(
        np.sum(codes.synthesize(alpha, kept, shape) * filters), alpha @ codes.analyze(filters, kept, shape), rtol=1e-11
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_all_codes_reproduce_any_filter(shape):
    filters = np.random.default_rng(5).standard_normal((4, *shape))
    for name in NAMES:
        kept = codes.select(shape, 1.0, name)
        alpha = codes.fit(filters, kept, shape)
        np.testing.assert_allclose(codes.synthesize(alpha, kept, shape), filters, atol=1e-12)


@pytest.mark.parametrize("name", ["ovsf", "sequency", "random"])
@pytest.mark.parametrize("shape", [(3, 3, 8), (4, 4, 4), (2, 5, 16), (1, 1, 32)])
def test_inverse_gram_is_that_of_the_kept_codes(shape, name):
    taps = int(np.prod(shape))
    kept = codes.select(shape, 0.4, name)
    matrix = codes.synthesize(np.eye(len(kept)), kept, shape).reshape(len(kept), taps)
    spatial, channel = np.divmod(kept, shape[2])
    blocks = codes.inverse_gram(kept, shape)
    inverse = np.where(channel[:, None] == channel, blocks[channel[:, None], spatial[:, None], spatial], 0)
    np.testing.assert_allclose(inverse @ (matrix @ matrix.T), np.eye(len(kept)), atol=1e-12)
    assert np.count_nonzero(blocks.any(axis=2)) == len(kept)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["ovsf", "sequency", "random"])
def test_fit_is_least_squares(shape, name):
    filters = np.random.default_rng(6).standard_normal((2, *shape))
    filters[1] = 0  # A filter that is solved at once beside one that is not.
    kept = codes.select(shape, 0.5, name)
    expected = np.linalg.lstsq(dense(shape, kept).T.astype(float), filters.reshape(2, -1).T, rcond=None)[0].T
    np.testing.assert_allclose(codes.fit(filters, kept, shape), expected, atol=1e-10)


def test_transforms_keep_single_precision():
    x = np.ones((3, 3, 5), np.float32)
    assert codes.forward(x, x.shape).dtype == codes.inverse(x, x.shape).dtype == np.float32


@pytest.mark.parametrize("shape", [(3, 3, 8), (4, 4, 64), (3, 3, 5)])
def test_ovsf_sets_of_whole_channels_are_separable(shape):
    kh, kw, channels = shape
    for kept_channels in range(1, channels + 1):
        kept = codes.select(shape, kept_channels / channels, "ovsf")
        expected = np.sort(codes.order((1, 1, channels), "ovsf")[:kept_channels])
        factors = codes.separable(kept, shape)
        assert factors.pool_size == (1, 1)
        np.testing.assert_array_equal(factors.channels, expected)
    assert codes.separable(codes.order(shape, "ovsf")[: kh * kw + 1], shape) is None


@pytest.mark.parametrize(
    "shape, ratio, pool, channels",
    [
        ((4, 4, 8), 1, (1, 1), 8),
        ((4, 4, 8), 0.5, (2, 1), 8),
        ((4, 4, 8), 0.25, (2, 2), 8),
        ((4, 4, 8), 0.125, (2, 2), 4),
        ((4, 4, 8), 1 / 32, (2, 2), 1),
        ((6, 2, 5), 1, (1, 1), 5),
        ((4, 1, 5), 0.5, (2, 1), 5),
        ((1, 1, 8), 0.5, (1, 1), 4),
    ],
)
def test_spatial_tree_sets_are_constant_over_pools_of_taps(shape, ratio, pool, channels):
    kept = codes.select(shape, ratio, "spatial_tree")
    found = codes.separable(np.random.default_rng(0).permutation(kept), shape)
    assert found.pool_size == pool and len(found.channels) == channels
    kh, kw, _ = shape
    blocks = dense(shape, kept).reshape(len(kept), kh // pool[0], pool[0], kw // pool[1], pool[1], -1)
    np.testing.assert_array_equal(blocks, np.broadcast_to(blocks[:, :, :1, :, :1], blocks.shape))


@pytest.mark.parametrize(
    "kept",
    [
        [(0, 0, 0), (0, 1, 0), (1, 0, 0)],  # Not separable.
        [(0, 0, 0), (0, 1, 0)],  # Codes 0 and 1 alternate from tap to tap.
        [(2, 0, 0), (2, 2, 0)],  # Vertically without the constant.
    ],
)
def test_other_sets_have_no_factors(kept):
    shape = (4, 4, 8)
    assert codes.separable(np.ravel_multi_index(np.transpose(kept), shape), shape) is None


def test_a_sixteenth_of_ovsf_codes_is_constant_over_groups_of_channels():
    shape = (3, 3, 64)
    alpha = np.random.default_rng(0).standard_normal(36)
    filters = codes.synthesize(alpha, codes.select(shape, 1 / 16, "ovsf"), shape).reshape(3, 3, 4, 16)
    np.testing.assert_array_equal(filters, np.broadcast_to(filters[..., :1], filters.shape))


@pytest.mark.parametrize("shape", [(4, 4, 8), (3, 3, 5), (1, 1, 6)])
def test_sp_ovsf_is_the_flat_tree_clipped(shape):
    taps = int(np.prod(shape))
    n = taps // 2
    matrix = codes.ovsf_tree(codes.padded(taps))[:n, :taps].astype(float)
    alpha = np.random.default_rng(0).standard_normal((3, n))
    filters = codes.sp_ovsf_synthesize(alpha, shape)
    np.testing.assert_allclose(filters.reshape(3, -1), alpha @ matrix, atol=1e-12)
    fitted = codes.sp_ovsf_synthesize(codes.sp_ovsf_fit(filters, n, shape), shape)
    np.testing.assert_allclose(fitted, filters, atol=1e-9)


def test_sp_ovsf_codes_of_3x3_filters_are_dependent():
    """Why the paper loses accuracy at 3×3 even at ρ = 1, and the code grid does not."""
    taps = 3 * 3 * 16
    flat = codes.ovsf_tree(codes.padded(taps))[:taps, :taps].astype(float)
    assert np.linalg.matrix_rank(flat) < taps


@pytest.mark.parametrize(
    "selection, message",
    [
        ("best", "Unknown selection 'best'"),
        ("ovsf:3", "Unknown selection"),
        ("random:x", "Unknown selection"),
        ("random:", "Unknown selection"),
        ([0, 0], "twice"),
        ([0, 18], "0 to 17"),
        ([-1], "0 to 17"),
        ([], "integers"),
        ([0.5], "integers"),
        ([[0, 1]], "integers"),
    ],
)
def test_selections_that_are_none_are_refused(selection, message):
    with pytest.raises(ValueError, match=message):
        codes.order((3, 3, 2), selection)


def test_a_list_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="keeps 9 codes.*lists only 3"):
        codes.select((3, 3, 2), 0.5, [1, 2, 3])


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, float("nan")])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(ValueError, match="0 < ratio <= 1"):
        codes.select((3, 3, 2), ratio)


def test_kernel_shapes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="kernel shape"):
        codes.order((3, 0, 2), "ovsf")
    with pytest.raises(ValueError, match=r"\(3, 3, 2\) last"):
        codes.forward(np.zeros((3, 3, 4)), (3, 3, 2))


def test_codes_and_runtime_import_neither_tensorflow_nor_keras():
    program = (
        "import sys, dbf_keras.codes, dbf_keras.runtime;"
        "print([m for m in ('tensorflow', 'keras', 'tf_keras', 'jax') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("kernel_shape", [(3, 3, 16), (4, 4, 32)])
def test_orders_of_the_axes(kernel_shape):
    """Sets at ρ = ¼, by what they are."""
    spatial, channels = kernel_shape[0] * kernel_shape[1], kernel_shape[2]
    first = {name: codes.select(kernel_shape, 0.25, name) for name in ("ovsf", "channel_first", "spatial_first")}
    assert set(first["channel_first"]) == set(first["ovsf"])
    whole = spatial // 4  # Spatial codes that spatial_first keeps with all channels.
    counts = np.bincount(first["spatial_first"] // channels, minlength=spatial)
    assert sorted(counts)[-whole:] == [channels] * whole and counts[0] == channels
    assert counts.sum() == sorted(counts)[-whole - 1] + whole * channels
    kept = [
        codes.separable(codes.select(kernel_shape, 0.25, f"separable_random:{s}"), kernel_shape).channels
        for s in (0, 1)
    ]
    assert len(kept[0]) == len(kept[1]) == channels // 4 and set(kept[0]) != set(kept[1])
    for name in ("hyperbolic", "channel_first", "spatial_first", "spatial_tree", "separable_random"):
        assert sorted(codes.order(kernel_shape, name)) == list(range(spatial * channels))


def test_the_hyperbolic_order():
    """By hand for 1×2×4: sequencies of the natural channel codes are 0, 3, 1, 2."""
    np.testing.assert_array_equal(codes.order((1, 2, 4), "hyperbolic"), [0, 2, 4, 3, 1, 6, 7, 5])


def test_energy_ranks_codes_by_what_filters_hold():
    """Filters made of a few codes rank these first, by their energy over all filters."""
    alpha = np.array([[1.0, 2.0, 0.5], [3.0, 0.5, 0.5]])
    for kernel_shape in ((3, 3, 5), (4, 4, 8)):
        chosen = np.array([7, 30, 2])
        ranked = codes.order_by_energy(codes.synthesize(alpha, chosen, kernel_shape))
        np.testing.assert_array_equal(ranked[:3], chosen)
        assert len(set(ranked)) == np.prod(kernel_shape)


def test_codes_beyond_the_axis_are_clipped():
    np.testing.assert_array_equal(codes.short_codes(5, [0, 3, 13]), codes.ovsf_codes([0, 12, 11], 16)[:, :5])


@pytest.mark.parametrize("length", [1, 3, 255, 256, 257, 300, 512, 1000, 4096, 6272, 25088, 50176, 50177, 1 << 17])
def test_kronecker_factors_are_small_and_hold_the_length(length):
    factors = codes.kronecker_factors(length)
    product = int(np.prod(factors))
    if length <= 256:
        assert factors == (length,)
    else:
        assert max(factors) <= 64 and all(factor == codes.padded(factor) for factor in factors[1:])
        assert product - product // factors[0] < length <= product


def test_codes_are_products_of_codes_of_the_factors():
    factors = codes.kronecker_factors(300)
    product = np.ones((1, 1), np.int8)
    for factor in factors:
        product = np.kron(product, codes.short_codes(factor))
    np.testing.assert_array_equal(product[:300, :300], codes.short_codes(300))


@pytest.mark.parametrize("ratio", [0.25, 0.6])
@pytest.mark.parametrize("shape", [(1, 1, 96), (1, 1, 49 << 4), (1, 1, 1225), (3, 3, 70), (2, 1, 300), (12, 12, 3)])
def test_residuals_of_fits_are_orthogonal_to_the_codes(shape, ratio):
    """Shapes whose inner products fall into small blocks, into blocks that are approximate, and into none."""
    filters = np.random.default_rng(7).standard_normal((3, *shape))
    kept = codes.select(shape, ratio, "random")
    residual = filters - codes.synthesize(codes.fit(filters, kept, shape), kept, shape)
    assert np.abs(codes.analyze(residual, kept, shape)).max() < 1e-9


def test_many_filters_are_fitted_as_one_is():
    shape, kept = (1, 1, 70), codes.select((1, 1, 70), 0.4, "random")
    filters = np.random.default_rng(8).standard_normal((20, 30, *shape))
    np.testing.assert_allclose(
        codes.fit(filters, kept, shape)[7, 11], codes.fit(filters[7, 11], kept, shape), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("selection", ["spatial_tree", "random", "sp_ovsf"])
def test_long_codes_take_no_memory_of_their_square(selection):
    """Their matrix would have 5 · 10^7 numbers."""
    shape = (1, 1, 49 << 7)
    filters = np.random.default_rng(9).standard_normal((2, *shape))
    tracemalloc.start()
    if selection == "sp_ovsf":
        codes.sp_ovsf_fit(filters, 1000, shape)
    else:
        kept = codes.select(shape, 0.25, selection)
        codes.synthesize(codes.fit(filters, kept, shape), kept, shape)
        codes.order_by_energy(filters)
        codes.short_codes(shape[2], kept[:10])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e7
