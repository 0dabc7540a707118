"""Compresses trained plain networks of the zoo within budgets: planned layer by layer, and with one ρ everywhere.

    python benchmarks/budgets.py --data_dir=$DBF_DATA_DIR --output=compressed            # a night on two cores
    python benchmarks/budgets.py --networks=digits_plain:10 --ratios=0.25 --seeds=0 --epochs=3 --output=digits

Each runs as `dbf compress` does, with the same images, epochs and teacher, and goes on where it was killed. Rows are of
one network and budget: bytes, the accuracy on the whole test set of each seed, and their mean.
"""

import pathlib
import shutil

import numpy as np
from absl import flags

import dbf_keras
from dbf_keras import command, data, zoo
from dbf_keras.benchmark.report import print_table
from dbf_keras.compress.compression import FINE_TUNING, Compression
from dbf_keras.train.recipes import DEFAULT_RECIPES, RECIPES
from dbf_keras.train.settings import precision_of

_FLAGS = flags.FLAGS
flags.DEFINE_list(
    "networks",
    ["resnet18_k4_plain_cifar10:48", "resnet18_k3_plain_cifar10:40", "digits_plain:10"],
    "Plain models of the zoo whose weights are kept, each with the kB that its file may have.",
)
flags.DEFINE_list("ratios", ["0.25", "0.5", "1"], "ρ of all layers, to compare with plans.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of fine-tuning.")
flags.DEFINE_integer("epochs", 15, "Epochs of fine-tuning.")
flags.DEFINE_enum("mixed_precision", None, ["bfloat16", "float16"], "Fine-tune in this type, keep float32 weights.")
flags.DEFINE_string("data_dir", None, "Where <dataset>.npz is.")
flags.DEFINE_string("output", "compressed", "Folder to write to.")


def compressed(name: str, max_kb: float, ratio: float | None, seed: int) -> Compression:
    """A network of the zoo within a budget."""
    kind = "planned" if ratio is None else f"r{ratio:g}"
    dataset = zoo.entry(name)["dataset"]
    own = RECIPES[DEFAULT_RECIPES[dataset]]
    folder, stem = pathlib.Path(_FLAGS.output), f"{name}_{max_kb:g}kb_{kind}"
    output = folder / f"{stem}_{seed}.tflite"
    plans = folder / f"{stem}_{_FLAGS.seeds[0]}.plan.json", output.with_suffix(".plan.json")
    if plans[0].exists() and not plans[1].exists():
        shutil.copyfile(*plans)  # A plan does not depend on the seed.
    return dbf_keras.compress(
        zoo.load_zoo(name),
        data.load(dataset, _FLAGS.data_dir),
        max_kb=max_kb,
        ratio=ratio,
        epochs=_FLAGS.epochs,
        precision=precision_of(_FLAGS.mixed_precision),
        recipe=FINE_TUNING.change(augmentation=own.augmentation, batch_size=own.batch_size),
        output=output,
        seed=seed,
    )


def main(_: list[str]) -> None:
    """Prints a table."""
    pathlib.Path(_FLAGS.output).mkdir(exist_ok=True)
    seeds = [int(seed) for seed in _FLAGS.seeds]
    rows = [["network", "kB allowed", "codes", "kB", "ms", *(f"seed {seed}" for seed in seeds), "mean", "±"]]
    for network in _FLAGS.networks:
        name, budget = network.split(":")
        for ratio in (None, *map(float, _FLAGS.ratios)):
            files = [compressed(name, float(budget), ratio, seed).report.files[1] for seed in seeds]
            accuracies = [100 * (file.accuracy or 0.0) for file in files]
            rows.append(
                [
                    name,
                    budget,
                    "planned" if ratio is None else f"ρ = {ratio:g}",
                    f"{np.mean([file.bytes for file in files]) / 1e3:.1f}",
                    f"{1e3 * np.mean([file.seconds for file in files]):.3f}",
                    *(f"{accuracy:.2f} %" for accuracy in accuracies),
                    f"{np.mean(accuracies):.2f} %",
                    f"{np.std(accuracies):.2f}",
                ]
            )
            print_table("Fine-tuned networks within budgets", rows)


if __name__ == "__main__":
    command.run(main)
