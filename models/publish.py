"""Makes an entry of the zoo: trains a model, or takes it trained, exports it, measures it, writes card and index.

    python models/publish.py --name=digits --dataset=digits --network=dbfnet_micro --output=/tmp/digits.keras
    python models/publish.py --control --name=digits_plain --option=plain=True --dataset=digits --network=dbfnet_micro \
        --output=/tmp/digits_plain.keras
    python models/publish.py --again --data_dir=$DBF_DATA_DIR
    python models/publish.py --cards

The first takes the flags of ``python -m dbf_keras.train``; a model that is at ``--output`` already, with its history,
is not trained again. The second does the same with a plain network to compare with. The third exports and measures what
the zoo has, from its weights; with ``--name`` one. The fourth writes all cards anew, of the figures in the index. All
write the zoo's overview anew. Weights are kept in half precision, and all figures but Keras's, which is the training's,
are of these.

An entry is written into a new folder, which takes the old one's place when all is there; the index comes last. Killed
between these two moments, the zoo refuses the entry's files until it is published again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pathlib
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import h5py
import numpy as np
import overview
from absl import flags

from dbf_keras import command, data, export, keras_file, zoo
from dbf_keras.backend import keras
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.accuracy import accuracy
from dbf_keras.benchmark.report import describe_machine
from dbf_keras.export import verify
from dbf_keras.forms import EXPLICIT, FORMS, INT8, Form
from dbf_keras.layers import DBFConv2D
from dbf_keras.runtime import Interpreter
from dbf_keras.train import command as train_command
from dbf_keras.train import settings

_FLAGS = flags.FLAGS
_CONTROL_FORMS = tuple(form for form in FORMS if form.mode == EXPLICIT)
_SOURCES = {
    "digits": "the digits that come with scikit-learn (UCI Optical Recognition of Handwritten Digits, CC BY 4.0)",
    "mnist": "MNIST (LeCun, Cortes, Burges)",
    "cifar10": "CIFAR-10 (Krizhevsky, 2009)",
    "npz": "images in an .npz file",
    "folder": "a folder of images",
    "tfrecords": "images in TFRecords",
}
# Figures that the card prints as they were measured on the machine that published the model.
_CARD = """# {name}

{network} on {dataset}, {codes}: takes raw pixels 0–255 {input_shape}, gives {classes}
class probabilities. {parameters:,} parameters.

| file | bytes | test accuracy | median latency | in this folder |
|---|---|---|---|---|
{rows}

Keras: {keras_accuracy:.2%} on the {test_images:,} test images, after the training. Latency: median of one image at a
time, one thread, files in turns, on {machine}. Figures by `models/publish.py`.
{use}
- Training: {epochs} epochs, the last epoch's weights; details and the learning curve in `recipe.json`.
  `{train_command}`
- Data: {source}.
- The test set is evaluated after each epoch, for the curve. No test image is trained on, and the last epoch's weights
  are taken whatever it says.
- {weights}
"""
_WEIGHTS = """Weights: `weights.keras`, from which the files were made. `check.npz` holds test images, the Keras model's
  output for them (`outputs`) and each file's; a test holds model and files to it."""
_NO_WEIGHTS = "Weights are not kept here, for their size; the command above makes them."
_LOAD = """import dbf_keras

model = dbf_keras.load_zoo("{name}")  # A Keras model of `weights.keras`.
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])  # To train it further:
model.fit(images, labels)  # float32 {input_shape} each, and whole numbers
"""
_INVOKE = """from dbf_keras import Interpreter, zoo

interpreter = Interpreter(zoo.path("{name}", "{role}"))
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images[:1])
interpreter.invoke()
probabilities = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
"""
_EXPORT = """python -m dbf_keras.export --model={name} --mode={mode} --quantize=weights{coding}
"""


