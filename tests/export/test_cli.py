import os
import signal
import subprocess
import sys
import time

import commands
import pytest

from dbf_keras import keras_file
from dbf_keras.backend import keras
from dbf_keras.export import metadata
from dbf_keras.layers import DBFConv2D

from .tools import load, ops

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def export(*arguments, folder):
    return commands.run("dbf_keras.export", *arguments, folder=folder, COLUMNS="160")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    inputs = keras.Input((8, 8, 16))
    x = DBFConv2D(32, 3, ratio=0.25, selection="ovsf", name="separable")(inputs)
    x = DBFConv2D(32, 3, ratio=0.25, selection="sp_ovsf", name="flat")(x)
    path = tmp_path_factory.mktemp("model") / "net.keras"
    keras.Model(inputs, x).save(path)
    return str(path)


def test_it_writes_the_file_and_prints_the_table(model, tmp_path):
    done = export("--model", model, "--mode", "folded", "--quantize", "weights", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for expected in (
        "separable",
        "36/144",
        "flat",
        "1 as explicit: sp_ovsf",
        "largest difference",
        "net_folded_int8_weights.tflite",
    ):
        assert expected in done.stdout
    assert os.listdir(tmp_path) == ["net_folded_int8_weights.tflite"]
    assert ops((tmp_path / "net_folded_int8_weights.tflite").read_bytes()).count("CONV_2D") == 3


def test_metadata_come_from_flags_and_file(tmp_path):
    inputs = keras.Input((8, 8, 3))
    net = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(DBFConv2D(4, 3, ratio=0.5)(inputs))))
    keras_file.save(net, tmp_path / "net.keras", ["cat", "dog"], {"seed": 3})
    (tmp_path / "names.txt").write_text("Katze\nHund\n")
    arguments = ["--model=net.keras", "--mode=explicit", "--quantize=float16"]
    for more, labels, mean in (
        ([], ["cat", "dog"], None),
        (["--labels=names.txt", "--mean=1,2,3", "--std=4"], ["Katze", "Hund"], [1, 2, 3]),
    ):
        done = export(*arguments, *more, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        found = metadata.read((tmp_path / "net_explicit_float16.tflite").read_bytes())
        assert found["labels"] == labels and found["details"]["training"] == {"seed": 3}
        [told] = found["subgraph_metadata"][0]["input_tensor_metadata"]
        assert (told["process_units"][0]["options"]["mean"] if mean else told.get("process_units")) == mean
    export(*arguments, "--nometadata", folder=tmp_path)
    assert metadata.read((tmp_path / "net_explicit_float16.tflite").read_bytes()) == {}
    done = export(*arguments, "--mean=a", folder=tmp_path)
    assert done.returncode == 2 and "--mean and --std take numbers" in done.stderr


def test_int8_is_calibrated_on_the_zoo_models_own_images(tmp_path):
    done = export("--mode=explicit", "--quantize=int8", "--io=int8", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "explicit, int8" in done.stdout and "Quantised to int8, checked on representative inputs" in done.stdout
    graph = load((tmp_path / "digits_explicit_int8.tflite").read_bytes()).subgraphs[0]
    # Raw pixels, exactly: representative data of another kind would have another range.
    quantization = graph.tensors[graph.inputs[0]].quantization
    assert quantization.scale.tolist() == [1] and quantization.zeroPoint.tolist() == [-128]


@pytest.fixture(scope="module")
def open_model(tmp_path_factory):
    inputs = keras.Input((None, None, 1))
    path = tmp_path_factory.mktemp("open") / "open.keras"
    x = keras.layers.GlobalAveragePooling2D()(DBFConv2D(10, 7, ratio=0.25)(inputs))
    keras.Model(inputs, x).save(path)
    return str(path)


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "checked with 224×224. --input_size gives another."),
        (["--input_size=16"], "largest difference"),
        (["--input_size=16x9", "--mode=explicit"], "largest difference"),
        (["--quantize=int8", "--dataset=digits"], "checked with 8×8. --input_size gives another."),
        (["--quantize=int8", "--dataset=digits", "--input_size=8"], "checked on representative inputs"),
    ],
)
def test_models_of_open_size_are_checked_at_one(open_model, arguments, told, tmp_path):
    done = export("--model", open_model, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout and ("--input_size gives" in told) == ("--input_size gives" in done.stdout)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--input_size=6"], "Images of 6×6 are too small for open; give a larger --input_size."),
        (["--input_size=0x9"], "--input_size takes a side or HEIGHTxWIDTH in pixels, as in 224 or 224x160; got '0x9'."),
        (["--quantize=int8", "--dataset=digits", "--input_size=9"], "The images of digits are 8×8, so --input_size=9"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(open_model, arguments, message, tmp_path):
    done = export("--model", open_model, *arguments, folder=tmp_path)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
    assert not os.listdir(tmp_path)


def test_a_model_of_one_size_takes_no_other(tmp_path):
    done = export("--input_size=8", folder=tmp_path)
    assert done.returncode != 0 and "digits takes inputs of shape (8, 8, 1). Leave it out." in done.stderr


def test_output_names_the_file(model, tmp_path):
    (tmp_path / "mine.tflite").write_text("older")
    done = export("--model", model, "--mode=explicit", "--output", "mine.tflite", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["mine.tflite"]
    assert ops((tmp_path / "mine.tflite").read_bytes()) == ["CONV_2D", "CONV_2D"]


def test_strict_fails_and_writes_nothing(model, tmp_path):
    done = export("--model", model, "--mode=folded", "--strict", folder=tmp_path)
    assert done.returncode != 0
    assert "flat: sp_ovsf keeps flat codes" in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model=missing.keras"], "There is no model file 'missing.keras'. Give a .keras file or the name of a zoo"),
        (["--model=text.h5"], "'text.h5' is not a .keras file. Save the model with model.save('NAME.keras')."),
        (["--model=broken.keras"], "Keras cannot load 'broken.keras'"),
        (["--mode=fast"], "<explicit|folded|onthefly>"),
        (["--quantize=all"], "<none|float16|weights|int4|int8|int8_int4>"),
        (["--quantize=int4", "--mode=folded"], "--quantize=int4 is for --mode=onthefly only; with --mode=folded use"),
        (["--quantize=weights", "--io=int8"], "--io is for --quantize=int8 only; got --quantize=weights."),
        (["--dataset=digits"], "--dataset is for --quantize=int8, --max_loss and --max_kb only; got --quantize=none."),
        (["--quantize=int8", "--model=broken.keras"], "--max_kb need --dataset with a .keras file"),
        (["--coding", "--max_kb=9", "--model=broken.keras"], "--max_kb need --dataset with a .keras file"),
        (["--max_loss=0.1"], "--max_loss and --max_kb are limits that --coding keeps; give it, too."),
        (
            ["--coding", "--mode=explicit"],
            "--coding is for --mode=onthefly and any --quantize but int4; got --mode=exp",
        ),
        (["--coding", "--quantize=int8_int4"], "--coding is for --mode=onthefly and any --quantize but int4; got"),
        (["--coding", "--max_loss=1", "--max_kb=9"], "Give --max_loss or --max_kb, and not both."),
        (["--coding", "--max_loss=-1"], "flag --max_loss=-1"),
        (["--quantize=int8", "--dataset=mnist", "--data_dir=."], "mnist.npz does not exist"),
        (["--output=nowhere/a.tflite"], "There is no folder 'nowhere' to write 'a.tflite' into."),
        (["--output=."], "'.' is a folder"),
        (["--output=net.h5"], "--output must end in .tflite; got 'net.h5'"),
        (["model.keras"], "unexpected argument 'model.keras'"),
    ],
)
def test_bad_input_is_told_what_would_work(arguments, message, tmp_path):
    (tmp_path / "text.h5").write_text("no model")
    (tmp_path / "broken.keras").write_text("no model")
    before = sorted(os.listdir(tmp_path))
    done = export(*arguments, folder=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_a_killed_export_leaves_the_older_file(model, tmp_path):
    (tmp_path / "mine.tflite").write_text("older")
    process = subprocess.Popen(
        [sys.executable, "-m", "dbf_keras.export", "--model", model, "--output=mine.tflite"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.listdir(tmp_path) == ["mine.tflite"]
    assert (tmp_path / "mine.tflite").read_text() == "older"
