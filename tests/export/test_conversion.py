import collections
import io
import warnings

import numpy as np
import pytest
import rich.console

import dbf_keras.export
from dbf_keras import networks
from dbf_keras.backend import keras
from dbf_keras.export import metadata, rewrite, to_tflite, verify
from dbf_keras.layers import DBFConv2D
from dbf_keras.version import __version__

from .tools import TOLERANCE, layers, needs_library, ops, randomize


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((8, 8, 16))
    x = DBFConv2D(32, 3, ratio=0.25, selection="ovsf", name="separable")(inputs)
    x = DBFConv2D(32, 3, ratio=0.25, selection="sequency", name="scattered")(x)
    x = DBFConv2D(32, 2, ratio=0.25, selection="sp_ovsf", name="flat")(x)
    x = DBFConv2D(8, 1, name="whole")(x)
    return keras.Model(inputs, layers.Conv2D(8, 1, name="ordinary")(x))


def forms(result):
    return {layer.name: layer.form for layer in result.layers}


def test_a_layer_that_cannot_be_written_as_asked_is_explicit_with_the_reason(model):
    result = dbf_keras.export.convert(model, "folded")
    assert forms(result) == {"separable": "folded", "scattered": "explicit", "flat": "explicit", "whole": "explicit"}
    reasons = {layer.name: (layer.reason, layer.failed) for layer in result.layers}
    assert reasons["separable"] == ("", False)
    assert "spatial codes" in reasons["scattered"][0] and reasons["scattered"][1]
    assert "sp_ovsf" in reasons["flat"][0] and reasons["flat"][1]
    assert "plain layer" in reasons["whole"][0] and not reasons["whole"][1]
    assert result.relative_difference < TOLERANCE

    result = dbf_keras.export.convert(model, "onthefly", check=False)
    assert forms(result) == {"separable": "onthefly", "scattered": "onthefly", "flat": "explicit", "whole": "onthefly"}
    assert ops(result.data) == ["DBFConv2D", "DBFConv2D", "CONV_2D", "DBFConv2D", "CONV_2D"]


def test_the_report_counts_codes_and_bytes(model):
    [separable, *_, whole] = dbf_keras.export.convert(model, "folded", check=False).layers
    assert (separable.kept, separable.codes) == (36, 144)
    assert separable.bytes_explicit == 4 * 144 * 32
    assert separable.bytes_file == 4 * (16 * 4 + 36 * 32)
    assert (whole.kept, whole.codes, whole.bytes_file) == (32, 32, 4 * 32 * 8)
    onthefly = dbf_keras.export.convert(model, "onthefly", "weights", check=False).layers[0]
    assert onthefly.bytes_file == 36 * 32 + 4 * 32


def test_the_table_names_layers_reasons_and_sizes(model):
    result = dbf_keras.export.convert(model, "folded", "weights")
    text = io.StringIO()
    result.print(rich.console.Console(file=text, width=200))
    text = text.getvalue()
    for expected in ("separable", "36/144", "18,432", "scattered", "1 as explicit: its codes are no separable set"):
        assert expected in text
    assert "1 of 4 DBF layers are written as folded." in text
    assert f"file: {len(result.data):,} bytes" in text
    assert f"the explicit float32 file's {result.bytes_explicit:,}" in text
    assert "largest difference to Keras" in text


@pytest.mark.parametrize("mode", ["folded", "onthefly"])
def test_strict_makes_it_an_error(model, mode):
    with pytest.raises(ValueError, match=f"(?s)written as {mode}:.*flat: .*sp_ovsf"):
        dbf_keras.export.convert(model, mode, strict=True)


def test_strict_lets_pass_what_is_just_no_gain():
    inputs = keras.Input((8, 8, 16))
    model = keras.Model(inputs, DBFConv2D(8, 3, name="whole")(inputs))
    assert forms(dbf_keras.export.convert(model, "folded", strict=True)) == {"whole": "explicit"}


