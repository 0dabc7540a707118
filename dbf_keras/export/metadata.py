"""What a TFLite file tells of itself in TensorFlow Lite Metadata: name, labels, normalisation, where it comes from.

Android Studio, the TFLite Task Library and MediaPipe read it. It is a flatbuffer of its own, "M001", in a buffer of the
model that the model's metadata call TFLITE_METADATA, and files such as the labels in a zip archive after the model.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np

from dbf_keras.export import flatfile

_NAME = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
# The first version of the format has all that is written here.
_MIN_PARSER_VERSION = "1.0.0"
_LABELS = "labels.txt"
_TENSOR_AXIS_LABELS, _IMAGE_PROPERTIES, _NORMALIZATION_OPTIONS = 2, 2, 1
_COLOUR_SPACES = {1: 2, 3: 1}  # By channels: grey, RGB.

# The format's tables: their fields in the order of its slots, as far as they are written here. A union has a byte that
# says what it holds, and a table; here it always holds the same one. None: a slot that stays empty.
_TABLES: dict[str, dict[str, str | None]] = {
    "ModelMetadata": {
        "name": "string",
        "description": "string",
        "version": "string",
        "subgraph_metadata": "[SubGraphMetadata]",
        "author": "string",
        "license": "string",
        "associated_files": None,
        "min_parser_version": "string",
    },
    "SubGraphMetadata": {
        "name": None,
        "description": None,
        "input_tensor_metadata": "[TensorMetadata]",
        "output_tensor_metadata": "[TensorMetadata]",
    },
    "TensorMetadata": {
        "name": "string",
        "description": "string",
        "dimension_names": None,
        "content": "Content",
        "process_units": "[ProcessUnit]",
        "stats": "Stats",
        "associated_files": "[AssociatedFile]",
    },
    "Content": {"content_properties_type": "byte", "content_properties": "ImageProperties"},
    "ImageProperties": {"color_space": "byte"},
    "ProcessUnit": {"options_type": "byte", "options": "NormalizationOptions"},
    "NormalizationOptions": {"mean": "[float]", "std": "[float]"},
    "Stats": {"max": "[float]", "min": "[float]"},
    "AssociatedFile": {"name": "string", "description": "string", "type": "byte"},
}


def describe(  # More than eight parameters, for each is a field of the format and given by name.
    data: bytes,
    *,
    name: str,
    description: str,
    labels: Sequence[str] | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    value_range: tuple[float, float] | None = (0.0, 255.0),
    version: str = "",
    author: str = "",
    licence: str = "",
) -> bytes:
    """Writes metadata into a TFLite file, in place of what it has. What the file computes stays as it is.

    Args:
        data: The file.
        name: Name of the model.
        description: What it does, and where it comes from.
        labels: Names of the classes, as many as an output has.
        mean: What is subtracted from pixels before they go in, by channel or one for all. With the default of `std`,
            none: the model takes raw pixels and normalises them itself.
        std: What they are then divided by.
        value_range: The smallest and the largest number that may go in; None if that is not known.
        version: Version of the model.
        author: Who made it.
        licence: Under which licence it is.

    Returns:
        The file with metadata.

    Raises:
        ValueError: If no output has as many classes as there are labels, or a label spans lines.
    """
    model = flatfile.load(data)
    graph = model.subgraphs[0]
    inputs = [_input(graph.tensors[index], mean, std, value_range) for index in graph.inputs]
    outputs = _outputs([graph.tensors[index] for index in graph.outputs], labels)
    values = {
        "name": name,
        "description": description,
        "version": version,
        "subgraph_metadata": [{"input_tensor_metadata": inputs, "output_tensor_metadata": outputs}],
        "author": author,
        "license": licence,
        "min_parser_version": _MIN_PARSER_VERSION,
    }
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, "ModelMetadata", values), _IDENTIFIER)
    _set_metadata(model, np.frombuffer(bytes(builder.Output()), np.uint8))
    result = io.BytesIO(flatfile.dump(model))
    if labels is not None:
        with zipfile.ZipFile(result, "a", zipfile.ZIP_STORED) as archive:  # Readers map it: not compressed.
            archive.writestr(zipfile.ZipInfo(_LABELS), "\n".join(labels))  # Without a date, so always the same.
    return result.getvalue()


def read(data: bytes) -> dict[str, Any]:
    """Reads the metadata that `describe` wrote into a file.

    Returns:
        The fields by the format's names, those that are empty left out, and the "labels"; {} if there is no metadata.
    """
    model = flatfile.load(data)
    entry = next((entry for entry in model.metadata or [] if _text(entry.name) == _NAME.decode()), None)
    if entry is None:
        return {}
    content = bytes(model.buffers[entry.buffer].data)
    root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0)
    values = _read(flatbuffers.table.Table(bytearray(content), root), "ModelMetadata")
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            values["labels"] = archive.read(_LABELS).decode().split("\n")
    return values


def _input(
    tensor: Any, mean: Sequence[float], std: Sequence[float], value_range: tuple[float, float] | None
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": _text(tensor.name),
        "process_units": [{"options_type": _NORMALIZATION_OPTIONS, "options": {"mean": mean, "std": std}}],
    }
    if value_range is not None:
        values["stats"] = {"min": value_range[:1], "max": value_range[1:]}
    colours = _COLOUR_SPACES.get(tensor.shape[-1]) if len(tensor.shape) == 4 else None
    if colours:
        values["content"] = {
            "content_properties_type": _IMAGE_PROPERTIES,
            "content_properties": {"color_space": colours},
        }
    return values


def _outputs(tensors: Sequence[Any], labels: Sequence[str] | None) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = [{"name": _text(tensor.name)} for tensor in tensors]
    if labels is not None:
        if any(len(label.splitlines()) > 1 for label in labels):
            raise ValueError("A label cannot have more than one line.")
        fitting = [number for number, tensor in enumerate(tensors) if tensor.shape[-1] == len(labels)]
        if not fitting:
            raise ValueError(f"No output of the file has {len(labels)} classes, as many as there are labels.")
        file = {"name": _LABELS, "description": "Names of the classes.", "type": _TENSOR_AXIS_LABELS}
        values[fitting[0]]["associated_files"] = [file]
    return values


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _set_metadata(model: Any, content: np.ndarray) -> None:
    """Puts a buffer into a model as its metadata."""
    schema = flatfile.schema()
    kept = [entry for entry in model.metadata or [] if _text(entry.name) != _NAME.decode()]
    entry, buffer = schema.MetadataT(), schema.BufferT()
    buffer.data = content
    model.buffers.append(buffer)
    entry.name, entry.buffer = _NAME, len(model.buffers) - 1
    model.metadata = [*kept, entry]


def _write(builder: flatbuffers.Builder, table: str, values: Mapping[str, Any]) -> int:
    """Writes a table and what it refers to, and returns where it is."""
    fields = _TABLES[table]
    places = {}  # What a table refers to comes before it.
    for name, value in values.items():
        kind = fields[name]
        assert kind is not None, f"{table} has an empty slot for {name}."
        if kind == "string":
            if value:
                places[name] = builder.CreateString(value)
        elif kind == "[float]":
            places[name] = builder.CreateNumpyVector(np.asarray(value, np.float32))
        elif kind.startswith("["):
            places[name] = _write_all(builder, kind.strip("[]"), value)
        elif kind in _TABLES:
            places[name] = _write(builder, kind, value)
    builder.StartObject(len(fields))
    for slot, (name, kind) in enumerate(fields.items()):
        if kind == "byte":
            builder.PrependInt8Slot(slot, values.get(name, 0), 0)
        elif name in places:
            builder.PrependUOffsetTRelativeSlot(slot, places[name], 0)
    return builder.EndObject()


def _write_all(builder: flatbuffers.Builder, table: str, rows: Sequence[Mapping[str, Any]]) -> int:
    places = [_write(builder, table, row) for row in rows]
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return builder.EndVector()


def _read(buffer: flatbuffers.table.Table, table: str) -> dict[str, Any]:
    """Reads a table and what it refers to."""
    values: dict[str, Any] = {}
    for slot, (name, kind) in enumerate(_TABLES[table].items()):
        offset = buffer.Offset(4 + 2 * slot)
        if not offset or kind is None:
            continue
        place = buffer.Pos + offset
        if kind == "byte":
            values[name] = buffer.Get(flatbuffers.number_types.Int8Flags, place)
        elif kind == "string":
            values[name] = buffer.String(place).decode()
        elif kind in _TABLES:
            values[name] = _read(flatbuffers.table.Table(buffer.Bytes, buffer.Indirect(place)), kind)
        else:
            start, count = buffer.Vector(offset), buffer.VectorLen(offset)
            if kind == "[float]":
                values[name] = np.frombuffer(buffer.Bytes, "<f4", count, start).tolist()
            else:
                places = (buffer.Indirect(start + 4 * number) for number in range(count))
                values[name] = [
                    _read(flatbuffers.table.Table(buffer.Bytes, place), kind.strip("[]")) for place in places
                ]
    return values
