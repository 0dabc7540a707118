"""OVSF codes, the code grid, orders over it and their fast transforms. NumPy only.

A filter has P = kh·kw·C taps, position (y, x, c), channel fastest. *Grid code* g = (u·kw + v)·C + w with
0 ≤ u < kh, 0 ≤ v < kw, 0 ≤ w < C is the product of three short codes::

    B_g[y, x, c] = h_u(y) · h_v(x) · h_w(c),    h_u(y) = (−1)^popcount(u & y)

clipped to the filter's shape. Every leading block of a Sylvester matrix is invertible, so the P grid codes are always
a basis of R^P; they are orthogonal exactly when kh, kw and C are powers of two. An *order* ranks the grid and a layer
keeps the first n = max(1, round(ρ·P)) codes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# The meaning of the named orders below. A saved layer states the version it was made with.
ORDER_VERSION = 1
SP_OVSF = "sp_ovsf"

KernelShape = tuple[int, int, int]
Selection = str | Sequence[int] | np.ndarray


def padded(size: int) -> int:
    """The smallest power of two that is at least ``size``."""
    return 1 << max(0, int(size) - 1).bit_length()


def bit_reverse(index: np.ndarray | int, bits: int) -> np.ndarray:
    """Reverses the lowest ``bits`` bits of every index.

    Args:
        index: integers in [0, 2^bits), any shape.
        bits: number of bits.

    Returns:
        int64 array of the same shape.
    """
    index = np.asarray(index, np.int64)
    result = np.zeros_like(index)
    for bit in range(bits):
        result |= ((index >> bit) & 1) << (bits - 1 - bit)
    return result


def _parity_sign(bits: np.ndarray) -> np.ndarray:
    """(−1)^popcount of indices below 2^32, as int8."""
    for shift in (16, 8, 4, 2, 1):
        bits = bits ^ (bits >> shift)
    return 1 - 2 * (bits & 1).astype(np.int8)


def ovsf_tree(length: int) -> np.ndarray:
    """All OVSF codes of a length by the recursive tree C → [C C], [C −C] (paper section 3.1).

    Args:
        length: a power of two.

    Returns:
        int8 array [length, length], one code a row in tree order.
    """
    _require_power_of_two(length)
    codes = np.ones((1, 1), np.int8)
    while len(codes) < length:
        codes = np.stack([np.hstack([codes, codes]), np.hstack([codes, -codes])], axis=1).reshape(2 * len(codes), -1)
    return codes


def ovsf_codes(indices: np.ndarray | int, length: int) -> np.ndarray:
    """OVSF codes in closed form: B_i[p] = (−1)^popcount(bitrev(i) & p).

    Args:
        indices: tree-order indices in [0, length), any shape.
        length: a power of two.

    Returns:
        int8 array [*indices.shape, length].
    """
    _require_power_of_two(length)
    indices = np.asarray(indices)
    if indices.size and not (0 <= indices.min() and indices.max() < length):
        raise ValueError(f"OVSF codes of length {length} have indices 0 to {length - 1}; got {indices}.")
    natural = bit_reverse(indices, length.bit_length() - 1)
    return _parity_sign(natural[..., None] & np.arange(length))


def short_codes(size: int, indices: np.ndarray | None = None) -> np.ndarray:
    """Codes h_w(c) of one axis of ``size`` taps: rows of a Sylvester matrix, clipped.

    Args:
        size: taps.
        indices: w, [n]; by default 0 to ``size`` − 1, the leading block, which is symmetric.

    Returns:
        int8 [n, size], row w, column c.
    """
    taps = np.arange(size, dtype=np.uint32)
    return _parity_sign((taps if indices is None else np.asarray(indices, np.uint32))[:, None] & taps)


# Codes up to this length are multiplied with in one matrix product; with longer ones, several smaller products take
# less than a third of the time.
_WHOLE = 256
_MOST_BITS = 6


def kronecker_factors(length: int) -> tuple[int, ...]:
    """Sizes of small Sylvester matrices whose Kronecker product is one of at least a given length.

    A product with the large matrix is one with each of the small, along axes of an array into which the long axis is
    cut: as many multiply-adds as the sum of the sizes
    times the length, instead of its square.

    Args:
        length: taps of an axis, any number.

    Returns:
        One number up to 256; else numbers up to 64, all but the first powers of two, whose product is at least
        ``length``, and less than one more in the first would add.
    """
    if length <= _WHOLE:
        return (length,)
    bits = padded(length).bit_length() - 1
    count = -(-bits // _MOST_BITS)
    even = bits - -(-bits // count)
    zeros = (length & -length).bit_length() - 1  # Factors of 2, of which more would take padding.
    low = min(even, max(zeros, bits - _MOST_BITS))
    sizes = [1 << (low + index) // (count - 1) for index in range(count - 1)]
    return -(-length >> low), *sizes


def _require_power_of_two(length: int) -> None:
    if length < 1 or length & (length - 1):
        raise ValueError(f"OVSF codes exist for lengths that are powers of two; got {length}.")


# ---- The grid and its orders ----------------------------------------------------------------------------------------


def grid_indices(kernel_shape: KernelShape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (u, v, w) of every grid code: three int64 arrays [P]."""
    return tuple(axis.ravel() for axis in np.indices(kernel_shape, dtype=np.int64))


