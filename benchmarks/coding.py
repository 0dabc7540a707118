"""What coded coefficients cost: time to load, to run, and memory, beside the same network's uncoded files.

    python benchmarks/coding.py                                         # ResNet-18 for ImageNet, ρ = ¼
    python benchmarks/coding.py --network=resnet18_k4_levels_small_cifar10      # of the zoo

Files are loaded, and then run, in turns in one process; medians. To load is to make an interpreter and to allocate its
tensors. Peak memory is that of a process of its own.
"""

import pathlib
import tempfile

import numpy as np
from absl import flags

from dbf_keras import Interpreter, command, networks, zoo
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.memory import peak_memory
from dbf_keras.benchmark.report import print_table
from dbf_keras.export import convert
from dbf_keras.export.verify import random_inputs
from dbf_keras.forms import Form

_FLAGS = flags.FLAGS
_IMAGENET = "resnet18_imagenet"
flags.DEFINE_string("network", _IMAGENET, "resnet18_imagenet, of random weights, or a model of the zoo.")
flags.DEFINE_float("ratio", 0.25, "ρ of the former.")
flags.DEFINE_float("seconds", 3.0, "Seconds for each file, to load it and to run it.")
flags.DEFINE_bool("int8", False, "Also compute in int8.")

_FORMS = tuple(Form("onthefly", quantize, coding) for quantize in ("weights", "int8") for coding in (False, True))


def build() -> networks.keras.Model:
    """The network that the flags name."""
    if _FLAGS.network != _IMAGENET:
        return zoo.load_zoo(_FLAGS.network)
    options = {"input_shape": (224, 224, 3), "classes": 1000, "kernel_size": 3, "ratio": _FLAGS.ratio}
    return networks.build("resnet18", alpha_step=0.7, **options)


def main(_: list[str]) -> None:
    """Prints a table of files."""
    model = build()
    forms = [form for form in _FORMS if _FLAGS.int8 or form.quantize == "weights"]
    samples = random_inputs(model, batch=20)
    results = [
        convert(model, *form, representative_data=samples if form.quantize == "int8" else None, check=False)
        for form in forms
    ]
    levels = sum(layer.kept * layer.bytes_explicit // (4 * layer.codes) for layer in results[0].layers)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(pathlib.Path(folder, f"{form.role}.tflite")) for form in forms]
        for path, result in zip(paths, results, strict=True):
            pathlib.Path(path).write_bytes(result.data)
        loads = time_interleaved(
            [lambda path=path: Interpreter(path).allocate_tensors() for path in paths], _FLAGS.seconds
        )
        runs = time_interleaved([prepare(Interpreter(path)) for path in paths], _FLAGS.seconds)
        peaks = [peak_memory(path) for path in paths]
    rows = [["file", "bytes", "coefficients", "load ms", "run ms", "peak MB"]]
    for form, result, load, run, peak in zip(forms, results, loads, runs, peaks, strict=True):
        held = sum(layer.bytes_file for layer in result.layers)
        times = [f"{1e3 * float(np.median(each)):.2f}" for each in (load, run)]
        rows.append([form.title, f"{len(result.data):,}", f"{held:,}", *times, f"{peak / 1e6:.1f}"])
    print_table(f"{_FLAGS.network}, {levels:,} coefficients", rows)


if __name__ == "__main__":
    command.run(main)
