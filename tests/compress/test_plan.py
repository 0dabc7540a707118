import dataclasses
import io
import json

import pytest
import rich.console

from dbf_keras.compress.plan import Cost, LayerPlan, Plan
from dbf_keras.forms import Form


def plan():
    kept = LayerPlan(
        "conv", (2, 2, 4), 8, "energy", (3, 0, 7, 9), 1e-5, Cost(40, 1e-5, 320), Cost(160, 3e-5, 1280), 0.25
    )
    stays = LayerPlan(
        "head", (1, 1, 8), 4, None, None, None, Cost(48, 1e-6, 32), Cost(48, 1e-6, 32), 0.0, "codes would lose"
    )
    return Plan(
        (kept, stays), {"depthwise": "small"}, Form("onthefly", "weights", True), Cost(500, 2e-6, 9), Cost(900, 2e-6, 9)
    )


def test_costs_of_a_network_are_those_of_its_layers_and_the_rest():
    found = plan()
    assert dataclasses.astuple(found.cost) == pytest.approx((588, 1.3e-5, 361))
    assert dataclasses.astuple(found.plain) == pytest.approx((1108, 3.3e-5, 1321))
    assert found.loss == 0.25 and found.ratios == {"conv": 0.25, "head": 1.0}


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan().save(tmp_path / "a.plan.json")
    assert Plan.load(tmp_path / "a.plan.json") == plan()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": 2}', '{"version": 1, "layers": [{}]}'])
def test_what_is_no_plan_is_refused(tmp_path, content):
    path = tmp_path / "b.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is no plan that dbf compress wrote"):
        Plan.load(path)


def test_a_plan_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "c.json"
    plan().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 9}))
    with pytest.raises(ValueError, match="its version is 9"):
        Plan.load(path)


def test_the_table_has_layers_reasons_and_sums():
    text = io.StringIO()
    plan().print(rich.console.Console(file=text, width=200))
    shown = text.getvalue()
    for expected in ("2×2×4→8", "energy", "0.250", "588", "1,108", "1 of 2 layers stay plain: codes would lose."):
        assert expected in shown
    assert "depthwise stays as it is: small." in shown