def _bits(size: int) -> int:
    return padded(size).bit_length() - 1


def _order_natural(kernel_shape: KernelShape, seed: int) -> np.ndarray:
    return np.arange(int(np.prod(kernel_shape)))


def _order_ovsf(kernel_shape: KernelShape, seed: int) -> np.ndarray:
    # The tree index is the bit reversal of the padded natural index (u, v, w), w lowest: reversed, w decides first.
    reversed_bits = [
        bit_reverse(axis, _bits(size)) for axis, size in zip(grid_indices(kernel_shape), kernel_shape, strict=True)
    ]
    return np.lexsort(reversed_bits)


def _order_sequency(kernel_shape: KernelShape, seed: int) -> np.ndarray:
    # A sum of dyadic fractions, hence exact.
    return np.argsort(sum(_relative_sequencies(kernel_shape)), kind="stable")


def _relative_sequencies(kernel_shape: KernelShape) -> list[np.ndarray]:
    """Changes of sign of every grid code along y, x and c, each over its padded length."""
    axes = zip(grid_indices(kernel_shape), kernel_shape, strict=True)
    return [sequency(axis, size) / padded(size) for axis, size in axes]


def _order_hyperbolic(kernel_shape: KernelShape, seed: int) -> np.ndarray:
    axes = zip(grid_indices(kernel_shape), kernel_shape, strict=True)
    return np.argsort(np.prod([1 + sequency(axis, size) for axis, size in axes], axis=0), kind="stable")


def _order_spatial_first(kernel_shape: KernelShape, seed: int) -> np.ndarray:
    y, x, channel = _relative_sequencies(kernel_shape)
    spatial = np.arange(len(y)) // kernel_shape[2]  # Among spatial codes equally smooth.
    return np.lexsort([channel, spatial, y + x])


def _order_channel_first(kernel_shape: KernelShape, seed: int) -> np.ndarray:
    y, x, channel = _relative_sequencies(kernel_shape)
    return np.lexsort([y + x, channel])


