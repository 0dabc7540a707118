import dataclasses
import html.parser
import json
import os
import re
import subprocess
import sys

import commands
import numpy as np
import pytest

import agreement
import common
import layers
import native
import networks
import plots
from common import Shape, Side
from dbf_keras.backend import keras
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.accuracy import accuracy, answers, classes_of, quantize
from dbf_keras.benchmark.memory import peak_memory
from dbf_keras.benchmark.page import to_html
from dbf_keras.benchmark.report import Report, Result, from_json, print_table, split_details, to_json, to_rows
from dbf_keras.export import to_tflite
from dbf_keras.layers import DBFConv2D
from dbf_keras.runtime import Interpreter, OpMemory


@pytest.fixture(scope="module")
def model():
    image = keras.Input((8, 8, 1))
    features = DBFConv2D(8, 4, padding="same", activation="relu", ratio=0.5)(image)
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(features)))


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for mode in ("explicit", "onthefly"):
        (folder / f"{mode}.tflite").write_bytes(to_tflite(model, mode=mode))
    return folder


class FakeInterpreter:
    """Takes [1, 2, 2, 1] int8 pixels with scale 2 and zero point -100, and scores class 1 if the first is bright."""

    tensors = {}

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return [{"index": 0, "shape": np.array([1, 2, 2, 1]), "dtype": np.int8, "quantization": (2.0, -100)}]

    def get_output_details(self):
        return [{"index": 1, "shape": np.array([1, 2]), "quantization": (0.0, 0)}]

    def set_tensor(self, index, values):
        assert values.dtype == np.int8 and values.shape == (1, 2, 2, 1)
        self.tensors[index] = values

    def invoke(self):
        self.tensors[1] = np.array([[0.0, float(self.tensors[0][0, 0, 0, 0]) + 50]])

    def get_tensor(self, index):
        return self.tensors[index]


class TestTiming:
    def test_sides_take_turns(self):
        calls, shares = [], []
        sides = [lambda side=side: calls.append(side) for side in "ab"]
        times = time_interleaved(sides, seconds=60, repetitions=7, tick=shares.append)
        assert "".join(calls) == "aaaabbbb" * 2 + "aabb"  # one untimed inference, then three timed ones, 7 in all
        assert [row.shape for row in times] == [(7,), (7,)]
        assert all((row > 0).all() for row in times)
        assert shares == pytest.approx([1 / 3, 2 / 3, 1])

    def test_seconds_stop_it_but_not_at_once(self):
        times = time_interleaved([lambda: None], seconds=0, repetitions=1000)
        assert len(times[0]) == 12

    def test_prepare_fills_inputs(self, files):
        interpreter = Interpreter(files / "explicit.tflite")
        invoke = prepare(interpreter)
        pixels = interpreter.get_tensor(interpreter.get_input_details()[0]["index"])
        assert pixels.min() >= 0 and 200 < pixels.max() <= 255 and (pixels == np.rint(pixels)).all()
        invoke()
        assert interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).any()

    def test_prepare_fills_integer_inputs(self):
        interpreter = FakeInterpreter()
        prepare(interpreter, seed=1)
        assert len(np.unique(interpreter.tensors[0])) > 1


