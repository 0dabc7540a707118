"""The C library as apps take it: installed, found by CMake and pkg-config, and used by the example, on LiteRT's own."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dbf_keras import runtime

REPOSITORY = pathlib.Path(__file__).parents[1]
EXPORT, DIGITS = REPOSITORY / "export", REPOSITORY / "models" / "digits"

pytestmark = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="what LiteRT's wheels for other systems hold is not known"),
]


def run(*command) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(make_once):
    """A folder that the library is installed in."""

    def install(folder):
        run("cmake", "-S", EXPORT, "-B", folder / "build")
        run("cmake", "--build", folder / "build", "--target", "dbf_op")
        run("cmake", "--install", folder / "build", "--prefix", folder / "prefix")
        (folder / "prefix").rename(folder / "moved")  # Nothing in it may hold its path.
        shutil.rmtree(folder / "build")

    return make_once("c_library", install) / "moved"


@pytest.fixture(scope="module")
def classify(installed, make_once):
    """The example, built in a folder of its own by CMake alone."""
    compiled_model = pytest.importorskip("ai_edge_litert.compiled_model")
    litert = pathlib.Path(compiled_model.__file__).parent

    def build(folder):
        shutil.copytree(EXPORT / "examples" / "classify", folder / "source")
        paths = f"-DCMAKE_PREFIX_PATH={installed}", f"-DCMAKE_LIBRARY_PATH={litert}"
        run("cmake", "-S", folder / "source", "-B", folder / "build", *paths)
        run("cmake", "--build", folder / "build")

    return make_once("classify", build) / "build" / "classify"


def save_digit(path: pathlib.Path) -> np.ndarray:
    """Writes an image of a digit and returns its pixels."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    pixels = np.round(digits.images[3] * 255 / 16).astype(np.uint8)
    path.write_bytes(b"P5\n8 8\n255\n" + pixels.tobytes())
    return pixels


def test_the_example_finds_the_class(classify, tmp_path):
    pixels = save_digit(tmp_path / "digit.pgm")
    interpreter = runtime.Interpreter(DIGITS / "onthefly.tflite", runtime="litert")
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels.astype(np.float32).reshape(1, 8, 8, 1))
    interpreter.invoke()
    scores = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    printed = run(classify, DIGITS / "onthefly.tflite", tmp_path / "digit.pgm").splitlines()[-1]
    assert printed == f"class {scores.argmax()}, score {scores.max():.4f}" and scores.argmax() == 3


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"P5\n9 8\n255\n" + bytes(72), "images of another size"),
        (b"P5\n8 8\n255\n" + bytes(63), "ends early"),
        (b"GIF89a", "no binary portable graymap"),
        (None, "image cannot be read"),
    ],
)
def test_the_example_says_what_is_wrong(classify, tmp_path, image, words):
    path = tmp_path / "image.pgm"
    if image is not None:
        path.write_bytes(image)
    result = subprocess.run([classify, DIGITS / "onthefly.tflite", path], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and words in result.stderr


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")
def test_pkg_config_finds_it(installed, tmp_path):
    (folder,) = installed.glob("lib*/**/pkgconfig")
    flags = run("env", f"PKG_CONFIG_PATH={folder}", "pkg-config", "--cflags", "--libs", "dbf_op").split()
    source = tmp_path / "memory.c"
    source.write_text(
        "#include <dbf_op.h>\n#include <stdio.h>\n"
        "int main(void) { size_t packed = 1, scratch = 1; dbf_memory(&packed, &scratch);"
        ' printf("%zu %zu\\n", packed, scratch); return 0; }\n'
    )
    run("cc", source, *flags, "-o", tmp_path / "memory")
    assert run("env", f"LD_LIBRARY_PATH={folder.parent}", tmp_path / "memory") == "0 0\n"


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_the_header_is_of_cpp_too(tmp_path):
    source = tmp_path / "header.cc"
    source.write_text("#include <dbf_op.h>\nint main() { return dbf_set_isa(nullptr) ? 0 : 1; }\n")
    run("g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{EXPORT}", source)
