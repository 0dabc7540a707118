import numpy as np
import pytest

from dbf_keras import data, networks
from dbf_keras.backend import ops
from dbf_keras.layers import DBFConv2D
from dbf_keras.train.start import start_from


def test_training_starts_from_a_trained_model(tmp_path):
    """At ρ = 1 as the same function, at less with the nearest filters, from a plain model or one with DBF layers."""
    digits, path = data.load("digits"), str(tmp_path / "plain.keras")
    plain = networks.DBFNetMicro(plain=True)
    plain.get_layer("stem_bn").moving_mean.assign(np.full(16, 0.1))
    plain.save(path)
    images = digits.x_test[:8].astype(np.float32)
    full = networks.DBFNetMicro(ratio=1.0)
    start_from(full, path)
    np.testing.assert_allclose(full.predict(images, verbose=0), plain.predict(images, verbose=0), rtol=0, atol=1e-5)

    full.save(path)
    half = networks.DBFNetMicro(ratio=0.5)
    start_from(half, path)
    for layer in half.layers:
        if isinstance(layer, DBFConv2D):
            kept = ops.convert_to_numpy(full.get_layer(layer.name).coefficients)[: len(layer.codes)]
            np.testing.assert_allclose(ops.convert_to_numpy(layer.coefficients), kept, rtol=0, atol=1e-6)

    with pytest.raises(ValueError, match=r"layer 'stem' has weights of shape \(4, 4, 1, 16\) there and \(4, 4, 1, 8\)"):
        start_from(networks.DBFNetMicro(width=0.5), path)
    with pytest.raises(ValueError, match="no layer 'stage1_block1_conv1'"):
        start_from(networks.ResNet8(input_shape=(8, 8, 1)), path)


def test_other_classes_get_a_new_classifier(tmp_path, capsys):
    path = str(tmp_path / "ten.keras")
    ten, five = networks.DBFNetMicro(ratio=0.5), networks.DBFNetMicro(ratio=0.5, classes=5)
    ten.save(path)
    before = five.layers[-1].get_weights()
    start_from(five, path, verbose=True)
    assert "'classifier' is new" in capsys.readouterr().out
    for ours, theirs in zip(five.layers[-1].get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(five.layers[:-1], ten.layers[:-1], strict=True):
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
