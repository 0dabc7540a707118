"""Do exported files compute the same on every TFLite runtime?

    python benchmarks/agreement.py --write cases           # exports the default zoo model: needs TensorFlow
    python benchmarks/agreement.py cases --runtime tf      # needs numpy and that runtime only

A case is NAME.tflite with NAME.npz: the arrays `inputs`, `outputs` (both with the cases first, batch 1 each) and
`tolerance`, the largest difference allowed, as a share of the outputs' largest magnitude.
"""

import argparse
import pathlib
import sys

import numpy as np

from dbf_keras.runtime import RUNTIMES, Interpreter

_IMAGES = 16
_SAME_NUMBERS = 1e-4  # float32 sums in another order
# Cases: quantisation, coding, and how far from Keras: rounding of sums, or of coefficients to int8.
_SAME_MODEL = {"float": (None, False, 1e-3), "int8_weights": ("weights", False, 0.1), "coded": ("weights", True, 0.1)}


def check(folder: pathlib.Path, runtime: str | None) -> list[str]:
    """Runs every case of a folder.

    Args:
        folder: The folder.
        runtime: As for `dbf_keras.runtime.Interpreter`.

    Returns:
        A line for each case that disagrees.

    Raises:
        FileNotFoundError: If the folder has no case.
    """
    models = sorted(folder.glob("*.tflite"))
    if not models:
        raise FileNotFoundError(f"There is no .tflite file in {str(folder)!r}; write some with --write.")
    failures = []
    for model in models:
        with np.load(model.with_suffix(".npz")) as case:
            expected, tolerance = case["outputs"], float(case["tolerance"])
            got = run(Interpreter(model, runtime=runtime), case["inputs"])
        error = relative_error(got, expected)
        line = f"{model.name}: largest relative difference {error:.2e}, allowed {tolerance:.0e}"
        print(line)
        if not error <= tolerance:  # NaN fails too
            failures.append(line)
    return failures


def run(interpreter: Interpreter, inputs: np.ndarray) -> np.ndarray:
    """Runs a model of one input and one output on inputs [N, ...] one by one; returns its outputs [N, ...]."""
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    outputs = []
    for single in inputs:
        interpreter.set_tensor(source, single[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result)[0])
    return np.stack(outputs)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference as a share of the largest expected magnitude."""
    return float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))


def write(folder: pathlib.Path) -> None:
    """Exports the default zoo model on the fly, float32, int8 or coded coefficients, with images of random pixels.

    Float outputs must be those of Keras. Those with int8 coefficients must come close to them, and every runtime must
    repeat those of the runtime that is the default here.

    Args:
        folder: Where to; made if missing.

    Raises:
        RuntimeError: If an export does not compute what the Keras model does.
    """
    from dbf_keras import export, zoo  # TensorFlow: needed only here

    folder.mkdir(parents=True, exist_ok=True)
    model = zoo.load_zoo()
    inputs = np.random.default_rng(0).integers(0, 256, (_IMAGES, *model.input_shape[1:])).astype(np.float32)
    expected = np.asarray(model(inputs))
    for name, (quantize, coding, allowed) in _SAME_MODEL.items():
        file = export.to_tflite(model, "onthefly", quantize, coding)
        outputs = run(Interpreter(model_content=file), inputs)
        error = relative_error(outputs, expected)
        if not error <= allowed:
            raise RuntimeError(f"{name}: the export differs from Keras by {error:.2e}, allowed {allowed:.0e}")
        (folder / f"{name}.tflite").write_bytes(file)
        np.savez(folder / f"{name}.npz", inputs=inputs, outputs=outputs, tolerance=_SAME_NUMBERS)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="folder of the cases")
    parser.add_argument("--runtime", choices=RUNTIMES, help="TFLite runtime (default: the first installed)")
    parser.add_argument("--write", action="store_true", help="write cases to the folder instead of running them")
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.folder)
    elif failures := check(arguments.folder, arguments.runtime):
        sys.exit("error: runtimes disagree:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
