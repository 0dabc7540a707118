"""Files of earlier versions load and give the numbers that they gave: `tests/fixtures/make.py` wrote them."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dbf_keras import keras_file
from dbf_keras.backend import LEGACY, keras
from dbf_keras.export import to_tflite, verify
from dbf_keras.layers import DBFConv2D
from dbf_keras.runtime import Interpreter

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
VERSIONS = sorted(FIXTURES.glob("v*"))
FILES = [path for version in VERSIONS for path in sorted(version.glob("*.tflite"))]

pytestmark = pytest.mark.skipif(LEGACY, reason="the files are of Keras 3")


def outputs(folder):
    with np.load(folder / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_old_tflite_files_give_the_same_numbers(path):
    stored = outputs(path.parent)
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    images = stored["images"].astype(np.float32)
    found = np.concatenate([verify.run_signature(interpreter, {"image": image[None]})[0] for image in images])
    # Sums are added up in another order on other processors; int8 is exact but for the float input and output.
    np.testing.assert_allclose(found, stored[path.stem], rtol=0, atol=2e-6)


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_old_models_give_the_same_numbers_and_export_to_the_same(folder):
    stored = outputs(folder)
    model, images = keras_file.load(folder / "model.keras"), stored["images"].astype(np.float32)
    np.testing.assert_allclose(model.predict(images, verbose=0), stored["keras"], rtol=0, atol=2e-6)
    kinds = {layer.name: layer.selection for layer in model.layers if isinstance(layer, DBFConv2D)}
    assert kinds["ovsf"] == "ovsf" and kinds["listed"][:2] == [3, 1]
    if keras.backend.backend() == "tensorflow":
        file = verify.run_file(model, to_tflite(model, "onthefly"), [images])[0]
        np.testing.assert_allclose(file, stored["onthefly"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("order", ["dbf_keras, keras", "keras, dbf_keras"])
def test_importing_the_package_is_enough_to_load_a_compiled_model(order):
    program = (
        f"import {order}, sys\n"
        "for path in sys.argv[1:]:\n"
        "    sgd = keras.saving.load_model(path).optimizer\n"
        "    print(type(sgd).__name__, type(sgd._learning_rate).__name__, sgd.alpha_rate)"
    )
    paths = [folder / "model.keras" for folder in VERSIONS]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["CodeSGD OneCycle 0.5"] * len(paths), done.stderr
