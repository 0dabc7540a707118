"""What the report and `strict` say is what the file holds: an op of ours for each call of a layer that is onthefly."""

import numpy as np
import pytest

from dbf_keras.backend import keras
from dbf_keras.export import convert, verify
from dbf_keras.layers import DBFConv2D, DBFDense

from .tools import TOLERANCE, layers, needs_library, ops

ALIKE = keras.initializers.GlorotUniform(seed=42)


def conv(**kwargs):
    """Layers that start alike."""
    return DBFConv2D(8, 3, **{"padding": "same", "ratio": 0.5, "kernel_initializer": ALIKE, **kwargs})


def image():
    return keras.Input((8, 8, 8))


def in_a_row():
    return keras.Sequential([image(), conv(name="a"), layers.ReLU(), conv(name="b"), layers.ReLU(), conv(name="c")])


def side_by_side():
    inputs = image()
    return keras.Model(
        inputs, layers.Add()([conv(name="a")(inputs), conv(name="b", activation="relu")(layers.ReLU()(inputs))])
    )


def one_called_twice():
    inputs, shared = image(), conv(name="a")
    return keras.Model(inputs, conv(name="b")(layers.ReLU()(shared(layers.ReLU()(shared(inputs))))))


def normalised():
    block = [layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential(
        [image(), conv(name="a", use_bias=False), *block, conv(name="b", use_bias=False), layers.BatchNormalization()]
    )


def other_codes():
    whole, half = conv(ratio=1.0, name="whole"), conv(name="half")
    model = keras.Sequential([image(), whole, layers.ReLU(), half])
    whole.fit_kernel(np.asarray(half.kernel))
    return model


def ordinary_between():
    same = layers.Conv2D(8, 3, padding="same", kernel_initializer=ALIKE, name="ordinary")
    return keras.Sequential([image(), conv(ratio=1.0, name="a"), layers.ReLU(), same, layers.ReLU(), conv(ratio=1.0)])


def nested():
    inner = keras.Sequential([image(), conv(name="a"), layers.BatchNormalization(), layers.ReLU()])
    inputs = image()
    return keras.Model(inputs, conv(name="b")(inner(inner(inputs))))


def zeros():
    gone = layers.BatchNormalization(gamma_initializer="zeros")
    return keras.Sequential([image(), conv(name="a", use_bias=False), gone, conv(name="b", kernel_initializer=None)])


def dense():
    return keras.Sequential(
        [keras.Input((16,)), *(DBFDense(16, ratio=0.5, kernel_initializer=ALIKE, activation="relu") for _ in range(3))]
    )


@needs_library
@pytest.mark.parametrize("quantize", [None, "float16", "weights", "int8"])
@pytest.mark.parametrize(
    "make, calls",
    [
        (in_a_row, 3),
        (side_by_side, 2),
        (one_called_twice, 3),
        (normalised, 2),
        (other_codes, 2),
        (ordinary_between, 2),
        (nested, 3),
        (zeros, 2),
        (dense, 3),
    ],
)
def test_layers_with_equal_filters_are_told_apart(make, calls, quantize):
    model = make()
    data = verify.random_inputs(model, batch=20) if quantize == "int8" else None
    result = convert(model, "onthefly", quantize, strict=True, representative_data=data)
    assert {layer.form for layer in result.layers} == {"onthefly"}
    assert sum(op.startswith("DBF") for op in ops(result.data)) == calls
    limit = {None: TOLERANCE, "float16": 2e-3}.get(quantize, 0.1)
    assert result.relative_difference < limit


def test_equal_layers_that_the_converter_merges_are_both_written():
    inputs = image()
    model = keras.Model(inputs, layers.Add()([conv(name="a")(inputs), conv(name="b")(inputs)]))
    result = convert(model, "onthefly", strict=True, check=False)
    assert [layer.form for layer in result.layers] == ["onthefly"] * 2 and ops(result.data) == ["DBFConv2D", "ADD"]


def dead_branch(**kwargs):
    inputs, outer = image(), image()
    x = conv(name="alive")(inputs)
    dead = [conv(name="dead", **kwargs)(x), layers.Conv2D(4, 1, name="dead_ordinary")(x)]
    inner = keras.Model(inputs, [layers.Conv2D(4, 1, name="alive_ordinary")(x), *dead])
    return keras.Model(outer, inner(outer)[0])


class Unused(layers.Layer):
    def __init__(self):
        super().__init__()
        self.alive, self.dead = conv(name="alive"), conv(name="dead")

    def build(self, shape):
        self.alive.build(shape)
        self.dead.build(shape)
        self.built = True

    def call(self, inputs):
        self.dead(inputs)
        return self.alive(inputs)


def unused_result():
    inputs = image()
    return keras.Model(inputs, layers.Conv2D(4, 1, name="alive_ordinary")(Unused()(inputs)))


@pytest.mark.parametrize("mode", ["explicit", "folded", "onthefly"])
@pytest.mark.parametrize(
    "make",
    [
        dead_branch,
        lambda: dead_branch(kernel_initializer=None),
        lambda: dead_branch(selection="sp_ovsf"),
        unused_result,
    ],
)
def test_layers_that_no_output_depends_on_are_absent(make, mode):
    result = convert(make(), mode, strict=mode != "folded", check=False)
    forms = {layer.name: layer.form for layer in (*result.layers, *result.ordinary)}
    alive = "onthefly" if mode == "onthefly" else "explicit"
    assert forms.pop("dead") == "absent" and forms.pop("dead_ordinary", "absent") == "absent"
    assert forms == {"alive": alive, "alive_ordinary": "ordinary"}
    assert len(ops(result.data)) == 2
    [dead] = [layer for layer in result.layers if layer.name == "dead"]
    assert (dead.bytes_file, dead.bytes_explicit, dead.failed) == (0, 0, False)
    assert "1 not at all: no output of the model depends on it." in result.summary()


def pooled(strides, size=None, **kwargs):
    inputs = keras.Input((size, size, 16))
    layer = DBFConv2D(32, 4, strides=strides, padding="same", **{"ratio": 0.25, **kwargs})
    return keras.Model(inputs, layer(inputs))


def test_a_form_that_the_images_rule_out_is_reported():
    result = convert(pooled(2), "folded", check=False)
    assert result.layers[0].form == "explicit" and result.layers[0].failed and ops(result.data) == ["CONV_2D"]
    assert result.layers[0].bytes_file == result.layers[0].bytes_explicit
    with pytest.raises(ValueError, match="it is strided and the size of its images is open"):
        convert(pooled(2), "folded", strict=True, check=False)
    for model in (pooled(1), pooled(2, 8)):
        result = convert(model, "folded", strict=True, check=False)
        assert result.layers[0].form == "folded" and "DEPTHWISE_CONV_2D" in ops(result.data)


def test_pools_alone_are_left_out_of_a_folded_layer():
    # Spatial codes constant over pools, and a quarter of the channel codes: u and v even, w below 4.
    codes = [(u * 4 + v) * 16 + w for u in (0, 2) for v in (0, 2) for w in range(4)]
    result = convert(pooled(2, selection=codes, ratio=len(codes) / 256), "folded", strict=True, check=False)
    assert result.layers[0].form == "folded" and ops(result.data) == ["CONV_2D", "CONV_2D"]
    assert result.layers[0].bytes_file == 4 * (16 * 4 + 32 * 16 * 4)
