import csv
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import commands
import filelock
import numpy as np
import pytest

from dbf_keras import data, sweep
from dbf_keras.backend import keras
from dbf_keras.export import to_tflite
from dbf_keras.layers import custom_objects
from dbf_keras.sweep import execution

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
        ("{runs: [{name: a}], plot: {y: 1}}", "'x', 'panels', 'lines', 'highlight'; got"),
        ("{runs: [{name: a}], plot: x}", "'x', 'panels', 'lines', 'highlight'; got x"),
        ("{runs: [{name: a}], plot: {highlight: dbf}}", "'highlight' is a list"),
    ],
)
def test_files_that_are_wrong_are_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sweep.read(written(tmp_path, text))


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/b", "..", ".", ".x", ".locks", "..\\x", "a\nb", "a\0b", "", "results", "x/../../y"]
)
def test_names_that_lead_elsewhere_are_refused(name, tmp_path):
    """Of a run, and of an axis of its grid, which is part of the name."""
    named = json.dumps({"runs": [{"name": name}]})
    with pytest.raises(ValueError, match="files cannot be called after the run"):
        sweep.read(written(tmp_path, named))
    if "/" in name:
        with pytest.raises(ValueError, match="files cannot be called after the run"):
            sweep.read(written(tmp_path, json.dumps({"runs": [{"name": "a", "grid": {name: [1]}}]})))


def result(group, accuracy, title=None, given=None, **figures):
    known = {"parameters": 1000, "multiply_adds": 20000, "bytes": 3000, **figures}
    return {"group": group, "title": title or group, "given": given or {}, "accuracy": accuracy, **known}


def test_tables_join_seeds_and_leave_out_what_is_not_known(tmp_path):
    results = [
        result("a", 0.5, given={"ratio": 1, "seed": 0}),
        result("a", 0.7, given={"ratio": 1, "seed": 1}),
        result("b", 0.9, given={"ratio": 0.5, "seed": 0}, bytes=None),
    ]
    rows = sweep.table(sweep.join_seeds(results))
    assert [row["run"] for row in rows] == ["a", "b"] and [row["ratio"] for row in rows] == [1, 0.5]
    assert rows[0]["accuracy"] == pytest.approx(60) and rows[0]["spread"] == pytest.approx(200**0.5)
    assert (rows[1]["spread"], rows[1]["bytes"], rows[1]["seeds"]) == (None, None, 1)
    sweep.write_table(rows, tmp_path)
    assert (tmp_path / "results.md").read_text().splitlines() == [
        "| run | ratio | parameters | multiply adds | bytes | seeds | accuracy |",
        "|---|---|---|---|---|---|---|",
        "| a | 1 | 1,000 | 20,000 | 3,000 | 2 | 60.00 % ± 14.14 |",
        "| b | 0.5 | 1,000 | 20,000 |  | 1 | 90.00 % |",
    ]
    for row in results:
        del row["bytes"]  # As results of before have none.
    assert "bytes" not in sweep.table(sweep.join_seeds(results))[0]


