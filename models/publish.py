"""Makes an entry of the zoo: trains a model, or takes it trained, exports it, measures it, writes card and index.

    python models/publish.py --name=digits --dataset=digits --network=dbfnet_micro --output=/tmp/digits.keras
    python models/publish.py --control --name=digits_plain --option=plain=True --dataset=digits --network=dbfnet_micro \
        --output=/tmp/digits_plain.keras
    python models/publish.py --again --data_dir=$DBF_DATA_DIR

The first takes the flags of ``python -m dbf_keras.train``; a model that is at ``--output`` already, with its history,
is not trained again. The second does the same with a plain network to compare with. The third exports and measures what
the zoo has, from its weights; with ``--name`` one. All write the zoo's overview anew. Weights are kept in half
precision, and all figures but Keras's, which is the training's, are of these.
"""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import h5py
import numpy as np
import overview
from absl import flags

from dbf_keras import command, data, export, train, zoo
from dbf_keras.backend import keras
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.accuracy import accuracy
from dbf_keras.benchmark.report import describe_machine
from dbf_keras.export import verify
from dbf_keras.layers import DBFConv2D, custom_objects
from dbf_keras.runtime import Interpreter

_FLAGS = flags.FLAGS
_MODES = ("explicit", "onthefly", "folded")
_FORMS = (*((mode, quantize) for quantize in (None, "weights", "int8") for mode in _MODES), ("onthefly", "int4"))
_CONTROL_FORMS = tuple(form for form in _FORMS if form[0] == "explicit")
_SUFFIXES = {None: "", "weights": "_int8_weights", "int8": "_int8", "int4": "_int4_weights"}
_SOURCES = {
    "digits": "the digits that come with scikit-learn (UCI Optical Recognition of Handwritten Digits, CC BY 4.0)",
    "mnist": "MNIST (LeCun, Cortes, Burges)",
    "cifar10": "CIFAR-10 (Krizhevsky, 2009)",
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

Keras: {keras_accuracy:.2%} on the {tests:,} test images, after the training. Latency: median of one image at a time,
one thread, files in turns, on {machine}. Figures by `models/publish.py`.

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


def main(_: list[str]) -> None:
    """Publishes as the flags say."""
    roles = {"weights", *(mode + _SUFFIXES[quantize] for mode, quantize in _FORMS)}
    if not roles.issuperset(_FLAGS.keep or ()):
        raise ValueError(f"--keep takes {', '.join(sorted(roles))}; got {', '.join(_FLAGS.keep)}.")
    if _FLAGS.again:
        if _FLAGS.name:
            zoo.path(_FLAGS.name)  # Raises if there is none.
        for group in zoo.GROUPS:
            for name, entry in zoo.index()[group].items():
                if _FLAGS.name in (None, name) and "weights" in entry["files"]:
                    _publish(group, zoo.entry(name))
    elif not _FLAGS.name or not _FLAGS.output:
        raise ValueError("Give --name and --output, or --again for what the zoo has.")
    else:
        output = pathlib.Path(_FLAGS.output)
        if not output.exists():
            train.main([])
        _begin_folder(output)
        entry = {"name": _FLAGS.name, "network": _FLAGS.network, "dataset": _FLAGS.dataset, "seed": _FLAGS.seed}
        if not _FLAGS.control:
            entry |= {"ratio": train.parse_ratio(_FLAGS.ratio), "selection": _FLAGS.selection}
        _publish("controls" if _FLAGS.control else "models", entry)
    overview.write()


def _write_index(group: str, name: str, entry: dict[str, Any]) -> None:
    index = zoo.index()
    index.setdefault(group, {})[name] = {key: value for key, value in entry.items() if key != "name"}
    text = json.dumps(index, indent=1) + "\n"
    command.write_atomically(zoo.folder() / "index.json", lambda path: path.write_text(text))


def _load(path: pathlib.Path) -> keras.Model:
    return keras.models.load_model(path, custom_objects=custom_objects(), compile=False)


def _begin_folder(output: pathlib.Path) -> None:
    """Begins the folder of the flags' model: weights and recipe."""
    folder = zoo.folder() / _FLAGS.name
    history = json.loads(output.with_suffix(".history.json").read_text())
    run = history["run"]
    run["start"] = _FLAGS.start  # These may have been elsewhere.
    if run["teacher"]:
        run["teacher"]["path"] = _FLAGS.teacher
    recipe = {"command": _train_command(run["backend"]), **run, "history": history["history"]}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
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
    model: keras.Model, dataset: data.Dataset, forms: Sequence[tuple[str, str | None]]
) -> tuple[dict[str, bytes], dict[str, float]]:
    """Files of a model and their accuracies, by role."""
    exported, accuracies = {}, {}
    for mode, quantize in forms:
        calibration = [dataset.calibration_images()] if quantize == "int8" else None
        content = export.to_tflite(model, mode, quantize, representative_data=calibration)
        if content in exported.values():  # Nothing to fold: the explicit file again.
            continue
        role = mode + _SUFFIXES[quantize]
        exported[role] = content
        interpreter = Interpreter(model_content=content)
        prepare(interpreter)
        accuracies[role] = accuracy(interpreter, dataset.x_test, dataset.y_test)
    return exported, accuracies


