"""What a TFLite file tells of itself in TensorFlow Lite Metadata: name, labels, normalisation, where it comes from.

Android Studio, the TFLite Task Library and MediaPipe read it. It is a flatbuffer of its own, "M001", in a buffer of the
model that the model's metadata call TFLITE_METADATA, and files in a zip archive after the model: ``labels.txt``, the
names of the classes, and ``dbf_keras.json``, what the format has no fields for (`docs/deployment.md` lists its keys).

Reading needs numpy only.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dbf_keras.export import flatfile

if TYPE_CHECKING:
    import flatbuffers

_NAME = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
# The first version of the format has all that is written here.
_MIN_PARSER_VERSION = "1.0.0"
_LABELS = "labels.txt"
_DETAILS = "dbf_keras.json"
_DESCRIPTIONS = 1
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
        "associated_files": "[AssociatedFile]",
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
    mean: Sequence[float] | None = (0.0,),
    std: Sequence[float] = (1.0,),
    value_range: tuple[float, float] | None = (0.0, 255.0),
    version: str = "",
    author: str = "",
    licence: str = "",
    details: Mapping[str, Any] | None = None,
) -> bytes:
    """Writes metadata into a TFLite file, in place of what it has. What the file computes stays as it is.

    Args:
        data: The file.
        name: Name of the model.
        description: What it does, and where it comes from.
        labels: Names of the classes, as many as an output has.
        mean: What is subtracted from pixels before they go in, by channel or one for all; None if nobody knows. With
            the default of `std`, none: the model takes raw pixels and normalises them itself.
        std: What they are then divided by.
        value_range: The smallest and the largest number that may go in; None if that is not known.
        version: Version of the model.
        author: Who made it.
        licence: Under which licence it is.
        details: What else there is to say, for JSON.

    Returns:
        The file with metadata.

    Raises:
        ValueError: If no output has as many classes as there are labels, or a label spans lines.
    """
    import flatbuffers

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
    files = {} if labels is None else {_LABELS: "\n".join(labels)}
    if details is not None:
        files[_DETAILS] = json.dumps(details, ensure_ascii=False, separators=(",", ":"))
        file = {"name": _DETAILS, "description": "Where the model comes from.", "type": _DESCRIPTIONS}
        values["associated_files"] = [file]
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, "ModelMetadata", values), _IDENTIFIER)
    _set_metadata(model, np.frombuffer(bytes(builder.Output()), np.uint8))
    result = io.BytesIO(flatfile.dump(model))
    if files:
        with zipfile.ZipFile(result, "a", zipfile.ZIP_STORED) as archive:  # Readers map it: not compressed.
            for file_name, text in files.items():
                archive.writestr(zipfile.ZipInfo(file_name), text)  # Without a date, so always the same.
    return result.getvalue()


def read(data: bytes) -> dict[str, Any]:
    """Reads the metadata of a file, whoever wrote it, as far as `describe` writes such.

    Returns:
        The fields by the format's names, those that are empty left out, the "labels" and the "details"; {} if there is
        no metadata.

    Raises:
        ValueError: If the metadata is damaged.
    """
    try:
        content = _content(data)
        if content is None:
            return {}
        values = _read(content, _follow(content, 0), "ModelMetadata")
        return values | _read_files(data, values)
    except (struct.error, IndexError, UnicodeDecodeError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise ValueError(f"its metadata is damaged: {error}") from error


def _read_files(data: bytes, values: Mapping[str, Any]) -> dict[str, Any]:
    """The labels and details among the files after a model."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return {}
    outputs = [output for graph in values.get("subgraph_metadata", []) for output in _outputs_of(graph)]
    files = [file for output in outputs for file in output.get("associated_files", [])]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    named = [file["name"] for file in files if file.get("type") == _TENSOR_AXIS_LABELS and file.get("name") in texts]
    found: dict[str, Any] = {}
    if named:
        found["labels"] = texts[named[0]].decode().removesuffix("\n").split("\n")
    if _DETAILS in texts:
        found["details"] = json.loads(texts[_DETAILS])
    return found


def _outputs_of(graph: Mapping[str, Any]) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = graph.get("output_tensor_metadata", [])
    return outputs


def _input(
    tensor: Any, mean: Sequence[float] | None, std: Sequence[float], value_range: tuple[float, float] | None
) -> dict[str, Any]:
    values: dict[str, Any] = {"name": _text(tensor.name)}
    if mean is not None:
        unit = {"options_type": _NORMALIZATION_OPTIONS, "options": {"mean": mean, "std": std}}
        values["process_units"] = [unit]
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


# Reading, without the flatbuffers package: boards do not have it. A table begins with the distance back to its list of
# fields, two bytes each after two sizes; vectors and strings with their length; what refers to one holds the distance.


def _content(data: bytes) -> bytes | None:
    """The metadata of a TFLite file."""
    root = _follow(data, 0)
    buffers = list(_places(data, _field(data, root, 4)))
    for entry in _places(data, _field(data, root, 6)):
        if _bytes(data, _field(data, entry, 0)) == _NAME:
            number = _field(data, entry, 1)
            buffer = buffers[_number(data, number) if number else 0]
            return _bytes(data, _field(data, buffer, 0))
    return None


def _number(data: bytes, place: int) -> int:
    value: int = struct.unpack_from("<I", data, place)[0]
    return value


def _follow(data: bytes, place: int) -> int:
    return place + _number(data, place)


def _field(data: bytes, table: int, slot: int) -> int:
    """Where a field of a table is, or 0."""
    fields = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * slot >= struct.unpack_from("<H", data, fields)[0]:
        return 0
    offset = struct.unpack_from("<H", data, fields + 4 + 2 * slot)[0]
    return table + offset if offset else 0


def _bytes(data: bytes, place: int) -> bytes:
    """What a field that refers to a string or a vector of bytes holds."""
    if not place:
        return b""
    start = _follow(data, place)
    return data[start + 4 : start + 4 + _number(data, start)]


def _places(data: bytes, place: int) -> Iterator[int]:
    """Where the tables of a vector are that a field refers to."""
    if place:
        start = _follow(data, place)
        for number in range(_number(data, start)):
            yield _follow(data, start + 4 + 4 * number)


def _read(data: bytes, table: int, kind: str) -> dict[str, Any]:
    """Reads a table and what it refers to."""
    values: dict[str, Any] = {}
    for slot, (name, holds) in enumerate(_TABLES[kind].items()):
        place = _field(data, table, slot)
        if not place or holds is None:
            continue
        if holds == "byte":
            values[name] = data[place]
        elif holds == "string":
            values[name] = _bytes(data, place).decode()
        elif holds in _TABLES:
            values[name] = _read(data, _follow(data, place), holds)
        elif holds == "[float]":
            start = _follow(data, place)
            values[name] = list(struct.unpack_from(f"<{_number(data, start)}f", data, start + 4))
        else:
            values[name] = [_read(data, entry, holds.strip("[]")) for entry in _places(data, place)]
    return values