def _order_spatial_tree(kernel_shape: KernelShape, seed: int) -> np.ndarray:
    y, x, channel = (
        bit_reverse(axis, _bits(size)) for axis, size in zip(grid_indices(kernel_shape), kernel_shape, strict=True)
    )
    spatial = _interleave(y, x)
    return np.lexsort([spatial % 4, channel, spatial // 4])  # 2 × 2 spatial codes at a time.


def _interleave(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Numbers whose bits are those of two others in turns."""
    result = np.zeros_like(high)
    for bit in range(int(max(high.max(), low.max())).bit_length()):
        result |= (high >> bit & 1) << (2 * bit + 1) | (low >> bit & 1) << (2 * bit)
    return result


def _order_random(kernel_shape: KernelShape, seed: int) -> np.ndarray:
    # RandomState's stream is frozen by NumPy's compatibility policy; Generator's is not.
    return np.random.RandomState(seed).permutation(int(np.prod(kernel_shape)))


def _order_separable_random(kernel_shape: KernelShape, seed: int) -> np.ndarray:
    channels = kernel_shape[2]
    place = np.argsort(np.random.RandomState(seed).permutation(channels))
    return np.argsort(place[np.arange(int(np.prod(kernel_shape))) % channels], kind="stable")


_ORDERS: dict[str, Callable[[KernelShape, int], np.ndarray]] = {
    "ovsf": _order_ovsf,
    "natural": _order_natural,
    "sequency": _order_sequency,
    "hyperbolic": _order_hyperbolic,
    "spatial_first": _order_spatial_first,
    "channel_first": _order_channel_first,
    "spatial_tree": _order_spatial_tree,
    "random": _order_random,
    "separable_random": _order_separable_random,
}
_SEEDED = ("random", "separable_random")

# The default is, of the sets that do best in docs/selections.md, the one that is separable for 4×4 filters.
DEFAULT_SELECTION = "spatial_tree"


def sequency(index: np.ndarray | int, size: int) -> np.ndarray:
    """Changes of sign of the natural-order code ``index`` over the padded length of an axis of ``size`` taps."""
    bits = _bits(size)
    changes = bit_reverse(index, bits)
    shift = 1
    while shift < bits:  # Inverse Gray code of the bit reversal.
        changes ^= changes >> shift
        shift *= 2
    return changes


def order(kernel_shape: KernelShape, selection: Selection) -> np.ndarray:
    """Ranks the code grid.

    Args:
        kernel_shape: (kh, kw, C).
        selection: ``"ovsf"`` (tree order of the padded code), ``"natural"`` (ascending grid index), ``"sequency"``
            (changes of sign along y, x and c, each over its padded length, added; ties by grid index),
            ``"hyperbolic"`` (product over the axes of one plus the changes of sign; ties by grid index),
            ``"spatial_first"`` (the smoothest spatial code with all channel codes, then the next),
            ``"channel_first"`` (the smoothest channel code with all spatial codes, then the next: separable where n is
            a multiple of kh·kw), ``"spatial_tree"`` (tree order along y and x, 2×2 spatial codes at a time, each with
            all channel codes in tree order: at ρ = ¼ and 4×4 filters all that are constant over 2×2 taps),
            ``"random"``, ``"separable_random"`` (a random channel code with all spatial codes,
            then the next), both also as ``"NAME:SEED"`` (seed 0 by default), or a ranked list of distinct grid indices.

    Returns:
        int64 array of grid indices, best first: [P] for a name, as long as the list for a list.

    Raises:
        ValueError: the selection is no order over this grid.
    """
    sizes = tuple(int(size) for size in kernel_shape)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"A kernel shape is (kh, kw, C), each at least 1; got {sizes}.")
    kernel_shape = sizes
    if isinstance(selection, str):
        name, _, seed = selection.partition(":")
        seeded = name in _SEEDED and seed.isdecimal() and int(seed) < 2**32
        if name not in _ORDERS or (":" in selection and not seeded):
            raise ValueError(
                f"Unknown selection {selection!r}. Use one of {sorted(_ORDERS)}, 'random:SEED', "
                "'separable_random:SEED' or a list of grid indices; "
                f"'{SP_OVSF}' (the paper's flat codes) is for layers only and not an order over the grid."
            )
        return _ORDERS[name](kernel_shape, int(seed or 0)).astype(np.int64)
    codes = np.asarray(selection)
    taps = int(np.prod(kernel_shape))
    if codes.ndim != 1 or codes.size == 0 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"A selection list holds grid indices (integers); got {selection!r}.")
    if codes.min() < 0 or codes.max() >= taps:
        raise ValueError(
            f"A {kernel_shape} filter has grid codes 0 to {taps - 1}; the list has {codes.min()} to {codes.max()}."
        )
    if len(np.unique(codes)) != len(codes):
        raise ValueError("A selection list must not name a code twice.")
    return codes.astype(np.int64)


def order_by_energy(filters: np.ndarray) -> np.ndarray:
    """Ranks the code grid by how much of given filters each code carries: Σ_k α²_k, the largest first.

    On an orthogonal grid the first n codes are those on which a least-squares fit of n codes loses least.

    Args:
        filters: [K, kh, kw, C].

    Returns:
        int64 array [P] of grid indices; ties by grid index.
    """
    coefficients = inverse(np.asarray(filters, np.float64), np.shape(filters)[1:])
    return np.argsort(-np.sum(coefficients**2, axis=0).ravel(), kind="stable")


def count(taps: int, ratio: float) -> int:
    """Codes kept of ``taps``: n = max(1, round(ρ·P))."""
    if not 0 < ratio <= 1:
        raise ValueError(f"`ratio` is the share of codes kept, 0 < ratio <= 1; got {ratio}.")
    return max(1, round(ratio * taps))


def select(kernel_shape: KernelShape, ratio: float, selection: Selection = DEFAULT_SELECTION) -> np.ndarray:
    """The codes that a layer keeps: the first n of an order.

    Args:
        kernel_shape: (kh, kw, C).
        ratio: ρ, 0 < ρ ≤ 1.
        selection: see `order`.

    Returns:
        int64 array [n] of grid indices in ranked order.

    Raises:
        ValueError: a ratio or selection that does not fit.
    """
    kept = count(int(np.prod(kernel_shape)), ratio)
    ranked = order(kernel_shape, selection)
    if len(ranked) < kept:
        raise ValueError(
            f"ratio={ratio} keeps {kept} codes of a {tuple(kernel_shape)} filter, but the selection lists only "
            f"{len(ranked)}. List more codes or lower the ratio."
        )
    return ranked[:kept]


def pool_size(codes: np.ndarray, kernel_shape: KernelShape) -> tuple[int, int]:
    """The largest pool, a window of neighbouring taps (vertical, horizontal), over which all given codes are constant.

    Args:
        codes: [n] grid indices, any order.
        kernel_shape: (kh, kw, C).

    Returns:
        Powers of two that divide kh and kw; (1, 1) if no two neighbouring taps are always alike.
    """
    kh, kw, channels = kernel_shape
    # A vertical code u is constant over 2^m taps if 2^m divides it.
    vertical, horizontal = (
        int(np.bitwise_or.reduce(index)) | size
        for index, size in zip(np.divmod(np.asarray(codes) // channels, kw), (kh, kw), strict=True)
    )
    return vertical & -vertical, horizontal & -horizontal


class SeparableSet(NamedTuple):
    """A code set U × V × W whose spatial codes U × V are all those that are constant over a pool.

    Attributes:
        pool_size: (vertical, horizontal) taps of the pool; 1 if all spatial codes of that axis are kept.
        channels: W, int64 [|W|], ascending.
    """

    pool_size: tuple[int, int]
    channels: np.ndarray


def separable(codes: np.ndarray, kernel_shape: KernelShape) -> SeparableSet | None:
    """The factors of a code set, if it is separable.

    Filters of such a set are sums over pools of taps and a ±1 projection of the channels, followed by a smaller filter
    of any values.

    Args:
        codes: [n] grid indices, any order.
        kernel_shape: (kh, kw, C).

    Returns:
        The factors, or None.
    """
    kh, kw, channels = kernel_shape
    vertical, horizontal = pool_size(codes, kernel_shape)
    kept = np.unique(np.asarray(codes) % channels)
    # The codes are part of the set that these factors span, so that as many are all of it.
    if len(codes) != kh // vertical * (kw // horizontal) * len(kept):
        return None
    return SeparableSet((vertical, horizontal), kept)


# ---- Transforms -----------------------------------------------------------------------------------------------------


def fwht(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Walsh–Hadamard transform in natural order, un-normalised, O(L log L).

    Args:
        x: real array whose length along ``axis`` is a power of two.
        axis: the axis to transform.

    Returns:
        A new floating array of the same shape.
    """
    x = np.moveaxis(x, axis, -1)
    shape, length = x.shape, x.shape[-1]
    _require_power_of_two(length)
    # Bits of the index by halves, the lower first, each on the middle axis: NumPy is slow on short last axes.
    low = 1 << (length.bit_length() - 1) // 2
    high = length // low
    lower = np.array(x.reshape(-1, high, low).swapaxes(1, 2), np.result_type(x, np.float32), order="C")
    _butterflies(lower)
    upper = np.ascontiguousarray(lower.swapaxes(1, 2))
    _butterflies(upper)
    return np.moveaxis(upper.reshape(shape), -1, axis)


def _butterflies(x: np.ndarray) -> None:
    """Transforms the middle axis of [rows, length, neighbours] in place."""
    rows, length, neighbours = x.shape
    half = 1
    while half < length:
        pairs = x.reshape(rows, -1, 2, half * neighbours)
        low, high = pairs[:, :, 0], pairs[:, :, 1]
        difference = low - high
        low += high
        high[...] = difference
        half *= 2


def _short_forward(x: np.ndarray) -> np.ndarray:
    """Multiplies the last axis by its leading Sylvester block: pad, transform, clip."""
    size = x.shape[-1]
    full = np.zeros((*x.shape[:-1], padded(size)), x.dtype)
    full[..., :size] = x
    return fwht(full)[..., :size]


def _short_inverse(x: np.ndarray) -> np.ndarray:
    """Multiplies the last axis by the inverse of its leading Sylvester block, O(L log L).

    The block of size m + r, m a power of two and 0 < r ≤ m, is [[H_m, H_m·E], [Eᵀ·H_m, −H_r]] with E the first r
    columns of the identity. Eliminating the first m unknowns leaves H_r·b = (y₁[:r] − y₂) / 2: the same, smaller.
    """
    size = x.shape[-1]
    if size == padded(size):
        solution: np.ndarray = fwht(x) / size
        return solution
    m = padded(size) // 2
    top, bottom = x[..., :m], x[..., m:]
    b = _short_inverse((top[..., : size - m] - bottom) / 2)
    a = fwht(top) / m
    a[..., : size - m] -= b
    return np.concatenate([a, b], axis=-1)


# Numbers that are transformed at once, so few that a processor's cache holds them.
_AT_ONCE = 1 << 16


def _along_kernel(x: np.ndarray, kernel_shape: KernelShape, transform: Callable) -> np.ndarray:
    x = np.asarray(x)
    if x.shape[-3:] != tuple(kernel_shape):
        raise ValueError(f"Expected an array [..., kh, kw, C] with {tuple(kernel_shape)} last; got shape {x.shape}.")
    filters = x.reshape(-1, *kernel_shape)
    result = np.empty(filters.shape, np.result_type(x, np.float32))
    step = max(1, _AT_ONCE // math.prod(kernel_shape))
    for start in range(0, len(filters), step):
        part = filters[start : start + step].astype(result.dtype)
        for axis in (-3, -2, -1):
            if part.shape[axis] > 1:
                part = np.moveaxis(transform(np.moveaxis(part, axis, -1)), -1, axis)
        result[start : start + step] = part
    return result.reshape(x.shape)


def forward(grid: np.ndarray, kernel_shape: KernelShape) -> np.ndarray:
    """Filters from coefficients of all grid codes: f = Σ_g α_g·B_g. The map is symmetric, so it is its own adjoint.

    Args:
        grid: [..., kh, kw, C] coefficients.
        kernel_shape: (kh, kw, C).

    Returns:
        [..., kh, kw, C] filter taps.
    """
    return _along_kernel(grid, kernel_shape, _short_forward)


def inverse(filters: np.ndarray, kernel_shape: KernelShape) -> np.ndarray:
    """Coefficients of all grid codes from filters; the exact inverse of `forward`, for any kh, kw, C."""
    return _along_kernel(filters, kernel_shape, _short_inverse)


def synthesize(coefficients: np.ndarray, codes: np.ndarray, kernel_shape: KernelShape) -> np.ndarray:
    """Filters from the coefficients of the kept codes (paper Eq. 1): f = Σ_j α_j·B_(codes[j]).

    Args:
        coefficients: [..., n].
        codes: [n] grid indices.
        kernel_shape: (kh, kw, C).

    Returns:
        [..., kh, kw, C] filter taps.
    """
    coefficients = np.asarray(coefficients)
    grid = np.zeros((*coefficients.shape[:-1], int(np.prod(kernel_shape))), coefficients.dtype)
    grid[..., codes] = coefficients
    return forward(grid.reshape(*coefficients.shape[:-1], *kernel_shape), kernel_shape)


def analyze(filters: np.ndarray, codes: np.ndarray, kernel_shape: KernelShape) -> np.ndarray:
    """The adjoint of `synthesize`: inner products of filters [..., kh, kw, C] with the kept codes, [..., n]."""
    kh, kw, channels = kernel_shape
    spatial, channel = np.divmod(np.asarray(codes), channels)
    divisor = int(np.bitwise_or.reduce(channel))
    group = divisor & -divisor if divisor else 1
    filters = np.asarray(filters)
    if channels % group == 0:  # Codes that are constant over groups of channels: these are added up first.
        for _ in range(group.bit_length() - 1):
            filters = filters[..., ::2] + filters[..., 1::2]
        channels, channel = channels // group, channel // group
    products = forward(filters, (kh, kw, channels))
    return products.reshape(*products.shape[:-3], -1)[..., spatial * channels + channel]


def fit(filters: np.ndarray, codes: np.ndarray, kernel_shape: KernelShape) -> np.ndarray:
    """Least-squares coefficients of given filters on the kept codes (paper Eq. 2).

    Exact when all codes are kept. Otherwise from the normal equations, whose operator is two fast transforms; they are
    solved in small blocks where they fall into such, as on orthogonal grids, or else by conjugate gradients.

    Args:
        filters: [..., kh, kw, C].
        codes: [n] grid indices.
        kernel_shape: (kh, kw, C).

    Returns:
        [..., n] float64 coefficients.
    """
    kh, kw, channels = kernel_shape
    if len(codes) == math.prod(kernel_shape):
        return _by_filters(filters, 64, lambda part: inverse(part, kernel_shape).reshape(len(part), -1)[:, codes])
    spatial, channel = np.divmod(np.asarray(codes), channels)
    return _least_squares(
        filters,
        lambda x: synthesize(x, codes, kernel_shape),
        lambda part: analyze(part, codes, kernel_shape),
        _Gram((kh, kw), channels, spatial, channel),
    )


def inverse_gram(codes: np.ndarray, kernel_shape: KernelShape) -> np.ndarray:
    """Inverse of the kept codes' inner products with each other, (B·Bᵀ)⁻¹, in its blocks by channel code.

    Codes of different channel codes are orthogonal if C is a power of two. If it is not, their products are left out,
    and the inverse is approximate.

    Args:
        codes: [n] grid indices.
        kernel_shape: (kh, kw, C).

    Returns:
        float64 [C, kh·kw, kh·kw], zero in rows and columns of codes that are not kept.
    """
    kh, kw, channels = kernel_shape
    kept = np.zeros((kh * kw, channels), bool)
    kept.reshape(-1)[codes] = True
    pairs = kept.T[:, :, None] & kept.T[:, None, :]
    vertical, horizontal = (short_codes(size).astype(np.float64) for size in (kh, kw))
    spatial = np.kron(vertical @ vertical.T, horizontal @ horizontal.T)
    # What is not kept stands as a code of its own, so that every block has an inverse.
    blocks = np.where(pairs, channels * spatial, np.eye(kh * kw))
    return np.where(pairs, np.linalg.inv(blocks), 0)


# The most codes whose products with each other are inverted as one block.
_MOST_INVERTED = 128

# Multiply-adds of a block's product that leave BLAS on one thread. On a busy machine several wait for each other
# at each of many small products.
_AT_A_TIME = 1 << 18


class _Gram:
    """The inner products of codes with each other, B·Bᵀ, in blocks.

    For C = q·2^t channels, codes whose channel codes differ in the lowest t bits are orthogonal. For other C the blocks
    are those of the next larger number that has so many factors of 2, and approximate.

    Attributes:
        exact: whether these blocks are all of the inner products.
        block_size: codes of a block.
    """

    def __init__(self, kernel_size: tuple[int, int], channels: int, spatial: np.ndarray, channel: np.ndarray):
        """Inverts the blocks.

        Args:
            kernel_size: (kh, kw).
            channels: C.
            spatial: spatial code of each code, u·kw + v, [n].
            channel: channel code of each, [n], which may be C or more.
        """
        taps, most = math.prod(kernel_size), int(channel.max()) + 1
        self.exact, self.block_size, self._inverse = False, 1, None
        if taps > _MOST_INVERTED:
            return
        low = zeros = (channels & -channels).bit_length() - 1
        while taps * -(-max(channels, most) >> low) > _MOST_INVERTED and channels >> low:
            low += 1
        self.exact = low == zeros
        high, kept = -(-channels >> low), -(-most >> low)
        one_axis = [short_codes(size) for size in kernel_size] + [short_codes(high, np.arange(max(high, kept)))]
        products: np.ndarray = np.ones((1, 1))
        for block in one_axis:
            products = np.kron(products, (block.astype(np.float64) @ block.T.astype(np.float64)))
        size = self.block_size = len(products)
        self._lowest, self._place = channel & ((1 << low) - 1), spatial * len(one_axis[-1]) + (channel >> low)
        found = np.zeros((1 << low, size), bool)
        found[self._lowest, self._place] = True
        # What is not kept stands as a code of its own, so that every block has an inverse.
        pairs = found[:, :, None] & found[:, None, :]
        blocks = np.where(pairs, products * 2.0**low, np.eye(size))
        dependent = most > channels
        self._inverse = np.linalg.pinv(blocks, hermitian=True) if dependent else np.linalg.inv(blocks)

    def solve(self, products: np.ndarray) -> np.ndarray:
        """The coefficients [filters, n] of filters that have these products [filters, n] with the codes."""
        if self._inverse is None:
            return products.copy()
        blocks = np.zeros((*self._inverse.shape[:2], len(products)))
        blocks[self._lowest, self._place] = products.T
        solution: np.ndarray = (self._inverse @ blocks)[self._lowest, self._place].T
        return solution


def _by_filters(filters: np.ndarray, step: int, function: Callable) -> np.ndarray:
    """What a function of [filters, kh, kw, C], float64, gives for each filter, some filters at a time."""
    filters = np.asarray(filters)
    flat = filters.reshape(-1, *filters.shape[-3:])
    parts = [
        function(np.ascontiguousarray(flat[start : start + step], np.float64)) for start in range(0, len(flat), step)
    ]
    return np.concatenate(parts).reshape(*filters.shape[:-3], -1)


def _least_squares(filters: np.ndarray, synthesize: Callable, analyze: Callable, gram: _Gram) -> np.ndarray:
    """Coefficients [..., n] with which filters [..., kh, kw, C] are approximated best."""

    def solve(part: np.ndarray) -> np.ndarray:
        products = analyze(part)
        if gram.exact:
            return gram.solve(products)
        return _conjugate_gradients(lambda x: analyze(synthesize(x)), products, gram.solve)

    return _by_filters(filters, max(1, _AT_A_TIME // gram.block_size**2), solve)


def _conjugate_gradients(operator: Callable, target: np.ndarray, approximate: Callable) -> np.ndarray:
    """Solves operator(x) = target along the last axis of [filters, n] for every filter at once.

    Args:
        operator: symmetric and positive.
        target: [filters, n].
        approximate: about the operator's inverse, symmetric and positive: the nearer, the fewer steps.
    """
    tiny = np.finfo(np.float64).tiny
    x = np.zeros_like(target)
    residual = target.copy()
    direction = towards = approximate(residual)
    energy = start = np.sum(residual * towards, -1, keepdims=True)
    for _ in range(4 * target.shape[-1]):
        if np.all(energy <= 1e-30 * start):
            break
        moved = operator(direction)
        # A solved system has direction 0; the guards leave it where it is.
        step = energy / np.maximum(np.sum(direction * moved, -1, keepdims=True), tiny)
        x += step * direction
        residual -= step * moved
        towards = approximate(residual)
        previous, energy = energy, np.sum(residual * towards, -1, keepdims=True)
        direction = towards + energy / np.maximum(previous, tiny) * direction
    return x


# ---- The paper's sp-OVSF --------------------------------------------------------------------------------------------


def sp_ovsf_synthesize(coefficients: np.ndarray, kernel_shape: KernelShape) -> np.ndarray:
    """Filters of the paper's sp-OVSF: the first n flat OVSF codes of the next power of two, clipped to P taps.

    Unlike the code grid, clipped flat codes can be dependent (for 3×3 they are), which is why the paper loses accuracy
    there. Kept to reproduce its Table 1.

    Args:
        coefficients: [..., n], in tree order.
        kernel_shape: (kh, kw, C).

    Returns:
        [..., kh, kw, C] filter taps.
    """
    coefficients = np.asarray(coefficients)
    taps = int(np.prod(kernel_shape))
    length = padded(taps)
    flat = np.zeros((*coefficients.shape[:-1], length), coefficients.dtype)
    flat[..., bit_reverse(np.arange(coefficients.shape[-1]), length.bit_length() - 1)] = coefficients
    return fwht(flat)[..., :taps].reshape(*coefficients.shape[:-1], *kernel_shape)


def sp_ovsf_fit(filters: np.ndarray, n: int, kernel_shape: KernelShape) -> np.ndarray:
    """Least-squares coefficients [..., n] of filters [..., kh, kw, C] on the first n flat clipped codes."""
    length = padded(int(np.prod(kernel_shape)))
    natural = bit_reverse(np.arange(n), length.bit_length() - 1)

    def adjoint(taps: np.ndarray) -> np.ndarray:
        flat = taps.reshape(*taps.shape[:-3], -1)
        return fwht(np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, length - flat.shape[-1])]))[..., natural]

    return _least_squares(
        filters,
        lambda x: sp_ovsf_synthesize(x, kernel_shape),
        adjoint,
        _Gram((1, 1), int(np.prod(kernel_shape)), np.zeros_like(natural), natural),
    )
