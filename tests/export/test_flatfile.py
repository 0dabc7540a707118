import numpy as np
import pytest

from dbf_keras.backend import keras
from dbf_keras.export import converter, flatfile

from .tools import layers, load, ops, randomize


@pytest.fixture(scope="module")
def data():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, activation="relu")(inputs)
    return converter.to_flatbuffer(randomize(keras.Model(inputs, layers.Dense(7)(layers.Flatten()(x)))), [])


def test_a_file_that_is_not_changed_stays_the_same(data):
    again = flatfile.dump(flatfile.load(data))
    assert again[4:8] == b"TFL3"
    assert ops(again) == ops(data)
    assert abs(len(again) - len(data)) < 0.1 * len(data)
    # A second round has nothing left to drop.
    assert flatfile.dump(flatfile.load(again)) == again


def test_what_nothing_uses_is_dropped(data):
    model = flatfile.load(data)
    before = flatfile.dump(flatfile.load(data))
    graph = model.subgraphs[0]
    flatfile.add_constant(model, graph, "unused", np.zeros(1000, np.float32))
    flatfile.operator_code(model, flatfile.schema().BuiltinOperator.CUSTOM, 1, "Unused")
    assert flatfile.dump(model) == before


def test_metadata_and_signature_point_where_they_did(data):
    def look(model):
        graph = model.subgraphs[0]
        maps = [
            (m.name, graph.tensors[m.tensorIndex].name) for s in model.signatureDefs for m in [*s.inputs, *s.outputs]
        ]
        return maps, [(m.name, bytes(model.buffers[m.buffer].data)) for m in model.metadata]

    assert look(load(flatfile.dump(flatfile.load(data)))) == look(load(data))


def test_buffers_begin_at_multiples_of_16_bytes(data):
    again = flatfile.dump(flatfile.load(data))
    buffers = [buffer.data for buffer in load(again).buffers if buffer.data is not None]
    base = np.frombuffer(again, np.uint8).__array_interface__["data"][0]
    assert buffers
    assert all((buffer.__array_interface__["data"][0] - base) % 16 == 0 for buffer in buffers)


def test_one_name_of_many_is_kept(data):
    model = flatfile.load(data)
    model.subgraphs[0].tensors[1].name = b"relu;add;convolution"
    names = [tensor.name for tensor in load(flatfile.dump(model)).subgraphs[0].tensors]
    assert b"relu" in names and not any(b";" in name for name in names)


def test_equal_zero_points_are_written_once(data):
    def size(filters, copies):
        model = flatfile.load(data)
        graph = model.subgraphs[0]
        for number in range(copies):
            values, scales = np.full((filters, 4), number, np.int8), np.full(filters, number + 1.0)
            graph.outputs = [*graph.outputs, flatfile.add_constant(model, graph, "weights", values, scales)]
        file = flatfile.dump(model)
        for number, index in enumerate(load(file).subgraphs[0].outputs[1:]):
            quantization = load(file).subgraphs[0].tensors[index].quantization
            assert (quantization.scale == number + 1).all() and len(quantization.scale) == filters
            assert (quantization.zeroPoint == 0).all() and len(quantization.zeroPoint) == filters
        return len(file)

    # From the second on a filter takes 4 bytes of values and 4 of its scale, no 8 of a zero point.
    assert size(128, 3) - size(128, 2) - (size(64, 3) - size(64, 2)) == 64 * 8


def test_operator_codes_are_found_before_they_are_added(data):
    model = flatfile.load(data)
    custom = flatfile.schema().BuiltinOperator.CUSTOM
    first = flatfile.operator_code(model, custom, 1, "DBFConv2D")
    assert flatfile.operator_code(model, custom, 1, "DBFConv2D") == first
    assert flatfile.operator_code(model, custom, 1, "DBFDense") != first
    assert flatfile.operator_code(model, custom, 2, "DBFConv2D") != first


def test_constants_read_back(data):
    model = flatfile.load(data)
    graph = model.subgraphs[0]
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    index = flatfile.add_constant(model, graph, "added", values)
    np.testing.assert_array_equal(flatfile.constant(model, graph.tensors[index]), values)
    assert flatfile.constant(model, graph.tensors[graph.inputs[0]]) is None