def test_a_layer_that_is_not_found_is_reported(model, monkeypatch):
    monkeypatch.setattr(rewrite, "to_ops", lambda file, layers, half_bias=False: {0: rewrite.Outcome()})
    reports = dbf_keras.export.convert(model, "onthefly", check=False).layers
    assert [report.form for report in reports] == ["onthefly", "explicit", "explicit", "explicit"]
    assert reports[1].reason.startswith("no op of the converted file") and reports[1].failed


def test_to_tflite_returns_the_file_and_warns(model):
    with pytest.warns(UserWarning, match="Layer 'flat' is written as explicit: sp_ovsf"):
        data = dbf_keras.export.to_tflite(model)
    assert data == dbf_keras.export.convert(model, check=False).data
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        dbf_keras.export.to_tflite(model, "explicit")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "fast"}, "`mode` is one of 'explicit', 'folded', 'onthefly'; got 'fast'"),
        (
            {"quantize": "none"},
            "`quantize` is one of None, 'float16', 'weights', 'int4', 'int8', 'int8_int4'; got 'none'",
        ),
        ({"io_type": "uint8"}, "`io_type` is one of 'float32', 'int8'; got 'uint8'"),
        ({"io_type": "int8"}, "`io_type` is for quantize='int8' only; got quantize=None"),
        ({"representative_data": []}, "for quantize='int8', and for coding within a limit only; got quantize=None"),
        (
            {"coding": True, "mode": "folded"},
            "coding is of coefficients that are whole multiples of a step, so for mode=",
        ),
        ({"coding": True, "quantize": "int4"}, "any quantize but those of int4; got mode='onthefly', quantize='int4'"),
        ({"max_kb": 10, "representative_data": []}, "limits that coding keeps; give coding=True, too"),
        ({"coding": True, "max_loss": 1}, "`max_loss` and `max_kb` need `representative_data`"),
        ({"quantize": "int8"}, "needs `representative_data`: some hundred typical inputs, as an iterable of batches"),
        ({"quantize": "int8", "representative_data": []}, "`representative_data` is empty; give some hundred"),
        (
            {"quantize": "int4", "mode": "folded"},
            "mode='onthefly' only; got mode='folded'. There, use quantize='weights' or quantize='int8'",
        ),
    ],
)
def test_wrong_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        dbf_keras.export.to_tflite(model, **arguments)


def test_a_quarter_of_the_codes_is_a_quarter_of_the_file():
    model = networks.build("resnet18", ratio=0.25)
    explicit = len(dbf_keras.export.to_tflite(model, "explicit"))
    assert len(dbf_keras.export.to_tflite(model, "onthefly")) <= 0.27 * explicit
    assert len(dbf_keras.export.to_tflite(model, "onthefly", "weights")) <= 0.085 * explicit


@pytest.mark.parametrize("mode", ["explicit", "folded", pytest.param("onthefly", marks=needs_library)])
def test_a_network_computes_what_keras_does(mode):
    # Without softmax, which would hide differences behind probabilities of 0 and 1.
    model = networks.build("dbfnet_micro", ratio=0.25, classifier_activation=None)
    assert dbf_keras.export.convert(model, mode).relative_difference < TOLERANCE


@pytest.mark.parametrize(
    "mode, convolutions", [("explicit", {"CONV_2D": 26}), ("onthefly", {"DBFConv2D": 24, "CONV_2D": 2})]
)
def test_batch_normalization_is_part_of_the_convolutions(mode, convolutions):
    model = randomize(networks.build("squeezenet", ratio=0.25))
    scaling = {"SUB": 1, "MUL": 1}  # Raw pixels are normalised.
    rest = {"CONCATENATION": 8, "MAX_POOL_2D": 2, "MEAN": 1, "SOFTMAX": 1}
    assert collections.Counter(ops(dbf_keras.export.to_tflite(model, mode))) == convolutions | scaling | rest


