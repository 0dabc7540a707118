"""Coded layers: what version 2 of ``export/FORMAT.md`` keeps in one tensor of bytes, written and read.

The C library has a reader of its own, and so have the tests; all follow the text.
"""

from __future__ import annotations

import dataclasses
import math
import struct

import numpy as np

_TOTAL = 4096  # What the frequencies of a table add up to.
_LEAST_STATE = 1 << 16
_MOST_TABLES = 16
_MOST_MAPPED = 256  # Spatial codes; where there are more, all share one table.
_ESCAPED = 16  # Frequency of each byte after an escape.
_LARGEST = 127  # Magnitude of a level.
_PEAK = 127  # Where a layer has no peaks.

# Frequencies by the byte that stands for them.
_FREQUENCIES = np.array([(16 + (byte & 15)) << (byte >> 4) >> 4 for byte in range(192)])

# Kinds of code sets and biases, and flags, in a coded layer's first byte.
_EVERY, _PRODUCT, _ANY = range(3)
_HALF, _THREE_BYTES, _FOUR_BYTES = 1, 2, 3
_ONE_STEP, _BIAS_SHIFT, _INT8, _SUMS, _PEAKS = 4, 3, 32, 64, 128


class DamagedError(ValueError):
    """Bytes are no coded layer; says why."""


@dataclasses.dataclass(frozen=True)
class CodedLayer:
    """A layer of K filters as the file holds it.

    Attributes:
        shape: (kh, kw, C).
        codes: kept grid codes, ascending, [n].
        levels: int8 [K, n], without −128.
        steps: float64 [K], numbers that `short` returns.
        bias: float32 [K], or float16 to be stored so; int32 [K] of an int8 op; or None.
        peaks: of an int8 op, uint8 [K] of 0…127; None if all are 127.
        features: of an int8 op, version 1's option; else None.
        sums: of an int8 op, version 1's option, if it has it.
    """

    shape: tuple[int, int, int]
    codes: np.ndarray
    levels: np.ndarray
    steps: np.ndarray
    bias: np.ndarray | None = None
    peaks: np.ndarray | None = None
    features: bytes | None = None
    sums: bytes | None = None


def short(steps: np.ndarray) -> np.ndarray:
    """The nearest numbers that a coded layer can hold as its steps: 11 significant bits and one range of exponents.

    Args:
        steps: real, [K].

    Returns:
        float64 [K].
    """
    exponent = _exponent(steps)
    return np.ldexp(np.ldexp(steps, -exponent).astype(np.float16).astype(np.float64), exponent)


def _exponent(steps: np.ndarray) -> int:
    """The exponent e with which steps are half-precision numbers times 2^e."""
    largest = float(np.abs(steps).max())
    return min(max(math.frexp(largest)[1] - 15, -100), 100) if largest else 0


def encode(layer: CodedLayer) -> bytes:
    """Writes a coded layer.

    Raises:
        ValueError: the steps are not such as `short` returns.
    """
    kind, codes = _write_codes(layer)
    exponent = _exponent(layer.steps)
    steps = np.ldexp(layer.steps, -exponent).astype("<f2")
    if not np.array_equal(np.ldexp(steps.astype(np.float64), exponent), layer.steps):
        raise ValueError("The steps of a coded layer have more than 11 significant bits; round them by `coded.short`.")
    tables, numbers = _tables(layer)
    levels = _write_statistics(tables, numbers) + _write_stream(layer, tables, numbers)
    # Layers of next to nothing but zeros have too few bytes for what they ask the reader to do; steps are some.
    one = len(set(steps.tolist())) == 1 and _least_bytes(layer) <= len(levels)
    bias_kind, bias = _write_bias(layer)
    flags = kind | _ONE_STEP * one | bias_kind << _BIAS_SHIFT
    flags |= _INT8 * (layer.features is not None) | _SUMS * (layer.sums is not None)
    flags |= _PEAKS * (layer.peaks is not None)
    parts = [struct.pack("<Bb", flags, exponent), codes, (steps[:1] if one else steps).tobytes()]
    if layer.peaks is not None:
        parts.append(layer.peaks.astype(np.uint8).tobytes())
    parts += [bias, layer.sums or b""]
    if layer.features is not None:
        parts += [_base128(len(layer.features)), layer.features]
    data = b"".join([*parts, levels])
    if len(data) < _least_bytes(layer):
        raise ValueError(
            f"Of {layer.levels.size} coefficients of a layer all but a few are zero: they are coded in {len(data)} "
            "bytes, for which the format allows fewer. Keep fewer codes."
        )
    return data


