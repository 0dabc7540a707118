import io
import json
import struct
import zipfile

import numpy as np
import pytest

from dbf_keras import zoo
from dbf_keras.backend import keras
from dbf_keras.export import flatfile, metadata, to_tflite
from dbf_keras.runtime import Interpreter

FIELDS = {
    "name": "digits – ρ = ¼",
    "description": "Digits, on the fly.",
    "labels": [*"0123456789"],
    "mean": [1.0, 2.0, 3.0],
    "std": [0.5],
    "value_range": (0, 1),
    "version": "1.2",
    "author": "us",
    "licence": "Apache-2.0",
}
FILES = ["explicit", "onthefly", "onthefly_int8_weights", "onthefly_int8", "folded", "onthefly_int4_weights"]


def outputs(data):
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    images = np.random.default_rng(0).integers(0, 128, source["shape"])
    interpreter.set_tensor(source["index"], images.astype(source["dtype"]))
    interpreter.invoke()
    return interpreter.get_tensor(target["index"])


@pytest.fixture(scope="module")
def described():
    return metadata.describe(zoo.path("digits", "onthefly").read_bytes(), **FIELDS)


@pytest.mark.parametrize("role", FILES)
def test_files_compute_what_they_did(role):
    plain = zoo.path("digits", role).read_bytes()
    described = metadata.describe(plain, **FIELDS)
    np.testing.assert_array_equal(outputs(described), outputs(plain))
    assert len(described) - len(plain) < 1000
    assert described == metadata.describe(plain, **FIELDS)


