"""Files whose ops hold their tensors as the exporter never does: what an op may not read or write it refuses.

Constants are the memory of the file, and with `model_content` that of the caller's bytes.
"""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from dbf_keras import DBFConv2D, DBFDense, runtime
from dbf_keras.backend import keras
from dbf_keras.export import to_tflite

from .tools import load, needs_library, randomize

pytestmark = needs_library

KINDS = ["DBFConv2D float32", "DBFConv2D int8", "DBFDense float32", "DBFDense int8"]
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module", params=KINDS)
def file(request):
    """A file of one op, whose input and output have the same shape, and its input."""
    op, number = request.param.split()
    dense = op == "DBFDense"
    inputs = keras.Input((16,) if dense else (6, 5, 16))
    options = {"ratio": 0.25, "selection": "ovsf"}
    layer = DBFDense(16, **options) if dense else DBFConv2D(16, 3, padding="same", **options)
    model = randomize(keras.Model(inputs, layer(inputs)))
    x = RANDOM.standard_normal((50, *model.input_shape[1:])).astype(np.float32)
    if number == "float32":
        return to_tflite(model, "onthefly"), x[:1]
    data = to_tflite(model, "onthefly", "int8", representative_data=[x], io_type="int8")
    return data, RANDOM.integers(-128, 128, x[:1].shape, np.int8)


each_runtime = pytest.mark.parametrize("name", runtime.installed_runtimes())


class File:
    """A file that is changed: its graph, and its one op's tensors."""

    def __init__(self, data):
        self.model = load(data)
        self.graph = self.model.subgraphs[0]
        [self.operator] = [op for op in self.graph.operators if op.customOptions is not None]
        self.inputs = [int(i) for i in self.operator.inputs]
        self.output = int(self.operator.outputs[0])

    def tensor(self, operand):
        index = self.output if operand == "output" else self.inputs["input alpha bias".split().index(operand)]
        return self.graph.tensors[index]

    def make_constant(self, operand, values):
        """Gives a tensor a buffer in the file."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.tensor(operand).buffer = len(self.model.buffers) - 1

    def make_computed(self, operand):
        """Makes a constant an input of the graph."""
        self.tensor(operand).buffer = 0
        index = self.graph.tensors.index(self.tensor(operand))
        self.graph.inputs = [*self.graph.inputs, index]
        self.model.signatureDefs = None

    def make_sparse(self, operand):
        """Says that a tensor is stored as sparse ones are; as none of its dimensions is, it has the same size."""
        tensor = self.tensor(operand)
        rank = len(tensor.shape)
        tensor.sparsity = schema.SparsityParametersT()
        tensor.sparsity.traversalOrder = list(range(rank))[::-1]
        tensor.sparsity.dimMetadata = [schema.DimensionMetadataT() for _ in range(rank)]
        for dimension, size in zip(tensor.sparsity.dimMetadata, tensor.shape[::-1], strict=True):
            dimension.format, dimension.denseSize = schema.DimensionType.DENSE, int(size)

    def write_to(self, operand):
        """Makes an input of the op its output too."""
        self.operator.outputs = [self.graph.tensors.index(self.tensor(operand))]

    def dump(self):
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def like(tensor):
    """Numbers of a tensor's type and shape."""
    dtype = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32}
    return np.full(tensor.shape, 7, dtype[tensor.type])


def constant_output(file):
    file.make_constant("output", like(file.tensor("output")))


def sparse_input(file):
    file.make_constant("input", like(file.tensor("input")))  # the runtime forgets what it reads of computed ones
    file.make_sparse("input")


def output_of_alphas_buffer(file):
    file.tensor("output").buffer = file.tensor("alpha").buffer


def retyped(operand, number_type):
    def change(file):
        file.tensor(operand).type = number_type

    return change


def reshaped(operand, shape):
    def change(file):
        file.tensor(operand).shape = shape

    return change


def variable(operand):
    def change(file):
        file.tensor(operand).buffer, file.tensor(operand).isVariable = 0, True

    return change


def external(operand):
    def change(file):
        file.tensor(operand).buffer, file.tensor(operand).externalBuffer = 0, 3

    return change


def cut(operand):
    def change(file):
        buffer = file.model.buffers[file.tensor(operand).buffer]
        buffer.data = buffer.data[:-4]

    return change


def operands(**changes):
    """Sets entries of the op's lists of tensors."""

    def change(file):
        inputs = [*file.inputs]
        for operand, index in changes.items():
            inputs["input alpha bias".split().index(operand)] = index
        file.operator.inputs = inputs

    return change