class TestAccuracy:
    def test_counts_what_is_right(self):
        images = np.zeros((4, 2, 2, 1), np.uint8)
        images[:, 0, 0, 0] = [10, 90, 110, 255]  # int8: -95, -55, -45, 28
        assert accuracy(FakeInterpreter(), images, np.array([0, 0, 1, 0])) == 0.75

    def test_agrees_with_keras(self, model, files):
        interpreter = Interpreter(files / "onthefly.tflite")
        interpreter.allocate_tensors()
        images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), np.uint8)
        labels = np.argmax(model(images.astype(np.float32)), axis=1)
        labels[:8] = (labels[:8] + 1) % 10
        assert accuracy(interpreter, images, labels) == 0.75

    @pytest.mark.parametrize(
        ("scores", "expected"),
        [
            ([[0.1, 0.7, 0.2], [3.0, -1.0, 2.0]], [1, 0]),
            ([[0.4], [0.6], [0.0], [1.0], [0.5]], [0, 1, 0, 1, 0]),
            ([[0.4], [0.6], [-0.1]], [1, 1, 0]),
            ([[0.4], [1.1], [0.0]], [1, 1, 0]),
        ],
    )
    def test_classes_of_scores(self, scores, expected):
        """One score is a probability, or a logit if any is none; of two equal classes the first counts."""
        found = classes_of(np.array(scores, np.float32))
        assert found.tolist() == expected and found.dtype.kind == "i"

    @pytest.mark.parametrize("activation", ["sigmoid", None])
    @pytest.mark.parametrize("quantize", [None, "int8"])
    def test_files_of_one_score(self, activation, quantize):
        """Logits are told from probabilities by all of them: each for itself, many are from 0 to 1."""
        image = keras.Input((8, 8, 1))
        features = keras.layers.Flatten()(DBFConv2D(4, 3, ratio=0.5)(keras.layers.Rescaling(1 / 255)(image)))
        model = keras.Model(image, keras.layers.Dense(1, activation)(features))
        images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
        model.layers[-1].bias.assign([0.2 - np.median(self.logits(model, images))])
        logits = self.logits(model, images)
        assert (((logits > 0.05) & (logits < 0.45)).sum() > 3) and (logits < 0).any()
        calibration = {} if quantize is None else {"representative_data": [images.astype(np.float32)]}
        interpreter = Interpreter(model_content=to_tflite(model, quantize=quantize, **calibration))
        interpreter.allocate_tensors()
        clear = np.abs(logits) > (1e-4 if quantize is None else 0.1)
        found = answers(interpreter, images)
        np.testing.assert_array_equal(found[clear], (logits > 0)[clear])
        assert clear.sum() > 40 and found.dtype.kind == "i"

    @staticmethod
    def logits(model, images):
        [scores] = model.predict(images.astype(np.float32), verbose=0).astype(np.float64).T
        return np.log(scores / (1 - scores)) if model.layers[-1].activation is keras.activations.sigmoid else scores

    def test_wrong_shape(self):
        with pytest.raises(ValueError, match=r"\(2, 2, 1\).*\(8, 8, 1\)"):
            accuracy(FakeInterpreter(), np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1))

    @pytest.mark.parametrize(
        ("dtype", "quantization", "expected"),
        [
            (np.float32, (0.0, 0), [0.0, 100.0, 255.0]),
            (np.uint8, (1.0, 0), [0, 100, 255]),
            (np.int8, (1.0, -128), [-128, -28, 127]),
            (np.int8, (0.5, -128), [-128, 72, 127]),
            (np.uint8, (0.0, 0), [0, 100, 255]),
        ],
    )
    def test_quantize(self, dtype, quantization, expected):
        got = quantize(np.array([0, 100, 255], np.uint8), {"dtype": dtype, "quantization": quantization})
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, expected)


def test_peak_memory_grows_with_the_model(tmp_path):
    megabytes = {}
    for units in (8, 4096):
        pixels = keras.Input((1024,))
        path = tmp_path / f"{units}.tflite"
        path.write_bytes(to_tflite(keras.Model(pixels, keras.layers.Dense(units)(pixels)), mode="explicit"))
        megabytes[units] = peak_memory(str(path), repeats=1) / 1e6
    assert 0 < megabytes[8] < 20
    assert 16 < megabytes[4096] - megabytes[8] < 60  # 4096·1024 floats, and XNNPACK's packed copy of them


def test_peak_memory_of_no_model(tmp_path):
    path = tmp_path / "bad.tflite"
    path.write_bytes(b"not a model")
    with pytest.raises(RuntimeError, match=r"^'.*bad.tflite' cannot be loaded and run: [^\n]+$"):
        peak_memory(str(path), repeats=1)


def test_peak_memory_of_what_kills_its_process(tmp_path, monkeypatch):
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    with pytest.raises(RuntimeError, match="x.tflite' cannot be loaded and run: the process was killed by SIGSEGV"):
        peak_memory("x.tflite")


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and notes the text."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        assert not {"src", "href"} & dict(attrs).keys(), "refers to another file"
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