def main(_: list[str]) -> None:
    """Publishes as the flags say."""
    roles = {"weights", *(form.role for form in FORMS)}
    if not roles.issuperset(_FLAGS.keep or ()):
        raise ValueError(f"--keep takes {', '.join(sorted(roles))}; got {', '.join(_FLAGS.keep)}.")
    if _FLAGS.cards:
        for name in {name for group in zoo.GROUPS for name in zoo.index()[group]}:
            text = card(zoo.entry(name), _recipe(zoo.folder() / name))
            command.write_atomically(zoo.folder() / name / "README.md", lambda path, text=text: path.write_text(text))
    elif _FLAGS.again:
        if _FLAGS.name:
            zoo.path(_FLAGS.name)  # Raises if there is none.
        for group in zoo.GROUPS:
            for name, entry in zoo.index()[group].items():
                if _FLAGS.name in (None, name) and "weights" in entry["files"]:
                    with _replacing(name) as folder:
                        for file in ("recipe.json", "weights.keras"):
                            shutil.copy2(zoo.folder() / name / file, folder)
                        entry = _publish(group, zoo.entry(name), folder)
                    _write_index(group, name, entry)
    elif not _FLAGS.name or not _FLAGS.output:
        raise ValueError("Give --name and --output, or --again or --cards for what the zoo has.")
    else:
        output = pathlib.Path(_FLAGS.output)
        if not output.exists():
            train_command.main([])
        group = "controls" if _FLAGS.control else "models"
        entry = {"name": _FLAGS.name, "network": _FLAGS.network, "dataset": _FLAGS.dataset, "seed": _FLAGS.seed}
        if not _FLAGS.control:
            entry |= {"ratio": settings.parse_ratio(_FLAGS.ratio), "selection": _FLAGS.selection}
        with _replacing(_FLAGS.name) as folder:
            _begin(output, folder)
            entry = _publish(group, entry, folder)
        _write_index(group, _FLAGS.name, entry)
    overview.write()


@contextlib.contextmanager
def _replacing(name: str) -> Iterator[pathlib.Path]:
    """A new folder that takes the place of an entry's once all is written into it, and not if that fails.

    What a process left that was killed in the middle is put right first.
    """
    folder = zoo.folder() / name
    new, old = (folder.with_name(f".{name}.{kind}") for kind in ("new", "old"))
    if old.exists() and not folder.exists():
        old.rename(folder)
    for rest in (new, old):
        shutil.rmtree(rest, ignore_errors=True)
    new.mkdir()
    try:
        yield new
    except BaseException:
        shutil.rmtree(new)
        raise
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_index(group: str, name: str, entry: dict[str, Any]) -> None:
    index = zoo.index()
    index.setdefault(group, {})[name] = {key: value for key, value in entry.items() if key != "name"}
    text = json.dumps(index, indent=1) + "\n"
    command.write_atomically(zoo.folder() / "index.json", lambda path: path.write_text(text))


def _recipe(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "recipe.json").read_text())


