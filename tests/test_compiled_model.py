"""LiteRT 2's `CompiledModel` runs our files as the interpreter of the same release does, bit for bit.

Releases of ai-edge-litert other than the installed one: `.ci/litert DIR VERSION …` installs some, DBF_LITERT_DIR is
their folder.
"""

import concurrent.futures
import gc
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dbf_keras import runtime

compiled_model = pytest.importorskip("dbf_keras.compiled_model", reason="LiteRT has no CompiledModel before 2.0")
REPOSITORY = pathlib.Path(__file__).parents[1]
FILES = sorted(path for path in (REPOSITORY / "models").glob("*/onthefly*.tflite"))
DIGITS = REPOSITORY / "models" / "digits"
RELEASES = pathlib.Path(os.environ.get("DBF_LITERT_DIR", "/nonexistent"))

# What a release is asked: the outputs of its interpreter and of its CompiledModel, on the same random images.
SCRIPT = """
import json, sys
import numpy as np
import dbf_keras
from dbf_keras import compiled_model
equal = {}
for path in sys.argv[1:]:
    interpreter = dbf_keras.Interpreter(path, runtime="litert")
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    image = np.random.default_rng(0).uniform(0, 100, inputs["shape"]).astype(inputs["dtype"])
    interpreter.set_tensor(inputs["index"], image)
    interpreter.invoke()
    wanted = interpreter.get_tensor(outputs["index"])
    model = compiled_model.CompiledModel.from_file(path)
    given, results = model.create_input_buffers(0), model.create_output_buffers(0)
    given[0].write(image.ravel())
    model.run_by_index(0, given, results)
    equal[path] = np.array_equal(results[0].read(wanted.size, wanted.dtype.type), wanted.ravel())
print(json.dumps(equal))
"""


def interpreted(path, image: np.ndarray) -> np.ndarray:
    """The output of the interpreter, flat."""
    interpreter = runtime.Interpreter(path, runtime="litert")
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).ravel()


def image_for(path, seed: int = 0) -> np.ndarray:
    """A random image of one batch, as a file takes it."""
    detail = runtime.Interpreter(path, runtime="litert").get_input_details()[0]
    return np.random.default_rng(seed).uniform(0, 100, detail["shape"]).astype(detail["dtype"])


def run(model, image: np.ndarray, count: int) -> np.ndarray:
    """The first output of a model, flat."""
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(image.ravel())
    model.run_by_index(0, inputs, outputs)
    return outputs[0].read(count, image.dtype.type)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_zoo_gives_the_bits_of_the_interpreter(path):
    image = image_for(path)
    wanted = interpreted(path, image)
    assert np.ptp(wanted) > 0
    np.testing.assert_array_equal(run(compiled_model.CompiledModel.from_file(path), image, wanted.size), wanted)


def test_bytes_signatures_and_names():
    content = (DIGITS / "onthefly.tflite").read_bytes()
    image = image_for(DIGITS / "onthefly.tflite")
    wanted = interpreted(DIGITS / "onthefly.tflite", image)
    model = compiled_model.CompiledModel.from_buffer(content)
    ((key, names),) = model.get_signature_list().items()
    assert model.get_num_signatures() == 1 and model.get_signature_index(key) == 0
    inputs = {name: model.create_input_buffer_by_name(key, name) for name in names["inputs"]}
    outputs = {name: model.create_output_buffer_by_name(key, name) for name in names["outputs"]}
    (given,), (result,) = inputs.values(), outputs.values()
    given.write(image.ravel())
    model.run_by_name(key, inputs, outputs)
    np.testing.assert_array_equal(result.read(wanted.size, np.float32), wanted)


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory):
    """A file with two inputs and two outputs, and its interpreter's outputs of two images, by size."""
    from dbf_keras import DBFConv2D, DBFDense, to_tflite
    from dbf_keras.backend import keras

    first, second = keras.Input((8, 8, 3), name="first"), keras.Input((8, 8, 4), name="second")
    joined = keras.layers.Concatenate()([DBFConv2D(5, 3, ratio=0.5)(first), DBFConv2D(6, 3, ratio=0.5)(second)])
    pooled = keras.layers.GlobalAveragePooling2D()(joined)
    model = keras.Model([first, second], [DBFDense(7, ratio=0.5)(pooled), joined])
    path = tmp_path_factory.mktemp("two") / "two.tflite"
    path.write_bytes(to_tflite(model, "onthefly"))
    return path