def _least_bytes(layer: CodedLayer) -> int:
    """The fewest bytes that the format allows a layer to have: they bound the reader's work."""
    kh, kw, channels = layer.shape
    filters, codes = layer.levels.shape
    work = max(filters, 16) * codes
    return max(-(-kh * kw * channels >> 12), -(-work * (kh + kw + 6) >> 16), 1 << 62 if work > 1 << 28 else 0)


def coded_bytes(shape: tuple[int, int, int], codes: np.ndarray, levels: np.ndarray) -> int:
    """How many bytes levels take, with their statistics, as `encode` writes them.

    Args:
        shape: (kh, kw, C).
        codes: kept grid codes, ascending, [n].
        levels: int8 [K, n].
    """
    layer = CodedLayer(shape, codes, levels, np.ones(len(levels)))
    tables, numbers = _tables(layer)
    bits = sum(
        tables[number].bits(_histogram(levels[:, columns]))
        for number, columns in zip(numbers, _columns(layer), strict=True)
    )
    return len(_write_statistics(tables, numbers)) + 4 + math.ceil(bits / 8)


def _write_codes(layer: CodedLayer) -> tuple[int, bytes]:
    kh, kw, channels = layer.shape
    kept = np.zeros((kh * kw, channels), bool)
    kept.reshape(-1)[layer.codes] = True
    if kept.all():
        return _EVERY, b""
    spatial, channel = np.any(kept, axis=1), np.any(kept, axis=0)
    if np.array_equal(kept, np.outer(spatial, channel)):
        return _PRODUCT, _bits(spatial) + _bits(channel)
    return _ANY, _bits(kept)


def _bits(flags: np.ndarray) -> bytes:
    return np.packbits(flags, axis=None, bitorder="little").tobytes()


def _write_bias(layer: CodedLayer) -> tuple[int, bytes]:
    bias = layer.bias
    if bias is None:
        return 0, b""
    if bias.dtype == np.float16:
        return _HALF, bias.astype("<f2").tobytes()
    if bias.dtype == np.int32 and np.abs(bias.astype(np.int64)).max() < 1 << 23:
        return _THREE_BYTES, bias.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return _FOUR_BYTES, bias.astype("<f4" if bias.dtype == np.float32 else "<i4").tobytes()


def _base128(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _columns(layer: CodedLayer) -> list[slice]:
    """The columns of each spatial code that occurs, ascending."""
    spatial = np.asarray(layer.codes) // layer.shape[2]
    starts = np.flatnonzero(np.diff(spatial, prepend=-1))
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(spatial)], strict=True)]


def _histogram(levels: np.ndarray) -> np.ndarray:
    """How many levels have each magnitude, [128]."""
    return np.bincount(np.abs(levels.astype(np.int16)).ravel(), minlength=_LARGEST + 1)


