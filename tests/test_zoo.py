import ast
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import types

import commands
import numpy as np
import pytest

import dbf_keras
from dbf_keras import data, networks, zoo
from dbf_keras.backend import keras
from dbf_keras.export import flatfile, to_tflite
from dbf_keras.layers import custom_objects
from dbf_keras.runtime import Interpreter
from dbf_keras.train.settings import parse_options

ROOT = pathlib.Path(__file__).parents[1]
DATA_DIR = os.environ.get("DBF_DATA_DIR")
NAMES = sorted(name for group in zoo.GROUPS for name in zoo.index()[group])
CHECKED, TRAINED = ([name for name in NAMES if role in zoo.entry(name)["files"]] for role in ("check", "weights"))


def test_the_weights_of_all_but_the_large_are_kept():
    without = set(NAMES) - set(TRAINED)
    assert all(zoo.entry(name)["bytes"]["explicit"] > 3_000_000 for name in without)
    assert set(CHECKED) - set(TRAINED) == {"dbfnet_mnist_half"}


def test_the_index_names_what_there_is():
    folders = {path.name for path in zoo.folder().iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(NAMES)
    assert zoo.entry()["name"] == zoo.index()["default"]


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_complete(name):
    entry, folder = zoo.entry(name), zoo.folder() / name
    listed = {file["file"] for file in entry["files"].values()}
    assert {path.name for path in folder.iterdir()} == listed | {"README.md", "recipe.json"}
    for file in entry["files"].values():
        content = (folder / file["file"]).read_bytes()
        assert len(content) == file["bytes"] and hashlib.sha256(content).hexdigest() == file["sha256"]
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["command"] in (folder / "README.md").read_text()
    assert recipe["recipe"]["epochs"] == len(recipe["history"]) == entry["epochs"]
    assert recipe["history"][-1]["val_accuracy"] == entry["accuracy"]["keras"]
    assert f"{entry['accuracy']['keras']:.2%}" in (folder / "README.md").read_text()


@pytest.fixture
def publish(monkeypatch):
    monkeypatch.syspath_prepend(zoo.folder())
    import publish

    return publish


@pytest.mark.parametrize("name", NAMES)
def test_cards_are_those_of_the_index(name, publish):
    folder = zoo.folder() / name
    recipe = json.loads((folder / "recipe.json").read_text())
    assert (folder / "README.md").read_text() == publish.card(zoo.entry(name), recipe)


def blocks(name):
    """The Python code of a card, block by block."""
    return re.findall("```python\n(.*?)```", (zoo.folder() / name / "README.md").read_text(), re.S)


@pytest.mark.parametrize("name, count", [("digits", 2), ("dbfnet_mnist_half", 1), ("digits_narrow", 1)])
def test_what_cards_say_of_use_works(name, count):
    """And a model of the zoo can be trained further: the weights move, the loss falls."""
    entry = zoo.entry(name)
    with np.load(zoo.path(name, "check")) as check:
        images = check["images"].astype(np.float32)
    code = blocks(name)
    assert len(code) == count
    for block in code:
        names = {"images": images, "labels": (np.arange(len(images)) + 1) % entry["classes"]}
        before = None
        for statement in ast.parse(block).body:
            if ast.unparse(statement).startswith("model.fit"):
                before = names["model"].get_weights(), names["model"].evaluate(images, names["labels"], verbose=0)[0]
            exec(compile(ast.Module([statement], []), "card", "exec"), names)
        if before is None:
            assert names["probabilities"].shape == (1, entry["classes"])
        else:
            model = names["model"]
            model.fit(images, names["labels"], epochs=20, verbose=0)
            assert any(np.any(a != b) for a, b in zip(before[0], model.get_weights(), strict=True))
            assert model.evaluate(images, names["labels"], verbose=0)[0] < before[1]


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "CodeSGD"])
def test_a_zoo_model_can_be_trained_for_two_steps(optimizer):
    from dbf_keras.train.optimizers import CodeSGD

    digits = data.load("digits")
    model = dbf_keras.load_zoo("digits")
    before = [weight.numpy() for weight in model.trainable_variables]
    made = CodeSGD(0.001) if optimizer == "CodeSGD" else keras.optimizers.get(optimizer)
    made.learning_rate = 1e-4
    model.compile(made, "sparse_categorical_crossentropy", metrics=["accuracy"])
    images, labels = digits.x_train[:64].astype(np.float32), digits.y_train[:64]
    history = model.fit(images, labels, batch_size=32, epochs=1, verbose=0).history
    assert made.iterations.numpy() == 2 and np.isfinite(history["loss"]).all() and history["accuracy"][0] > 0.9
    assert all(np.any(a != b.numpy()) for a, b in zip(before, model.trainable_variables, strict=True))
    right = model.evaluate(digits.x_test.astype(np.float32), digits.y_test, verbose=0)[1]
    assert right > 0.9