def _begin(output: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts weights and recipe of the flags' model into a folder."""
    history = json.loads(output.with_suffix(".history.json").read_text())
    run = history["run"]
    run["start"] = _FLAGS.start  # These may have been elsewhere.
    if run["teacher"]:
        run["teacher"]["path"] = _FLAGS.teacher
    recipe = {"command": _train_command(run["backend"]), **run, "history": history["history"]}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    _copy_in_half_precision(output, folder / "weights.keras")


def _copy_in_half_precision(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a .keras file, its tensors of two axes or more as float16, compressed."""
    with zipfile.ZipFile(source) as parts, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in parts.namelist():
            content = parts.read(name)
            if name.endswith(".h5"):
                content = _halved(content)
            copy.writestr(zipfile.ZipInfo(name), content, copy.compression)  # Without a date, so always the same.


def _halved(content: bytes) -> bytes:
    """An HDF5 file with its arrays of two axes or more as float16."""
    result = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as source, h5py.File(result, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                made = target.create_group(name)
            else:
                made = target.create_dataset(name, data=item[()], dtype="float16" if item.ndim > 1 else item.dtype)
            made.attrs.update(item.attrs)

        source.visititems(copy)
        target.attrs.update(source.attrs)
    return result.getvalue()


def _export(
    model: keras.Model, dataset: data.Dataset, forms: Sequence[Form]
) -> tuple[dict[str, bytes], dict[str, float]]:
    """Files of a model and their accuracies, by role."""
    exported, accuracies = {}, {}
    for form in forms:
        calibration = [dataset.calibration_images()] if form.quantize in INT8 else None
        content = export.to_tflite(model, *form, representative_data=calibration)
        if content in exported.values():  # Nothing to fold: the explicit file again.
            continue
        role = form.role
        exported[role] = content
        interpreter = Interpreter(model_content=content)
        prepare(interpreter)
        accuracies[role] = accuracy(interpreter, dataset.x_test, dataset.y_test)
    return exported, accuracies


def _overall_ratio(model: keras.Model) -> float:
    """The share of all codes of all DBF layers that is kept, a code counting once a filter."""
    layers = [layer for layer in model.layers if isinstance(layer, DBFConv2D)]
    kept = sum(np.prod(layer.coefficients.shape) for layer in layers)
    return float(kept / sum(np.prod(layer.twin_shape) for layer in layers))


def _codes_text(entry: dict[str, Any]) -> str:
    """ρ, a number or that of all layers together and the schedule by layer name, and selection, as the card says it."""
    if "ratio" not in entry:
        return "ordinary convolutions"
    ratio = entry["ratio"]
    if isinstance(ratio, dict):
        schedule = ", ".join(f"{value:g} for `{pattern}`" for pattern, value in ratio.items())
        ratio = f"{entry['overall_ratio']:.3f} overall ({schedule}, the first that fits)"
    return f"ρ = {ratio}, selection `{entry['selection']}`"


def _publish(group: str, entry: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Exports the model of a folder in every form of its group, and writes files and card; returns the entry."""
    model, recipe = keras_file.load(folder / "weights.keras"), _recipe(folder)
    dataset = data.load(entry["dataset"], _FLAGS.data_dir, model.input_shape[1])
    exported, accuracies = _export(model, dataset, FORMS if group == "models" else _CONTROL_FORMS)
    calls = [prepare(Interpreter(model_content=content)) for content in exported.values()]
    times = time_interleaved(calls, seconds=3)
    images = dataset.x_test[np.arange(8)]
    inputs = images.astype("float32")
    outputs = {role: verify.run_file(model, content, [inputs])[0] for role, content in exported.items()}
    np.savez_compressed(folder / "check.npz", images=images, outputs=model.predict(inputs, verbose=0), **outputs)

    if group == "models":
        entry["overall_ratio"] = _overall_ratio(model)
    entry |= {
        "input_shape": list(model.input_shape[1:]),
        "classes": model.output_shape[-1],
        "parameters": model.count_params(),
        "test_images": len(dataset.y_test),
        "epochs": len(recipe["history"]),
        "accuracy": {"keras": recipe["history"][-1]["val_accuracy"], **accuracies},
        "bytes": {role: len(content) for role, content in exported.items()},
        "seconds": {role: float(np.median(row)) for role, row in zip(exported, times, strict=True)},
        "machine": describe_machine("litert")["cpu"],
        "files": _write_files(folder, exported, _kept(group, entry, exported)),
    }
    text = card(entry, recipe)
    (folder / "README.md").write_text(text)
    print(text)
    return entry


def _kept(group: str, entry: dict[str, Any], exported: Iterable[str]) -> list[str]:
    """The roles of the files that stay in the folder."""
    if _FLAGS.keep is not None:
        return _FLAGS.keep
    if "files" in entry:
        return list(entry["files"])
    return ["weights", *(exported if group == "models" else ())]


def _write_files(folder: pathlib.Path, exported: dict[str, bytes], kept: list[str]) -> dict[str, dict]:
    """Writes the exported files that are kept, deletes weights and check if they are not, and lists all by role."""
    paths = {"weights": folder / "weights.keras", "check": folder / "check.npz"}
    for role in paths.keys() - kept:
        if role != "check" or not kept:
            paths.pop(role).unlink()
    for role in [role for role in exported if role in kept]:
        paths[role] = folder / f"{role}.tflite"
        paths[role].write_bytes(exported[role])
    return {role: _listed(path) for role, path in paths.items()}


def _listed(path: pathlib.Path) -> dict:
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _train_command(backend: str) -> str:
    """The training command of these flags on a backend of Keras, with the data's folder left to the reader."""
    own = {f"--{name}" for name in ("name", "again", "cards", "control", "keep", "output", "data_dir")}
    parts = [] if backend == "tensorflow" else [f"KERAS_BACKEND={backend}"]
    parts.append("python -m dbf_keras.train")
    for argument in sys.argv[1:]:
        name, given, _ = argument.partition("=")
        if name in own:
            continue
        if not name.startswith("--") or not given:
            raise ValueError(f"Write flags as --name=value, so that the card can quote them; got {argument!r}.")
        parts.append(shlex.quote(argument))
    if _FLAGS.data_dir:
        parts.append("--data_dir=$DBF_DATA_DIR")
    return " ".join([*parts, f"--output={_FLAGS.name}.keras"])


def card(entry: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The card of an entry, of its figures in the index and its recipe."""
    rows = [
        f"| {role} | {size:,} | {entry['accuracy'][role]:.2%} | {1e6 * entry['seconds'][role]:.0f} µs | "
        f"{'yes' if role in entry['files'] else 'no: export it'} |"
        for role, size in entry["bytes"].items()
    ]
    shown = ("name", "network", "dataset", "epochs", "machine", "classes", "parameters", "test_images")
    return _CARD.format(
        rows="\n".join(rows),
        input_shape=_shape_text(entry),
        keras_accuracy=entry["accuracy"]["keras"],
        train_command=recipe["command"],
        source=_SOURCES[entry["dataset"]],
        weights=_WEIGHTS if "weights" in entry["files"] else _NO_WEIGHTS,
        codes=_codes_text(entry),
        use=_use_text(entry),
        **{key: entry[key] for key in shown},
    )


def _shape_text(entry: dict[str, Any]) -> str:
    return f"[{', '.join(map(str, entry['input_shape']))}]"


def _use_text(entry: dict[str, Any]) -> str:
    """How what the folder holds is used: weights loaded and trained further, a file invoked, others exported."""
    name, files = entry["name"], entry["files"]
    blocks = []
    if "weights" in files:
        blocks.append(("python", _LOAD.format(name=name, input_shape=_shape_text(entry))))
    roles = sorted(files.keys() - {"weights", "check"}, key=list(entry["bytes"]).index)
    if roles:
        role = next((role for role in roles if role.startswith("onthefly_")), roles[0])
        blocks.append(("python", _INVOKE.format(name=name, role=role)))
    if "weights" in files and entry["bytes"].keys() - files.keys():
        mode = "onthefly" if "ratio" in entry else "explicit"
        coding = " --coding" if any(role.endswith("_coded") for role in roles) else ""
        blocks.append(("", _EXPORT.format(name=name, mode=mode, coding=coding)))
    return "".join(f"\n```{kind}\n{text}```\n" for kind, text in blocks)


if __name__ == "__main__":
    train_command.define_flags(output_required=False)
    flags.DEFINE_string("name", None, "Name of the model in the zoo.")
    flags.DEFINE_bool("again", False, "Export and measure what the zoo has, from its weights.")
    flags.DEFINE_bool("cards", False, "Write all cards anew, of the figures in the index; nothing is measured.")
    flags.DEFINE_bool("control", False, "A plain network to compare with: standard files only.")
    flags.DEFINE_list(
        "keep", None, "Files to keep, by role; by default all, of a control the weights, --again those of before."
    )
    command.run(main)