@dataclasses.dataclass(frozen=True)
class _Table:
    """How often levels occur.

    Attributes:
        magnitudes: bytes that stand for the frequencies of the magnitudes from 1 on.
        escape: the byte of the escape, or None.
    """

    magnitudes: tuple[int, ...]
    escape: int | None

    @property
    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """By level, from −127 to 127: frequency and start of its range, both 0 for levels that are escaped."""
        each = _FREQUENCIES[list(self.magnitudes)]
        frequency, start = np.zeros((2, 2 * _LARGEST + 1), np.int64)
        frequency[_LARGEST] = _TOTAL - 2 * each.sum() - self.escape_frequency
        begin = frequency[_LARGEST] + 2 * (np.cumsum(each) - each)
        above = np.arange(_LARGEST + 1, _LARGEST + 1 + len(each))
        for levels, starts in ((above, begin), (2 * _LARGEST - above, begin + each)):
            frequency[levels], start[levels] = each, starts
        return frequency, start

    @property
    def escape_frequency(self) -> int:
        """The escape's frequency; its range ends at 4096."""
        return 0 if self.escape is None else int(_FREQUENCIES[self.escape])

    def bits(self, histogram: np.ndarray) -> float:
        """Bits of levels of so many of each magnitude."""
        frequency = self.frequencies[0][_LARGEST:]
        known = frequency > 0
        bits = histogram[known] @ -np.log2(frequency[known] / _TOTAL)
        escaped = histogram[~known].sum()
        if escaped and self.escape is None:
            return math.inf
        return float(bits + escaped * (8 - math.log2(self.escape_frequency / _TOTAL)) if escaped else bits)

    @property
    def bytes(self) -> bytes:
        """The table in the file."""
        escape = [] if self.escape is None else [self.escape]
        return bytes([len(self.magnitudes) | (128 if escape else 0), *self.magnitudes, *escape])

    @classmethod
    def of(cls, histogram: np.ndarray) -> _Table:
        """The table with which levels of so many of each magnitude, and itself, take the fewest bits."""
        present = np.flatnonzero(histogram[1:]) + 1
        if not len(present):
            return cls((), None)
        # Magnitudes beyond some are escaped: each costs a byte of the table, and escapes one and some bits a level.
        candidates = sorted({0, *present[-8:].tolist(), *present[:24].tolist()})
        return min((cls._up_to(histogram, most) for most in candidates), key=lambda table: table.cost(histogram))

    def cost(self, histogram: np.ndarray) -> float:
        """Bits of the table and of levels of so many of each magnitude."""
        return self.bits(histogram) + 8 * len(self.bytes)

    @classmethod
    def _up_to(cls, histogram: np.ndarray, most: int) -> _Table:
        """The table whose levels beyond a magnitude are escaped."""
        escaped = int(histogram[most + 1 :].sum())
        # What symbols share: two for each magnitude.
        counts = np.append(histogram[1 : most + 1] / 2, [escaped] * (escaped > 0))
        weights = np.append(np.full(most, 2), [1] * (escaped > 0))
        wanted = _TOTAL * counts / max(histogram.sum(), 1)
        places = np.searchsorted(_FREQUENCIES, wanted).clip(0, len(_FREQUENCIES) - 1)
        lower = (places - 1).clip(0)
        nearer = wanted * wanted < _FREQUENCIES[places] * _FREQUENCIES[lower]
        places = np.where(nearer, lower, places)
        zeros = int(histogram[0])
        while _TOTAL - weights @ _FREQUENCIES[places] < (zeros > 0):  # Level 0 has to have a place, too.
            # The one that loses least by being rarer.
            loss = np.where(places > 0, counts * weights / np.maximum(_FREQUENCIES[places], 1), math.inf)
            places[loss.argmin()] -= 1
        numbers = [int(np.flatnonzero(_FREQUENCIES == _FREQUENCIES[place])[0]) for place in places]
        return cls(tuple(numbers[:most]), numbers[most] if escaped else None)


def _tables(layer: CodedLayer) -> tuple[list[_Table], list[int]]:
    """The tables of a layer, and the number of the table of each spatial code that occurs."""
    histograms = [_histogram(layer.levels[:, columns]) for columns in _columns(layer)]
    if len(histograms) > _MOST_MAPPED:
        return [_Table.of(np.sum(histograms, axis=0))], [0] * len(histograms)
    # Neighbours by their mean magnitude share a table as long as that saves bytes.
    magnitudes = np.arange(_LARGEST + 1)
    means = [histogram @ magnitudes / max(histogram.sum(), 1) for histogram in histograms]
    groups = [[int(place)] for place in np.argsort(means, kind="stable")]
    sums = [histograms[place] for [place] in groups]
    costs = [_rough_cost(histogram) for histogram in sums]
    while len(groups) > 1:
        gains = [
            costs[place] + costs[place + 1] - _rough_cost(sums[place] + sums[place + 1])
            for place in range(len(groups) - 1)
        ]
        best = int(np.argmax(gains))
        if gains[best] < 0 and len(groups) <= _MOST_TABLES:
            break
        groups[best] += groups.pop(best + 1)
        sums[best] = sums[best] + sums.pop(best + 1)
        costs[best] = _rough_cost(sums[best])
        del costs[best + 1]
    numbers = [0] * len(histograms)
    for number, group in enumerate(groups):
        for place in group:
            numbers[place] = number
    tables = [_Table.of(histogram) for histogram in sums]
    whole = _Table.of(np.sum(histograms, axis=0))
    apart = sum(table.cost(histogram) for table, histogram in zip(tables, sums, strict=True)) + 4 * len(histograms)
    return (tables, numbers) if apart < whole.cost(np.sum(histograms, axis=0)) else ([whole], [0] * len(histograms))


