"""Seconds of a training epoch of ResNet-8 at each ρ beside ρ = 1, in turns, on random images.

python benchmarks/epochs.py --ratio=0.25 --kernel_size=4 --selection=spatial_tree

Layers whose codes are a product train in folded form: ρ of the multiply-adds. What is not a DBF layer, BatchNorm above
all, takes as long as before, so that the whole network gains less the narrower it is.
"""

import time

import numpy as np
from absl import flags

from dbf_keras import command, networks
from dbf_keras.progress import progress
from dbf_keras.train import engine, recipes

_FLAGS = flags.FLAGS
flags.DEFINE_multi_float("ratio", [0.5, 0.25], "ρ of the networks beside ρ = 1.")
flags.DEFINE_string("selection", "ovsf", "Which codes are kept.")
flags.DEFINE_float("width", 4.0, "Factor on 16, 32 and 64 channels.")
flags.DEFINE_integer("kernel_size", 3, "Kernel size.")
flags.DEFINE_integer("steps", 4, "Batches an epoch.")
flags.DEFINE_integer("batch_size", 64, "Images a batch.")
flags.DEFINE_integer("rounds", 5, "Epochs of each; the medians are printed.")


def main(_: list[str]) -> None:
    """Prints the medians and what ρ = 1 takes over them."""
    rng = np.random.default_rng(0)
    count = _FLAGS.steps * _FLAGS.batch_size
    source = engine.resident(rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8), rng.integers(10, size=count))
    order = np.arange(count, dtype=np.int32).reshape(_FLAGS.steps, _FLAGS.batch_size)
    seeds = np.zeros((_FLAGS.steps, 2), np.int32)
    ratios = [1.0, *_FLAGS.ratio]
    options = {name: _FLAGS[name].value for name in ("selection", "width", "kernel_size")}
    trainers = [
        engine.Engine(
            networks.build("resnet8", ratio=ratio, classifier_activation=None, **options),
            recipes.RECIPES["cosine"].optimizer(_FLAGS.steps),
            10,
        )
        for ratio in ratios
    ]
    times = np.zeros((_FLAGS.rounds + 1, len(ratios)))
    with progress("epochs") as show:
        for index in np.ndindex(times.shape):
            start = time.perf_counter()
            trainers[index[1]].train(source, order, seeds)
            times[index] = time.perf_counter() - start
            show((index[0] * len(ratios) + index[1] + 1) / times.size)
    medians = np.median(times[1:], axis=0)  # The first round compiles.
    for ratio, seconds in zip(ratios, medians, strict=True):
        print(f"ρ = {ratio}: {seconds:.3f} s, {count / seconds:.0f} images a second, {medians[0] / seconds:.2f}×")


if __name__ == "__main__":
    command.run(main)
