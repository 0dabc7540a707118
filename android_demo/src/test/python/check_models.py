"""Runs the app's models in a TFLite runtime with the app's own library and compares outputs with the expected ones.

    python check_models.py ASSETS LIBRARY [MODE]

MODE, such as onthefly, leaves out models of other modes. Meant for an emulated 64-bit ARM processor; needs numpy and
ai-edge-litert only.
"""

import json
import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate

assets, library, modes = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
failed = False
for model in json.loads((assets / "models.json").read_text())["models"]:
    if modes and model["mode"] not in modes:
        continue
    interpreter = Interpreter(
        str(assets / model["file"]), num_threads=1, experimental_delegates=[load_delegate(library)]
    )
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    images = np.frombuffer((assets / model["pixels"]).read_bytes(), np.uint8).reshape(-1, *model["shape"])
    expected = np.array(model["expected"], np.float32)
    outputs = []
    for image in images.astype(np.float32):
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target)[0])
    difference = float(np.max(np.abs(outputs - expected)) / np.max(np.abs(expected)))
    good = difference <= model["tolerance"] and np.array_equal(np.argmax(outputs, 1), np.argmax(expected, 1))
    failed |= not good
    print(f"{'ok  ' if good else 'FAIL'} {model['file']}: {difference:.1e}, allowed {model['tolerance']:.0e}")
sys.exit(failed)
