import json

import numpy as np
import pytest

from dbf_keras import networks
from dbf_keras.codes import DEFAULT_SELECTION
from dbf_keras.compress.plan import Cost, LayerPlan, Plan
from dbf_keras.forms import Form
from dbf_keras.layers import DBFConv2D
from dbf_keras.networks.schedule import PlannedRatios, read_plan

SMALL = {"input_shape": (16, 16, 3), "width": 0.25}


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, DBFConv2D)]


def layer_plan(name, shape, filters, codes):
    """Of a layer that keeps these codes, or stays plain if they are None."""
    selection = None if codes is None else "energy"
    kept = None if codes is None else tuple(map(int, codes))
    return LayerPlan(name, shape, filters, selection, kept, None, Cost(1.0), Cost(2.0), 0.1, "" if codes else "small")


def planned(kernel_size=4, seed=0):
    """A plan of ResNet8: random codes for all layers but the last, which stays plain, and a classifier besides."""
    rng, layers = np.random.default_rng(seed), []
    for layer in convolutions(networks.ResNet8(kernel_size=kernel_size, **SMALL)):
        shape = tuple(layer.twin_shape[:3])
        size = int(np.prod(shape))
        codes = rng.permutation(size)[: rng.integers(1, size)].tolist()
        layers.append(layer_plan(layer.name, shape, layer.filters, codes))
    layers[-1] = layer_plan(layers[-1].name, layers[-1].shape, layers[-1].filters, None)
    layers.append(layer_plan("classifier", (1, 1, 16), 10, [0, 1]))
    return Plan(tuple(layers), {"stem": "told"}, Form("onthefly", "weights", True), Cost(), Cost())


@pytest.mark.parametrize("kernel_size", [3, 4])
def test_codes_and_ratios_of_a_plan_arrive_in_the_layers(kernel_size, tmp_path):
    """Those of layers that a network has not, or not as DBF layers, do no harm."""
    plan, path = planned(kernel_size), tmp_path / "x.plan.json"
    plan.save(path)
    ratios, selections = read_plan(path)
    assert ratios == plan.ratios and isinstance(ratios, PlannedRatios) and set(selections) == set(ratios)
    model = networks.ResNet8(kernel_size=kernel_size, ratio=ratios, selection=selections, **SMALL)
    *others, last = convolutions(model)
    for layer, row in zip(others, plan.layers, strict=False):
        assert (layer.name, layer.ratio) == (row.name, row.ratio)
        np.testing.assert_array_equal(layer.codes, row.codes)
    assert last.ratio == ratios[last.name] == 1.0 and selections[last.name] == DEFAULT_SELECTION
    assert sorted(last.codes) == list(range(int(np.prod(last.twin_shape[:3]))))


def test_a_layer_that_is_not_in_the_plan_is_an_error(tmp_path):
    plan, path = planned(), tmp_path / "x.plan.json"
    plan.save(path)
    content = json.loads(path.read_text())
    missing = content["layers"].pop(2)["name"]
    path.write_text(json.dumps(content))
    ratios, selections = read_plan(path)
    with pytest.raises(ValueError, match=f"has no entry for layer '{missing}'"):
        networks.ResNet8(ratio=ratios, selection=selections, **SMALL)
    with pytest.raises(ValueError, match="classifier"):  # A schedule that somebody has written has no names too many.
        networks.ResNet8(ratio={"*": 0.5, "classifier": 1.0}, **SMALL)


@pytest.mark.parametrize(
    "content",
    ["", "no JSON", "[]", "3", "{}", '{"layers": 3}', '{"layers": [{"name": "a"}]}', '{"layers": [{"ratio": 1}]}']
    + ['{"layers": [{"name": "a", "ratio": 1}]}', '{"layers": [{"name": "a", "ratio": "b", "codes": null}]}'],
)
def test_what_is_no_plan_is_told(content, tmp_path):
    path = tmp_path / "x.plan.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="--ratio: .*x.plan.json is no plan that dbf compress wrote"):
        read_plan(path)
    with pytest.raises(FileNotFoundError, match="--ratio: there is no plan '.*y.plan.json'"):
        read_plan(tmp_path / "y.plan.json")
