"""TFLite files as objects: read, change, and write without leftovers."""

from __future__ import annotations

import collections
import functools
import itertools
from types import ModuleType
from typing import Any

import numpy as np

# What the standard converter says of itself in a file's metadata. Runtimes hand it out when asked and heed none of it.
_NOTES = (b"CONVERSION_METADATA", b"min_runtime_version")


@functools.cache
def schema() -> ModuleType:
    """The classes of the TFLite schema, those that match the installed converter."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def load(data: bytes) -> Any:
    """Reads a TFLite file into the schema's ``ModelT``. Buffers are views of ``data``."""
    return schema().ModelT.InitFromObj(schema().Model.GetRootAs(data, 0))


def dump(model: Any, terse: bool = False) -> bytes:
    """Writes a ``ModelT``, dropping what nothing uses: tensors, buffers, operator codes. Changes ``model``.

    Of the converter's names, which join those of all ops that went into one, the first is kept; no two tensors of the
    file have the same name.

    Args:
        model: the model.
        terse: leave out what no runtime needs: tensors inside graphs have names like 7w and no open sizes, and what
            the converter says of itself is gone.
    """
    from dbf_keras.export import flatbuilder

    if terse:
        _drop_notes(model)
    _separate_buffers(model)
    _drop_unused(model)
    if terse:
        _shorten_names(model)
    _name(model)
    _drop_implied(model)
    return flatbuilder.pack(model)


def is_tidy(model: Any) -> bool:
    """Whether a ``ModelT`` is as tools like it that write files anew, such as ai-edge-quantizer.

    Every tensor has a name that no other one has, also in other subgraphs, and tensors that share a buffer are alike.
    """
    tensors = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    names = {_bytes(tensor.name) for tensor in tensors}
    return len(names) == len(tensors) and b"" not in names and not _odd_sharers(model)


def _odd_sharers(model: Any) -> list[Any]:
    """Tensors that share the buffer of another one of another shape or type.

    Their numbers are equal: the standard converter stores pools of ones, for example, once.
    """
    first: dict[int, tuple] = {}
    odd = []
    for tensor in (tensor for subgraph in model.subgraphs for tensor in subgraph.tensors):
        if model.buffers[tensor.buffer].data is not None:
            kind = tensor.type, tuple(tensor.shape)
            if first.setdefault(tensor.buffer, kind) != kind:
                odd.append(tensor)
    return odd


def _separate_buffers(model: Any) -> None:
    """Gives such tensors buffers of their own; the numbers are still written once."""
    for tensor in _odd_sharers(model):
        buffer = schema().BufferT()
        buffer.data = model.buffers[tensor.buffer].data
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1


def _bytes(name: bytes | str | None) -> bytes:
    return name.encode() if isinstance(name, str) else name or b""


def _name(model: Any) -> None:
    """Gives tensors short names that differ.

    The standard converter names an op's constants as its output. The output keeps that name, and so do the inputs and
    outputs of a graph; constants get what they are to the op after it, and what still has a name twice a number.
    """
    taken: set[bytes] = set()
    for subgraph in model.subgraphs:
        roles = {}
        for operator in subgraph.operators:
            for index, role in zip(_indices(operator, "inputs")[1:3], (b"weights", b"bias"), strict=False):
                roles[int(index)] = role
        ends = {int(index) for field in ("inputs", "outputs") for index in _indices(subgraph, field)}
        rank = [
            2 if model.buffers[tensor.buffer].data is not None else int(index not in ends)
            for index, tensor in enumerate(subgraph.tensors)
        ]
        for index in sorted(range(len(rank)), key=rank.__getitem__):
            tensor = subgraph.tensors[index]
            name = _bytes(tensor.name).split(b";")[0] or b"tensor"
            if name in taken and rank[index] == 2 and index in roles:
                name += b"/" + roles[index]
            numbered = (b"%s_%d" % (name, number) for number in itertools.count(1))
            tensor.name = next(new for new in itertools.chain([name], numbered) if new not in taken)
            taken.add(tensor.name)