def test_several_inputs_and_outputs(two_by_two):
    interpreter = runtime.Interpreter(two_by_two, runtime="litert")
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    rng = np.random.default_rng(1)
    shapes = {name: detail["shape"] for name, detail in runner.get_input_details().items()}
    images = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    wanted = runner(**images)
    assert len(images) == len(wanted) == 2
    model = compiled_model.CompiledModel.from_file(two_by_two)
    (key,) = model.get_signature_list()
    inputs = {name: model.create_input_buffer_by_name(key, name) for name in images}
    outputs = {name: model.create_output_buffer_by_name(key, name) for name in wanted}
    for name, buffer in inputs.items():
        buffer.write(images[name].ravel())
    model.run_by_name(key, inputs, outputs)
    for name, buffer in outputs.items():
        np.testing.assert_array_equal(buffer.read(wanted[name].size, np.float32), wanted[name].ravel())


def test_environments_and_threads_at_once():
    paths = [DIGITS / "onthefly.tflite", DIGITS / "onthefly_int8.tflite"]
    wanted = {(path, seed): interpreted(path, image_for(path, seed)) for path in paths for seed in range(4)}
    images = {case: image_for(*case) for case in wanted}
    models = [compiled_model.CompiledModel.from_file(paths[number % 2]) for number in range(4)]

    def work(number):
        results = []
        for _ in range(50):
            for seed in range(4):
                case = paths[number % 2], seed
                results.append(np.array_equal(run(models[number], images[case], wanted[case].size), wanted[case]))
            compiled_model.CompiledModel.from_file(case[0])  # Others come and go meanwhile.
        return results

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert all(sum(threads.map(work, range(4)), []))


def resident() -> int:
    """The bytes that this process holds."""
    return os.sysconf("SC_PAGE_SIZE") * int(pathlib.Path("/proc/self/statm").read_text().split()[1])


def test_what_is_made_is_given_back():
    path = DIGITS / "onthefly.tflite"
    before = runtime.op_memory()
    image = image_for(path)
    for number in range(1000):
        run(compiled_model.CompiledModel.from_file(path), image, 10)
        if number == 300:
            after_some = resident()
    gc.collect()
    assert runtime.op_memory() == before
    assert resident() - after_some < 4 * 2**20  # 6 kB each; an op of this file packs 35 kB.


def test_what_cannot_be_run_is_told(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no model file at .*missing\.tflite"):
        compiled_model.CompiledModel.from_file(tmp_path / "missing.tflite")
    monkeypatch.setattr(runtime, "library_path", lambda: None)
    compiled_model.register.cache_clear()
    with pytest.raises(FileNotFoundError, match="C library of the ops"):
        compiled_model.CompiledModel.from_buffer(b"")


def with_a_batch_of_one(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a file whose batch is not left open."""
    from dbf_keras.export import flatfile

    model = flatfile.load(path.read_bytes())
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = None
    copy = folder / path.name
    copy.write_bytes(flatfile.dump(model))
    return copy


def releases() -> list[pathlib.Path]:
    return sorted(RELEASES.iterdir()) if RELEASES.is_dir() else []


@pytest.mark.skipif(not releases(), reason="DBF_LITERT_DIR is not set; .ci/litert makes such a folder")
@pytest.mark.parametrize("release", releases(), ids=lambda release: release.name)
def test_other_releases(release, tmp_path):
    open_batch = not release.name.startswith("2.0.")  # 2.0 makes no buffers for such files, without our op either.
    paths = [DIGITS / "onthefly.tflite", DIGITS / "onthefly_int8.tflite"]
    if not open_batch:
        paths = [with_a_batch_of_one(path, tmp_path) for path in paths]
    environment = {**os.environ, "PYTHONPATH": f"{release}{os.pathsep}{REPOSITORY}"}
    command = [sys.executable, "-c", SCRIPT, *map(str, paths)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {str(path): True for path in paths}