def _rough_cost(histogram: np.ndarray) -> float:
    """About the bits of levels of so many of each magnitude, and of their table."""
    total, present = histogram.sum(), histogram[histogram > 0]
    most = np.flatnonzero(histogram)[-1] if total else 0
    return float(-present @ np.log2(present / max(total, 1)) + histogram[1:].sum() + 8 * (min(most, 24) + 1))


def _write_statistics(tables: list[_Table], numbers: list[int]) -> bytes:
    parts = [bytes([len(tables)])]
    if len(tables) > 1:
        halves = np.append(np.array(numbers, np.uint8), np.zeros(len(numbers) % 2, np.uint8))
        parts.append((halves[::2] | halves[1::2] << 4).tobytes())
    return b"".join(parts + [table.bytes for table in tables])


def _write_stream(layer: CodedLayer, tables: list[_Table], numbers: list[int]) -> bytes:
    """The levels, by a range coder whose last symbol goes in first."""
    words = bytearray()  # Pairs of bytes, each pair and all pairs in reverse order.
    state = _LEAST_STATE

    def put(frequency: int, start: int) -> None:
        nonlocal state
        if state >= frequency << 20:
            words.append(state >> 8 & 255)
            words.append(state & 255)
            state >>= 16
        state = (state // frequency << 12) + state % frequency + start

    known = [tuple(array.tolist() for array in table.frequencies) for table in tables]
    for number, columns in zip(reversed(numbers), reversed(_columns(layer)), strict=True):
        frequencies, starts = known[number]
        escape = tables[number].escape_frequency
        for level in layer.levels[:, columns].ravel()[::-1].tolist():
            frequency = frequencies[level + _LARGEST]
            if not frequency:
                put(_ESCAPED, (level & 255) * _ESCAPED)
                put(escape, _TOTAL - escape)
            else:
                put(frequency, starts[level + _LARGEST])
    return struct.pack("<I", state) + bytes(words[::-1])


class _Reader:
    """Takes parts of bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > len(self._data):
            raise DamagedError("The coded layer ends too early.")
        part, self._data = self._data[:count], self._data[count:]
        return bytes(part)

    def array(self, dtype: str, count: int) -> np.ndarray:
        """The next numbers."""
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))


def decode(data: bytes, shape: tuple[int, int, int], filters: int) -> CodedLayer:
    """Reads a coded layer.

    Args:
        data: the tensor.
        shape: (kh, kw, C).
        filters: K.

    Raises:
        DamagedError: the bytes are no such layer.
    """
    reader = _Reader(data)
    flags, exponent = struct.unpack("<Bb", reader.take(2))
    if not -100 <= exponent <= 100:
        raise DamagedError("The exponent of the steps is out of range.")
    codes = _read_codes(reader, flags & 3, shape)
    halves = reader.array("<f2", 1 if flags & _ONE_STEP else filters)
    if not np.isfinite(halves).all():
        raise DamagedError("A step is not finite.")
    steps = np.broadcast_to(np.ldexp(halves.astype(np.float64), exponent), (filters,)).copy()
    peaks = reader.array("u1", filters) if flags & _PEAKS else None
    if peaks is not None and peaks.max() > _PEAK:
        raise DamagedError("A peak is over 127.")
    int8 = bool(flags & _INT8)
    bias = _read_bias(reader, flags >> _BIAS_SHIFT & 3, int8, filters)
    if not int8 and flags & (_SUMS | _PEAKS):
        raise DamagedError("Sums and peaks are of int8 ops only.")
    sums = reader.take(2) if flags & _SUMS else None
    features = reader.take(_read_base128(reader)) if int8 else None
    layer = CodedLayer(shape, codes, np.empty((filters, len(codes)), np.int8), steps, bias, peaks, features, sums)
    columns = _columns(layer)
    tables, numbers = _read_statistics(reader, len(columns))
    _read_stream(reader.rest(), layer.levels, columns, tables, numbers)
    return layer


def _read_codes(reader: _Reader, kind: int, shape: tuple[int, int, int]) -> np.ndarray:
    kh, kw, channels = shape
    taps = kh * kw * channels

    def flags(count: int) -> np.ndarray:
        bits = np.unpackbits(reader.array("u1", -(-count // 8)), bitorder="little")
        if bits[count:].any():
            raise DamagedError("A code lies past the code grid.")
        return bits[:count]

    if kind == _EVERY:
        return np.arange(taps)
    if kind == _PRODUCT:
        spatial = flags(kh * kw)
        codes = np.flatnonzero(np.outer(spatial, flags(channels)))
    elif kind == _ANY:
        codes = np.flatnonzero(flags(taps))
    else:
        raise DamagedError("The set of codes is of an unknown kind.")
    if not len(codes):
        raise DamagedError("No code is kept.")
    return codes


def _read_bias(reader: _Reader, kind: int, int8: bool, filters: int) -> np.ndarray | None:
    if kind == (_HALF if int8 else _THREE_BYTES):
        raise DamagedError("The bias is of a kind that such an op does not have.")
    if kind == _HALF:
        return reader.array("<f2", filters)
    if kind == _THREE_BYTES:
        padded = np.pad(reader.array("u1", 3 * filters).reshape(-1, 3), ((0, 0), (1, 0)))
        return padded.reshape(-1).view("<i4") >> 8
    if kind == _FOUR_BYTES:
        return reader.array("<i4" if int8 else "<f4", filters)
    return None


def _read_base128(reader: _Reader) -> int:
    number = 0
    for place in range(3):
        [digit] = reader.take(1)
        number |= (digit & 127) << 7 * place
        if digit < 128:
            return number
    raise DamagedError("A length has more than three bytes.")


def _read_statistics(reader: _Reader, spatial: int) -> tuple[list[_Table], list[int]]:
    [count] = reader.take(1)
    if not 1 <= count <= (_MOST_TABLES if spatial <= _MOST_MAPPED else 1):
        raise DamagedError("The number of tables is out of range.")
    numbers = [0] * spatial
    if count > 1:
        halves = reader.array("u1", -(-spatial // 2))
        whole = np.stack([halves & 15, halves >> 4], axis=1).ravel()
        if whole[:spatial].max() >= count or whole[spatial:].any():
            raise DamagedError("A spatial code has no table.")
        numbers = whole[:spatial].tolist()
    tables = []
    for _ in range(count):
        [head] = reader.take(1)
        held = reader.take((head & 127) + (head >> 7))
        if any(byte >= len(_FREQUENCIES) for byte in held):
            raise DamagedError("A frequency is out of range.")
        table = _Table(tuple(held[: head & 127]), held[-1] if head >> 7 else None)
        if table.frequencies[0][_LARGEST] < 0:
            raise DamagedError("The frequencies of a table add up to more than 4096.")
        tables.append(table)
    return tables, numbers


def _slots(table: _Table) -> tuple[list[int], list[int], list[int]]:
    """By r of 0…4095: level (128 for the escape), frequency, and r less the start of the range."""
    frequency, start = table.frequencies
    order = np.flatnonzero(frequency)[np.argsort(start[frequency > 0], kind="stable")]
    levels = np.append(order - _LARGEST, 128)
    sizes = np.append(frequency[order], table.escape_frequency)
    starts = np.cumsum(sizes) - sizes
    return (
        np.repeat(levels, sizes).tolist(),
        np.repeat(sizes, sizes).tolist(),
        (np.arange(_TOTAL) - np.repeat(starts, sizes)).tolist(),
    )


def _read_stream(
    data: bytes, levels: np.ndarray, columns: list[slice], tables: list[_Table], numbers: list[int]
) -> None:
    if len(data) < 4 or len(data) % 2:
        raise DamagedError("The stream ends too early.")
    [state] = struct.unpack("<I", data[:4])
    if state < _LEAST_STATE:
        raise DamagedError("The stream begins with a state that none can have.")
    words = iter(np.frombuffer(data, "<u2", offset=4).tolist())
    slots = [_slots(table) for table in tables]
    try:
        for number, part in zip(numbers, columns, strict=True):
            symbols, sizes, offsets = slots[number]
            found = []
            for _ in range(levels[:, part].size):
                slot = state & (_TOTAL - 1)
                level = symbols[slot]
                state = sizes[slot] * (state >> 12) + offsets[slot]
                if state < _LEAST_STATE:
                    state = state << 16 | next(words)
                if level == 128:
                    slot = state & (_TOTAL - 1)
                    level = (slot >> 4 ^ 128) - 128
                    state = _ESCAPED * (state >> 12) + (slot & 15)
                    if state < _LEAST_STATE:
                        state = state << 16 | next(words)
                    if level == -128:
                        raise DamagedError("A level is −128.")
                found.append(level)
            levels[:, part] = np.array(found, np.int8).reshape(len(levels), -1)
    except StopIteration:
        raise DamagedError("The stream ends too early.") from None
    if state != _LEAST_STATE or next(words, None) is not None:
        raise DamagedError("The stream does not end with the last level.")
