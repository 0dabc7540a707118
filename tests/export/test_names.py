"""Names in files: of inputs and outputs, as the standard converter gives them to the plain twin, and of tensors."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf

from dbf_keras import zoo
from dbf_keras.backend import LEGACY, keras
from dbf_keras.export import converter, flatfile, to_tflite, verify
from dbf_keras.forms import MODES
from dbf_keras.layers import DBFConv2D, DBFDense
from dbf_keras.runtime import Interpreter

from .tools import layers, load, needs_library, randomize

FORMS = [*itertools.product(MODES, (None, "float16", "weights", "int8")), ("onthefly", "int4")]


def features(name="features"):
    return keras.Input((8,), name=name)


def dictionary(dense):
    inputs = features()
    return keras.Model(inputs, {"scores": dense(3)(inputs), "boxes": dense(4)(inputs), "a b": dense(5)(inputs)})


def one_in_a_dictionary(dense):
    inputs = features()
    return keras.Model(inputs, {"only": dense(3)(inputs)})


def sequence(dense):
    inputs = features()
    return keras.Model(inputs, [dense(count)(inputs) for count in range(1, 13)])


def single(dense):
    inputs = features("my-in")
    return keras.Model(inputs, dense(3, name="probabilities")(inputs))


def sequential(dense):
    return keras.Sequential([features("2nd"), dense(3)])


def twice(dense):
    inputs = features("a.b")
    outputs = dense(3)(inputs)
    return keras.Model(inputs, {"b": outputs, "a": outputs, "c": inputs})


def several(dense):
    first, second = features("second"), features("first")
    return keras.Model([first, second], {"x": dense(3)(layers.Subtract()([first, second]))})


MODELS = [dictionary, one_in_a_dictionary, sequence, single, sequential, twice, several]


def described(data):
    """The signatures, and the shapes of inputs and outputs by name."""
    interpreter = Interpreter(model_content=data)
    runner = interpreter.get_signature_runner()
    details = [runner.get_input_details(), runner.get_output_details()]
    return interpreter.get_signature_list(), [{name: one["shape"].tolist() for name, one in d.items()} for d in details]


@pytest.mark.parametrize("make", MODELS)
def test_signatures_are_those_of_the_plain_twin(make):
    plain = described(tf.lite.TFLiteConverter.from_keras_model(make(layers.Dense)).convert())
    model = make(DBFDense)
    given = verify.random_inputs(model, batch=20)
    for mode, quantize in itertools.product(MODES, (None, "int8")):  # Others change no name.
        data = given if quantize == "int8" else None
        file = to_tflite(model, mode, quantize, representative_data=data and [data])
        if mode != "onthefly" or Interpreter(model_content=file):
            assert described(file) == plain
        # And a name stands for the output that it stands for in Keras.
        if mode != "onthefly" and quantize is None:
            expected = [np.asarray(output) for output in converter.run(model, given)]
            assert verify.difference(expected, verify.run_file(model, file, given))[1] < 1e-5


@pytest.mark.skipif(LEGACY, reason="Keras 2 names outputs after layers")
def test_nested_outputs_have_names_too():
    inputs = features("a b")
    model = keras.Model(inputs, {"z": [DBFDense(1)(inputs), DBFDense(2)(inputs)], "a": {"b": DBFDense(3)(inputs)}})
    _, [sources, targets] = described(to_tflite(model, "explicit"))
    assert sources == {"a_b": [1, 8]} and targets == {"a_b": [1, 3], "z_0": [1, 1], "z_1": [1, 2]}
    given = verify.random_inputs(model)
    expected = [np.asarray(output) for output in converter.run(model, given)]
    assert verify.difference(expected, verify.run_file(model, to_tflite(model, "explicit"), given))[1] < 1e-5


def duplicates(data):
    names = collections.Counter(tensor.name for graph in load(data).subgraphs for tensor in graph.tensors)
    return [name for name, count in names.items() if count > 1 or not name]


def network():
    """Biases that are no zeros, layers of one name, and one that is used twice."""
    inputs = keras.Input((8, 8, 16))
    inner = keras.Sequential([keras.Input((8, 8, 16)), DBFConv2D(16, 3, padding="same", ratio=0.5, name="conv")])
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)))
    x = layers.ReLU()(layers.BatchNormalization()(inner(layers.BatchNormalization()(inner(x)))))
    x = layers.ReLU()(layers.BatchNormalization()(DBFConv2D(16, 3, ratio=0.5, use_bias=False, name="conv")(x)))
    return randomize(keras.Model(inputs, DBFDense(8, name="head")(layers.Flatten()(x))))


@pytest.mark.parametrize("mode, quantize", FORMS)
def test_tensor_names_differ(mode, quantize):
    model = network()
    data = verify.random_inputs(model) if quantize == "int8" else None
    assert duplicates(to_tflite(model, mode, quantize, representative_data=data)) == []


@needs_library
@pytest.mark.parametrize("name", ["digits", "resnet18_k4_cifar10"])
@pytest.mark.parametrize("quantize", ["float16", "int4"])
def test_names_of_zoo_files_differ_and_are_short(name, quantize):
    data = to_tflite(zoo.load_zoo(name), "onthefly", quantize)
    graph = load(data).subgraphs[0]
    assert duplicates(data) == []
    ends = [*graph.inputs, *graph.outputs]
    assert all(len(tensor.name) < 4 for index, tensor in enumerate(graph.tensors) if index not in ends)
    assert all(len(graph.tensors[index].name) > 4 for index in ends)


def test_names_inside_on_the_fly_files_tell_the_operator():
    graph = load(to_tflite(network(), "onthefly")).subgraphs[0]
    named = [[graph.tensors[index].name for index in [*op.outputs, *op.inputs]] for op in graph.operators]
    assert [names[0] for names in named[:-1]] == [b"%d" % number for number in range(len(named) - 1)]
    ours = [names for op, names in zip(graph.operators, named, strict=True) if op.customOptions is not None]
    numbers = [*(names[0] for names in ours[:-1]), b"%d" % (len(named) - 1)]
    assert [names[2:] for names in ours] == [[number + b"w", number + b"b"] for number in numbers]
    explicit = load(to_tflite(network(), "explicit")).subgraphs[0]
    assert [explicit.tensors[index].name for index in explicit.outputs] == [
        graph.tensors[index].name for index in graph.outputs
    ]
    assert not {tensor.name for tensor in explicit.tensors} & {names[0] for names in named[:-1]}


def test_a_short_name_gives_way_to_an_output_of_that_name():
    model = flatfile.load(to_tflite(network(), "explicit"))
    graph = model.subgraphs[0]
    graph.tensors[graph.outputs[0]].name = b"0"
    data = flatfile.dump(model, terse=True)
    again = load(data).subgraphs[0]
    assert again.tensors[again.outputs[0]].name == b"0" and duplicates(data) == []


def test_names_differ_between_subgraphs():
    class Loop(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = DBFDense(8, ratio=0.5)

        def build(self, shape):
            self.dense.build(shape)
            self.built = True

        def call(self, inputs):
            steps = tf.reduce_max(tf.cast(inputs, tf.int32)) % 4
            return tf.while_loop(
                lambda step, x: step < steps, lambda step, x: (step + 1, self.dense(x)), (tf.constant(0), inputs)
            )[1]

    inputs = features()
    model = keras.Model(inputs, Loop()(inputs))
    for quantize in (None, "weights"):
        for mode in ("explicit", "onthefly"):
            data = to_tflite(model, mode, quantize)
            assert len(load(data).subgraphs) == 3 and duplicates(data) == []
    x = np.full((1, 8), 3, np.float32)
    assert (
        verify.difference([np.asarray(model(x))], verify.run_file(model, to_tflite(model, "explicit"), [x]))[1] < 1e-5
    )


def test_outputs_keep_a_name_and_constants_give_way():
    model = flatfile.load(to_tflite(network(), "explicit"))
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        tensor.name = b"" if list(tensor.shape) == [8] else b"same;other"
    graph.tensors[graph.inputs[0]].name = "input"
    again = load(flatfile.dump(model)).subgraphs[0]
    assert again.tensors[again.inputs[0]].name == b"input"
    assert all(tensor.name.startswith((b"same", b"input", b"tensor")) for tensor in again.tensors)
    first = again.operators[0]
    names = [again.tensors[index].name for index in (*first.inputs[1:], *first.outputs)]
    assert names[0].startswith(b"same/weights") and names[1].startswith(b"same/bias") and b"/" not in names[2]
    assert len({tensor.name for tensor in again.tensors}) == len(again.tensors)


def test_tensors_of_several_shapes_do_not_share_a_buffer():
    # The pools' ones are 2 × 2 × 32 and 4 × 4 × 8: 128 of each, which the converter stores once.
    inputs = keras.Input((16, 16, 32))
    x = DBFConv2D(8, 4, ratio=0.25, selection=[(u * 4 + v) * 32 + w for u in (0, 2) for v in (0, 2) for w in range(32)])
    y = DBFConv2D(64, 4, ratio=1 / 16, selection=range(8))
    model = randomize(keras.Model(inputs, y(x(inputs))))
    raw = converter.to_flatbuffer(model, [])
    assert flatfile.is_tidy(flatfile.load(raw))
    data = to_tflite(model, "folded")
    graph = load(data).subgraphs[0]
    shapes = {}
    for tensor in graph.tensors:
        shapes.setdefault(tensor.buffer, set()).add(tuple(tensor.shape))
    held = {buffer for buffer in shapes if load(data).buffers[buffer].data is not None}
    assert all(len(shapes[buffer]) == 1 for buffer in held)
    given = verify.random_inputs(model)
    expected = [np.asarray(output) for output in converter.run(model, given)]
    assert verify.difference(expected, verify.run_file(model, data, given))[1] < 1e-5
