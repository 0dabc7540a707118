"""Layers without the codes that training to levels has emptied, beside the same layers with all of their codes.

    python benchmarks/idle_codes.py
    python benchmarks/idle_codes.py --network=resnet18_k4_levels_cifar10

Our op computes each layer alone, with random coefficients, in turns in one process; medians of one image and thread. A
ratio under 1 says that it is faster without. `dbf_keras.export.filters` has the rule that follows.
"""

import numpy as np
from absl import flags

from dbf_keras import Interpreter, command, zoo
from dbf_keras.backend import keras
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.report import print_table
from dbf_keras.export import to_tflite
from dbf_keras.layers import DBFConv2D

_FLAGS = flags.FLAGS
flags.DEFINE_string("network", "resnet18_k4_levels_small_cifar10", "A model of the zoo that was trained to levels.")
flags.DEFINE_float("seconds", 3.0, "Seconds for the files of a layer.")


def files(layer: DBFConv2D, codes: np.ndarray) -> list[bytes]:
    """A layer that keeps these codes, in float32 and in int8."""
    shape = layer.input.shape[1:]
    inputs = keras.Input(shape)
    ratio = len(codes) / np.prod(layer.filter_shape)
    convolution = DBFConv2D(
        layer.filters, layer.kernel_size, layer.strides, layer.padding, ratio=ratio, selection=codes.tolist()
    )
    model = keras.Model(inputs, convolution(inputs))
    samples = np.random.default_rng(0).standard_normal((50, *shape)).astype(np.float32)
    return [to_tflite(model), to_tflite(model, quantize="int8", representative_data=[samples])]


def main(_: list[str]) -> None:
    """Prints a table of layers."""
    rows = [["layer", "input", "codes", "not idle", "float32", "int8"]]
    for layer in zoo.load_zoo(_FLAGS.network).layers:
        if not isinstance(layer, DBFConv2D):
            continue
        used = np.asarray(layer.rounded_coefficients).any(axis=1)
        if used.all():
            continue
        runs = [
            prepare(Interpreter(model_content=file))
            for codes in (layer.codes, layer.codes[used])
            for file in files(layer, codes)
        ]
        whole, whole_int8, fewer, fewer_int8 = (float(np.median(t)) for t in time_interleaved(runs, _FLAGS.seconds))
        shape = "×".join(map(str, layer.input.shape[1:]))
        ratios = (f"{ratio:.2f}" for ratio in (fewer / whole, fewer_int8 / whole_int8))
        rows.append([layer.name, shape, str(len(used)), f"{used.mean():.0%}", *ratios])
    print_table(_FLAGS.network, rows)


if __name__ == "__main__":
    command.run(main)