@needs_library
def test_on_the_fly_files_are_checked(model):
    result = dbf_keras.export.convert(model, "onthefly")
    assert result.relative_difference < TOLERANCE
    assert result.bytes_explicit == len(dbf_keras.export.to_tflite(model, "explicit"))


def test_labels_make_metadata_and_change_nothing_else(model):
    plain = to_tflite(model, "onthefly")
    count = model.outputs[0].shape[-1]
    described = to_tflite(model, "onthefly", labels=[f"class {number}" for number in range(count)])
    found = metadata.read(described)
    assert found["labels"][-1] == f"class {count - 1}" and "onthefly" in found["description"]
    # The model has no preprocessing: nobody knows the range of what goes in.
    assert all("stats" not in tensor for tensor in found["subgraph_metadata"][0]["input_tensor_metadata"])
    assert metadata.read(plain) == {}
    inputs = verify.random_inputs(model)
    for first, second in zip(*(verify.run_file(model, data, inputs) for data in (plain, described)), strict=True):
        np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="No output of the file has 1 classes"):
        to_tflite(model, "onthefly", labels=["one"])


def described(built, *form, **arguments):
    """A file's metadata, and its input's mean and standard deviation, if it tells."""
    found = metadata.read(to_tflite(built, *form, **arguments))
    [told] = found["subgraph_metadata"][0]["input_tensor_metadata"]
    units = [unit["options"] for unit in told.get("process_units", [])]
    return found, units[0] if units else None, told.get("stats")


def test_metadata_tell_ratios_version_and_training(model):
    found, _, _ = described(model, "folded", "float16", training={"seed": 7})
    details = found["details"]
    assert found["version"] == details["dbf_keras"] == __version__ and "labels" not in found
    assert (details["mode"], details["quantize"], details["training"]) == ("folded", "float16", {"seed": 7})
    assert details["ratios"] == {"separable": 0.25, "scattered": 0.25, "flat": 0.25, "whole": 1.0}
    sizes = {"separable": 9 * 16, "scattered": 9 * 32, "flat": 4 * 32, "whole": 32 / 4}  # Of 32 filters, and of 8.
    kept = sum(size * details["ratios"][name] for name, size in sizes.items())
    assert details["ratio"] == pytest.approx(kept / sum(sizes.values()), abs=1e-4)
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    assert "ratio" not in described(plain, "explicit", training={})[0]["details"]


def test_metadata_tell_how_pixels_go_in(model):
    inputs = keras.Input((8, 8, 3))
    scaled = keras.Model(inputs, DBFConv2D(4, 3)(keras.layers.Rescaling(1 / 255)(inputs)))
    raw = {"mean": [0], "std": [1]}, {"min": [0], "max": [255]}
    assert described(scaled, "explicit", training={})[1:] == raw
    assert described(model, "explicit", training={})[1:] == (None, None)
    given = [100.0, 110.0, 120.0], [50.0]
    _, told, stats = described(model, "explicit", normalization=given)
    assert told == {"mean": given[0], "std": given[1]}
    assert stats == {"min": [pytest.approx(-120 / 50)], "max": [pytest.approx(155 / 50)]}
    for wrong in (([0.0], [0.0]), ([float("nan")], [1.0])):
        with pytest.raises(ValueError, match="`normalization` is a mean and a standard deviation above 0"):
            to_tflite(model, "explicit", normalization=wrong)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ("model.keras", TypeError, "takes a Keras model.*got 'model.keras'"),
        (keras.Sequential([DBFConv2D(4, 3)]), ValueError, "does not know the shape of its inputs"),
    ],
)
def test_what_is_no_model_with_inputs_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        to_tflite(given)


def test_a_model_without_dbf_layers_says_so():
    inputs = keras.Input((8, 8, 3))
    result = dbf_keras.export.convert(keras.Model(inputs, keras.layers.Conv2D(4, 3, name="plain")(inputs)))
    assert result.layers == () and [layer.name for layer in result.ordinary] == ["plain"]
    assert "no DBF layers" in result.summary() and result.ordinary[0].bytes_file == 4 * 4 * 27
