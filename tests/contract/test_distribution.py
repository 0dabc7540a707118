"""Several devices and the other backend, each in a process of its own: `distribution_program.py`."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from .tools import LEGACY, LEGACY_REASON

pytestmark = pytest.mark.skipif(LEGACY, reason=LEGACY_REASON)
_PROGRAM = pathlib.Path(__file__).with_name("distribution_program.py")


def program(make_once, backend):
    def fill(folder):
        environment = {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        run = subprocess.run(
            [sys.executable, str(_PROGRAM), str(folder)], capture_output=True, text=True, env=os.environ | environment
        )
        assert run.returncode == 0, run.stderr
        (folder / "findings.json").write_text(run.stdout.splitlines()[-1])

    return json.loads((make_once(f"distribution_{backend}", fill) / "findings.json").read_text())


@pytest.fixture(scope="module")
def tensorflow(make_once):
    return program(make_once, "tensorflow")


@pytest.fixture(scope="module")
def jax(make_once):
    pytest.importorskip("jax", reason="needs the extra `jax`")
    return program(make_once, "jax")


def check(found, ways=("ours", "twin")):
    """Losses fall, on two devices as on one, and with orthogonal codes as the twin's."""
    for way in ways:
        several, one = found[way]
        np.testing.assert_allclose(several, one, rtol=0, atol=1e-3)
        assert several[-1] < several[0] - 0.05
    if "ours" in ways:
        np.testing.assert_allclose(found["ours"][0], found["twin"][0], rtol=0, atol=1e-3)


def test_mirrored_strategy(tensorflow):
    assert tensorflow["devices"] == 2
    check(tensorflow["mirrored"])


def test_mirrored_strategy_with_fewer_codes(tensorflow):
    check(tensorflow["mirrored"], ["quarter"])


def test_data_parallel(jax):
    assert jax["devices"] == 2
    check(jax["data_parallel"])


def test_data_parallel_with_fewer_codes(jax):
    check(jax["data_parallel"], ["quarter"])


def test_model_parallel(jax):
    """The layout shards coefficients by filters, as the twin's kernel."""
    check(jax["model_parallel"])
    assert jax["sharding"]["ours"] == [None, "model"] and jax["sharding"]["twin"] == [None, None, None, "model"]


def test_files_of_the_other_backend(jax, tmp_path):
    assert jax["loaded"] < 1e-5


@pytest.mark.parametrize("row", ["penalties", "frozen", "spectral", "mixed", "seeds", "batches"])
def test_rows_of_the_contract_on_jax(jax, row):
    ours, theirs = jax["rows"][row]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
