import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


def run(program_or_file, **environment):
    return subprocess.run(
        [sys.executable, *program_or_file],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=HERE.parent,
    )


@pytest.mark.parametrize(
    "environment, chosen",
    [
        ({"KERAS_BACKEND": "jax"}, "not sum_of_codes and not config and not empty_batches and not new_process"),
        ({"TF_USE_LEGACY_KERAS": "1"}, ""),
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "twin_s or folded or empty_batches"),
    ],
)
def test_layers_pass_their_tests_elsewhere(environment, chosen):
    """The tests of layers, again, on JAX, on Keras 2 and where TensorFlow cannot train dilated convolutions.

    On JAX, which compiles each of them for seconds, without those that other tests of these layers cover; without
    oneDNN those that convolve.
    """
    tests = ["-m", "pytest", "-p", "no:cacheprovider", str(HERE / "test_layers.py"), "-k", chosen]
    result = run(tests, **environment)
    assert result.returncode == 0, result.stdout


_PRUNE = """
import numpy as np
import tensorflow_model_optimization as tfmot
from dbf_keras.backend import keras
from dbf_keras.layers import DBFConv2D, DBFDense
model = keras.Sequential([
    keras.layers.InputLayer((8, 8, 16)),
    DBFConv2D(8, 3, ratio=0.5, padding="same", activation="relu"),
    keras.layers.GlobalAveragePooling2D(),
    DBFDense(4),
])
schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=0, frequency=1)
pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
pruned.compile("sgd", "mse")
x = np.random.default_rng(0).standard_normal((16, 8, 8, 16)).astype("float32")
pruned.fit(x, x[:, 0, 0, :4], epochs=2, batch_size=8, verbose=0, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
for layer in tfmot.sparsity.keras.strip_pruning(pruned).layers:
    if hasattr(layer, "coefficients"):
        alpha = layer.coefficients.numpy()
        print((alpha == 0).mean())
"""


def test_model_optimization_prunes_alpha():
    result = run(["-c", _PRUNE], TF_USE_LEGACY_KERAS="1")
    assert result.stdout.split() == ["0.5", "0.5"], result.stderr
