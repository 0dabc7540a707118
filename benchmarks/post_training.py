"""Coding without training: files of the zoo's models with --coding --max_loss, beside those with int8 weights.

    python benchmarks/post_training.py --data_dir=$DBF_DATA_DIR                     # all models with weights: an hour
    python benchmarks/post_training.py --data_dir=$DBF_DATA_DIR --models=digits,resnet18_k4_cifar10
    python benchmarks/post_training.py --data_dir=$DBF_DATA_DIR --share=0.6       # with --max_kb instead

Levels are chosen on training images; accuracy is of all test images. Both files are exported anew. Beside the points
that coding adds or costs stands the standard deviation of such a number where each answer that differs between the two
files is as likely to be right before as after.
"""

import time

import numpy as np
from absl import flags

from dbf_keras import Interpreter, command, data, zoo
from dbf_keras.benchmark import prepare
from dbf_keras.benchmark.accuracy import answers
from dbf_keras.benchmark.report import print_table
from dbf_keras.export import to_tflite

_FLAGS = flags.FLAGS
flags.DEFINE_list(
    "models", None, "Models of the zoo; by default all whose weights it holds and that no levels were trained for."
)
flags.DEFINE_string("data_dir", None, "Where mnist.npz and cifar10.npz are.")
flags.DEFINE_float("max_loss", 0.1, "Points of accuracy that may be lost on training images.")
flags.DEFINE_float("share", None, "Instead, the share of the int8 file's bytes that the coded one may have.")
flags.DEFINE_integer("images", 2000, "Training images that levels are chosen on.")


def row(name: str, dataset: data.Dataset) -> tuple[list[str], float]:
    """A model's row of the table, and the points that coding adds."""
    model = zoo.load_zoo(name)
    int8 = to_tflite(model, "onthefly", "weights")
    limit = {"max_loss": _FLAGS.max_loss} if _FLAGS.share is None else {"max_kb": _FLAGS.share * len(int8) / 1000}
    started = time.monotonic()
    examples = dataset.calibration_examples(_FLAGS.images)
    coded = to_tflite(model, "onthefly", "weights", True, representative_data=[examples], **limit)
    seconds = time.monotonic() - started
    files = int8, coded
    found = []
    for file in files:
        interpreter = Interpreter(model_content=file)
        prepare(interpreter)
        found.append(answers(interpreter, dataset.x_test))
    sizes, right = [len(file) for file in files], [(each == dataset.y_test).mean() for each in found]
    points = 100 * (right[1] - right[0])
    cells = [
        name,
        *(f"{size:,}, {share:.2%}" for size, share in zip(sizes, right, strict=True)),
        f"{sizes[1] / sizes[0]:.3f}",
        f"{points:+.2f} ± {100 * np.sqrt((found[0] != found[1]).sum()) / len(found[0]):.2f}",
        f"{seconds:.0f}",
    ]
    return cells, points


def main(_: list[str]) -> None:
    """Prints a row after the other, then the table."""
    entries = zoo.index()["models"]
    names = _FLAGS.models or [
        name for name, entry in entries.items() if "weights" in entry["files"] and "levels" not in name
    ]
    rows, points = [["model", "int8 weights", "coded", "share", "points", "seconds"]], []
    for name in names:
        cells, added = row(name, data.load(zoo.entry(name)["dataset"], _FLAGS.data_dir))
        print("  ".join(cells), flush=True)
        rows.append(cells)
        points.append(added)
    rows.append(["mean", "", "", "", f"{np.mean(points):+.2f}", ""])
    title = f"max_loss = {_FLAGS.max_loss:g}" if _FLAGS.share is None else f"{_FLAGS.share:g} of int8's bytes"
    print_table(title, rows)


if __name__ == "__main__":
    command.run(main)
