"""Writes TFLite models as flatbuffers that hold nothing twice."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import flatbuffers
import numpy as np

_DATA_ALIGNMENT = 16  # Bytes; the schema demands it of buffers' data.
_WORD = 4  # Bytes; the alignment of tables, strings and most vectors.


def pack(model: Any) -> bytes:
    """The flatbuffer of a ``ModelT`` whose lists of numbers are numpy arrays."""
    data = [buffer.data for buffer in model.buffers if buffer.data is not None]
    builder = _Builder(sum(len(numbers) for numbers in data) + 65536, data)
    _write_data(builder, data, model)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _write_data(builder: _Builder, data: list[np.ndarray], model: Any) -> None:
    """Writes buffers' data, and into the gaps that their alignment leaves what else there is of that size."""
    small: dict[int, list[np.ndarray | bytes]] = {3 * _WORD: [], 2 * _WORD: []}
    for graph in model.subgraphs:
        lists = (numbers for operator in graph.operators for numbers in (operator.inputs, operator.outputs))
        for value in itertools.chain((tensor.name for tensor in graph.tensors), lists):
            small.get(_WORD + _size(value), []).append(value)
    for numbers in data:
        for size, values in small.items():
            while values and builder.gap(numbers) >= size:
                builder.add(values.pop())
        builder.add(numbers)


def _size(value: np.ndarray | bytes | str) -> int:
    """What the elements of a vector or a string take, in bytes of whole words."""
    if isinstance(value, np.ndarray):
        size = value.nbytes
    else:
        size = len(value.encode() if isinstance(value, str) else value) + 1  # A zero ends a string.
    return -(-size // _WORD) * _WORD


class _Builder(flatbuffers.Builder):
    """Writes equal strings, vectors and tables once, each of a table's fields next to those of its size.

    Such things are shapes, zero points, of which there are as many as filters, and options of like layers.
    """

    def __init__(self, size: int, data: list[np.ndarray]):
        super().__init__(size)
        self._aligned = {id(numbers) for numbers in data}
        self._vectors: dict[tuple[int, bytes, int], int] = {}
        self._tables: dict[tuple, int] = {}
        self._fields: dict[int, tuple[int, Any, Any]] = {}  # By slot: size, type (None: an offset) and value.

    def add(self, value: np.ndarray | bytes | str) -> int:
        """Writes a vector or a string."""
        offset: int = self.CreateNumpyVector(value) if isinstance(value, np.ndarray) else self.CreateString(value)
        return offset

    def gap(self, numbers: np.ndarray) -> int:
        """The bytes that alignment would leave free behind a buffer's data if they were written next."""
        return -(self.Offset() + _size(numbers)) % _DATA_ALIGNMENT

    def CreateString(self, s: bytes | str, *_: str) -> int:  # noqa: N802
        text = s.encode() if isinstance(s, str) else s
        return self._vector(len(text), text, _size(text), _WORD)

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802
        alignment = _DATA_ALIGNMENT if id(x) in self._aligned else max(_WORD, x.itemsize)
        little = x.astype(x.dtype.newbyteorder("<"), copy=False)
        return self._vector(x.size, little.tobytes(), _size(x), alignment)

    def _vector(self, length: int, elements: bytes, size: int, alignment: int) -> int:
        elements += bytes(size - len(elements))
        key = length, hashlib.sha256(elements).digest(), alignment
        if key not in self._vectors:
            self.Prep(_WORD, 0)
            self.StartVector(1, size, alignment)
            self.head -= size
            self.Bytes[self.head : self.head + size] = elements
            self.vectorNumElems = length
            self._vectors[key] = self.EndVector()
        return self._vectors[key]

    def StartObject(self, numfields: int) -> None:  # noqa: N802
        self.Prep(_WORD, 0)
        super().StartObject(numfields)
        self._fields = {}

    def PrependSlot(self, flags: Any, o: int, x: Any, d: Any) -> None:  # noqa: N802
        if x is not None and x != d:
            self._fields[o] = flags.bytewidth, flags, x

    def PrependUOffsetTRelativeSlot(self, o: int, x: int, d: int) -> None:  # noqa: N802
        if x != d:
            self._fields[o] = _WORD, None, x

    def EndObject(self) -> int:  # noqa: N802
        key = tuple((slot, flags, value) for slot, (_, flags, value) in sorted(self._fields.items()))
        if key in self._tables:
            self.nested = False
            return self._tables[key]
        for slot, (_, flags, value) in sorted(self._fields.items(), key=lambda field: field[1][0]):
            if flags is None:
                self.PrependUOffsetTRelative(value)
            else:
                self.Prepend(flags, value)
            self.Slot(slot)
        self._tables[key] = super().EndObject()
        return self._tables[key]