def drawn(groups, options, monkeypatch, tmp_path):
    """The figure of a plot."""
    from matplotlib.figure import Figure

    figures = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: figures.append(self) or savefig(self, *args))
    sweep.plot(groups, options, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    return figures[0]


@pytest.mark.parametrize("bytes_known", [True, False])
def test_plots_show_accuracy_against_bytes(bytes_known, monkeypatch, tmp_path):
    sizes = (3000, 4000) if bytes_known else (3000, None)
    groups = sweep.join_seeds([result("a", 0.5, bytes=sizes[0]), result("b", 0.75, bytes=sizes[1])])
    rows, lines = drawn(groups, {}, monkeypatch, tmp_path).axes
    assert [label.get_text() for label in rows.get_yticklabels()] == ["a", "b"]
    assert lines.get_xlabel().startswith("bytes" if bytes_known else "parameters")
    places = {container.get_label(): container[0].get_xdata()[0] for container in lines.containers}
    assert places["a"] == (3000 if bytes_known else 1000)


def test_many_lines_can_be_told_apart_and_some_stand_out(monkeypatch, tmp_path):
    results = [
        result(f"line{n}-ratio={size}", 0.5 + n / 100, f"line{n}", {"ratio": size}, parameters=size)
        for n in range(30)
        for size in (1000, 2000)
    ]
    options = {"x": "parameters", "highlight": ["line7", "none"]}
    (axes,) = drawn(sweep.join_seeds(results), options, monkeypatch, tmp_path).axes
    lines = {container.get_label(): container[0] for container in axes.containers}
    looks = [(line.get_color(), line.get_marker()) for line in lines.values()]
    assert len(set(looks)) == len(looks) == 30
    shown = lines.pop("line7")
    assert shown.get_linewidth() > 2 * max(line.get_linewidth() for line in lines.values())
    assert shown.get_zorder() > max(line.get_zorder() for line in lines.values())
    assert shown.get_color() not in {line.get_color() for line in lines.values()}


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
    model = keras.models.load_model(tmp_path / "killed" / "dbf-ratio=0.5-seed=0.keras", custom_objects())
    assert int(rows[1]["bytes"]) == len(to_tflite(model, "onthefly", "weights"))


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, capsys):
    text = RUNS.replace("epochs: 2", "epochs: 1").replace("[0.5]", "[2, 0.5]").replace("[0, 1]", "[0]")
    runs, options = sweep.read(written(tmp_path, text))
    errors = sweep.sweep(runs, options, tmp_path)
    assert list(errors) == ["dbf-ratio=2-seed=0"] and "0 < ratio <= 1" in errors["dbf-ratio=2-seed=0"]
    assert capsys.readouterr().err.count("0 < ratio <= 1") == 1
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["run"] for row in rows] == ["plain", "dbf-ratio=0.5"]
    # What is done is not done again, and settings that changed are told.
    before = (tmp_path / "plain.json").stat().st_mtime_ns
    runs, options = sweep.read(written(tmp_path, text.replace("[2, 0.5]", "[0.5]")))
    assert sweep.sweep(runs, options, tmp_path) == {}
    assert (tmp_path / "plain.json").stat().st_mtime_ns == before
    runs, options = sweep.read(written(tmp_path, text.replace("epochs: 1", "epochs: 3")))
    assert "result of other settings" in sweep.sweep(runs[:1], options, tmp_path)["plain"]


def test_errors_are_told_once(tmp_path):
    """Those that the user can mend in a line, others with where they were raised."""
    text = """
    defaults: {dataset: digits, network: dbfnet_micro, width: 0.25, train_images: 256, batch_size: 128, epochs: 1}
    runs:
      - {name: refused, ratio: 2}
      - {name: broken, width: [1]}
    """
    done = commands.run("dbf_keras.sweep", written(tmp_path, text), "--output_dir", tmp_path, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("0 < ratio <= 1") == 1 and "refused failed: ValueError" in done.stderr
    assert done.stderr.count("broken failed: ") == 1 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "2 of 2 runs failed: refused, broken"


def test_figures_that_cannot_be_known_are_left_open(tmp_path):
    inputs = keras.Input((5, 4))
    keras.Model(inputs, keras.layers.LSTM(3)(inputs)).save(tmp_path / "x.keras")
    assert execution._figures(tmp_path / "x.keras") == {"parameters": 96, "multiply_adds": None, "bytes": None}


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
    monkeypatch.setattr(execution.time, "sleep", lambda seconds: other_process.release())
    errors = sweep.sweep(runs, options, tmp_path)
    assert list(errors) == ["lost"] and "there is no file" in errors["lost"]
    began = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert began == ["energy", "lost", "other", "energy", "lost", "full", "energy", "lost"]
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["run"] for row in rows] == ["full", "energy", "other"]