def _shorten_names(model: Any) -> None:
    """Names tensors inside graphs by numbers of operators: 7 is what operator 7 makes, 7w its weights, 7b its bias."""
    first = 0
    for subgraph, ends in zip(model.subgraphs, _ends(model), strict=True):
        names: dict[int, bytes] = {}
        for number, operator in enumerate(subgraph.operators, first):
            names |= {int(index): b"%d" % number for index in operator.outputs}
            for index, role in zip(operator.inputs, itertools.chain(b"xwb", itertools.repeat(ord("c"))), strict=False):
                names.setdefault(int(index), b"%d%c" % (number, role))
        first += len(subgraph.operators)
        for index in names.keys() - ends - {-1}:
            subgraph.tensors[index].name = names[index]


def _ends(model: Any) -> list[set[int]]:
    """The inputs and outputs of each graph and of its signatures."""
    return [
        {int(index) for field in ("inputs", "outputs") for index in _indices(subgraph, field)}
        | {entry.tensorIndex for entry in _signature_maps(model, place)}
        for place, subgraph in enumerate(model.subgraphs)
    ]


def _signature_maps(model: Any, place: int) -> list[Any]:
    """What the signatures of the graph at a place of the list say of its inputs and outputs."""
    signatures = [signature for signature in model.signatureDefs or [] if signature.subgraphIndex == place]
    return [entry for signature in signatures for entry in [*(signature.inputs or []), *(signature.outputs or [])]]


def _drop_notes(model: Any) -> None:
    """Drops what no runtime needs.

    Open sizes matter at the ends of a graph only, as what may be resized; runtimes derive the shapes inside it.
    """
    model.description = model.metadataBuffer = None
    model.metadata = [entry for entry in model.metadata or [] if _bytes(entry.name) not in _NOTES]
    for code in model.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
        code.deprecatedBuiltinCode = 0  # Runtimes take the larger one, since TensorFlow 2.4.
    for subgraph, ends in zip(model.subgraphs, _ends(model), strict=True):
        subgraph.name = None
        for index, tensor in enumerate(subgraph.tensors):
            if index not in ends:
                tensor.shapeSignature = None
            if tensor.quantization is not None:
                tensor.quantization.min = tensor.quantization.max = None
        for operator in subgraph.operators:
            if operator.builtinOptions is not None and not vars(operator.builtinOptions):
                operator.builtinOptions, operator.builtinOptionsType = None, schema().BuiltinOptions.NONE


def _drop_implied(model: Any) -> None:
    """Drops lists and tables of nothing, and makes lists of numbers arrays."""
    _keep_filled(model, "metadata", "metadataBuffer", "signatureDefs")
    for subgraph in model.subgraphs:
        _make_arrays(subgraph, "inputs", "outputs")
        for operator in subgraph.operators:
            _make_arrays(operator, "inputs", "outputs", "intermediates")
            _keep_filled(operator, "intermediates", "mutatingVariableInputs")
        for tensor in subgraph.tensors:
            _make_arrays(tensor, "shape", "shapeSignature")
            _keep_filled(tensor, "shapeSignature", "variantTensors")
            if tensor.quantization is not None:
                _keep_filled(tensor.quantization, "min", "max", "scale", "zeroPoint")
                kept = vars(tensor.quantization)
                if all(kept[field] is None for field in ("min", "max", "scale", "zeroPoint", "details")):
                    tensor.quantization = None


def _keep_filled(owner: Any, *fields: str) -> None:
    for field in fields:
        if len(_indices(owner, field)) == 0:
            setattr(owner, field, None)


def _make_arrays(owner: Any, *fields: str) -> None:
    for field in fields:
        if getattr(owner, field) is not None:
            setattr(owner, field, np.asarray(getattr(owner, field), np.int32))


def code_of(model: Any, operator: Any) -> int:
    """The builtin code of an operator; ``BuiltinOperator.CUSTOM`` for a custom one."""
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)  # Old files fill only the second.


def constant(model: Any, tensor: Any, dtype: type = np.float32) -> np.ndarray | None:
    """The values of a constant tensor of a type that `_types` lists in its shape, or None if it has another type."""
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type != _types()[dtype]:
        return None
    return np.asarray(data).view(dtype).reshape(tensor.shape)