class TestReport:
    FIRST = Result(
        "explicit", "a/explicit.tflite", 400_000, 5_100_000, OpMemory(0, 0), np.array([4e-3, 2e-3, 3e-3]), 0.987
    )
    SECOND = Result("<b>&", "b.tflite", 100_000, 4_000_000, OpMemory(98_300, 5_000), np.full(11, 1e-3), 0.98)

    PHONE = Report(
        {"device": "A <phone>", "thermal_status": "none"},
        [
            Result(
                "explicit",
                "explicit.tflite",
                400_000,
                0,
                OpMemory(0, 0),
                np.array([8e-3, 6e-3]),
                load=0.0125,
                first=0.02,
                check={"difference": 2e-7, "tolerance": 1e-4, "passed": True},
            ),
            Result(
                "phone only",
                "x.tflite",
                1,
                1,
                OpMemory(1, 2),
                np.array([1.75e-3]),
                check={"difference": None, "tolerance": 1e-4, "passed": False},
            ),
        ],
        {"bad & broken": "no reason"},
    )

    def test_rows(self):
        assert to_rows([self.FIRST, self.SECOND])[1:] == [
            ["explicit", "98.70%", "1.00×", "3.000", "400.0", "5.10", "3.800", "3.980", "0.0", "0.0"],
            ["<b>&", "98.00%", "3.00×", "1.000", "100.0", "4.00", "1.000", "1.000", "98.3", "5.0"],
        ]

    def test_rows_of_a_phone(self):
        heading, first, second = to_rows(self.PHONE.results)
        assert heading[1:3] == ["output", "speed-up"] and heading[-4:-2] == ["load ms", "first ms"]
        assert first[1:3] == ["as expected", "1.00×"] and first[-4:-2] == ["12.500", "20.000"]
        assert second[1:3] == ["WRONG", "4.00×"] and second[-4:-2] == ["", ""]

    def test_what_decides_and_the_details(self):
        decisive, details = split_details(to_rows(self.PHONE.results))
        assert decisive[0] == ["model", "output", "speed-up", "median ms", "file kB", "peak MB"]
        assert details[0] == ["model", "p90 ms", "p99 ms", "load ms", "first ms", "packed kB", "scratch kB"]
        assert decisive[2][0] == details[2][0] == "phone only" and details[2][-1] == "0.0"

    @pytest.mark.parametrize("rich", [True, False])
    def test_tables_print_names_as_they_are(self, rich, monkeypatch, capsys):
        if not rich:
            monkeypatch.setitem(sys.modules, "rich.console", None)
        print_table("of [bold]", [["model", "x"], ["[/red]x", "1"], ["[b]", "22"]], caption="so [it] is")
        lines = capsys.readouterr().out.splitlines()
        assert any("[/red]x" in line for line in lines) and any("[b]" in line for line in lines)
        assert any("of [bold]" in line for line in lines) and "so [it] is" in lines[-1]
        if not rich:
            assert lines[1:4] == ["model     x", "[/red]x   1", "[b]      22"]

    def test_rows_without_accuracy(self):
        heading, row = to_rows([Result("a", "a", 1, 1, OpMemory(0, 0), np.ones(3))])
        assert "accuracy" not in heading and "output" not in heading and len(row) == len(heading)

    def test_json(self):
        read = json.loads(to_json(Report({"num_threads": 1}, [self.FIRST, self.SECOND])))
        assert read["settings"] == {"num_threads": 1} and read["failures"] == {}
        second = read["models"][1]
        assert (second["file_bytes"], second["peak_memory_bytes"], second["runs"]) == (100_000, 4_000_000, 11)
        assert (second["op_packed_bytes"], second["op_scratch_bytes"]) == (98_300, 5_000)
        assert (second["median_ms"], second["speedup"], second["accuracy"]) == pytest.approx((1, 3, 0.98))
        assert read["models"][0]["times_ms"] == [4, 2, 3]

    def test_json_is_read_back(self):
        for report in (Report({"cpu": "fast", "dataset": None}, [self.FIRST, self.SECOND]), self.PHONE):
            read = from_json(to_json(report))
            assert to_json(read) == to_json(report)
            assert (read.settings, read.failures, read.machine) == (report.settings, report.failures, report.machine)
            for got, wanted in zip(read.results, report.results, strict=True):
                np.testing.assert_allclose(got.times, wanted.times, rtol=1e-12)
                assert got.op_memory == wanted.op_memory and got.check == wanted.check

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda read: read.pop("settings"), "'settings' is missing"),
            (lambda read: read["models"][0].pop("times_ms"), "'times_ms' is missing"),
            (lambda read: read["models"][0].update(times_ms=["a"]), "could not convert"),
            (lambda read: read["models"][0].update(times_ms=[]), "no repetitions"),
            (lambda read: read.update(models=[]), "no repetitions"),
        ],
    )
    def test_json_that_is_no_result(self, change, message):
        read = json.loads(to_json(self.PHONE))
        change(read)
        with pytest.raises(ValueError, match=message):
            from_json(json.dumps(read))

    @pytest.mark.parametrize("text", ["", "[]", "1"])
    def test_text_that_is_no_result(self, text):
        with pytest.raises(ValueError, match="not a result of the benchmark"):
            from_json(text)

    @pytest.mark.parametrize("accuracies", [(0.987, 0.98), (None, None), (0.0, 0.0)])
    def test_html(self, accuracies):
        results = [
            dataclasses.replace(result, accuracy=accuracy)
            for result, accuracy in zip([self.FIRST, self.SECOND], accuracies, strict=True)
        ]
        page = Page()
        page.feed(to_html([Report({"dataset": "digits", "cpu": "<fast>"}, results)]))
        assert not page.open
        assert page.text.count("<b>&") >= 4 and page.text.count("<fast>") == 1 and "3.00×" in page.text
        assert ("Accuracy " in page.text) == (accuracies[0] is not None)

    def test_html_of_a_phone_beside_a_desktop(self):
        desktop = Report({"dataset": "digits", "cpu": "<fast>"}, [self.FIRST, self.SECOND])
        page = Page()
        text = to_html([desktop, self.PHONE])
        page.feed(text)
        assert not page.open
        # A table, three charts and the repetitions have a heading for each machine; accuracy has the desktop's only.
        assert page.text.count("A <phone>") == 6 and page.text.count("<fast>") == 6
        assert "3.000 (1.00×)" in page.text and "1.750 (4.00×)" in page.text
        assert "bad & broken did not run: no reason" in page.text and "Accuracy " in page.text
        assert text.count('<i class="c0"') == 7  # "explicit" has one colour on both machines

    def test_html_explains_memory_and_folds_it(self):
        text = to_html([Report({}, [self.FIRST])])
        folded = text[text.index("<details>") : text.index("</details>")]
        assert "<th>packed kB</th>" in folded and "packed, their coefficients" in folded and "scratch, their" in folded
        assert "<th>accuracy</th>" in text[: text.index("<details>")]

    def test_outliers_do_not_squeeze_the_plot(self):
        """Nor are they kept silent about."""
        times = np.linspace(1.0e-3, 1.1e-3, 400)
        times[::40] = 0.2
        text = to_html([Report({}, [dataclasses.replace(self.FIRST, name="<i>", times=times)])])
        assert "Beyond the axis: 10 of 400 of &lt;i&gt;, the longest 200 ms." in text
        middle = float(re.search('class="median" x1="([0-9.]+)"', text)[1])
        assert middle > 800  # of 1000
        assert "Beyond the axis" not in to_html([Report({}, [self.SECOND])])


