"""Tests of the native op: its C tests under sanitizers, and the built library inside a TFLite interpreter."""

import concurrent.futures
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import flatbuffers
import numpy as np
import pytest
from flatbuffers import flexbuffers

from dbf_keras import runtime

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

EXPORT = pathlib.Path(__file__).parents[1] / "export"
LAYERS = int(os.environ.get("DBF_TEST_LAYERS", 80))  # random layers under the sanitizers, of each kind a share
SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)


def library():
    """The built library, or skips the test."""
    spec = importlib.util.find_spec("dbf_keras._dbf_op")
    if spec is None:
        pytest.skip("the native op is not built: pip install -e .")
    return spec.origin


def hadamard(size):
    """h_i(j) = (-1)^popcount(i & j) for i, j < size."""
    return np.array([[(-1.0) ** bin(i & j).count("1") for j in range(size)] for i in range(size)])


def filters(alpha, codes, kernel, channels):
    """The filters [kh, kw, C, K] that coefficients [K, n] of sorted grid codes stand for."""
    kh, kw = kernel
    grid = np.zeros((len(alpha), kh * kw * channels))
    grid[:, codes] = alpha
    grid = grid.reshape(-1, kh, kw, channels)
    h = [hadamard(size) for size in (kh, kw, channels)]
    return np.einsum("kuvw,uy,vx,wc->yxck", grid, *h, optimize=True)


