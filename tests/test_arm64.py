"""The library for 64-bit ARM in LiteRT for 64-bit ARM, under QEMU: exported files compute what they do here.

`.ci/arm64_root DIR` makes the Python that runs them; DBF_ARM64_ROOT is its folder.
"""

import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
# Not those that start processes: in a child of an emulated process, the emulator's own locks stay locked.
NATIVE = "ai_edge_litert and not fork and not more_threads"
CPUS = ["cortex-a53", "cortex-a76"]  # without and with dot products of int8
# By quantisation and coding, as a share of the largest output.
TOLERANCES = {
    (None, False): 1e-5,
    ("weights", False): 1e-5,
    ("int4", False): 1e-5,
    ("int8", False): 0,
    ("weights", True): 1e-5,
    ("int8", True): 0,
}


@pytest.fixture(scope="module")
def arm_python(make_once):
    """A function that makes the command of a Python on an ARM processor, which finds our package and its library."""
    root = os.environ.get("DBF_ARM64_ROOT")
    if root is None:
        pytest.skip("DBF_ARM64_ROOT is not set; .ci/arm64_root makes such a folder")
    tools = {name: shutil.which(name) for name in ("qemu-aarch64-static", "aarch64-linux-gnu-gcc")}
    if missing := [name for name, path in tools.items() if path is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    emulator, compiler = tools.values()

    def build(folder):
        package, export = folder / "dbf_keras", REPOSITORY / "export"
        shutil.copytree(REPOSITORY / "dbf_keras", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        subprocess.run(
            [compiler, "-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-ffp-contract=fast"]
            + ["-DNDEBUG", f"-I{export}", *(path for path in export.glob("*/*.c") if path.parent.name != "tests")]
            + ["-lm", "-o", package / "_dbf_op.so"],
            check=True,
        )

    folder = make_once("arm64_package", build)

    def command(cpu):
        path = f"PYTHONPATH={folder}{os.pathsep}{root}/site"
        # -P: not the package in the working directory.
        return [emulator, "-L", root, "-cpu", cpu, "-E", path, f"{root}/usr/bin/python3.11", "-P"]

    return command


def run(command):
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def cases(make_once):
    """A folder of cases as `benchmarks/agreement.py` takes them, with the outputs that this processor has."""
    export, runtime, zoo = (
        pytest.importorskip(f"dbf_keras.{name}", exc_type=ImportError) for name in ("export", "runtime", "zoo")
    )

    def write(folder):
        model = zoo.load_zoo()
        inputs = np.random.default_rng(0).integers(0, 256, (32, *model.input_shape[1:])).astype("f")
        for (quantize, coding), tolerance in TOLERANCES.items():
            data = {"representative_data": [inputs]} if quantize == "int8" else {}
            path = folder / f"{quantize or 'float'}{'_coded' * coding}.tflite"
            path.write_bytes(export.to_tflite(model, "onthefly", quantize, coding, **data))
            it = runtime.Interpreter(path)
            it.allocate_tensors()
            source, result = (details[0]["index"] for details in (it.get_input_details(), it.get_output_details()))
            outputs = []
            for image in inputs:
                it.set_tensor(source, image[None])
                it.invoke()
                outputs.append(it.get_tensor(result)[0])
            np.savez(path.with_suffix(".npz"), inputs=inputs, outputs=np.stack(outputs), tolerance=tolerance)

    return make_once("arm64_cases", write)


@pytest.mark.parametrize("cpu", CPUS)
def test_exported_files(arm_python, cases, cpu):
    run([*arm_python(cpu), "benchmarks/agreement.py", cases, "--runtime", "litert"])


@pytest.mark.parametrize("cpu", CPUS)
def test_native(arm_python, cpu):
    run([*arm_python(cpu), "-m", "pytest", "-p", "no:cacheprovider", "tests/test_native.py", "-k", NATIVE])
