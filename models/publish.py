"""Makes an entry of the zoo: trains a model, or takes it trained, exports it, measures it, writes card and index.

    python models/publish.py --name digits --dataset digits --network dbfnet_micro --output /tmp/digits.keras

Takes the flags of ``python -m dbf_keras.train``; a model that is at ``--output`` already, with its history, is not
trained again.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import sys

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
_FORMS = tuple((mode, quantize) for quantize in (None, "weights") for mode in ("explicit", "onthefly", "folded"))
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

    model = keras.models.load_model(output, custom_objects=custom_objects(), compile=False)
    dataset = data.load(_FLAGS.dataset, _FLAGS.data_dir, _FLAGS.image_size)
    images = dataset.x_test[np.arange(8)]
    np.savez_compressed(folder / "check.npz", images=images, outputs=model.predict(images.astype("float32"), verbose=0))

    exported = {_role(*form): export.to_tflite(model, *form) for form in _FORMS}
    interpreters = {role: Interpreter(model_content=content) for role, content in exported.items()}
    calls = [prepare(interpreter) for interpreter in interpreters.values()]
    times = time_interleaved(calls, seconds=3)
    latencies = {role: float(np.median(row)) for role, row in zip(exported, times, strict=True)}
    accuracies = {
        role: accuracy(interpreter, dataset.x_test, dataset.y_test) for role, interpreter in interpreters.items()
    }
    files = {"weights": _listed(folder / "weights.keras"), "check": _listed(folder / "check.npz")}
    for role, content in exported.items():
        if len(content) <= _FLAGS.largest_file:
            path = folder / f"{role}.tflite"
            path.write_bytes(content)
            files[role] = _listed(path)

    entry = {
        "network": _FLAGS.network,
        "dataset": _FLAGS.dataset,
        "ratio": train.parse_ratio(_FLAGS.ratio),
        "selection": _FLAGS.selection,
        "seed": _FLAGS.seed,
        "accuracy": {"keras": history["history"][-1]["val_accuracy"], **accuracies},
        "bytes": {role: len(content) for role, content in exported.items()},
        "files": files,
    }
    _write_card(folder, entry, latencies, model, len(dataset.y_test), len(history["history"]))
    index_path = zoo.folder() / "index.json"
    index = zoo.index()
    index["models"][_FLAGS.name] = entry
    text = json.dumps(index, indent=1) + "\n"
    command.write_atomically(index_path, lambda path: path.write_text(text))
    print((folder / "README.md").read_text())


def _role(mode: str, quantize: str | None) -> str:
    return f"{mode}_int8_weights" if quantize else mode


def _listed(path: pathlib.Path) -> dict:
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _train_command() -> str:
    """The training command of these flags, with the data's folder left to the reader."""
    own = {"name", "largest_file", "output", "data_dir"}
    parts = ["python -m dbf_keras.train"]
    for argument in sys.argv[1:]:
        if not argument.startswith("--") or "=" not in argument:
            raise ValueError(f"Write flags as --name=value, so that the card can quote them; got {argument!r}.")
        if argument[2:].split("=")[0] not in own:
            parts.append(argument)
    if _FLAGS.data_dir:
        parts.append("--data_dir=$DBF_DATA_DIR")
    return " ".join([*parts, f"--output={_FLAGS.name}.keras"])


def _write_card(folder, entry, latencies, model, tests: int, epochs: int) -> None:
    rows = [
        f"| {role} | {size:,} | {entry['accuracy'][role]:.2%} | {1e6 * latencies[role]:.0f} µs | "
        f"{'yes' if role in entry['files'] else 'no: export it'} |"
        for role, size in entry["bytes"].items()
    ]
    card = _CARD.format(
        name=_FLAGS.name,
        rows="\n".join(rows),
        input_shape=f"[{', '.join(map(str, model.input_shape[1:]))}]",
        classes=model.output_shape[-1],
        parameters=model.count_params(),
        keras_accuracy=entry["accuracy"]["keras"],
        tests=tests,
        machine=describe_machine("litert")["cpu"],
        train_command=_train_command(),
        epochs=epochs,
        source=_SOURCES[entry["dataset"]],
        **{key: entry[key] for key in ("network", "dataset", "ratio", "selection")},
    )
    (folder / "README.md").write_text(card)


if __name__ == "__main__":
    train.define_flags()
    flags.DEFINE_string("name", None, "Name of the model in the zoo.", required=True)
    flags.DEFINE_integer("largest_file", 4_000_000, "Exported files up to these bytes are kept in the repository.")
    command.run(main)