@pytest.mark.parametrize("name", CHECKED)
def test_every_entry_is_the_named_network_and_its_files_give_the_expected_output(name):
    with np.load(zoo.path(name, "check")) as stored:
        check = dict(stored)
    images, outputs = check["images"].astype(np.float32), check["outputs"]
    if name in TRAINED:
        model = dbf_keras.load_zoo(name)
        check_network(name, model)
        np.testing.assert_allclose(model.predict_on_batch(images), outputs, atol=1e-5)
    for role in zoo.entry(name)["files"]:
        if role in ("weights", "check"):
            continue
        interpreter = Interpreter(str(zoo.path(name, role)))
        source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.resize_tensor_input(source["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        result = interpreter.get_tensor(target["index"])
        # Full int8 files give probabilities in steps of 1/256, and other processors may round another way.
        tolerance = 2 / 256 if "_int8" in role and "weights" not in role else 1e-4 * outputs.max()
        np.testing.assert_allclose(result, check[role], atol=tolerance, err_msg=role)
        if "int8" in role:
            np.testing.assert_array_equal(result.argmax(axis=1), outputs.argmax(axis=1), err_msg=role)
        if "_int" not in role:
            np.testing.assert_allclose(result, outputs, atol=tolerance, err_msg=role)


def test_the_overview_is_that_of_the_index(monkeypatch):
    monkeypatch.syspath_prepend(zoo.folder())
    import overview

    assert (zoo.folder() / "README.md").read_text() == overview.text(zoo.index())
    for group, mode in (("models", "onthefly"), ("controls", "explicit")):
        for name, entry in zoo.index()[group].items():
            role = f"{mode}_int8_weights"
            assert overview.points(entry)["int8 weights"] == (entry["bytes"][role], entry["accuracy"][role]), name


def test_the_frontier_is_what_no_smaller_file_surpasses(monkeypatch):
    monkeypatch.syspath_prepend(zoo.folder())
    import overview

    files = [(3, 0.5, "c"), (1, 0.5, "a"), (2, 0.7, "b"), (2, 0.6, "d"), (4, 0.8, "e"), (5, 0.7, "f")]
    assert overview.frontier(files) == [(1, 0.5, "a"), (2, 0.7, "b"), (4, 0.8, "e")]


def test_cards_quote_the_training_command(monkeypatch, publish):
    monkeypatch.setattr(publish, "_FLAGS", types.SimpleNamespace(name="x", data_dir="/data"))
    given = ["--control", "--name=x", "--keep=", "--ratio=stage1_*=1.0,*=0.25", "--data_dir=/data"]
    monkeypatch.setattr(sys, "argv", ["publish.py", *given])
    quoted = "python -m dbf_keras.train '--ratio=stage1_*=1.0,*=0.25' --data_dir=$DBF_DATA_DIR --output=x.keras"
    assert publish._train_command("tensorflow") == quoted
    assert publish._train_command("jax") == f"KERAS_BACKEND=jax {quoted}"
    monkeypatch.setattr(sys, "argv", ["publish.py", "--name", "x"])
    with pytest.raises(ValueError, match="--name=value.*'x'"):
        publish._train_command("tensorflow")


def test_the_default_model_is_small_and_a_quarter():
    entry = zoo.entry()
    assert (entry["dataset"], entry["ratio"]) == ("digits", 0.25)
    assert entry["bytes"]["onthefly"] < 100_000


def check_network(name, model):
    """That a trained model is the network, with the options, of its entry and recipe."""
    entry = zoo.entry(name)
    command = json.loads((zoo.folder() / name / "recipe.json").read_text())["command"].split()
    options = parse_options([part[9:] for part in command if part.startswith("--option=")])
    shape = {"input_shape": model.input_shape[1:], "classes": model.output_shape[-1]}
    assert (list(shape["input_shape"]), shape["classes"]) == (entry["input_shape"], entry["classes"])
    assert model.count_params() == entry["parameters"]
    built = networks.build(entry["network"], ratio=entry.get("ratio", 1.0), **shape, **options)
    assert ("ratio" in entry) != options.get("plain", False)
    assert [weight.shape for weight in built.get_weights()] == [weight.shape for weight in model.get_weights()]


def test_narrow_controls_have_the_bytes_of_their_models():
    """At three sizes or more; they are called after the model."""
    narrow = [name for name in zoo.index()["controls"] if name.endswith("_narrow")]
    assert len(narrow) >= 3
    for name in narrow:
        ours = zoo.entry(name.removesuffix("_narrow"))["bytes"]["onthefly_int8_weights"]
        assert zoo.entry(name)["bytes"]["explicit_int8_weights"] == pytest.approx(ours, rel=0.06), name


@pytest.mark.parametrize(
    "keep, group, expected",
    [
        (None, "models", {"weights", "check", "explicit", "onthefly"}),
        (None, "controls", {"weights", "check"}),
        (["onthefly"], "models", {"check", "onthefly"}),
        ([], "models", set()),
    ],
)
def test_kept_files_are_listed_and_others_deleted(monkeypatch, tmp_path, keep, group, expected, publish):
    monkeypatch.setattr(publish, "_FLAGS", types.SimpleNamespace(keep=keep))
    (tmp_path / "weights.keras").write_bytes(b"weights")
    (tmp_path / "check.npz").write_bytes(b"check")
    exported = {"explicit": b"explicit", "onthefly": b"onthefly"}
    files = publish._write_files(tmp_path, exported, publish._kept(group, {}, exported))
    assert files.keys() == expected
    assert {path.name for path in tmp_path.iterdir()} == {file["file"] for file in files.values()}
    monkeypatch.setattr(publish, "_FLAGS", types.SimpleNamespace(keep=None))
    assert set(publish._kept(group, {"files": files}, exported)) == expected


def test_weights_are_stored_in_half_precision(tmp_path, publish):
    model = networks.build("dbfnet_micro", ratio=0.25)
    model.save(tmp_path / "model.keras")
    for name in ("half", "again"):
        publish._copy_in_half_precision(tmp_path / "model.keras", tmp_path / f"{name}.keras")
    assert (tmp_path / "half.keras").read_bytes() == (tmp_path / "again.keras").read_bytes()
    assert (tmp_path / "half.keras").stat().st_size < 0.55 * (tmp_path / "model.keras").stat().st_size
    half = keras.models.load_model(tmp_path / "half.keras", custom_objects=custom_objects())
    for stored, weight in zip(half.weights, model.weights, strict=True):
        expected = weight.numpy()
        if expected.ndim > 1:
            expected = expected.astype(np.float16)
        np.testing.assert_array_equal(stored.numpy(), expected.astype(np.float32))


def replace(folder, moment):
    """Publishes a model again in a folder of models, and is killed at a moment."""
    zoo.folder = lambda: folder
    sys.path.insert(0, str(ROOT / "models"))
    import publish

    rename, count = pathlib.Path.rename, [0]

    def killing(path, target):
        count[0] += 1
        if moment == f"before rename {count[0]}":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    pathlib.Path.rename = killing
    with publish._replacing("digits") as new:
        shutil.copytree(folder / "digits", new, dirs_exist_ok=True)
        (new / "onthefly.tflite").write_bytes(b"new")
        if moment == "writing":
            os.kill(os.getpid(), signal.SIGKILL)
        if moment == "error":
            raise ValueError("an error")
    if moment == "before the index":
        os.kill(os.getpid(), signal.SIGKILL)
    entry = {**zoo.entry("digits")}
    entry["files"]["onthefly"] = publish._listed(folder / "digits" / "onthefly.tflite")
    publish._write_index("models", "digits", entry)


@pytest.mark.parametrize(
    "moment, state",
    [
        ("writing", "old"),
        ("error", "old"),
        ("before rename 1", "old"),
        ("before rename 2", "refused"),
        ("before the index", "refused"),
        ("never", "new"),
    ],
)
def test_publishing_that_is_killed_leaves_an_entry_whole_or_refused(moment, state, tmp_path, monkeypatch):
    folder = tmp_path / "models"
    shutil.copytree(zoo.folder() / "digits", folder / "digits")
    shutil.copy2(zoo.folder() / "index.json", folder)
    old = (folder / "digits" / "onthefly.tflite").read_bytes()
    assert commands.fork(replace, folder, moment) == {"never": 0, "error": 1}.get(moment, -signal.SIGKILL)
    monkeypatch.setattr(zoo, "folder", lambda: folder)
    if state == "refused":
        with pytest.raises((ValueError, FileNotFoundError), match="digits.*publish the model again"):
            zoo.path("digits", "onthefly")
    else:
        assert zoo.path("digits", "onthefly").read_bytes() == (old if state == "old" else b"new")
        assert len(zoo.path("digits").read_bytes()) == zoo.entry("digits")["files"]["weights"]["bytes"]
    assert commands.fork(replace, folder, "never") == 0  # Publishing again puts it right, and leaves nothing behind.
    assert zoo.path("digits", "onthefly").read_bytes() == b"new"
    assert {path.name for path in folder.iterdir()} == {"digits", "index.json"}


def test_files_that_are_not_the_published_are_refused(tmp_path, monkeypatch):
    shutil.copytree(zoo.folder() / "digits", tmp_path / "digits")
    shutil.copy2(zoo.folder() / "index.json", tmp_path)
    monkeypatch.setattr(zoo, "folder", lambda: tmp_path)
    content = bytearray((tmp_path / "digits" / "weights.keras").read_bytes())
    content[1000] ^= 1
    (tmp_path / "digits" / "weights.keras").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.keras is damaged or of another version: its SHA-256"):
        dbf_keras.load_zoo()
    (tmp_path / "digits" / "weights.keras").unlink()
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        dbf_keras.load_zoo()


def test_the_best_under_a_budget():
    entries = zoo.index()["models"]
    for max_kb, dataset, controls in ((100, "cifar10", False), (1000, "cifar10", True), (20, "digits", False)):
        found = zoo.best(max_kb=max_kb, dataset=dataset, controls=controls)
        entry = zoo.entry(found.name)
        assert entry["dataset"] == dataset and found.bytes == entry["bytes"][found.role] <= 1000 * max_kb
        assert found.accuracy == entry["accuracy"][found.role]
        assert {"weights", found.role} & entry["files"].keys()
        others = entries | zoo.index()["controls"] if controls else entries
        for other in others.values():
            for role, size in other["bytes"].items():
                if other["dataset"] == dataset and size <= 1000 * max_kb and "weights" in other["files"]:
                    assert (other["accuracy"][role], -size) <= (found.accuracy, -found.bytes)
    assert zoo.best(max_kb=100, dataset="cifar10")[:2] == (
        "resnet18_k4_levels_large_cifar10",
        "onthefly_int8_weights_coded",
    )


@pytest.mark.parametrize(
    "max_kb, dataset, message",
    [
        (
            1,
            "digits",
            r"digits has 1 kB or less; the smallest is digits_levels, onthefly_int8_weights_coded, with 6\.6 kB",
        ),
        (100, "imagenet", "no model of the dataset 'imagenet'; it has models of cifar10, digits, mnist"),
    ],
)
def test_budgets_that_nothing_fits_are_refused(max_kb, dataset, message):
    with pytest.raises(ValueError, match=message):
        zoo.best(max_kb=max_kb, dataset=dataset)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="The zoo has: .*digits.* Without their weights") as error:
        dbf_keras.load_zoo("nothing")
    here, without = str(error.value).split("Without their weights")
    assert "resnet18_wide_cifar10" in without and "resnet18_wide_cifar10" not in here
    assert all(f" {name}" in here for name in TRAINED)
    with pytest.raises(ValueError, match="resnet18_wide_cifar10.*train"):
        dbf_keras.load_zoo("resnet18_wide_cifar10")
    with pytest.raises(ValueError, match="weights"):
        zoo.path(None, "nothing")


def copy_checkout(names, folder):
    """Copies files and folders of this checkout, without what is built in them."""
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which the package's wheel is installed, offline: everything that the build needs is here.

    Built from a copy: setuptools writes into the sources, and every test process comes by here.
    """
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    files = ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md")
    copy_checkout(("dbf_keras", "export", "models", *files), source)
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


_RUN_DEFAULT = """
import dbf_keras.zoo, dbf_keras.runtime
interpreter = dbf_keras.runtime.Interpreter(str(dbf_keras.zoo.path(None, "onthefly")))
interpreter.allocate_tensors()
interpreter.invoke()
print(dbf_keras.__file__, dbf_keras.zoo.folder(), dbf_keras.runtime.library_path())
"""


def run_default(folder, installed):
    """Runs the default model with ``folder`` first on the path, then ``installed``.

    Without site (-S), so that no .pth file of an editable installation in this environment takes part.
    """
    result = subprocess.run(
        [sys.executable, "-S", "-c", _RUN_DEFAULT],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_path("purelib")])},
    )
    assert result.returncode == 0, result.stderr
    return [pathlib.Path(part) for part in result.stdout.split()]


def test_an_installed_wheel_has_the_zoo_and_the_library(installed, tmp_path):
    assert all(path.is_relative_to(installed) for path in run_default(tmp_path, installed))


def test_a_checkout_uses_the_installed_library(installed, tmp_path):
    copy_checkout(("dbf_keras", "models"), tmp_path)
    package, zoo_folder, library = run_default(tmp_path, installed)
    assert package.is_relative_to(tmp_path) and zoo_folder.is_relative_to(tmp_path)
    assert library.is_relative_to(installed)


def test_a_quarter_of_the_codes_is_about_a_quarter_of_the_file():
    size = zoo.entry("dbfnet_mnist")["bytes"]
    assert size["onthefly"] <= 0.35 * size["explicit"]
    assert size["onthefly_int8_weights"] <= 0.12 * size["explicit"]


def run_in_batches(interpreter, images, size=500):
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(source["index"], (size, *images.shape[1:]))
    interpreter.allocate_tensors()
    outputs = []
    for start in range(0, len(images), size):
        interpreter.set_tensor(source["index"], images[start : start + size])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"]))
    return np.concatenate(outputs)


@pytest.mark.skipif(not DATA_DIR, reason="DBF_DATA_DIR is not set: no MNIST here")
def test_full_int8_keeps_the_accuracy_on_mnist():
    mnist = data.load("mnist", DATA_DIR)
    batches = [mnist.x_train[:200].astype(np.float32)]
    file = to_tflite(dbf_keras.load_zoo("dbfnet_mnist"), "onthefly", quantize="int8", representative_data=batches)
    predicted = run_in_batches(Interpreter(model_content=file), mnist.x_test.astype(np.float32)).argmax(axis=1)
    accuracy = (predicted == mnist.y_test).mean()
    assert accuracy >= zoo.entry("dbfnet_mnist")["accuracy"]["onthefly"] - 0.002


@pytest.mark.skipif(not DATA_DIR, reason="DBF_DATA_DIR is not set: no MNIST here")
def test_mnist_accuracy_is_the_paper_s_and_int8_weights_change_nothing():
    """The paper's 99.5 % at ρ = ¼, and 99.6 % at ½, recomputed on the whole test set from what is shipped."""
    mnist = data.load("mnist", DATA_DIR)
    images = mnist.x_test.astype(np.float32)
    model = dbf_keras.load_zoo("dbfnet_mnist")
    expected = model.predict(images, batch_size=500, verbose=0)
    predicted = {"keras": expected.argmax(axis=1)}
    shipped = Interpreter(str(zoo.path("dbfnet_mnist", "onthefly_int8_weights")))
    exported = Interpreter(model_content=to_tflite(model, "onthefly"))
    for role, interpreter in (("onthefly", exported), ("onthefly_int8_weights", shipped)):
        outputs = run_in_batches(interpreter, images)
        if role == "onthefly":
            np.testing.assert_allclose(outputs, expected, atol=1e-4 * expected.max())
        predicted[role] = outputs.argmax(axis=1)
        accuracy = (predicted[role] == mnist.y_test).mean()
        assert accuracy == pytest.approx(zoo.entry("dbfnet_mnist")["accuracy"][role], abs=1.5e-4)
    assert (predicted["keras"] == mnist.y_test).mean() >= 0.995
    assert (predicted["onthefly_int8_weights"] == predicted["keras"]).mean() >= 0.995
    half = run_in_batches(Interpreter(str(zoo.path("dbfnet_mnist_half", "onthefly_int8_weights"))), images)
    assert (half.argmax(axis=1) == mnist.y_test).mean() >= 0.996


@pytest.mark.skipif(not DATA_DIR, reason="DBF_DATA_DIR is not set: no CIFAR-10 here")
@pytest.mark.parametrize(
    "name, role, most_bytes, most_ratio, least",
    [
        ("resnet18_k4_cifar10", "onthefly_int8_weights", 110_000, 0.25, 0.8802),
        ("resnet18_k4_taught_cifar10", "onthefly_int8_weights", 100_000, 0.25, 0.8802),
        ("resnet18_k4_int4_cifar10", "onthefly_int4_weights", 66_000, 0.25, 0.8802),
        ("resnet18_k4_taught_int4_cifar10", "onthefly_int4_weights", 100_000, 0.5, 0.9),
        ("resnet18_k4_levels_small_cifar10", "onthefly_int8_weights_coded", 32_000, 0.5, 0.888),
        ("resnet18_k4_levels_cifar10", "onthefly_int8_weights_coded", 48_000, 0.5, 0.9),
    ],
)
def test_cifar10_accuracy_passes_the_paper_s(name, role, most_bytes, most_ratio, least):
    """The paper's 88.02 % of ResNet-18 at ρ = ¼, and 90 %, recomputed on the whole test set from shipped files."""
    entry, cifar10 = zoo.entry(name), data.load("cifar10", DATA_DIR)
    assert entry["overall_ratio"] <= most_ratio and zoo.path(name, role).stat().st_size <= most_bytes
    outputs = run_in_batches(Interpreter(str(zoo.path(name, role))), cifar10.x_test.astype(np.float32))
    accuracy = (outputs.argmax(axis=1) == cifar10.y_test).mean()
    assert accuracy >= least
    assert accuracy == pytest.approx(entry["accuracy"][role], abs=1.5e-4)  # Another processor may turn an image.


@pytest.mark.parametrize("role", ["onthefly_int8_weights_coded", "onthefly_int8_coded"])
def test_digits_in_nine_kb(role):
    digits = data.load("digits")
    assert zoo.path("digits_levels", role).stat().st_size <= 9000
    images = digits.x_test.astype(np.float32)
    outputs = run_in_batches(Interpreter(str(zoo.path("digits_levels", role))), images, len(images))
    assert (outputs.argmax(axis=1) == digits.y_test).mean() >= 0.975


@pytest.mark.parametrize("quantize", ["weights", "int8"])
def test_what_is_no_coefficient_takes_five_kb(quantize):
    """Of the file: all but the data of its buffers."""
    model = dbf_keras.load_zoo("resnet18_k4_cifar10")
    samples = np.random.default_rng(0).integers(256, size=(8, 32, 32, 3)).astype(np.float32)
    file = to_tflite(model, "onthefly", quantize, True, representative_data=samples if quantize == "int8" else None)
    buffers = flatfile.load(file).buffers
    assert len(file) - sum(len(buffer.data) for buffer in buffers if buffer.data is not None) <= 5000


def test_every_model_says_how_it_was_trained():
    for name in (name for group in zoo.GROUPS for name in zoo.index()[group]):
        training = zoo.training(name)
        assert training["dataset"] == zoo.entry(name)["dataset"] and training["recipe"]["epochs"] > 0
        assert "--dataset=" in training["command"] and 0.5 < training["test_accuracy"] <= 1
