"""Makes an entry of the zoo: trains a model, or takes it trained, exports it, measures it, writes card and index.

    python models/publish.py --name=digits --dataset=digits --network=dbfnet_micro --output=/tmp/digits.keras
    python models/publish.py --again --data_dir=$DBF_DATA_DIR

The first takes the flags of ``python -m dbf_keras.train``; a model that is at ``--output`` already, with its history,
is not trained again. The second exports and measures the models that the zoo has, from their weights; with ``--name``
one.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import sys
from typing import Any

import numpy as np
from absl import flags

from dbf_keras import command, data, export, train, zoo
from dbf_keras.backend import keras
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.accuracy import accuracy
from dbf_keras.benchmark.report import describe_machine
from dbf_keras.layers import custom_objects
from dbf_keras.runtime import Interpreter

_FLAGS = flags.FLAGS
_MODES = ("explicit", "onthefly", "folded")
_FORMS = (*((mode, quantize) for quantize in (None, "weights", "int8") for mode in _MODES), ("onthefly", "int4"))
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

{network} on {dataset}, ρ = {ratio}, selection `{selection}`: takes raw pixels 0–255 {input_shape}, gives {classes}
class probabilities. {parameters:,} parameters.

| file | bytes | test accuracy | median latency | in this folder |
|---|---|---|---|---|
{rows}

Keras: {keras_accuracy:.2%} on the {tests:,} test images. Latency: median of one image at a time, one thread, files in
turns, on {machine}. Figures by `models/publish.py`.

- Training: {epochs} epochs, the last epoch's weights; details in `recipe.json`, the learning curve below.
  `{train_command}`
- Data: {source}.
- The test set is evaluated after each epoch, for the curve. No test image is trained on, and the last epoch's weights
  are taken whatever it says.
- Checks: `check.npz` holds test images and the Keras model's output for them; a test holds every file to it.

![learning curve](history.png)
"""


def main(_: list[str]) -> None:
    """Publishes as the flags say."""
    if _FLAGS.again:
        names = [_FLAGS.name] if _FLAGS.name else list(zoo.index()["models"])
        entries = {name: zoo.entry(name) for name in names}
    else:
        entries = {_FLAGS.name: _train()}
    for name, entry in entries.items():
        _measure(zoo.folder() / name, entry)
        index = zoo.index()
        index["models"][name] = {key: value for key, value in entry.items() if key != "name"}
        text = json.dumps(index, indent=1) + "\n"
        command.write_atomically(zoo.folder() / "index.json", lambda path, text=text: path.write_text(text))
        print((zoo.folder() / name / "README.md").read_text())


def _train() -> dict[str, Any]:
    """Trains the model of the flags, unless it is there, and begins its folder; the first keys of its entry."""
    if not _FLAGS.name or not _FLAGS.output:
        raise ValueError("Give --name and --output, or --again for the models of the zoo.")
    output = pathlib.Path(_FLAGS.output)
    if not output.exists():
        train.main([])
    folder = zoo.folder() / _FLAGS.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    history = json.loads(output.with_suffix(".history.json").read_text())
    recipe = {"command": _train_command(), **history["run"], "history": history["history"]}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    shutil.copyfile(output.with_suffix(".png"), folder / "history.png")
    shutil.copyfile(output, folder / "weights.keras")
    return {
        "name": _FLAGS.name,
        "network": _FLAGS.network,
        "dataset": _FLAGS.dataset,
        "ratio": train.parse_ratio(_FLAGS.ratio),
        "selection": _FLAGS.selection,
        "seed": _FLAGS.seed,
    }


def _measure(folder: pathlib.Path, entry: dict[str, Any]) -> None:
    """Exports the model of a folder in every form, writes files and card, and adds the figures to its entry."""
    model = keras.models.load_model(folder / "weights.keras", custom_objects=custom_objects(), compile=False)
    dataset = data.load(entry["dataset"], _FLAGS.data_dir, model.input_shape[1])
    images = dataset.x_test[np.arange(8)]
    np.savez_compressed(folder / "check.npz", images=images, outputs=model.predict(images.astype("float32"), verbose=0))

    exported = {}
    for mode, quantize in _FORMS:
        calibration = [dataset.calibration_images()] if quantize == "int8" else None
        role = mode + _SUFFIXES[quantize]
        exported[role] = export.to_tflite(model, mode, quantize, representative_data=calibration)
    interpreters = {role: Interpreter(model_content=content) for role, content in exported.items()}
    calls = [prepare(interpreter) for interpreter in interpreters.values()]
    times = time_interleaved(calls, seconds=3)
    latencies = {role: float(np.median(row)) for role, row in zip(exported, times, strict=True)}
    accuracies = {
        role: accuracy(interpreter, dataset.x_test, dataset.y_test) for role, interpreter in interpreters.items()
    }
    files = {"weights": _listed(folder / "weights.keras"), "check": _listed(folder / "check.npz")}
    for role, content in exported.items():
        path = folder / f"{role}.tflite"
        path.unlink(missing_ok=True)
        if len(content) <= _FLAGS.largest_file:
            path.write_bytes(content)
            files[role] = _listed(path)

    recipe = json.loads((folder / "recipe.json").read_text())
    entry["accuracy"] = {"keras": recipe["history"][-1]["val_accuracy"], **accuracies}
    entry["bytes"] = {role: len(content) for role, content in exported.items()}
    entry["files"] = files
    _write_card(folder, entry, latencies, model, len(dataset.y_test), recipe)


def _listed(path: pathlib.Path) -> dict:
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _train_command() -> str:
    """The training command of these flags, with the data's folder left to the reader."""
    own = {"name", "again", "largest_file", "output", "data_dir"}
    parts = ["python -m dbf_keras.train"]
    for argument in sys.argv[1:]:
        if not argument.startswith("--") or "=" not in argument:
            raise ValueError(f"Write flags as --name=value, so that the card can quote them; got {argument!r}.")
        if argument[2:].split("=")[0] not in own:
            parts.append(argument)
    if _FLAGS.data_dir:
        parts.append("--data_dir=$DBF_DATA_DIR")
    return " ".join([*parts, f"--output={_FLAGS.name}.keras"])


def _write_card(folder, entry, latencies, model, tests: int, recipe: dict) -> None:
    rows = [
        f"| {role} | {size:,} | {entry['accuracy'][role]:.2%} | {1e6 * latencies[role]:.0f} µs | "
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
        machine=describe_machine("litert")["cpu"],
        train_command=recipe["command"],
        epochs=len(recipe["history"]),
        source=_SOURCES[entry["dataset"]],
        **{key: entry[key] for key in ("name", "network", "dataset", "ratio", "selection")},
    )
    (folder / "README.md").write_text(card)


if __name__ == "__main__":
    train.define_flags(output_required=False)
    flags.DEFINE_string("name", None, "Name of the model in the zoo.")
    flags.DEFINE_bool("again", False, "Export and measure what the zoo has, from its weights.")
    flags.DEFINE_integer("largest_file", 4_000_000, "Exported files up to these bytes are kept in the repository.")
    command.run(main)
