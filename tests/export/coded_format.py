"""A reader of coded layers, from the section "Version 2" of ``export/FORMAT.md`` alone: by definition, and slow."""

import dataclasses
import struct

import numpy as np


@dataclasses.dataclass
class Coded:
    """A layer as the text describes it: kept codes, integers [K][n], steps, and the rest or None."""

    kept: list[int]
    levels: list[list[int]]
    steps: list[float]
    bias: np.ndarray | None = None
    peaks: list[int] | None = None
    features: bytes | None = None
    sums: bytes | None = None


class _Bytes:
    def __init__(self, data):
        self.data = bytes(data)

    def take(self, count):
        assert len(self.data) >= count, "the layer ends too early"
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def bits(self, count):
        """The places of the bits that are set."""
        number = int.from_bytes(self.take((count + 7) // 8), "little")
        assert number < 1 << count, "a bit is set past the end"
        return [place for place in range(count) if number >> place & 1]


def frequency(byte):
    """F(b)."""
    assert byte < 192
    return (16 + (byte & 15)) * 2 ** (byte >> 4) >> 4


def read(data, kh, kw, channels, filters):
    """Reads a coded layer of K filters."""
    data = _Bytes(data)
    flags, exponent = struct.unpack("Bb", data.take(2))
    assert -100 <= exponent <= 100
    kind = flags & 3
    if kind == 0:
        kept = list(range(kh * kw * channels))
    elif kind == 1:
        spatial, channel = data.bits(kh * kw), data.bits(channels)
        kept = [s * channels + w for s in spatial for w in channel]
    else:
        assert kind == 2
        kept = data.bits(kh * kw * channels)
    halves = struct.unpack(f"<{1 if flags & 4 else filters}e", data.take(2 * (1 if flags & 4 else filters)))
    steps = [half * 2.0**exponent for half in halves] * (filters if flags & 4 else 1)
    peaks = list(data.take(filters)) if flags & 128 else None
    assert peaks is None or max(peaks) <= 127
    bias, int8 = None, bool(flags & 32)
    match flags >> 3 & 3:
        case 1:
            assert not int8
            bias = np.array(struct.unpack(f"<{filters}e", data.take(2 * filters)))
        case 2:
            assert int8
            bias = np.array([int.from_bytes(data.take(3), "little", signed=True) for _ in range(filters)])
        case 3:
            bias = np.array(struct.unpack(f"<{filters}{'i' if int8 else 'f'}", data.take(4 * filters)))
    assert int8 or not flags & (64 | 128)
    sums = data.take(2) if flags & 64 else None
    features = None
    if int8:
        length = place = 0
        while True:
            [byte] = data.take(1)
            length += (byte & 127) << place
            place += 7
            if byte < 128:
                break
        assert place <= 21
        features = data.take(length)

    # Statistics.
    groups = sorted({g // channels for g in kept})
    [count] = data.take(1)
    assert 1 <= count <= (16 if len(groups) <= 256 else 1)
    table_of = dict.fromkeys(groups, 0)
    if count > 1:
        halves = [half for byte in data.take((len(groups) + 1) // 2) for half in (byte & 15, byte >> 4)]
        assert len(halves) == len(groups) or halves.pop() == 0
        table_of = dict(zip(groups, halves, strict=True))
        assert max(halves) < count
    tables = []
    for _ in range(count):
        [head] = data.take(1)
        sizes = [(sign * (m + 1), frequency(byte)) for m, byte in enumerate(data.take(head & 127)) for sign in (1, -1)]
        if head >> 7:
            sizes.append(("escape", frequency(data.take(1)[0])))
        zero = 4096 - sum(size for _, size in sizes)
        assert zero >= 0
        ranges, begin = [], 0
        for symbol, size in [(0, zero), *sizes]:
            ranges.append((symbol, begin, size))
            begin += size
        tables.append(ranges)

    # Stream.
    [x] = struct.unpack("<I", data.take(4))
    assert x >= 1 << 16

    def decode(ranges):
        nonlocal x
        r = x & 4095
        symbol, begin, size = next(found for found in ranges if found[1] <= r < found[1] + found[2])
        x = size * (x >> 12) + r - begin
        if x < 1 << 16:
            x = x << 16 | int.from_bytes(data.take(2), "little")
        return symbol

    anything = [(byte - 256 if byte > 127 else byte, 16 * byte, 16) for byte in range(256)]
    levels = [[0] * len(kept) for _ in range(filters)]
    for group in groups:
        for row in levels:
            for column, g in enumerate(kept):
                if g // channels == group:
                    symbol = decode(tables[table_of[group]])
                    row[column] = decode(anything) if symbol == "escape" else symbol
                    assert row[column] != -128
    assert x == 1 << 16 and not data.data
    return Coded(kept, levels, steps, bias, peaks, features, sums)
