"""Random layers: Keras, explicit, folded and on the fly compute the same.

`DBF_PROPERTY_MODELS=200 pytest tests/export/test_property.py` for a long run.
"""

import os

import numpy as np
import pytest

from dbf_keras import codes, runtime
from dbf_keras.backend import keras
from dbf_keras.export import converter, verify
from dbf_keras.export.conversion import convert, to_tflite
from dbf_keras.layers import DBFConv2D, DBFDense

from .tools import TOLERANCE, expand, layers, ops, randomize

MODELS = int(os.environ.get("DBF_PROPERTY_MODELS", 6))
LAYERS = 8  # A conversion takes a second whatever the size: several layers share one.
SELECTIONS = ("ovsf", "natural", "sequency", "random", "product", "list")


def selection(random, taps, ratio):
    """A selection by name, a random list, or spatial codes constant over runs × a random set of channel codes."""
    name = SELECTIONS[random.integers(len(SELECTIONS))]
    count = codes.count(int(np.prod(taps)), ratio)
    if name == "list":
        return random.permutation(int(np.prod(taps)))[:count].tolist(), ratio
    if name == "product":
        axes = []
        for size in taps[:2]:
            runs = [run for run in (1, 2, 4) if size % run == 0]
            axes.append(np.arange(0, size, runs[random.integers(len(runs))]))
        axes.append(random.permutation(taps[2])[: max(1, round(ratio * taps[2]))])
        chosen = np.ravel_multi_index(np.ix_(*axes), taps).ravel()
        return random.permutation(chosen).tolist(), len(chosen) / int(np.prod(taps))
    return (f"random:{random.integers(1000)}" if name == "random" else name), ratio


def random_layer(random):
    """One DBF layer on an input of its own, with or without BatchNorm and an activation: input and output tensors."""
    pick = lambda *choices: choices[random.integers(len(choices))]  # noqa: E731
    channels, filters = int(random.integers(1, 71)), int(random.integers(1, 41))
    ratio = float(pick(1.0, 0.5, 0.25, 0.125, random.uniform(0.02, 1)))
    activation = pick(None, "relu", "relu6", "sigmoid")
    bias = bool(random.integers(2))
    if random.random() < 0.25:
        shape = (*random.integers(1, 7, random.integers(0, 3)).tolist(), channels)
        chosen, ratio = selection(random, (1, 1, channels), ratio)
        layer = DBFDense(filters, activation=activation, use_bias=bias, ratio=ratio, selection=chosen)
    else:
        kernel = tuple(random.integers(1, 8, 2).tolist())
        # Keras forbids strides together with dilation.
        strides = dilation = (1, 1)
        if random.random() < 0.4:
            strides = tuple(random.integers(1, 4, 2).tolist())
        elif random.random() < 0.5:
            dilation = tuple(random.integers(1, 4, 2).tolist())
        padding = pick("same", "valid")
        # Valid convolutions get two columns if strided: with one, oneDNN (TensorFlow 2.21) reads past inputs of one
        # channel, and Keras is the side that is wrong.
        least = [
            (size - 1) * step + 1 + (stride if stride > 1 else 0) if padding == "valid" else 1
            for size, step, stride in zip(kernel, dilation, strides, strict=True)
        ]
        shape = (*(int(random.integers(low, low + 12)) for low in least), channels)
        chosen, ratio = selection(random, (*kernel, channels), ratio)
        layer = DBFConv2D(
            filters,
            kernel,
            strides=strides,
            padding=padding,
            dilation_rate=dilation,
            activation=activation,
            use_bias=bias,
            ratio=ratio,
            selection=chosen,
        )
    inputs = keras.Input(shape)
    outputs = layer(inputs)
    if random.random() < 0.5:
        outputs = layers.ReLU()(layers.BatchNormalization()(outputs))
    return inputs, outputs


@pytest.mark.parametrize("seed", range(MODELS))
def test_all_modes_compute_what_keras_does(seed):
    random = np.random.default_rng(seed)
    inputs, outputs = zip(*(random_layer(random) for _ in range(LAYERS)), strict=True)
    model = randomize(keras.Model(list(inputs), list(outputs)), seed)
    values = verify.random_inputs(model, batch=int(random.integers(1, 5)), seed=seed)
    reference = [np.asarray(output) for output in converter.run(model, values)]

    onthefly = to_tflite(model, "onthefly")
    files = {
        "explicit": to_tflite(model, "explicit"),
        "folded": convert(model, "folded", check=False).data,
        "onthefly, decoded": expand(onthefly),
    }
    if runtime.library_path():
        files["onthefly"] = onthefly
    for mode, data in files.items():
        _, relative = verify.difference(reference, verify.run_file(model, data, values))
        assert relative < TOLERANCE, f"{mode}: {relative}"
    if runtime.library_path():  # Coded files are of rounded coefficients.
        coded = to_tflite(model, "onthefly", "weights", True)
        decoded, outputs = (verify.run_file(model, data, values) for data in (expand(coded), coded))
        assert verify.difference(decoded, outputs)[1] < TOLERANCE
    # Every layer is one op of ours, whatever the converter made of it.
    assert sum(name in ("DBFConv2D", "DBFDense") for name in ops(onthefly)) == LAYERS