def add_constant(
    model: Any,
    subgraph: Any,
    name: str | bytes,
    values: np.ndarray,
    scales: np.ndarray | None = None,
    axis: int = 0,
    int4: bool = False,
) -> int:
    """Adds a constant tensor to a subgraph and returns the tensor's index.

    Args:
        model: ``ModelT`` that the subgraph belongs to.
        subgraph: where to add it.
        name: the tensor's name.
        values: float32, float16, int32, int8 or uint8.
        scales: scales of integers, symmetric about zero, one for each index of an axis.
        axis: that axis.
        int4: store int8 values of −8…7 as int4.
    """
    buffer = schema().BufferT()
    buffer.data = np.ascontiguousarray(values).ravel().view(np.uint8)
    if int4:  # Two a byte, the first in the low half.
        halves = np.append(buffer.data & 15, np.zeros(values.size % 2, np.uint8))
        buffer.data = halves[::2] | halves[1::2] << 4
    model.buffers.append(buffer)
    tensor = schema().TensorT()
    tensor.name = name
    tensor.shape = list(values.shape)
    tensor.type = schema().TensorType.INT4 if int4 else _types()[values.dtype.type]
    tensor.buffer = len(model.buffers) - 1
    if scales is not None:
        tensor.quantization = schema().QuantizationParametersT()
        tensor.quantization.scale = np.asarray(scales, np.float32)
        tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
        tensor.quantization.quantizedDimension = axis
    subgraph.tensors.append(tensor)
    return len(subgraph.tensors) - 1


def _types() -> dict[type, int]:
    types = schema().TensorType
    return {
        np.float32: types.FLOAT32,
        np.float16: types.FLOAT16,
        np.int32: types.INT32,
        np.int8: types.INT8,
        np.uint8: types.UINT8,
    }


def operator_code(model: Any, builtin: int, version: int, custom: str | None = None) -> int:
    """The index of an operator code, added if the model does not have it."""
    name = custom and custom.encode()
    for index, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version, code.customCode) == (builtin, version, name):
            return index
    code = schema().OperatorCodeT()
    # The old field is a byte and has a placeholder for codes that do not fit.
    code.deprecatedBuiltinCode = min(builtin, schema().BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    code.builtinCode = builtin
    code.version = version
    code.customCode = name
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _drop_unused(model: Any) -> None:
    used_codes: collections.Counter[int] = collections.Counter()
    used_buffers = {0}  # Buffer 0 is the empty one, by convention.
    used_buffers.update(entry.buffer for entry in model.metadata or [])
    for index, subgraph in enumerate(model.subgraphs):
        _drop_unused_tensors(subgraph, _signature_maps(model, index))
        for tensor in subgraph.tensors:
            if model.buffers[tensor.buffer].data is None:
                tensor.buffer = 0
            used_buffers.add(tensor.buffer)
        used_codes.update(operator.opcodeIndex for operator in subgraph.operators)

    # The most frequent is number 0, which takes no bytes.
    codes = {old: new for new, (old, _) in enumerate(used_codes.most_common())}
    model.operatorCodes = [model.operatorCodes[old] for old in codes]
    buffers = _renumber(used_buffers)
    model.buffers = [model.buffers[old] for old in buffers]
    for entry in model.metadata or []:
        entry.buffer = buffers[entry.buffer]
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = buffers[tensor.buffer]
        for operator in subgraph.operators:
            operator.opcodeIndex = codes[operator.opcodeIndex]


def _drop_unused_tensors(subgraph: Any, maps: list[Any]) -> None:
    lists = [(subgraph, "inputs"), (subgraph, "outputs")]
    lists += [(op, field) for op in subgraph.operators for field in ("inputs", "outputs", "intermediates")]
    used = {int(index) for owner, field in lists for index in _indices(owner, field)}
    used |= {entry.tensorIndex for entry in maps}
    tensors = _renumber(used - {-1})
    subgraph.tensors = [subgraph.tensors[old] for old in tensors]
    tensors[-1] = -1  # An optional input that is absent.
    for owner, field in lists:
        setattr(owner, field, [tensors[int(index)] for index in _indices(owner, field)])
    for entry in maps:
        entry.tensorIndex = tensors[entry.tensorIndex]


def _indices(owner: Any, field: str) -> list[int]:
    indices = getattr(owner, field)
    return [] if indices is None else indices


def _renumber(used: set[int]) -> dict[int, int]:
    return {old: new for new, old in enumerate(sorted(used))}
