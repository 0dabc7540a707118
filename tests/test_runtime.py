"""Files are built here from `export/FORMAT.md` by the flatbuffer API: no converter, no exporter, no Keras."""

import gc
import subprocess
import sys

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from dbf_keras import runtime

HEIGHT, WIDTH, CHANNELS, FILTERS, KERNEL = 7, 6, 4, 5, 3
CODES = np.array([0, 3, 5, 6, 11, 18, 20, 35])  # of the 3·3·4 of the grid
RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((1, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
POINTWISE = RNG.standard_normal((CHANNELS, 1, 1, CHANNELS)).astype(np.float32)
ALPHA = RNG.standard_normal((FILTERS, len(CODES))).astype(np.float32)
BIAS = RNG.standard_normal(FILTERS).astype(np.float32)


def options() -> np.ndarray:
    kept = np.zeros(40, np.uint8)
    kept[CODES] = 1
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Blob("codes", np.packbits(kept, bitorder="little")[: -(-KERNEL * KERNEL * CHANNELS // 8)].tobytes())
        for key, value in {
            "version": 1,
            "channels": CHANNELS,
            "activation": 1,
            "kernel_h": KERNEL,
            "kernel_w": KERNEL,
            "stride_h": 1,
            "stride_w": 1,
            "dilation_h": 1,
            "dilation_w": 1,
            "padding": 0,
        }.items():
            builder.Int(key, value)
    return np.frombuffer(bytes(builder.Finish()), np.uint8)


def build(custom: str | None = "DBFConv2D") -> bytes:
    """A 1×1 CONV_2D and, unless `custom` is None, after it a custom op with the tensors and options of a DBFConv2D."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, [schema.BufferT()], [], [graph]
    graph.tensors, graph.operators = [], []

    def tensor(name, shape, values=None):
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), schema.TensorType.FLOAT32, 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(builtin, inputs, outputs, name=None):
        code, made = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.customCode, code.version = name, 1
        model.operatorCodes.append(code)
        made.opcodeIndex, made.inputs, made.outputs = len(model.operatorCodes) - 1, inputs, outputs
        graph.operators.append(made)
        return made

    source = tensor("image", IMAGE.shape)
    middle = tensor("middle", IMAGE.shape)
    weights, zeros = tensor("weights", POINTWISE.shape, POINTWISE), tensor("zeros", [CHANNELS], np.zeros(4, np.float32))
    conv = operator(schema.BuiltinOperator.CONV_2D, [source, weights, zeros], [middle])
    conv.builtinOptionsType, conv.builtinOptions = schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT()
    conv.builtinOptions.strideH = conv.builtinOptions.strideW = 1
    if custom is not None:
        target = tensor("target", (1, HEIGHT, WIDTH, FILTERS))
        alpha, bias = tensor("alpha", ALPHA.shape, ALPHA), tensor("bias", BIAS.shape, BIAS)
        operator(schema.BuiltinOperator.CUSTOM, [middle, alpha, bias], [target], custom).customOptions = options()
    graph.inputs, graph.outputs = [source], [target if custom is not None else middle]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


popcount = np.vectorize(lambda number: int(number).bit_count())


def expected(image: np.ndarray) -> np.ndarray:
    """The DBFConv2D model's output, term by term as FORMAT.md has it."""
    middle = image @ POINTWISE[:, 0, 0, :].T
    u, v, w = np.unravel_index(CODES, (KERNEL, KERNEL, CHANNELS))
    y, x, c = np.indices((KERNEL, KERNEL, CHANNELS))
    exponent = sum(popcount(code[:, None, None, None] & place) for code, place in ((u, y), (v, x), (w, c)))
    kernel = np.einsum("kn,nyxc->yxck", ALPHA, (-1.0) ** exponent)
    padded = np.pad(middle, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (KERNEL, KERNEL), axis=(1, 2))
    return np.maximum(np.einsum("nhwcyx,yxck->nhwk", windows, kernel) + BIAS, 0)


def run(interpreter: runtime.Interpreter, image: np.ndarray = IMAGE) -> np.ndarray:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def allocated(*args, **kwargs) -> runtime.Interpreter:
    interpreter = runtime.Interpreter(*args, **kwargs)
    interpreter.allocate_tensors()
    return interpreter


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(runtime, "library_path", lambda: None)


each_runtime = pytest.mark.parametrize("name", runtime.installed_runtimes())


@each_runtime
@pytest.mark.parametrize("threads", [1, 2])
def test_computes_what_the_format_says(name, threads, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(build())
    np.testing.assert_allclose(run(allocated(path, num_threads=threads, runtime=name)), expected(IMAGE), atol=1e-4)


@each_runtime
def test_other_ops_stay_with_the_default_delegate(name):
    ops = [op["op_name"] for op in allocated(model_content=build(), runtime=name)._get_ops_details()]
    assert ops == ["CONV_2D", "DBFConv2D", "DELEGATE", "DELEGATE"]


@each_runtime
def test_resized_batch(name):
    interpreter = allocated(model_content=build(), runtime=name)
    images = RNG.standard_normal((3, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
    interpreter.allocate_tensors()
    np.testing.assert_allclose(run(interpreter, images), expected(images), atol=1e-4)


@each_runtime
def test_without_library(name, no_library):
    np.testing.assert_allclose(
        run(allocated(model_content=build(custom=None), runtime=name)), IMAGE @ POINTWISE[:, 0, 0, :].T, atol=1e-4
    )
    with pytest.raises(RuntimeError, match="(?s)pip install .*--mode explicit.*DBFConv2D"):
        allocated(model_content=build(), runtime=name)
    with pytest.raises(FileNotFoundError, match="pip install"):
        runtime.load_delegate(name)


@each_runtime
def test_op_that_nobody_has(name):
    with pytest.raises(RuntimeError, match="(?s)ours: DBFConv2D, DBFDense.*another runtime.*NoSuchOp"):
        allocated(model_content=build("NoSuchOp"), runtime=name)


@each_runtime
def test_op_memory(name):
    gc.collect()
    before = runtime.op_memory()
    interpreter = allocated(model_content=build(), runtime=name)
    during = runtime.op_memory()
    assert during.packed >= before.packed + ALPHA.nbytes and during.scratch > before.scratch
    run(interpreter)
    assert runtime.op_memory() == during
    del interpreter
    gc.collect()
    assert runtime.op_memory() == before


def test_op_memory_without_library(no_library):
    assert runtime.op_memory() == (0, 0)


def test_delegate_lives_as_long_as_the_interpreter():
    interpreters = [allocated(model_content=build()) for _ in range(3)]
    del interpreters[1]
    gc.collect()
    for interpreter in interpreters:
        np.testing.assert_allclose(run(interpreter), expected(IMAGE), atol=1e-4)


def test_outputs_outlive_the_interpreter():
    interpreter = allocated(model_content=build())
    run(interpreter)
    view = interpreter.tensor(interpreter.get_output_details()[0]["index"])()
    del interpreter
    gc.collect()
    np.testing.assert_allclose(view, expected(IMAGE), atol=1e-4)
    del view
    gc.collect()


@each_runtime
def test_delegate_options(name):
    baseline = allocated(model_content=build(), runtime=name, delegate_options={"isa": "baseline"})
    np.testing.assert_allclose(run(baseline), expected(IMAGE), atol=1e-4)
    with pytest.raises(ValueError, match="isa .*baseline"):
        runtime.Interpreter(model_content=build(), runtime=name, delegate_options={"isa": "abacus"})


def test_other_arguments_reach_the_runtime():
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = allocated(model_content=build(), runtime="litert", experimental_op_resolver_type=plain)
    assert [op["op_name"] for op in interpreter._get_ops_details()] == ["CONV_2D", "DBFConv2D", "DELEGATE"]
    with pytest.raises(TypeError, match="no_such_argument"):
        runtime.Interpreter(model_content=build(), no_such_argument=1)


def test_further_delegates():
    ours = runtime.load_delegate("litert")
    interpreter = allocated(model_content=build(), runtime="litert", experimental_delegates=[ours])
    np.testing.assert_allclose(run(interpreter), expected(IMAGE), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "neither"),
        ({"model_path": "x.tflite", "model_content": b"x"}, ValueError, "both"),
        ({"model_path": "no/such.tflite"}, FileNotFoundError, "no/such.tflite"),
        ({"model_content": b"not a model at all"}, ValueError, "model|Model"),
        ({"model_content": b"x", "runtime": "onnx"}, ValueError, "'onnx'; use one of litert, tflite_runtime, tf"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        runtime.Interpreter(**arguments)


def test_runtime_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(runtime, "installed_runtimes", lambda: ["litert"])
    with pytest.raises(ImportError, match="(?s)pip install tflite-runtime.*installed here: litert"):
        runtime.Interpreter(model_content=b"x", runtime="tflite_runtime")
    monkeypatch.setattr(runtime, "installed_runtimes", list)
    with pytest.raises(ImportError, match="pip install ai-edge-litert"):
        runtime.Interpreter(model_content=b"x")


def test_needs_neither_tensorflow_nor_keras(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(build())
    program = (
        "import sys; from dbf_keras.runtime import Interpreter\n"
        "interpreter = Interpreter(sys.argv[1], runtime='litert')\n"
        "interpreter.allocate_tensors(); interpreter.invoke()\n"
        "print(interpreter.runtime, sorted({'tensorflow', 'keras', 'tf_keras', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "litert []\n"
