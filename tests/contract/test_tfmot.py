"""tensorflow-model-optimization: what it does with plain layers of Keras 2, it does with DBF layers.

It takes models of Keras 2 only, so most of it runs in one process of its own, whose findings the rows look at.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from .tools import LEGACY, LEGACY_REASON, networks

pytestmark = [
    pytest.mark.skipif(LEGACY, reason=LEGACY_REASON),
    pytest.mark.skipif(
        sys.version_info >= (3, 14) or not __import__("importlib.util").util.find_spec("tensorflow_model_optimization"),
        reason="needs the extra `legacy`",
    ),
]

_PROGRAM = pathlib.Path(__file__).with_name("tfmot_program.py")

_ROW = pytest.mark.parametrize("name", ["ours", "quarter", "twin"])


@pytest.fixture(scope="module")
def findings(make_once):
    def fill(folder):
        run = subprocess.run(
            [sys.executable, str(_PROGRAM), str(folder)],
            capture_output=True,
            text=True,
            env=os.environ | {"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "tensorflow"},
        )
        assert run.returncode == 0, run.stderr
        (folder / "findings.json").write_text(run.stdout.splitlines()[-1])
        (folder / "errors.txt").write_text(run.stderr)

    return json.loads((make_once("tfmot", fill) / "findings.json").read_text())


@_ROW
def test_pruning(findings, name):
    found = findings["pruned"][name]
    np.testing.assert_allclose(found["zeros"], 0.5, atol=0.01)
    assert found["after"] < found["before"] + 0.2


@_ROW
def test_clustering(findings, name):
    found = findings["clustered"][name]
    assert max(found["values"]) <= 8 and min(found["values"]) > 1
    assert found["after"] < found["before"] + 0.2


@_ROW
def test_clustering_of_what_was_pruned(findings, name):
    found = findings["pruned_and_clustered"][name]
    assert max(found["values"]) <= 8 and min(found["zeros"]) >= 0.49
    assert found["after"] < found["before"] + 0.2


@_ROW
def test_quantisation_aware_training(findings, name):
    """The converter's int8 file has the twin's operations and bytes."""
    found, twin = findings["quantized"][name], findings["quantized"]["twin"]
    assert found["after"] < found["before"] + 0.1
    assert found["loaded"] == 0
    assert found["error"] < 0.05
    assert all(layer.startswith("quant") for layer in found["layers"])
    assert found["ops"] == twin["ops"] and "CONV_2D" in found["ops"]
    assert abs(found["bytes"] - twin["bytes"]) < 0.01 * twin["bytes"]


@_ROW
def test_quantisation_aware_training_of_one_layer(findings, name):
    found = findings["annotated"][name]
    assert [layer for layer in found["layers"] if layer.startswith("quant")][-1] == "quant_second"
    assert found["after"] < found["before"] + 0.1 and found["loaded"] == 0


def test_clusters_per_channel_are_refused_in_words(findings):
    for name in ("ours", "quarter"):
        error = findings["per_channel"][name]["error"]
        assert error.startswith("ValueError: Layer 'second' stores coefficients")
        assert "leave out cluster_per_channel" in error


@pytest.mark.parametrize("way", ["prune", "cluster", "quantize"])
def test_models_of_keras_3_are_refused_as_the_twin_s(way, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")  # Taken back after the test: the package sets it when imported.
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    wrap = {
        "prune": tfmot.sparsity.keras.prune_low_magnitude,
        "cluster": lambda model: tfmot.clustering.keras.cluster_weights(
            model, 8, tfmot.clustering.keras.CentroidInitialization.LINEAR
        ),
        "quantize": tfmot.quantization.keras.quantize_model,
    }[way]
    outcomes = []
    for model in networks():
        try:
            outcomes.append(wrap(model))
        except ValueError as error:
            outcomes.append(str(error).split(".")[0].split("<")[0])
    assert outcomes[0] == outcomes[1]  # Clustering gives None.
    assert outcomes[0] is None or "keras" in outcomes[0].lower()