# What is changed, and words of the refusal; None where the runtime may refuse first, in its own words.
REFUSED = {
    "constant output": (constant_output, "the output is a constant"),
    "alpha's buffer as output": (output_of_alphas_buffer, None),
    "output is the input": (lambda file: file.write_to("input"), "is also an input"),
    "output is alpha": (lambda file: file.write_to("alpha"), "is also an input"),
    "output is the bias": (lambda file: file.write_to("bias"), "is also an input"),
    "bias is the output": (lambda file: operands(bias=file.output)(file), "is also an input"),
    "alpha is the output": (lambda file: operands(alpha=file.output)(file), "is also an input"),
    "variable output": (variable("output"), "the output is a variable"),
    "no output": (lambda file: setattr(file.operator, "outputs", []), None),
    "sparse input": (sparse_input, "sparse"),
    "sparse alpha": (lambda file: file.make_sparse("alpha"), "sparse"),
    "sparse bias": (lambda file: file.make_sparse("bias"), "sparse"),
    "computed alpha": (lambda file: file.make_computed("alpha"), "alpha is not constant"),
    "computed bias": (lambda file: file.make_computed("bias"), "bias is not constant"),
    "variable alpha": (variable("alpha"), "alpha is not constant"),
    "variable bias": (variable("bias"), "bias is not constant"),
    "alpha without a buffer": (lambda file: setattr(file.tensor("alpha"), "buffer", 0), "alpha is not constant"),
    "bias without a buffer": (lambda file: setattr(file.tensor("bias"), "buffer", 0), "bias is not constant"),
    "external alpha": (external("alpha"), None),
    "external bias": (external("bias"), None),
    "short alpha": (cut("alpha"), None),
    "short bias": (cut("bias"), None),
    "no alpha": (operands(alpha=-1), "expected 2 or 3 inputs"),
    "alpha of another type": (retyped("alpha", schema.TensorType.INT16), None),
    "bias of another type": (retyped("bias", schema.TensorType.INT16), None),
    "output of another type": (retyped("output", schema.TensorType.INT16), "must both be"),
    "input of another type": (retyped("input", schema.TensorType.UINT8), "must both be"),
    "alpha of rank 1": (reshaped("alpha", [16]), None),
    "bias of rank 0": (reshaped("bias", []), None),
    "scalar input": (reshaped("input", []), "channels|height"),
    "negative alpha": (reshaped("alpha", [-16, 4]), None),
}


@each_runtime
@pytest.mark.parametrize("change", REFUSED)
def test_refused(file, name, change):
    act, words = REFUSED[change]
    changed = File(file[0])
    act(changed)
    content = changed.dump()
    kept = bytes(bytearray(content))
    with pytest.raises((RuntimeError, ValueError), match=words):
        interpreter = runtime.Interpreter(model_content=content, runtime=name)
        interpreter.allocate_tensors()
        interpreter.invoke()
    assert content == kept


def run(content, name, x=None):
    """All outputs, by the tensor's index."""
    interpreter = runtime.Interpreter(model_content=content, runtime=name)
    interpreter.allocate_tensors()
    if x is not None:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@each_runtime
def test_constant_input(file, name):
    data, x = file
    changed = File(data)
    changed.make_constant("input", x)
    np.testing.assert_array_equal(run(changed.dump(), name), run(data, name, x))


@each_runtime
def test_variable_input(file, name):
    data, x = file
    changed = File(data)
    changed.graph.inputs, changed.model.signatureDefs = [], None
    variable("input")(changed)
    zero = np.full_like(x, 0 if x.dtype == np.float32 else changed.tensor("input").quantization.zeroPoint[0])
    np.testing.assert_array_equal(run(changed.dump(), name), run(data, name, zero))


@each_runtime
def test_input_is_an_output(file, name):
    data, x = file
    changed = File(data)
    changed.graph.outputs, changed.model.signatureDefs = [changed.output, changed.inputs[0]], None
    y, same = run(changed.dump(), name, x)
    np.testing.assert_array_equal(y, run(data, name, x)[0])
    np.testing.assert_array_equal(same, x)


def twice(file):
    """Adds another op of the same kind after the first, and returns its output."""
    output, operator = schema.TensorT(), schema.OperatorT()
    vars(output).update(vars(file.tensor("output")))
    vars(operator).update(vars(file.operator))
    output.name = b"another"
    file.graph.tensors.append(output)
    file.graph.operators.append(operator)
    file.model.signatureDefs = None
    operator.inputs, operator.outputs = [file.output, *file.inputs[1:]], [len(file.graph.tensors) - 1]
    return operator.outputs[0]


@each_runtime
def test_output_that_another_op_reads(file, name):
    data, x = file
    changed = File(data)
    changed.tensor("output").quantization = changed.tensor("input").quantization
    data = changed.dump()
    changed.graph.outputs = [twice(changed), changed.output]
    last, first = run(changed.dump(), name, x)
    expected = run(data, name, x)[0]
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(last, run(data, name, expected)[0])


@each_runtime
@pytest.mark.parametrize("how", ["in a circle", "to one tensor", "to the input", "before the first"])
def test_ops_in_disorder(file, name, how):
    """Results or an error: what such files compute nobody has defined, but they harm nothing."""
    data, x = file
    changed = File(data)
    last = twice(changed)
    first, second = changed.graph.operators[-2:]
    if how == "in a circle":
        first.inputs = [last, *changed.inputs[1:]]
    elif how == "to one tensor":
        second.inputs, second.outputs = first.inputs, first.outputs
    elif how == "to the input":
        second.outputs = [changed.inputs[0]]
    else:
        changed.graph.operators = [second, first]
    content = changed.dump()
    kept = bytes(bytearray(content))
    try:
        [y] = run(content, name, x)
        assert y.shape == x.shape
    except (RuntimeError, ValueError) as error:
        assert str(error)
    assert content == kept
