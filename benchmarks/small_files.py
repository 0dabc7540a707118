"""The smallest files of CIFAR-10 networks: our coded ones beside int8 and int4 files of narrow plain networks.

    python benchmarks/plain_rivals.py --data_dir=$DBF_DATA_DIR --output=rivals
    python benchmarks/small_files.py --data_dir=$DBF_DATA_DIR --rivals=rivals --json=small_files.json

Plain networks are exported by the standard converter, in int8, and by ai-edge-quantizer, with int4 weights: as they
were trained in float32, and what benchmarks/plain_rivals.py made of them, trained for int4, or pruned and clustered for
int8. "zipped" is what a zip archive of the file has, as stores count an app. Files are loaded, and then run, in turns
in one process; medians of one image and one thread. Peak memory is that of a process of its own. Accuracy is of all
test images.
"""

import json
import pathlib
import tempfile
from typing import Any

import numpy as np
from absl import flags

from dbf_keras import Interpreter, command, data, keras_file, zoo
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.accuracy import accuracy
from dbf_keras.benchmark.memory import peak_memory
from dbf_keras.benchmark.report import describe_machine, print_table
from dbf_keras.export import to_tflite
from peers.quantized import RECIPES, by_quantizer, zipped

_FLAGS = flags.FLAGS
flags.DEFINE_list(
    "ours",
    [f"resnet18_k4_levels{size}_cifar10" for size in ("_small", "", "_large")],
    "Models of the zoo, trained to levels.",
)
flags.DEFINE_list("plain", ["resnet18_cifar10_narrow", "resnet18_k4_taught_cifar10_narrow"], "Controls of the zoo.")
flags.DEFINE_string("rivals", None, "Folder of .keras files that benchmarks/plain_rivals.py wrote, if they are wanted.")
flags.DEFINE_string("data_dir", None, "Where cifar10.npz is.")
flags.DEFINE_integer("images", 1000, "Training images that calibrate static int4; int8 takes 200.")
flags.DEFINE_float("seconds", 3.0, "Seconds for each file, to load it and to run it.")
flags.DEFINE_string("json", None, "Also write the figures there.")

_HEADINGS = ("file", "bytes", "zipped", "peak MB", "load ms", "run ms", "accuracy")
_RECIPES = ("static_wi4_ai8", "dynamic_wi4_afp32")
_KINDS = {"int4": "trained for int4", "pruned": "pruned, clustered"}  # As plain_rivals.py names them.


def files(dataset: data.Dataset) -> dict[str, bytes]:
    """All files by what the table calls them."""
    images = dataset.calibration_images()
    found = {}
    for name in _FLAGS.ours:
        model = zoo.load_zoo(name)
        found[f"{name}, int8 weights, coded"] = to_tflite(model, "onthefly", "weights", True)
        found[f"{name}, int8, coded"] = to_tflite(model, "onthefly", "int8", True, representative_data=[images])
    plain = [(name, "", zoo.load_zoo(name)) for name in _FLAGS.plain]
    for path in sorted(pathlib.Path(_FLAGS.rivals).glob("*.keras")) if _FLAGS.rivals else ():
        name, _, kind = path.stem.rpartition("_")
        plain.append((f"{name}, {_KINDS[kind]}", kind, keras_file.load(path)))
    for name, kind, model in plain:
        if kind != "int4":
            found[f"{name}, int8"] = to_tflite(model, "explicit", "int8", representative_data=[images])
        if kind != "pruned":
            explicit, more = to_tflite(model, "explicit"), dataset.calibration_images(_FLAGS.images)
            for recipe in _RECIPES:
                found[f"{name}, {RECIPES[recipe]}"] = by_quantizer(explicit, recipe, more)
    return found


def main(_: list[str]) -> None:
    """Prints a table of files."""
    dataset = data.load("cifar10", _FLAGS.data_dir)
    found = files(dataset)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(pathlib.Path(folder, f"{number}.tflite")) for number in range(len(found))]
        for path, file in zip(paths, found.values(), strict=True):
            pathlib.Path(path).write_bytes(file)
        loads = time_interleaved(
            [lambda path=path: Interpreter(path).allocate_tensors() for path in paths], _FLAGS.seconds
        )
        runs = time_interleaved([prepare(Interpreter(path)) for path in paths], _FLAGS.seconds)
        peaks = [peak_memory(path) for path in paths]
    rows: list[dict[str, Any]] = []
    for (name, file), load, run, peak in zip(found.items(), loads, runs, peaks, strict=True):
        interpreter = Interpreter(model_content=file)
        prepare(interpreter)
        right = accuracy(interpreter, dataset.x_test, dataset.y_test)
        figures = (name, len(file), zipped(file), peak / 1e6, *(1e3 * float(np.median(e)) for e in (load, run)), right)
        rows.append(dict(zip(_HEADINGS, figures, strict=True)))
    formats = ("{}", "{:,}", "{:,}", "{:.1f}", "{:.2f}", "{:.2f}", "{:.2%}")
    cells = [
        [text.format(value) for text, value in zip(formats, row.values(), strict=True)]
        for row in sorted(rows, key=lambda row: row["bytes"])
    ]
    machine = describe_machine("litert")["cpu"]
    print_table(f"CIFAR-10, on {machine}", [list(_HEADINGS), *cells])
    if _FLAGS.json:
        content = json.dumps({"machine": machine, "files": rows}, indent=1)
        command.write_atomically(pathlib.Path(_FLAGS.json), lambda path: path.write_text(content))


if __name__ == "__main__":
    command.run(main)
