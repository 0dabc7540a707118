import csv
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import filelock
import numpy as np
import pytest

from dbf_keras import data, sweep

HERE = pathlib.Path(__file__).parent
RUNS = """
defaults: {dataset: digits, network: dbfnet_micro, width: 0.25, train_images: 256, batch_size: 128, epochs: 2}
runs:
  - {name: plain, plain: true}
  - name: dbf
    grid: {ratio: [0.5], seed: [0, 1]}
plot: {x: parameters}
"""


def written(tmp_path, text):
    path = tmp_path / "runs.yaml"
    path.write_text(text)
    return path


def start(path, output_dir):
    return subprocess.Popen(
        [sys.executable, "-m", "dbf_keras.sweep", str(path), "--output_dir", str(output_dir)],
        cwd=HERE.parent,
        env=os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_runs_of_a_file(tmp_path):
    text = """
    defaults: {dataset: mnist, epochs: 7, kernel_size: 3}
    runs:
      - {name: teacher, plain: true}
      - name: dbf
        teacher: "{output_dir}/teacher-{ratio}.keras"
        grid: {ratio: [0.5, {"stage1_*": 0.25, "*": 1}], seed: [0, 1]}
      - {ratio: 0.125, selection: "random:3"}
    """
    runs, plot = sweep.read(written(tmp_path, text))
    assert plot == {}
    assert [run.name for run in runs] == [
        "teacher",
        "dbf-ratio=0.5-seed=0",
        "dbf-ratio=0.5-seed=1",
        "dbf-ratio=stage1_0.25_1-seed=0",
        "dbf-ratio=stage1_0.25_1-seed=1",
        "ratio=0.125-selection=random_3",
    ]
    assert [run.group for run in runs[1:3]] == ["dbf-ratio=0.5"] * 2
    settings = runs[2].settings("/out", "/data")
    assert (settings.dataset, settings.epochs, settings.seed, settings.data_dir) == ("mnist", 7, 1, "/data")
    assert settings.options == {"kernel_size": 3} and settings.teacher == "/out/teacher-0.5.keras"


def test_the_study_of_selections_can_be_built():
    """Every run's network, without training; energy's needs a trained one."""
    runs, _ = sweep.read(HERE.parent / "benchmarks" / "studies" / "selections.yaml")
    dataset = data.Dataset(*[np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, int)] * 2, 10)
    parameters, seeds = {}, {}
    for run in runs:
        seeds.setdefault(run.group, set()).add(run.given.get("seed"))
        if run.title != "energy" and run.group not in parameters:
            parameters[run.group] = run.settings("/out").build(dataset).count_params()
    for group, count in parameters.items():
        if group.startswith(("ratio_", "layerwise", "alpha", "narrow-width=0.525")):
            assert count == pytest.approx(parameters["dbf-selection=ovsf-ratio=0.25-kernel_size=4"], rel=0.03), group
    assert len(runs) == len({run.name for run in runs})
    assert all(given >= {0, 1, 2} for given in seeds.values()), seeds


@pytest.mark.parametrize(
    "text, message",
    [
        ("runs: {", "no yaml"),
        ("- a", "list 'runs'"),
        ("runs: []", "has no runs"),
        ("{runs: [{name: a}], grids: 1}", r"\['grids'\]"),
        ("runs: [a]", "run 1 must be a mapping"),
        ("runs: [{name: a, grid: {seed: 3}}]", "axis 'seed' must be a list"),
        ("runs: [{name: a}, {name: a, ratio: 0.5}]", "more than one run called a"),
        ("{runs: [{name: a}], plot: {y: 1}}", "'x', 'panels' and 'lines'"),
    ],
)
def test_files_that_are_wrong_are_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sweep.read(written(tmp_path, text))


def test_killed_at_random_moments_it_ends_with_the_same_table(tmp_path):
    wanted = int(os.environ.get("DBF_TEST_KILLS", 2))
    path = written(tmp_path, RUNS.replace("epochs: 2", f"epochs: {1 + wanted}"))  # Enough to be killed so often.
    straight = start(path, tmp_path / "straight")
    began = time.monotonic()
    process = start(path, tmp_path / "killed")
    kills, rng = 0, random.Random(0)
    while kills < wanted:
        # Within what comes after the start: the first file, then a moment.
        before = set((tmp_path / "killed").glob("*")) if (tmp_path / "killed").exists() else set()
        while process.poll() is None and set((tmp_path / "killed").glob("*")) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        process = start(path, tmp_path / "killed")
        assert time.monotonic() - began < 600
    assert process.wait() == 0 and straight.wait() == 0 and kills == wanted
    for name in ("results.csv", "results.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert (tmp_path / "killed" / "results.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "killed" / "results.csv").open()))
    assert [row["run"] for row in rows] == ["plain", "dbf-ratio=0.5"] and [row["seeds"] for row in rows] == ["1", "2"]
    results = [json.loads((tmp_path / "killed" / f"dbf-ratio=0.5-seed={seed}.json").read_text()) for seed in (0, 1)]
    accuracies = [100 * result["accuracy"] for result in results]
    assert float(rows[1]["accuracy"]) == pytest.approx(sum(accuracies) / 2)
    assert float(rows[1]["spread"]) == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert rows[0]["spread"] == ""


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, capsys):
    text = RUNS.replace("epochs: 2", "epochs: 1").replace("[0.5]", "[2, 0.5]").replace("[0, 1]", "[0]")
    runs, options = sweep.read(written(tmp_path, text))
    errors = sweep.sweep(runs, options, tmp_path)
    assert list(errors) == ["dbf-ratio=2-seed=0"] and "0 < ratio <= 1" in errors["dbf-ratio=2-seed=0"]
    assert "dbf-ratio=2-seed=0 failed" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["run"] for row in rows] == ["plain", "dbf-ratio=0.5"]
    # What is done is not done again, and settings that changed are told.
    before = (tmp_path / "plain.json").stat().st_mtime_ns
    runs, options = sweep.read(written(tmp_path, text.replace("[2, 0.5]", "[0.5]")))
    assert sweep.sweep(runs, options, tmp_path) == {}
    assert (tmp_path / "plain.json").stat().st_mtime_ns == before
    runs, options = sweep.read(written(tmp_path, text.replace("epochs: 1", "epochs: 3")))
    assert "result of other settings" in sweep.sweep(runs[:1], options, tmp_path)["plain"]


def test_runs_that_another_process_is_at_are_left_to_it(tmp_path, capsys, monkeypatch):
    """And taken over when it lets go of them unfinished, as when it is killed; runs that need their files wait."""
    text = """
    defaults: {dataset: digits, network: dbfnet_micro, width: 0.25, train_images: 256, batch_size: 128, epochs: 1}
    runs:
      - {name: full, ratio: 1.0}
      - {name: energy, selection: "energy:{output_dir}/full.keras"}
      - {name: lost, selection: "energy:{output_dir}/none.keras"}
      - {name: other}
    """
    runs, options = sweep.read(written(tmp_path, text))
    (tmp_path / ".locks").mkdir()
    other_process = filelock.FileLock(tmp_path / ".locks" / "full")
    other_process.acquire()
    monkeypatch.setattr(sweep.time, "sleep", lambda seconds: other_process.release())
    errors = sweep.sweep(runs, options, tmp_path)
    assert list(errors) == ["lost"] and "no such file" in errors["lost"]
    began = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert began == ["energy", "lost", "other", "energy", "lost", "full", "energy", "lost"]
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["run"] for row in rows] == ["full", "energy", "other"]