def _overall_ratio(model: keras.Model) -> float:
    """The share of all codes of all DBF layers that is kept, a code counting once a filter."""
    layers = [layer for layer in model.layers if isinstance(layer, DBFConv2D)]
    kept = sum(np.prod(layer.coefficients.shape) for layer in layers)
    return float(kept / sum(np.prod(layer.kernel.shape) for layer in layers))


def _codes_text(entry: dict[str, Any]) -> str:
    """ρ, a number or that of all layers together and the schedule by layer name, and selection, as the card says it."""
    if "ratio" not in entry:
        return "ordinary convolutions"
    ratio = entry["ratio"]
    if isinstance(ratio, dict):
        schedule = ", ".join(f"{value:g} for `{pattern}`" for pattern, value in ratio.items())
        ratio = f"{entry['overall_ratio']:.3f} overall ({schedule}, the first that fits)"
    return f"ρ = {ratio}, selection `{entry['selection']}`"


def _publish(group: str, entry: dict[str, Any]) -> None:
    """Exports the model of an entry's folder in every form of its group; writes files, card and the entry."""
    folder = zoo.folder() / entry["name"]
    model = _load(folder / "weights.keras")
    dataset = data.load(entry["dataset"], _FLAGS.data_dir, model.input_shape[1])
    exported, accuracies = _export(model, dataset, _FORMS if group == "models" else _CONTROL_FORMS)
    calls = [prepare(Interpreter(model_content=content)) for content in exported.values()]
    times = time_interleaved(calls, seconds=3)
    images = dataset.x_test[np.arange(8)]
    inputs = images.astype("float32")
    outputs = {role: verify.run_file(model, content, [inputs])[0] for role, content in exported.items()}
    np.savez_compressed(folder / "check.npz", images=images, outputs=model.predict(inputs, verbose=0), **outputs)

    recipe = json.loads((folder / "recipe.json").read_text())
    if group == "models":
        entry["overall_ratio"] = _overall_ratio(model)
    entry |= {
        "epochs": len(recipe["history"]),
        "accuracy": {"keras": recipe["history"][-1]["val_accuracy"], **accuracies},
        "bytes": {role: len(content) for role, content in exported.items()},
        "seconds": {role: float(np.median(row)) for role, row in zip(exported, times, strict=True)},
        "machine": describe_machine("litert")["cpu"],
        "files": _write_files(folder, exported, _kept(group, entry, exported)),
    }
    _write_index(group, entry["name"], entry)
    _write_card(folder, entry, model, len(dataset.y_test), recipe)
    print((folder / "README.md").read_text())


def _kept(group: str, entry: dict[str, Any], exported: Iterable[str]) -> list[str]:
    """The roles of the files that stay in the folder."""
    if _FLAGS.keep is not None:
        return _FLAGS.keep
    if "files" in entry:
        return list(entry["files"])
    return ["weights", *(exported if group == "models" else ())]


def _write_files(folder: pathlib.Path, exported: dict[str, bytes], kept: list[str]) -> dict[str, dict]:
    """Writes the exported files that are kept, deletes the others, and lists all files of the folder by role."""
    paths = {"weights": folder / "weights.keras", "check": folder / "check.npz"}
    for role, content in exported.items():
        paths[role] = folder / f"{role}.tflite"
        paths[role].write_bytes(content)
    for role in paths.keys() - kept:
        if role != "check" or not kept:
            paths.pop(role).unlink()
    return {role: _listed(path) for role, path in paths.items()}


def _listed(path: pathlib.Path) -> dict:
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _train_command(backend: str) -> str:
    """The training command of these flags on a backend of Keras, with the data's folder left to the reader."""
    own = {f"--{name}" for name in ("name", "again", "control", "keep", "output", "data_dir")}
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


def _write_card(folder: pathlib.Path, entry: dict, model: keras.Model, tests: int, recipe: dict) -> None:
    rows = [
        f"| {role} | {size:,} | {entry['accuracy'][role]:.2%} | {1e6 * entry['seconds'][role]:.0f} µs | "
        f"{'yes' if role in entry['files'] else 'no: export it'} |"
        for role, size in entry["bytes"].items()
    ]
    card = _CARD.format(
        rows="\n".join(rows),
        input_shape=f"[{', '.join(map(str, model.input_shape[1:]))}]",
        classes=model.output_shape[-1],
        parameters=model.count_params(),
        keras_accuracy=entry["accuracy"]["keras"],
        tests=tests,
        train_command=recipe["command"],
        source=_SOURCES[entry["dataset"]],
        weights=_WEIGHTS if "weights" in entry["files"] else _NO_WEIGHTS,
        codes=_codes_text(entry),
        **{key: entry[key] for key in ("name", "network", "dataset", "epochs", "machine")},
    )
    (folder / "README.md").write_text(card)


if __name__ == "__main__":
    train.define_flags(output_required=False)
    flags.DEFINE_string("name", None, "Name of the model in the zoo.")
    flags.DEFINE_bool("again", False, "Export and measure what the zoo has, from its weights.")
    flags.DEFINE_bool("control", False, "A plain network to compare with: standard files only.")
    flags.DEFINE_list(
        "keep", None, "Files to keep, by role; by default all, of a control the weights, --again those of before."
    )
    command.run(main)
