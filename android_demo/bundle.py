"""Writes the models that the app comes with, as bundled_models.json lists them, with test inputs and expected outputs.

    python android_demo/bundle.py --output=android_demo/build/assets

The folder gets the .tflite files, ZOO_MODEL.pixels with the test images of each zoo model (bytes, [N, H, W, C]) and
models.json, which the app reads. Files that the zoo has are copied; the others are exported. Expected outputs are those
of the very file in the TFLite runtime of this machine, and must name the classes that the Keras model names.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
from absl import flags, logging

from dbf_keras import command

_FLAGS = flags.FLAGS
_QUANTIZE = {"float32": None, "int8_weights": "weights", "int8": "int8", "int4_weights": "int4"}
# Largest difference on another processor or in another release of the runtime, as a share of the largest output. Sums
# of floats differ in their order only; int8 is rounded otherwise, by up to two of the 256 steps of the output.
_TOLERANCES = {"float32": 1e-4, "int8_weights": 1e-4, "int8": 0.01, "int4_weights": 1e-4}
_DIGITS = [str(digit) for digit in range(10)]
_CLASSES = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
}


def main(_: list[str]) -> None:
    """Writes the folder."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    output = pathlib.Path(_FLAGS.output).resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle.", dir=output.parent) as folder:
        made = pathlib.Path(folder) / "assets"
        made.mkdir()
        listed = json.loads(pathlib.Path(_FLAGS.list).read_text())
        models = [entry for wanted in listed for entry in bundle(wanted, made)]
        (made / "models.json").write_text(json.dumps({"models": models}) + "\n")
        shutil.rmtree(output, ignore_errors=True)
        made.rename(output)
    print(f"{len(models)} models, {sum(entry['bytes'] for entry in models):,} bytes, written to {output}")


def bundle(wanted: dict, folder: pathlib.Path) -> list[dict]:
    """Writes the files of a zoo model to a folder.

    Args:
        wanted: An element of bundled_models.json.
        folder: The folder.

    Returns:
        The models' entries in models.json.

    Raises:
        ValueError: If there is no such zoo model, mode or type.
        RuntimeError: If a file does not give the classes that the Keras model gave.
    """
    from dbf_keras import zoo

    if unknown := set(wanted["types"]) - set(_QUANTIZE):
        raise ValueError(f"Unknown type {min(unknown)!r} for {wanted['model']}; use {', '.join(_QUANTIZE)}.")
    name = wanted["model"]
    entry = zoo.entry(name)
    with np.load(zoo.path(name, "check")) as check:
        images, of_keras = check["images"], check["outputs"]
    (folder / f"{name}.pixels").write_bytes(images.tobytes())
    made = []
    for kind in wanted["types"]:
        for mode in wanted["modes"]:
            data = _file(name, entry, mode, kind)
            if data is None:
                continue
            outputs = run(data, images.astype(np.float32))
            if not np.array_equal(outputs.argmax(axis=1), of_keras.argmax(axis=1)):
                raise RuntimeError(f"{name}, {mode}, {kind} gives other classes than Keras.")
            file = f"{name}_{mode}{'' if kind == 'float32' else '_' + kind}.tflite"
            (folder / file).write_bytes(data)
            made.append(
                {
                    "file": file,
                    "bytes": len(data),
                    "model": name,
                    "mode": mode,
                    "type": kind,
                    "classes": _CLASSES[entry["dataset"]],
                    "pixels": f"{name}.pixels",
                    "shape": list(images.shape[1:]),
                    "expected": outputs.tolist(),
                    "tolerance": _TOLERANCES[kind],
                }
            )
    return made


def run(data: bytes, images: np.ndarray) -> np.ndarray:
    """Runs a file of one input and one output on images [N, H, W, C], one by one; returns its outputs [N, ...]."""
    from dbf_keras.runtime import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    outputs = []
    for image in images:
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target)[0])
    return np.stack(outputs)


def _file(name: str, entry: dict, mode: str, kind: str) -> bytes | None:
    """The bytes of a zoo model's .tflite file, or None if it needs images to calibrate with that cannot be had."""
    from dbf_keras import export, zoo

    role = mode if kind == "float32" else f"{mode}_{kind}"
    if role in entry["files"]:
        return zoo.path(name, role).read_bytes()
    images = None
    if kind == "int8":
        try:
            images = _calibration_images(entry["dataset"])
        except Exception as error:  # keras.datasets raises Exception itself if it cannot download
            print(f"note: {name}, {mode}, int8 is left out; no images to calibrate it with: {error}")
            return None
    return export.to_tflite(_keras_model(name), mode, _QUANTIZE[kind], representative_data=images)


@functools.cache
def _keras_model(name: str):
    from dbf_keras import zoo

    return zoo.load_zoo(name)


@functools.cache
def _calibration_images(dataset: str) -> list[np.ndarray]:
    from dbf_keras import data

    return [data.load(dataset, _FLAGS.data_dir).calibration_images()]


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "The folder to write; what it holds is replaced.", required=True)
    flags.DEFINE_string(
        "list", str(pathlib.Path(__file__).with_name("bundled_models.json")), "Which models, modes and types."
    )
    flags.DEFINE_string(
        "data_dir", os.environ.get("DBF_DATA_DIR"), "Where <dataset>.npz is; by default from keras.datasets."
    )
    command.run(main)