def code_blob(codes, size):
    bits = np.zeros(-(-size // 8) * 8, np.uint8)
    bits[codes] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def flexbuffer(options):
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, value in options.items():
            if isinstance(value, bytes):
                builder.Key(key)
                builder.Blob(value)
            else:
                builder.Add(key, value)
    return bytes(builder.Finish())


class Conv:
    """A DBFConv2D node with random coefficients."""

    name = b"DBFConv2D"

    def __init__(
        self,
        channels,
        filters=5,
        kernel=(3, 3),
        ratio=0.3,
        bias=True,
        int8=None,
        seed=0,
        codes=None,
        strides=(1, 1),
        dilation=(1, 1),
        padding=SAME,
        activation=NONE,
    ):
        rng = np.random.default_rng(seed)
        self.kernel, self.channels, self.filters = kernel, channels, filters
        self.grid = kernel[0] * kernel[1] * channels
        if codes is None:
            codes = rng.choice(self.grid, max(1, round(ratio * self.grid)), replace=False)
        self.codes = np.sort(np.asarray(codes))
        scale = np.sqrt(self.grid * len(self.codes))
        self.alpha = (rng.standard_normal((filters, len(self.codes))) / scale).astype("f")
        self.bias = rng.standard_normal(filters).astype("f") if bias else None
        self.scales = None
        if int8 is not None:
            axis = 1 if int8 == "per-filter" else None
            self.scales = np.atleast_1d(np.abs(self.alpha).max(axis=axis)).astype("f") / 127
            self.alpha = np.round(self.alpha / self.scales.reshape(-1, 1)).astype(np.int8)
        self.strides, self.dilation, self.padding, self.activation = strides, dilation, padding, activation
        self.options = self.default_options()
        self.raw_options = None

    def default_options(self):
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.strides, self.dilation
        return dict(
            version=1,
            channels=self.channels,
            activation=self.activation,
            codes=code_blob(self.codes, self.grid),
            kernel_h=kh,
            kernel_w=kw,
            stride_h=sh,
            stride_w=sw,
            dilation_h=dh,
            dilation_w=dw,
            padding=self.padding,
        )

    def activate(self, y):
        low, high = {NONE: (-np.inf, np.inf), RELU: (0, np.inf), RELU_N1_TO_1: (-1, 1), RELU6: (0, 6)}[self.activation]
        return np.clip(y, low, high)

    def weights(self):
        alpha = self.alpha.astype(np.float64)
        if self.scales is not None:
            alpha = alpha * self.scales.astype(np.float64).reshape(-1, 1)
        return filters(alpha, self.codes, self.kernel, self.channels)

    def reference(self, x):
        weights = self.weights()
        out, padded = [], []
        for size, k, s, d in zip(x.shape[1:3], self.kernel, self.strides, self.dilation, strict=True):
            extent = (k - 1) * d + 1
            n = -(-size // s) if self.padding == SAME else (size - extent) // s + 1
            total = max(0, (n - 1) * s + extent - size) if self.padding == SAME else 0
            out.append(n)
            padded.append((total // 2, total - total // 2))
        x = np.pad(x.astype(np.float64), [(0, 0), *padded, (0, 0)])
        y = np.zeros((len(x), *out, self.filters))
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                top, left = i * self.dilation[0], j * self.dilation[1]
                window = x[
                    :,
                    top : top + (out[0] - 1) * self.strides[0] + 1 : self.strides[0],
                    left : left + (out[1] - 1) * self.strides[1] + 1 : self.strides[1],
                ]
                y += window @ weights[i, j]
        return self.activate(y + (0 if self.bias is None else self.bias))


class Dense(Conv):
    """A DBFDense node with random coefficients."""

    name = b"DBFDense"

    def __init__(self, channels, filters=5, keep_num_dims=0, **kwargs):
        self.keep_num_dims = keep_num_dims
        super().__init__(channels, filters, kernel=(1, 1), **kwargs)

    def default_options(self):
        return dict(
            version=1,
            channels=self.channels,
            activation=self.activation,
            codes=code_blob(self.codes, self.grid),
            keep_num_dims=self.keep_num_dims,
        )

    def reference(self, x):
        y = x.reshape(-1, self.channels).astype(np.float64) @ self.weights()[0, 0]
        y = self.activate(y + (0 if self.bias is None else self.bias))
        return y.reshape(*x.shape[:-1], self.filters) if self.keep_num_dims else y


def model(nodes, input_shape, signature=None, absent_bias="-1"):
    """The bytes of a .tflite file that runs `nodes` one after the other."""
    m, graph = schema.ModelT(), schema.SubGraphT()
    m.version, m.buffers, m.operatorCodes, m.subgraphs = 3, [schema.BufferT()], [], [graph]
    graph.tensors, graph.operators, graph.name = [], [], b"main"

    def tensor(shape, value=None, scales=None):
        t = schema.TensorT()
        t.shape, t.type, t.name, t.buffer = list(shape), schema.TensorType.FLOAT32, b"t%d" % len(graph.tensors), 0
        if value is not None:
            b = schema.BufferT()
            b.data = np.frombuffer(value.tobytes(), np.uint8)
            m.buffers.append(b)
            t.buffer = len(m.buffers) - 1
            t.type = schema.TensorType.INT8 if value.dtype == np.int8 else schema.TensorType.FLOAT32
        if scales is not None:
            t.quantization = schema.QuantizationParametersT()
            t.quantization.scale, t.quantization.zeroPoint = scales, np.zeros(len(scales), np.int64)
            t.quantization.quantizedDimension = 0
        graph.tensors.append(t)
        return len(graph.tensors) - 1

    last = tensor(input_shape)
    graph.inputs = [last]
    if signature is not None:
        graph.tensors[last].shapeSignature = list(signature)
    x = np.zeros(input_shape)
    for node in nodes:
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode, code.version = node.name, 1
        m.operatorCodes.append(code)
        op.opcodeIndex = len(m.operatorCodes) - 1
        inputs = [last, tensor(node.alpha.shape, node.alpha, node.scales)]
        if node.bias is not None:
            inputs.append(tensor(node.bias.shape, node.bias))
        elif absent_bias == "-1":
            inputs.append(-1)
        x = node.reference(x)
        last = tensor(x.shape)
        op.inputs, op.outputs = inputs, [last]
        options = flexbuffer(node.options) if node.raw_options is None else node.raw_options
        op.customOptions = np.frombuffer(options, np.uint8) if options else None
        op.customOptionsFormat = schema.CustomOptionsFormat.FLEXBUFFERS
        graph.operators.append(op)
    graph.outputs = [last]
    builder = flatbuffers.Builder(1024)
    builder.Finish(m.Pack(builder), b"TFL3")
    return bytes(builder.Output())


RUNTIMES = ["ai_edge_litert.interpreter", "tensorflow", "tflite_runtime.interpreter"]


@pytest.fixture(params=RUNTIMES)
def interpreter(request):
    """A function that makes an interpreter, with the op, of each installed runtime in turn."""
    module = pytest.importorskip(request.param)
    if request.param == "tensorflow":
        interpreter_class, load = module.lite.Interpreter, module.lite.experimental.load_delegate
    else:
        interpreter_class, load = module.Interpreter, module.load_delegate

    def make(content, num_threads=1, isa=None):
        delegate = load(library(), {"isa": isa} if isa else {})
        return interpreter_class(model_content=content, num_threads=num_threads, experimental_delegates=[delegate])

    return make


def run(it, x, resize=False):
    index = it.get_input_details()[0]["index"]
    if resize:
        it.resize_tensor_input(index, x.shape)
    it.allocate_tensors()
    it.set_tensor(index, x)
    it.invoke()
    return it.get_tensor(it.get_output_details()[0]["index"])


def random(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype("f")


@pytest.fixture(scope="module", params=["address,undefined", "thread"])
def c_objects(request, make_once):
    """The objects of the library and the compiler flags of one set of sanitizers."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    flags = [
        "-std=gnu11",
        "-O1",
        "-g1",  # lines only: more takes half as long again
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        "-ffp-contract=fast",
        f"-fsanitize={request.param}",
        "-fno-sanitize-recover=all",
        f"-I{EXPORT}",
    ]
    # The kernels take long.
    sources = [*EXPORT.glob("kernels/*.c")]
    sources += [path for path in EXPORT.glob("*/*.c") if path.parent.name not in ("kernels", "tests")]
    sources += [path for path in EXPORT.glob("tests/*.c") if not path.stem.endswith("_test")]

    def compile_all(folder):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(lambda s: subprocess.run([compiler, *flags, "-c", s], cwd=folder, check=True), sources):
                pass

    folder = make_once(f"objects_{request.param}", compile_all)
    return [compiler, *flags], sorted(folder.glob("*.o")), request.param


@pytest.mark.parametrize(
    "test,rounds",
    [("flexbuffer", 0), ("op", 2000), ("coded", LAYERS // 4), ("conv", LAYERS), ("int8", LAYERS // 4), ("threads", 0)],
)
def test_in_c(c_objects, test, rounds, tmp_path):
    compile_command, objects, sanitizer = c_objects
    if sanitizer == "thread":  # slow
        if test in ("coded", "flexbuffer"):
            pytest.skip("has no threads")
        rounds //= 4
    binary = tmp_path / test
    subprocess.run([*compile_command, EXPORT / f"tests/{test}_test.c", *objects, "-lm", "-o", binary], check=True)
    result = subprocess.run([binary, str(rounds)], capture_output=True, text=True)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert result.returncode == 0, result.stdout + result.stderr


def check(interpreter, nodes, shape, **kwargs):
    """Runs a model of `nodes` and compares with the definition."""
    it = interpreter(model(nodes, shape), **kwargs)
    x = random(shape)
    y = run(it, x)
    for node in nodes:
        x = node.reference(x)
    assert y.shape == x.shape
    np.testing.assert_allclose(y, x, atol=1e-5 * max(1, np.abs(x).max()))
    return it


@pytest.mark.parametrize("isa", [None, "baseline", "avx2", "avx512", "neon"])
@pytest.mark.parametrize(
    "node",
    [
        Conv(16, 8),
        Conv(3, 17, kernel=(7, 7), strides=(2, 2), activation=RELU6),
        Conv(12, 33, kernel=(2, 5), dilation=(2, 1), padding=VALID, activation=RELU, bias=False),
        Conv(32, 16, kernel=(4, 4), codes=(np.arange(16)[:, None] * 32 + np.arange(0, 32, 4)).ravel()),
        Conv(9, 40, kernel=(1, 1), strides=(2, 3), ratio=1, activation=RELU_N1_TO_1),
        Conv(16, 8, int8="per-filter"),
        Conv(16, 8, int8="single"),
    ],
    ids=lambda node: f"{node.kernel}x{node.channels}",
)
def test_conv(interpreter, node, isa):
    try:
        check(interpreter, [node], (2, 13, 17, node.channels), isa=isa)
    except ValueError as error:
        if isa is None or "Failed to load delegate" not in str(error):
            raise
        pytest.skip(f"this processor has no {isa}")


@pytest.mark.parametrize("keep_num_dims", [0, 1])
@pytest.mark.parametrize("int8", [None, "per-filter", "single"])
def test_dense(interpreter, keep_num_dims, int8):
    check(interpreter, [Dense(48, 10, keep_num_dims=keep_num_dims, int8=int8)], (3, 5, 48))
    check(interpreter, [Dense(48, 10, keep_num_dims=keep_num_dims, int8=int8, bias=False)], (1, 48))


@pytest.mark.parametrize("absent_bias", ["-1", "left out"])
def test_absent_bias(interpreter, absent_bias):
    node = Conv(8, 6, bias=False)
    x = random((1, 5, 5, 8))
    y = run(interpreter(model([node], x.shape, absent_bias=absent_bias)), x)
    np.testing.assert_allclose(y, node.reference(x), atol=1e-5)


def test_neighbours(interpreter):
    """Neighbouring ops get memory for the tensor between them, also after a resize."""
    nodes = [Conv(8, 16, activation=RELU), Conv(16, 24, kernel=(4, 4), strides=(2, 2), seed=1), Conv(24, 4, seed=2)]
    it = check(interpreter, nodes, (1, 12, 12, 8))
    for shape in [(3, 12, 12, 8), (1, 30, 7, 8), (1, 12, 12, 8)]:
        x = random(shape)
        y = run(it, x, resize=True)
        for node in nodes:
            x = node.reference(x)
        np.testing.assert_allclose(y, x, atol=1e-5)


def test_dynamic_batch(interpreter):
    node = Dense(20, 7)
    it = interpreter(model([node], (1, 20), signature=(-1, 20)))
    for batch in (1, 200, 3, 1):
        x = random((batch, 20))
        np.testing.assert_allclose(run(it, x, resize=True), node.reference(x), atol=1e-5)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_num_threads(interpreter, num_threads):
    nodes = [Conv(32, 64), Conv(64, 32, seed=1), Conv(32, 256, kernel=(1, 1), seed=2)]
    it = check(interpreter, nodes, (1, 32, 32, 32), num_threads=num_threads)
    x = random((1, 32, 32, 32))
    first = run(it, x)
    np.testing.assert_array_equal(run(it, x), first)


def test_same_bits_on_any_number_of_threads(interpreter):
    nodes = [Conv(32, 64), Conv(64, 32, seed=1), Conv(32, 256, kernel=(1, 1), seed=2), Dense(256, 64, keep_num_dims=1)]
    content, x = model(nodes, (1, 31, 33, 32)), random((1, 31, 33, 32))
    one = run(interpreter(content, num_threads=1), x)
    for threads in range(2, 7):
        it = interpreter(content, num_threads=threads)
        for _ in range(20):
            np.testing.assert_array_equal(run(it, x), one)


# Arguments: the file, the runtime, and what to do.
PROCESSES = """
import gc, multiprocessing, os, signal, sys, threading
import numpy as np
from dbf_keras import runtime

path, module, what = sys.argv[1:]
name = {imported: key for key, (imported, _) in runtime.RUNTIMES.items()}[module]
signal.alarm(100)  # ends this process

def load(threads=2):
    it = runtime.Interpreter(path, num_threads=threads, runtime=name)
    it.allocate_tensors()
    return it

def compute(it, seed=0):
    [detail] = it.get_input_details()
    it.set_tensor(detail["index"], np.random.default_rng(seed).standard_normal(detail["shape"]).astype("f"))
    it.invoke()
    return it.get_tensor(it.get_output_details()[0]["index"]).copy()

def in_child(act, leave=os._exit):
    child = os.fork()
    if not child:
        signal.alarm(30)  # ends a child that hangs
        act()
        leave(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, (what, status)

it = load()
expected = [compute(load(1), seed) for seed in range(4)]

def check(seed=0):
    np.testing.assert_array_equal(compute(it, seed), expected[seed])

def delete():
    global it
    del it
    gc.collect()

def allocate():
    index = it.get_input_details()[0]["index"]
    shape = it.get_input_details()[0]["shape"]
    it.resize_tensor_input(index, [2, *shape[1:]])
    it.allocate_tensors()
    compute(it)
    it.resize_tensor_input(index, shape)
    it.allocate_tensors()
    check()

def grandchild():
    check()
    in_child(check)
    in_child(delete)
    check()

ACTS = {"invoke": check, "delete": delete, "allocate": allocate, "load": lambda: compute(load()),
        "grandchild": grandchild, "nothing": lambda: None}
if what == "pool":
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.map(check, [0, 1, 2, 3] * 5)
elif what == "meanwhile":
    stop = False
    other = load()
    def invoke():
        while not stop:
            other.invoke()
    thread = threading.Thread(target=invoke)
    thread.start()
    for _ in range(10):
        in_child(check)
        in_child(delete)
    stop = True
    thread.join()
else:
    for what, act in ACTS.items():
        it = load()
        in_child(act)  # before the threads have worked
        check()
        in_child(act)
        in_child(act, sys.exit)
check(1)
print("done")
"""


def in_process(program, content, tmp_path, *arguments):
    """What a program prints that is run with the path of a file and other arguments."""
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    command = [sys.executable, "-c", program, path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.parametrize("what", ["children", "pool", "meanwhile"])
@pytest.mark.parametrize("name", RUNTIMES)
def test_fork(name, what, tmp_path):
    """A child of fork() has an interpreter whose threads stayed behind."""
    pytest.importorskip(name)
    library()
    content = model([Conv(32, 64), Conv(64, 32, seed=1)], (1, 32, 32, 32))
    assert in_process(PROCESSES, content, tmp_path, name, what) == ["done"]


# Prints the median times of one and of several threads, in turn, on one processor.
BUSY = """
import os, subprocess, sys, time
import numpy as np
from dbf_keras import runtime

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
path, name, others, *threads = sys.argv[1:]
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(int(others))]
try:
    loaded = [runtime.Interpreter(path, num_threads=int(count), runtime=name) for count in threads]
    for it in loaded:
        it.allocate_tensors()
    times = [[] for _ in loaded]
    for _ in range(30):
        for it, row in zip(loaded, times):
            for _ in range(10):
                start = time.perf_counter()
                it.invoke()
                row.append(time.perf_counter() - start)
    print(*(np.median(row) for row in times))
finally:
    for process in busy:
        process.kill()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be held to one processor")
@pytest.mark.parametrize("busy", [0, 1])
def test_more_threads_than_processors(busy, tmp_path):
    """Threads that have no processor cost little; `benchmarks/threads.py` says how much."""
    name = runtime.resolve_runtime()
    library()
    content = model([Conv(64, 64, ratio=0.5, seed=seed, activation=RELU6) for seed in range(12)], (1, 16, 16, 64))
    one, *more = map(float, in_process(BUSY, content, tmp_path, name, str(busy), "1", "2", "4"))
    assert max(more) < 1.5 * one  # two and four threads once took 2 to 13 times as long


def with_options(node=None, remove=None, raw=None, **changes):
    """A node whose options are changed."""
    node = Conv(16, 8) if node is None else node
    node.options = {**node.options, **changes}
    node.options.pop(remove, None)
    node.raw_options = raw
    return node


GOOD = flexbuffer(Conv(16, 8).options)

BAD = {
    "later version": lambda: with_options(version=2),
    "unknown option": lambda: with_options(groups=2),
    "missing option": lambda: with_options(remove="padding"),
    "blob for an int": lambda: with_options(kernel_h=b"3"),
    "int for a blob": lambda: with_options(codes=3),
    "no options": lambda: with_options(raw=b""),
    "noise": lambda: with_options(raw=bytes(range(256))),
    "empty map": lambda: with_options(raw=flexbuffer({})),
    "zero stride": lambda: with_options(stride_h=0),
    "huge kernel": lambda: with_options(kernel_w=2**31 - 1),
    "huge dilation": lambda: with_options(dilation_h=2**31 - 1),
    "huge integer": lambda: with_options(dilation_h=2**40),
    "negative channels": lambda: with_options(channels=-16),
    "other channels": lambda: with_options(channels=8),
    "padding 2": lambda: with_options(padding=2),
    "activation 4": lambda: with_options(activation=4),
    "no codes": lambda: with_options(codes=b""),
    "short codes": lambda: with_options(codes=code_blob(range(40), 136)),
    "too many codes": lambda: with_options(codes=code_blob(range(50), 144)),
    "dense options": lambda: with_options(keep_num_dims=0),
    "code past the grid": lambda: with_options(Conv(5, codes=range(9)), codes=code_blob([*range(8), 45], 45)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(interpreter, name):
    node = BAD[name]()
    with pytest.raises((RuntimeError, ValueError)):
        run(interpreter(model([node], (1, 6, 6, node.channels))), random((1, 6, 6, node.channels)))


def test_truncated_options(interpreter):
    for length in range(0, len(GOOD), 5):
        with pytest.raises((RuntimeError, ValueError)):
            run(interpreter(model([with_options(raw=GOOD[:length])], (1, 6, 6, 16))), random((1, 6, 6, 16)))


@pytest.mark.parametrize(
    "change",
    [
        lambda n: setattr(n, "alpha", n.alpha[:, :-1].copy()),
        lambda n: setattr(n, "alpha", n.alpha.reshape(1, *n.alpha.shape)),
        lambda n: setattr(n, "bias", n.bias[:-1]),
        lambda n: setattr(n, "bias", n.bias.astype(np.int8)),
        lambda n: setattr(n, "scales", None),
    ],
    ids=["columns of alpha", "rank of alpha", "size of bias", "type of bias", "no scales"],
)
def test_bad_tensors(interpreter, change):
    node = Conv(16, 8, int8="per-filter")
    reference = node.reference(np.zeros((1, 6, 6, 16)))
    change(node)
    node.reference = lambda x: reference
    with pytest.raises((RuntimeError, ValueError)):
        run(interpreter(model([node], (1, 6, 6, 16))), random((1, 6, 6, 16)))


@pytest.mark.parametrize("shape", [(1, 6, 6, 15), (6, 6, 16), (96, 6), (2, 2, 2, 2, 16)])
def test_bad_input(interpreter, shape):
    node = Conv(16, 8)
    node.reference = lambda x: np.zeros((1, 6, 6, 8))
    with pytest.raises((RuntimeError, ValueError)):
        run(interpreter(model([node], shape)), random(shape))
    it = interpreter(model([Conv(16, 8)], (1, 6, 6, 16)))
    with pytest.raises((RuntimeError, ValueError)):
        run(it, random(shape), resize=True)


def test_bad_delegate_options(interpreter):
    with pytest.raises(ValueError):
        interpreter(model([Conv(4)], (1, 6, 6, 4)), isa="pentium")