def with_benchmarks():
    """An environment in which Python finds what this process finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def benchmark(*arguments, cwd, env=None):
    if env is None:
        return commands.run("dbf_keras.benchmark", *arguments, folder=cwd)
    command = [sys.executable, "-m", "dbf_keras.benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """An environment like a board's: numpy and a TFLite runtime, and nothing else that this package uses."""
    folder = tmp_path_factory.mktemp("board")
    absent = "absl rich matplotlib keras tf_keras tensorflow sklearn jax PIL filelock yaml h5py flatbuffers scipy"
    lines = ["import sys", f"sys.modules.update(dict.fromkeys({absent.split()}))"]
    (folder / "sitecustomize.py").write_text("\n".join(lines))  # Imported by every Python that starts.
    environment = with_benchmarks()
    return {**environment, "PYTHONPATH": os.pathsep.join([str(folder), environment["PYTHONPATH"]])}


class TestBoard:
    def test_files(self, files, board):
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (20, 8, 8, 1), np.uint8), np.arange(20) % 10
        np.savez(files / "mnist.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
        given = ["explicit.tflite", "onthefly.tflite", "--dataset=mnist", "--data_dir=.", "--json=b.json"]
        done = benchmark(*given, "--html=b.html", "--repetitions=3", cwd=files, env=board)
        assert done.returncode == 0, done.stderr
        heading, *rows = [line.split() for line in done.stdout.splitlines()[1:4]]
        assert heading[:3] == ["model", "accuracy", "speed-up"] and [row[0] for row in rows] == ["explicit", "onthefly"]
        assert len(json.loads((files / "b.json").read_text())["models"]) == 2
        assert "<th>accuracy</th>" in (files / "b.html").read_text()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the default model is exported, which needs keras, not installed here"),
            (["explicit.tflite", "--dataset=digits"], "scikit-learn"),
            (["explicit.tflite", "--dataset=mnist"], "--data_dir"),
            (["explicit.tflite", "--dataset=folder", "--data_dir=folder"], "pip install pillow"),
            (["explicit.tflite", "--runtime=tf"], "pip install tensorflow"),
        ],
    )
    def test_what_is_missing_is_said(self, files, board, arguments, message):
        for part in ("train", "test"):
            (files / "folder" / part / "ant").mkdir(parents=True, exist_ok=True)
            (files / "folder" / part / "ant" / "x.png").touch()
        done = benchmark(*arguments, cwd=files, env=board)
        assert done.returncode == 2
        assert message in done.stderr and "Traceback" not in done.stderr
        assert len([line for line in done.stderr.splitlines() if not line.startswith("INFO")]) == 1