def test_all_is_read_back(described):
    read = metadata.read(described)
    assert {key: read[key] for key in ("name", "description", "labels", "version", "author")} == {
        key: FIELDS[key] for key in ("name", "description", "labels", "version", "author")
    }
    assert read["license"] == "Apache-2.0" and read["min_parser_version"] == "1.0.0"
    (graph,) = read["subgraph_metadata"]
    (image,), (scores,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
    assert image["process_units"] == [{"options_type": 1, "options": {"mean": [1, 2, 3], "std": [0.5]}}]
    assert image["stats"] == {"min": [0], "max": [1]}
    assert image["content"] == {"content_properties_type": 2, "content_properties": {"color_space": 2}}  # Grey.
    (file,) = scores["associated_files"]
    assert (file["name"], file["type"]) == ("labels.txt", 2)


def test_the_bytes_are_those_of_the_format(described):
    """Read by hand: the buffer's name and alignment, the identifier, and the licence in slot 5 of the root table."""
    model = flatfile.load(described)
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    content = bytes(model.buffers[entry.buffer].data)
    assert content[4:8] == b"M001" and described.index(content) % 16 == 0
    (root,) = struct.unpack_from("<I", content, 0)
    (distance,) = struct.unpack_from("<i", content, root)
    (slot,) = struct.unpack_from("<H", content, root - distance + 4 + 2 * 5)
    place = root + slot
    place += struct.unpack_from("<I", content, place)[0]
    (length,) = struct.unpack_from("<I", content, place)
    assert content[place + 4 : place + 4 + length] == b"Apache-2.0"


def test_labels_are_a_stored_file_behind_the_model(described):
    with zipfile.ZipFile(io.BytesIO(described)) as archive:
        (info,) = archive.infolist()
        assert info.compress_type == zipfile.ZIP_STORED
        assert archive.read("labels.txt") == b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9"
    assert described[4:8] == b"TFL3"


def test_details_are_a_second_file_that_the_model_lists():
    plain = zoo.path("digits", "onthefly").read_bytes()
    details = {"ratio": 0.25, "training": {"seed": 0, "text": "ρ = ¼"}}
    for labels in (None, FIELDS["labels"]):
        data = metadata.describe(plain, name="a", description="", labels=labels, details=details)
        found = metadata.read(data)
        assert found["details"] == details and found.get("labels") == labels
        assert [(file["name"], file["type"]) for file in found["associated_files"]] == [("dbf_keras.json", 1)]
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert json.loads(archive.read("dbf_keras.json")) == details
        np.testing.assert_array_equal(outputs(data), outputs(plain))


def test_labels_of_other_exporters_are_found(described):
    data = metadata.describe(zoo.path("digits", "onthefly").read_bytes(), **{**FIELDS, "labels": None})
    assert "labels" not in metadata.read(data)
    renamed = described.replace(b"labels.txt", b"classes.md")  # In the metadata and in the archive.
    assert metadata.read(renamed)["labels"] == FIELDS["labels"]


def test_unknown_normalisation_is_left_out():
    data = metadata.describe(zoo.path("digits", "onthefly").read_bytes(), **{**FIELDS, "mean": None})
    assert "process_units" not in metadata.read(data)["subgraph_metadata"][0]["input_tensor_metadata"][0]


def test_damaged_metadata_is_an_error(described):
    place = described.index(b"M001")
    for damage in (b"\xff" * 40, b"\x7f" * 400):
        with pytest.raises(ValueError, match="its metadata is damaged"):
            metadata.read(described[: place - 4] + damage + described[place - 4 + len(damage) :])


def test_other_metadata_stay_and_own_are_replaced(described):
    again = metadata.describe(described, name="b", description="")
    assert metadata.read(again)["name"] == "b" and "labels" not in metadata.read(again)
    names = [[entry.name for entry in flatfile.load(data).metadata] for data in (described, again)]
    assert names[0] == names[1] and len(again) < len(described)
    plain = zoo.path("digits", "onthefly").read_bytes()
    assert {entry.name for entry in flatfile.load(plain).metadata or []} == set(names[0]) - {b"TFLITE_METADATA"}
    assert metadata.read(plain) == {}


def test_every_input_and_output_is_described():
    image, number = keras.Input((8, 8, 3), name="image"), keras.Input((2,), name="number")
    pooled = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(image), number])
    model = keras.Model([image, number], [keras.layers.Dense(4)(pooled), keras.layers.Dense(3)(pooled)])
    data = metadata.describe(to_tflite(model, "explicit"), name="two", description="", labels=["a", "b", "ç"])
    (graph,) = metadata.read(data)["subgraph_metadata"]
    colours = [entry.get("content", {}).get("content_properties") for entry in graph["input_tensor_metadata"]]
    assert sorted(colours, key=str) == [None, {"color_space": 1}]  # RGB.
    graph_outputs = flatfile.load(data).subgraphs[0].outputs
    sizes = [int(flatfile.load(data).subgraphs[0].tensors[index].shape[-1]) for index in graph_outputs]
    assert [("associated_files" in entry) for entry in graph["output_tensor_metadata"]] == [n == 3 for n in sizes]
    assert metadata.read(data)["labels"] == ["a", "b", "ç"]


@pytest.mark.parametrize(
    "labels, message", [(["a", "b"], "No output of the file has 2 classes"), (["a\nb"] * 10, "more than one line")]
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        metadata.describe(zoo.path("digits", "onthefly").read_bytes(), name="", description="", labels=labels)


def test_tensorflow_s_own_reader_agrees(described, tmp_path):
    support = pytest.importorskip("tflite_support.metadata", exc_type=ImportError)
    (tmp_path / "x.tflite").write_bytes(described)
    displayer = support.MetadataDisplayer.with_model_file(str(tmp_path / "x.tflite"))
    read = json.loads(displayer.get_metadata_json())
    assert read["name"] == FIELDS["name"] and read["license"] == FIELDS["licence"]
    (image,) = read["subgraph_metadata"][0]["input_tensor_metadata"]
    assert image["content"]["content_properties"] == {"color_space": "GRAYSCALE"}
    assert image["process_units"][0]["options"] == {"mean": [1.0, 2.0, 3.0], "std": [0.5]}
    assert displayer.get_associated_file_buffer("labels.txt").decode().split("\n") == FIELDS["labels"]
