import numpy as np
import pytest

from dbf_keras import networks
from dbf_keras.backend import keras
from dbf_keras.layers import DBFConv2D

IMAGENET = {"input_shape": (224, 224, 3), "classes": 1000}
MNIST = {"input_shape": (28, 28, 1)}


def dbf_layers(model):
    return [layer for layer in model.layers if isinstance(layer, DBFConv2D)]


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet8", {"stem_strides": 2}),
        ("resnet18", {}),
        ("resnet34", {}),
        ("squeezenet", {}),
        ("dbfnet", {}),
        ("dbfnet_micro", {}),
        ("dbfnet", MNIST),
        ("resnet18", IMAGENET),
        ("resnet34", IMAGENET),
        ("squeezenet", IMAGENET),
        ("dbfnet", IMAGENET),
    ],
)
@pytest.mark.parametrize("kernel_size", [3, 4])
def test_parameters_at_full_ratio_are_the_plain_twin_s(name, options, kernel_size):
    """ρ = 1 stores as many numbers as the twin; ρ = ¼ a quarter of them in the DBF layers."""
    full = networks.build(name, kernel_size=kernel_size, **options)
    twin = networks.build(name, kernel_size=kernel_size, plain=True, **options)
    assert full.count_params() == twin.count_params()
    assert not dbf_layers(twin)
    quarter = networks.build(name, kernel_size=kernel_size, ratio=0.25, **options)
    stored = sum(np.prod(layer.coefficients.shape) for layer in dbf_layers(full))
    kept = sum(np.prod(layer.coefficients.shape) for layer in dbf_layers(quarter))
    assert full.count_params() - quarter.count_params() == stored - kept
    assert kept == pytest.approx(stored / 4, rel=0.01)
    assert quarter.output_shape == (None, options.get("classes", 10))


@pytest.mark.parametrize(
    "name, convolutions, paper_mb, unit",
    [
        ("resnet18", 16, 1.37, 1e6),
        ("resnet34", 32, 3.39, 1e6),
        ("squeezenet", 24, 4.41, 2**20),
        ("dbfnet", 24, 10.32, 2**20),
    ],
)
def test_sizes_are_near_the_paper_s(name, convolutions, paper_mb, unit):
    model = networks.build(name)
    assert len(dbf_layers(model)) == convolutions
    assert model.count_params() * 4 / unit == pytest.approx(paper_mb, rel=0.03)


def test_a_schedule_gives_each_layer_its_ratio():
    schedule = {"stage1_block1_conv1": 1.0, "stage1_*": 0.5, "stage3_*": 0.0625, "*": 0.25}
    ratios = {layer.name: layer.ratio for layer in dbf_layers(networks.ResNet18(ratio=schedule))}
    assert ratios["stage1_block1_conv1"] == 1.0
    assert ratios["stage1_block1_conv2"] == 0.5
    assert ratios["stage2_block3_conv1"] == 0.25
    assert ratios["stage3_block2_conv2"] == 0.0625


def test_selections_can_differ_by_layer():
    model = networks.ResNet8(ratio=0.25, selection={"*_conv1": "ovsf", "*": "random:3"})
    chosen = {layer.name: layer.selection for layer in dbf_layers(model)}
    assert chosen["stage2_block1_conv1"] == "ovsf" and chosen["stage2_block1_conv2"] == "random:3"
    with pytest.raises(ValueError, match="selection schedule of .* has no entry for layer 'stage1_block1_conv2'"):
        networks.ResNet8(selection={"*_conv1": "ovsf"})


@pytest.mark.parametrize("kernel_size", [3, 4])
def test_full_ratio_can_start_as_the_plain_twin(kernel_size):
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")

    def outputs(**options):
        keras.utils.set_random_seed(5)
        network = networks.ResNet8(kernel_size=kernel_size, classifier_activation=None, **options)
        return np.asarray(network(images))

    twin = outputs(plain=True)
    np.testing.assert_allclose(outputs(kernel_initializer="he_normal"), twin, atol=1e-4 * np.abs(twin).max())
    assert np.abs(outputs() - twin).max() > 0.1 * np.abs(twin).max()


@pytest.mark.parametrize(
    "ratio, message", [({"stage1_*": 0.5}, "no entry for layer"), ({"stge1_*": 0.5, "*": 1}, "stge1_")]
)
def test_schedules_that_do_not_fit_are_refused(ratio, message):
    with pytest.raises(ValueError, match=message):
        networks.ResNet18(ratio=ratio)


def test_preprocessing_is_part_of_the_graph():
    """The same network on raw pixels and on normalised ones."""
    raw = networks.DBFNetMicro(input_shape=(8, 8, 3))
    bare = networks.DBFNetMicro(input_shape=(8, 8, 3), include_preprocessing=False)
    bare.set_weights(raw.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    normalised = (pixels - [123.7, 116.3, 103.5]) / [58.4, 57.1, 57.4]
    np.testing.assert_allclose(raw(pixels), bare(normalised.astype(np.float32)), atol=1e-5)
    with pytest.raises(ValueError, match="grey and RGB"):
        networks.DBFNetMicro(input_shape=(8, 8, 2))


def test_options_reach_the_network(tmp_path):
    model = networks.DBFNetMicro(width=0.5, kernel_size=3, selection="random:4", ratio=0.5, classifier_activation=None)
    layer = model.get_layer("cascade2_module1_conv3")
    assert (layer.filters, layer.kernel_size, layer.selection, layer.ratio) == (16, (3, 3), "random:4", 0.5)
    assert model.layers[-1].activation is keras.activations.linear
    path = str(tmp_path / "x.weights.h5")
    model.save_weights(path)
    again = networks.DBFNetMicro(width=0.5, kernel_size=3, selection="random:4", ratio=0.5, weights=path)
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_unknown_networks_and_options_are_refused():
    with pytest.raises(ValueError, match="dbfnet_micro"):
        networks.build("resnet19")
    with pytest.raises(ValueError, match="resnet8 has no option datset.*stem_strides.*width"):
        networks.build("resnet8", datset="cifar10", width=0.5)
