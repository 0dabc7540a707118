import numpy as np
import pytest
import tensorflow as tf

from dbf_keras.backend import keras
from dbf_keras.export import converter, flatfile, to_tflite
from dbf_keras.layers import DBFConv2D

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


def places(file, slot, tables):
    """Where what a field of tables refers to is in a file."""
    fields = [(table._tab.Pos, table._tab.Offset(4 + 2 * slot)) for table in tables]
    return {position + offset + int.from_bytes(file[position + offset :][:4], "little") for position, offset in fields}


def test_equal_things_are_written_once():
    inputs = keras.Input((4, 4, 2))
    x = inputs
    for _ in range(3):
        x = layers.Conv2D(2, 1, activation="relu", bias_initializer="ones")(x)
    file = flatfile.dump(flatfile.load(converter.to_flatbuffer(randomize(keras.Model(inputs, x)), [])))
    model = flatfile.schema().Model.GetRootAs(file, 0)
    graph = model.Subgraphs(0)
    convolutions = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    images, options, shapes, signatures = 4, 4, 0, 7
    assert len(places(file, options, convolutions)) == 1
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    pictures = [tensor for tensor in tensors if tensor.ShapeLength() == 4 and tensor.ShapeSignatureLength()]
    assert len(pictures) == images and len(places(file, shapes, pictures)) == 1
    assert len(places(file, signatures, pictures)) == 1
    assert len(places(file, 2, [convolutions[-1]]) | places(file, 2, [graph])) == 1  # Both list one output, the same.


def test_equal_bytes_of_different_meaning_stay_apart():
    """A table of the float 1.0 is none of the integer 1, and vectors of one length differ by what they hold."""
    from dbf_keras.export import flatbuilder

    builder = flatbuilder._Builder(1000, [])
    tables = []
    for write, value in [("Int32", 1), ("Float32", 1.0), ("Int8", 1), ("Bool", True), ("Int32", 1), ("Float32", 1.0)]:
        builder.StartObject(1)
        getattr(builder, f"Prepend{write}Slot")(0, value, 0)
        tables.append(builder.EndObject())
    assert tables[4:] == tables[:2] and len(set(tables)) == 4
    vectors = [np.array([65, 66], kind) for kind in (np.int32, np.uint8, np.int64)]
    written = [builder.CreateNumpyVector(vector) for vector in vectors] + [builder.CreateString("AB")]
    assert len(set(written)) == 3  # The string's bytes are those of the uint8 vector and a zero.
    assert [builder.CreateNumpyVector(vector) for vector in vectors] == written[:3]


def test_vectors_begin_where_their_numbers_are_aligned(data):
    model = flatfile.load(data)
    graph = model.subgraphs[0]
    for length in range(1, 6):  # Between them are names of several lengths.
        values, scales = np.zeros((length, 3), np.int8), np.ones(length)
        graph.outputs = [*graph.outputs, flatfile.add_constant(model, graph, "c" * length, values, scales)]
    file = flatfile.dump(model)
    base = np.frombuffer(file, np.uint8).__array_interface__["data"][0]
    tensors = [load(file).subgraphs[0].tensors[index] for index in load(file).subgraphs[0].outputs[1:]]
    for length, tensor in enumerate(tensors, 1):
        assert tensor.quantization.zeroPoint.tolist() == [0] * length and tensor.name == b"c" * length
        assert (tensor.quantization.zeroPoint.__array_interface__["data"][0] - base) % 8 == 0
        assert (tensor.shape.__array_interface__["data"][0] - base) % 4 == 0


def rest(file):
    """What a file takes besides its buffers' data, in bytes."""
    held = {bytes(buffer.data) for buffer in load(file).buffers if buffer.data is not None}
    return len(file) - sum(map(len, held))


@pytest.mark.parametrize("quantize", [None, "weights"])
def test_a_layer_takes_few_bytes_besides_its_numbers(quantize):
    def size(count):
        inputs = x = keras.Input((8, 8, 16))
        for _ in range(count):
            x = DBFConv2D(16, 3, padding="same", activation="relu", ratio=0.25, selection="ovsf")(x)
        return rest(to_tflite(randomize(keras.Model(inputs, x)), "onthefly", quantize))

    scales = 0 if quantize is None else 16 * 4 + 32  # With the table that refers to them and to the zero points.
    assert (size(6) - size(2)) / 4 < 180 + scales


def test_terse_files_compute_what_they_did_in_every_runtime(data):
    litert = pytest.importorskip("ai_edge_litert.compiled_model")
    terse = flatfile.dump(flatfile.load(data), terse=True)
    model, given = load(terse), np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
    assert len(terse) < len(flatfile.dump(flatfile.load(data))) and not model.metadata and model.description is None
    graph = model.subgraphs[0]
    opened = [index for index, tensor in enumerate(graph.tensors) if tensor.shapeSignature is not None]
    assert opened == sorted([*graph.inputs, *graph.outputs])
    results = []
    for file in (data, terse):
        for module in (tf.lite, pytest.importorskip("ai_edge_litert.interpreter")):
            interpreter = module.Interpreter(model_content=file)
            [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()
            assert source["shape_signature"].tolist() == [-1, 8, 8, 3] and target["shape_signature"].tolist() == [-1, 7]
            interpreter.resize_tensor_input(source["index"], given.shape, strict=True)
            interpreter.allocate_tensors()
            interpreter.set_tensor(source["index"], given)
            interpreter.invoke()
            results.append(interpreter.get_tensor(target["index"]))
            [named] = interpreter.get_signature_runner()(
                **{interpreter.get_signature_list()["serving_default"]["inputs"][0]: given}
            ).values()
            np.testing.assert_array_equal(named, results[-1])
        compiled = litert.CompiledModel.from_buffer(file)
        sources, targets = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
        sources[0].write(given[:1])
        compiled.run_by_index(0, sources, targets)
        np.testing.assert_allclose(targets[0].read(7, np.float32), results[0][0], rtol=0, atol=1e-5)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[1], results[3])


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
