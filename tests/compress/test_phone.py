import json
import re

import numpy as np
import pytest

import dbf_keras
from dbf_keras.backend import LEGACY, keras
from dbf_keras.benchmark.report import OpMemory, Report, Result, to_json
from dbf_keras.compress.phone import Phone


def write_results(folder, seconds, failures=None):
    """What the app would write of the files in a folder that take so long."""
    results = [
        Result(
            name=path.stem,
            path=f"/sdcard/layers/{path.name}",
            size=path.stat().st_size,
            peak_memory=0,
            op_memory=OpMemory(0, 0),
            times=np.array([seconds(path.read_bytes())] * 3),
        )
        for path in sorted(folder.glob("*.tflite"))
    ]
    (folder / "benchmark.json").write_text(to_json(Report({}, results, failures or {})), "utf-8")


def test_files_are_written_to_be_timed_and_their_times_read(tmp_path):
    files = [b"one", b"three", b"one"]
    phone = Phone(tmp_path / "layers")
    assert phone.measure(files) == [0, 0, 0]
    written = sorted((tmp_path / "layers").iterdir())
    assert sorted(path.read_bytes() for path in written) == [b"one", b"three"]
    with pytest.raises(ValueError, match=f"files in {re.escape(str(tmp_path))}/layers are to be timed"):
        phone.require_all()

    write_results(tmp_path / "layers", len)
    phone = Phone(tmp_path / "layers")
    assert phone.measure(files) == [3, 5, 3]
    phone.require_all()
    assert phone.measure([b"another"]) == [0]
    with pytest.raises(ValueError, match="^1 files"):
        phone.require_all()


def test_a_file_that_the_phone_could_not_run_is_told(tmp_path):
    (tmp_path / "one.tflite").write_bytes(b"one")
    write_results(tmp_path, len, {"two": "it has no such op"})
    with pytest.raises(ValueError, match="benchmark.json: two could not be run: it has no such op"):
        Phone(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"settings": {}, "models": [], "failures": {}})])
def test_other_results_are_refused(tmp_path, text):
    (tmp_path / "benchmark.json").write_text(text)
    with pytest.raises(ValueError, match="benchmark.json: not a result of the benchmark"):
        Phone(tmp_path)


@pytest.mark.skipif(LEGACY, reason="trained networks are compressed in Keras 3")
@pytest.mark.parametrize("faster", [False, True])
def test_layers_become_what_is_faster_on_the_phone(tmp_path, faster):
    """A phone on which our op takes a tenth, or ten times, of what the standard ops take."""
    model = keras.Sequential(
        [keras.layers.Input((6, 6, 3)), keras.layers.Conv2D(8, 3), keras.layers.Conv2D(8, 3, groups=2)]
        + [keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    asked = {"ratio": 0.5, "phone": tmp_path / "layers", "verbose": False}
    with pytest.raises(ValueError, match="to be timed on the phone"):
        dbf_keras.compress(model, **asked)
    ours = 0.1 if faster else 10.0
    write_results(tmp_path / "layers", lambda file: (ours if b"DBF" in file else 1.0) * 1e-3)
    plan = dbf_keras.compress(model, **asked).plan
    assert [layer.codes is not None for layer in plan.layers] == [faster, faster]
