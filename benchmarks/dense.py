"""Time and memory of a training step of DBFDense on long inputs, as those after Flatten, over those of Dense.

python benchmarks/dense.py --cases=25088-4096,50176-16 --ratio=0.25

Each layer is trained in a process of its own, for its peak of memory, and the processes take turns. Memory is what is
added to a process that has loaded TensorFlow. `fit_kernel` is timed once a round.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
from absl import flags

from dbf_keras import command
from dbf_keras.backend import keras
from dbf_keras.layers import DBFDense
from dbf_keras.progress import progress

_FLAGS = flags.FLAGS
flags.DEFINE_list("cases", ["6272-512", "25088-4096", "50176-16"], "Layers, each as INPUTS-UNITS.")
flags.DEFINE_float("ratio", 0.25, "ρ.")
flags.DEFINE_string("selection", "spatial_tree", "Which codes are kept.")
flags.DEFINE_integer("batch_size", 32, "Inputs a step.")
flags.DEFINE_string("optimizer", "adam", "Optimizer.")
flags.DEFINE_integer("steps", 5, "Timed steps of a process; the quickest counts.")
flags.DEFINE_integer("rounds", 3, "Processes of each layer; medians are printed.")
flags.DEFINE_string("measure", None, "Measure one layer here, dbf or plain, and print JSON.")


def measure(kind: str, inputs: int, units: int) -> dict[str, float]:
    """Trains one layer in this process.

    Args:
        kind: ``"dbf"`` or ``"plain"``.
        inputs: length of the inputs.
        units: number of outputs.

    Returns:
        Seconds of a step and of `fit_kernel`, and MB.
    """

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    before, rng = peak(), np.random.default_rng(0)
    options = {"ratio": _FLAGS.ratio, "selection": _FLAGS.selection}
    layer = keras.layers.Dense(units) if kind == "plain" else DBFDense(units, **options)
    model = keras.Sequential([keras.layers.Input((inputs,)), keras.layers.BatchNormalization(), layer])
    model.compile(_FLAGS.optimizer, "mse")
    x, y = (rng.standard_normal((_FLAGS.batch_size, size), dtype=np.float32) for size in (inputs, units))
    seconds = []
    for _ in range(1 + _FLAGS.steps):  # The first compiles.
        start = time.perf_counter()
        model.train_on_batch(x, y)
        seconds.append(time.perf_counter() - start)
    result = {"step": min(seconds[1:]), "memory": peak() - before}
    if kind == "dbf":
        kernel = rng.standard_normal((inputs, units), dtype=np.float32)
        start = time.perf_counter()
        layer.fit_kernel(kernel)
        result["fit"] = time.perf_counter() - start
    return result


def main(_: list[str]) -> None:
    """Prints the medians of each layer and what they are over the plain layer's."""
    cases = [tuple(map(int, case.split("-"))) for case in _FLAGS.cases]
    if _FLAGS.measure:
        print(json.dumps(measure(_FLAGS.measure, *cases[0])))
        return
    with progress("layers") as show:
        for number, case in enumerate(cases):
            results: dict[str, list] = {"plain": [], "dbf": []}
            for index in range(_FLAGS.rounds):
                for kind, found in results.items():
                    own = [f"--cases={case[0]}-{case[1]}", f"--measure={kind}"]
                    done = subprocess.run([sys.executable, *sys.argv, *own], capture_output=True, text=True, check=True)
                    found.append(json.loads(done.stdout.splitlines()[-1]))
                show((number + (index + 1) / _FLAGS.rounds) / len(cases))
            plain, dbf = ({k: np.median([r[k] for r in found]) for k in found[0]} for found in results.values())
            print(
                f"{case[0]} → {case[1]}: {1e3 * dbf['step']:.1f} ms and {dbf['memory']:.0f} MB, "
                f"{dbf['step'] / plain['step']:.2f}× and {dbf['memory'] / plain['memory']:.2f}× of Dense; "
                f"fit_kernel {dbf['fit']:.1f} s"
            )


if __name__ == "__main__":
    command.run(main)
