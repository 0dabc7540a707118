import dataclasses
import json

import numpy as np
import pytest

from dbf_keras import codes, data, networks
from dbf_keras.backend import keras
from dbf_keras.layers import DBFConv2D
from dbf_keras.train import settings


def test_flags_are_parsed():
    assert settings.parse_ratio("0.25") == 0.25
    assert settings.parse_ratio("stage3_*=0.0625,*=1") == {"stage3_*": 0.0625, "*": 1.0}
    assert settings.parse_options(["kernel_size=3", "plain=True", "weights=a.h5"]) == {
        "kernel_size": 3,
        "plain": True,
        "weights": "a.h5",
    }
    for text in ("a quarter", "a=b", "a=1,b"):
        with pytest.raises(ValueError, match="--ratio"):
            settings.parse_ratio(text)
    with pytest.raises(ValueError, match="--option"):
        settings.parse_options(["plain"])


def test_selections_are_parsed(tmp_path):
    """Mappings, and the codes that a plain model's filters hold, from a file whose name has an equals sign."""
    assert settings.parse_selection("random:3") == "random:3" and settings.parse_selection([2, 1]) == [2, 1]
    assert settings.parse_selection("*conv1=ovsf,*=random:3") == {"*conv1": "ovsf", "*": "random:3"}
    model = networks.DBFNetMicro(width=0.5, plain=True)
    wanted = np.array([5, 0, 17])
    layer = model.get_layer("cascade1_module1_conv2")
    alpha = np.outer(np.ones(layer.filters), [3.0, 2.0, 1.0])
    layer.kernel.assign(np.moveaxis(codes.synthesize(alpha, wanted, layer.kernel.shape[:3]), 0, -1))
    model.save(tmp_path / "a=1.keras")
    selection = settings.parse_selection(f"energy:{tmp_path / 'a=1.keras'}")
    student = networks.DBFNetMicro(width=0.5, ratio=0.25, selection=selection)
    np.testing.assert_array_equal(student.get_layer(layer.name).codes[:3], wanted)


def test_a_plan_is_a_schedule_and_a_selection(tmp_path):
    """Of each layer; a selection of one's own counts more, and a layer that the plan has not is an error."""
    digits, path = data.load("digits"), tmp_path / "x.plan.json"
    network = networks.ResNet8(input_shape=(8, 8, 1), width=0.25)
    sizes = {layer.name: int(np.prod(layer.twin_shape[:3])) for layer in network.layers if isinstance(layer, DBFConv2D)}
    names = list(sizes)
    rows = [{"name": name, "ratio": 3 / size, "codes": [20 + size % 7, 0, 7]} for name, size in sizes.items()]
    rows[1] |= {"ratio": 1.0, "codes": None}
    path.write_text(json.dumps({"layers": [*rows, {"name": "unknown", "ratio": 0.5, "codes": [1]}]}))
    chosen = settings.Settings(network="resnet8", ratio=f"@{path}", options={"width": 0.25})
    model = chosen.build(digits)
    for row in rows:
        layer = model.get_layer(row["name"])
        assert layer.ratio == row["ratio"] and len(layer.codes) == (3 if row["codes"] else sizes[row["name"]])
        assert row["codes"] is None or layer.codes.tolist() == row["codes"]
    other = dataclasses.replace(chosen, selection="random:3").build(digits)
    assert {other.get_layer(name).selection for name in names} == {"random:3"}
    assert [other.get_layer(row["name"]).ratio for row in rows] == [row["ratio"] for row in rows]
    assert settings.parse_ratio(f"@{path}") == {row["name"]: row["ratio"] for row in rows} | {"unknown": 0.5}
    assert chosen.summary()["ratio"] == "@x.plan.json"
    path.write_text(json.dumps({"layers": rows[1:]}))
    with pytest.raises(ValueError, match=f"has no entry for layer '{names[0]}'"):
        chosen.build(digits)
    with pytest.raises(FileNotFoundError, match="there is no plan"):
        dataclasses.replace(chosen, ratio=f"@{tmp_path}/none.json").build(digits)


def test_a_network_of_one_s_own_is_a_function(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from dbf_keras.backend import keras\n"
        "def net(input_shape, classes, filters=3):\n"
        "    inputs = keras.Input(input_shape)\n"
        "    x = keras.layers.Conv2D(filters, 3)(inputs)\n"
        "    x = keras.layers.GlobalAveragePooling2D()(x)\n"
        "    return keras.Model(inputs, keras.layers.Dense(classes)(x))\n"
    )
    monkeypatch.chdir(tmp_path)
    digits = data.load("digits")
    model = settings.Settings(network="mine:net", options={"filters": 5}).build(digits)
    assert model.layers[1].filters == 5 and model.output_shape == (None, 10)
    with pytest.raises(ValueError, match="mine:net has no option width. Its options: classes, filters, input_shape"):
        settings.Settings(network="mine:net", options={"width": 1}).build(digits)
    for name in ("mine:other", "nowhere:net", "mine:"):
        with pytest.raises(ValueError, match="MODULE:FUNCTION, and cannot be imported"):
            settings.Settings(network=name).build(digits)
    with pytest.raises(ValueError, match="Unknown network 'resnet'.*MODULE:FUNCTION"):
        settings.Settings(network="resnet").build(digits)


def test_a_network_of_a_file_is_trained_on(tmp_path):
    digits, path = data.load("digits"), str(tmp_path / "x.keras")
    trained = networks.DBFNetMicro(width=0.5, ratio=0.5)
    trained.save(path)
    model = settings.Settings(network=path).build(digits)
    for ours, theirs in zip(model.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [layer.ratio for layer in model.layers if isinstance(layer, DBFConv2D)][0] == 0.5
    with pytest.raises(ValueError, match="without options; got width"):
        settings.Settings(network=path, options={"width": 1}).build(digits)
    keras.Sequential([keras.Input((9, 9, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]).save(path)
    with pytest.raises(ValueError, match=r"takes images \(9, 9, 1\) to 10 classes; the data has images \(8, 8, 1\)"):
        settings.Settings(network=path).build(digits)


def test_a_summary_has_what_was_chosen_and_no_folders():
    chosen = settings.Settings(
        dataset="cifar10",
        data_dir="/home/me/data",
        network="/home/me/net.keras",
        ratio={"*": 0.5},
        selection="energy:/home/me/plain.keras",
        epochs=3,
        options={"width": 2},
        seed=4,
    )
    assert chosen.summary() == {
        "dataset": "cifar10",
        "network": "net.keras",
        "ratio": {"*": 0.5},
        "selection": "energy:plain.keras",
        "options": {"width": 2},
        "epochs": 3,
    }
    default = settings.Settings().summary()
    assert default == {key: getattr(settings.Settings(), key) for key in ("dataset", "network", "ratio", "selection")}
    assert settings.Settings(selection=list(range(4096))).summary()["selection"] == "its own"


def test_images_that_are_no_pixels_are_refused(tmp_path):
    """Of an .npz file they may be as a model takes them, but our networks normalise pixels themselves."""
    images, labels = np.random.default_rng(0).random((20, 8, 8, 3)), np.arange(20) % 10
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(ValueError, match=r"x_train must be uint8 .* \(images \* 255\).round"):
        settings.Settings("npz", str(tmp_path / "mine.npz")).load_data()