class TestCommandLine:
    def test_two_files(self, files):
        done = benchmark(
            "explicit.tflite",
            "onthefly.tflite",
            "--repetitions=6",
            "--dataset=digits",
            "--json=o.json",
            "--html=o.html",
            cwd=files,
        )
        assert done.returncode == 0, done.stderr
        first, second = json.loads((files / "o.json").read_text())["models"]
        assert (first["name"], second["name"]) == ("explicit", "onthefly")
        assert first["file_bytes"] == (files / "explicit.tflite").stat().st_size
        assert first["speedup"] == 1 and second["runs"] == 6
        assert first["accuracy"] == second["accuracy"]
        assert min(first["peak_memory_bytes"], second["peak_memory_bytes"]) > 0
        assert first["op_packed_bytes"] == first["op_scratch_bytes"] == 0
        assert min(second["op_packed_bytes"], second["op_scratch_bytes"]) > 0
        assert (files / "o.html").read_text().startswith("<!doctype html>")
        assert "explicit" in done.stdout and "onthefly" in done.stdout and "accuracy" in done.stdout
        assert min(first["load_ms"], first["first_ms"]) > 0 and len(first["times_ms"]) == 6

    def test_files_of_open_size(self, files):
        image = keras.Input((None, None, 1))
        features = keras.layers.GlobalAveragePooling2D()(DBFConv2D(10, 7, ratio=0.25)(image))
        model = keras.Model(image, features)
        for mode in ("explicit", "onthefly"):
            (files / f"open_{mode}.tflite").write_bytes(to_tflite(model, mode=mode))
        paths = ["open_explicit.tflite", "open_onthefly.tflite", "--runs=3"]
        sides = {}
        for arguments, size in (
            ([], "224×224"),
            (["--dataset=digits"], "8×8"),
            (["--input_size=9x40"], "9×40"),
            (["--input_size=112", "--num_threads=2"], "112×112"),
        ):
            done = benchmark(*paths, *arguments, "--json=open.json", cwd=files)
            assert done.returncode == 0, done.stderr
            read = json.loads((files / "open.json").read_text())
            assert read["settings"]["input_size"] == size and f"images of open size: {size}" in done.stdout
            given = any("--input_size" in argument for argument in arguments)
            assert (f"measured with {size}. --input_size gives" in done.stdout) != given
            sides[size] = read["models"][1]
        assert sides["8×8"]["accuracy"] is not None
        assert sides["8×8"]["median_ms"] < sides["224×224"]["median_ms"]
        assert sides["9×40"]["peak_memory_bytes"] < sides["224×224"]["peak_memory_bytes"]
        for arguments, message in (
            (["--input_size=6"], "open_explicit.tflite' cannot be loaded and run"),
            (["--input_size=6"], "Its size is open, and was set to 6×6; --input_size gives another."),
            (["--input_size=big"], "--input_size takes a side or HEIGHTxWIDTH in pixels"),
            (["--input_size=9", "--dataset=digits"], "The model takes images of shape (9, 9, 1)"),
            (["--input_size=9", "explicit.tflite"], "'explicit.tflite': It takes inputs of (1, 8, 8, 1), and"),
        ):
            done = benchmark(*paths, *arguments, cwd=files)
            assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr

    def test_stored_results(self, files):
        phone = files / "phone.json"
        phone.write_text(to_json(TestReport.PHONE))
        done = benchmark("explicit.tflite", "--runs=3", phone, "--html=both.html", "--json=own.json", cwd=files)
        assert done.returncode == 0, done.stderr
        assert "A &lt;phone&gt;" in (files / "both.html").read_text()
        assert [model["name"] for model in json.loads((files / "own.json").read_text())["models"]] == ["explicit"]
        done = benchmark("own.json", phone, "--html=stored.html", cwd=files)
        assert done.returncode == 0, done.stderr
        assert "A <phone>" in done.stdout and "phone only" in (files / "stored.html").read_text()

    def test_default_model(self, tmp_path):
        done = benchmark("--runs=1", f"--json={tmp_path / 'o.json'}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        models = {model["name"]: model for model in json.loads((tmp_path / "o.json").read_text())["models"]}
        roles = [mode + suffix for suffix in ("", "_int8_weights") for mode in ("explicit", "onthefly", "folded")]
        assert list(models) == [*roles, "onthefly_int8_weights_coded"]
        assert models["onthefly"]["file_bytes"] < models["explicit"]["file_bytes"]
        assert models["onthefly_int8_weights"]["file_bytes"] < models["onthefly"]["file_bytes"]
        assert all(model["accuracy"] > 0.9 for model in models.values())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["no_such.tflite"], "no model file at 'no_such.tflite'. Export one"),
            (["none.json"], "no results at 'none.json'"),
            (["notes.json"], "'notes.json' is not a result of the benchmark"),
            (["good.json", "--json=o.json"], "--json writes what is measured here"),
            (["notes.txt"], "'notes.txt' is not a TFLite model"),
            (["explicit.tflite", "--json=no/such/folder.json"], "a folder that exists"),
            (["explicit.tflite", "--dataset=imagenet"], "digits, mnist, cifar10, npz, folder"),
            (["explicit.tflite", "--nonsense"], "unrecognized arguments: --nonsense"),
            (["explicit.tflite", "--runtime=onnx"], "choose from 'litert', 'tflite_runtime', 'tf'"),
            (["explicit.tflite", "--repetitions=0"], "--repetitions/--runs: 0 is less than 1"),
            (["explicit.tflite", "cut.tflite"], "'cut.tflite' cannot be loaded and run"),
            (["explicit.tflite", "flat.tflite", "--dataset=digits"], "'flat.tflite': The model takes images of shape"),
        ],
    )
    def test_errors(self, files, arguments, message):
        (files / "notes.txt").write_text("not a model")
        (files / "notes.json").write_text("{}")
        (files / "good.json").write_text(to_json(TestReport.PHONE))
        whole = (files / "explicit.tflite").read_bytes()
        (files / "cut.tflite").write_bytes(whole[: len(whole) // 2])
        pixels = keras.Input((64,))
        (files / "flat.tflite").write_bytes(to_tflite(keras.Model(pixels, keras.layers.Dense(10)(pixels)), "explicit"))
        done = benchmark(*arguments, cwd=files)
        assert done.returncode == 2
        assert message in done.stderr and "Traceback" not in done.stderr


class TestScripts:
    @pytest.mark.parametrize("text", ["3x2x8-16@12/2", "4x4x64-32@7"])
    def test_shape(self, text):
        assert str(Shape.parse(text)) == text

    def test_shape_error(self):
        with pytest.raises(ValueError, match="'3x3x64'.*3x3x64-64@32"):
            Shape.parse("3x3x64")

    def test_single_layer(self):
        built = common.single_layer(Shape.parse("3x2x8-16@12/2"), "ovsf", 0.25)
        assert built.input_shape == (None, 12, 12, 8) and built.output_shape == (None, 6, 6, 16)
        assert built.layers[1].coefficients.shape == (12, 16)

    def test_multiply_adds(self, files):
        convolution, dense = 8 * 8 * 8 * 16, 8 * 8 * 8 * 10
        assert common.multiply_adds((files / "explicit.tflite").read_bytes()) == convolution + dense
        assert common.multiply_adds((files / "onthefly.tflite").read_bytes()) == convolution // 2 + dense

    @pytest.mark.parametrize(
        ("shape", "selection", "ratio", "kind", "expected"),
        [
            ("3x3x64-64@56", "ovsf", 0.5, "float32", 1.95),
            ("4x4x256-256@8", "random", 0.125, "float32", 5),
            ("3x3x64-64@32", "random", 0.25, "float32", 2.7),
            ("3x3x128-128@28", "random", 0.25, "float32", 3.2),
            ("3x3x512-512@7", "ovsf", 1.0, "float32", 0.95),
            ("4x4x16-16@32", "random", 0.5, "float32", 1.5),
            ("4x4x16-16@32", "ovsf", 1.0, "float32", None),
            ("3x3x64-64@32", "ovsf", 0.5, "int8", 1.6),
            ("3x3x64-64@32", "random", 0.5, "int8", None),
            ("3x3x256-256@14", "random", 0.5, "int8", 1.3),
            ("1x1x64-64@32", "ovsf", 0.5, "float32", None),
            ("3x3x128-128@28/2", "ovsf", 0.5, "float32", 0.9 * 2.5),
            ("3x3x128-128@28/2", "ovsf", 0.25, "float32", None),
        ],
    )
    def test_target(self, shape, selection, ratio, kind, expected):
        case = common.Case(1, Shape.parse(shape), selection, ratio)
        unstrided = common.Case(1, Shape.parse("3x3x128-128@28"), "ovsf", 0.5)
        measured = {unstrided: {Side("onthefly", "float32"): {"speedup": 2.5}}}
        assert layers.target(case, kind, measured) == expected

    def test_row(self):
        columns = {
            "explicit": ("median_ms", "peak_share"),
            "onthefly": ("speedup", "op_packed_bytes"),
            "folded": ("gflops",),
        }
        measured = {
            Side("explicit", "int8"): {"median_ms": 2.0, "peak_share": 0.5},
            Side("onthefly", "int8"): {"speedup": 4.0, "op_packed_bytes": 12_340},
        }
        case = common.Case(1, Shape.parse("3x3x64-64@32"), "ovsf", 0.25)
        row = common.to_row(case, "int8", measured, columns)
        assert row == ["3x3x64-64@32", "ovsf", "0.25", "int8", "2.000", "50%", "4.00", "12.3", ""]
        assert len(common.headings("layer", columns)) == len(row)

    def test_lines(self):
        measured = {Side("explicit", "int8"): {"bytes": 2000}, Side("onthefly", "int8"): {"bytes": 1000}}
        drawn = plots.lines({0.5: measured, 1.0: {}}, [("explicit", "bytes", "a"), ("folded", "bytes", "b")], 1e-3)
        assert drawn == {"a, int8": plots.Line({0.5: 2.0}, 0, 0)}

    def test_cut(self, files):
        data = (files / "explicit.tflite").read_bytes()
        parts = dict(networks.cut(data))
        assert list(parts) == ["CONV_2D 4x4", "FULLY_CONNECTED"]
        image = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 1)).astype(np.float32)
        features = agreement.run(Interpreter(model_content=parts["CONV_2D 4x4"]), image)
        logits = agreement.run(Interpreter(model_content=parts["FULLY_CONNECTED"]), features.reshape(1, -1))
        np.testing.assert_allclose(logits, agreement.run(Interpreter(model_content=data), image), rtol=1e-4, atol=1e-3)

    def test_peak(self):
        run, operations = native.fma_peak(None)
        assert run() == operations > 1e6

    def test_mask_cpuid(self):
        program = (
            "import native; native.mask_cpuid(); from numpy._core._multiarray_umath import __cpu_features__ as has"
        )
        program += "; print(has['AVX2'], has['AVX512F'], has['AVX512_SKX'])"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=with_benchmarks())
        if "CPUID" in done.stderr:
            pytest.skip(done.stderr.splitlines()[-1])
        assert done.stdout == "True False False\n", done.stderr

    def test_agreement(self, files, tmp_path, model):
        inputs = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 1)).astype(np.float32)
        outputs = np.array(model(inputs))
        (tmp_path / "case.tflite").write_bytes((files / "onthefly.tflite").read_bytes())
        np.savez(tmp_path / "case.npz", inputs=inputs, outputs=outputs, tolerance=1e-4)
        assert agreement.check(tmp_path, None) == []
        outputs[2, 3] += 1e-3 * np.abs(outputs).max()
        np.savez(tmp_path / "case.npz", inputs=inputs, outputs=outputs, tolerance=1e-4)
        assert len(agreement.check(tmp_path, None)) == 1

    def test_agreement_of_nothing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="--write"):
            agreement.check(tmp_path, None)
