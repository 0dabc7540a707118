import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import comparison
import figures
from comparison import Figures, File
from dbf_keras import codes, zoo

RNG = np.random.default_rng(0)


class TestComparison:
    INDEX = {
        "models": {
            "dbf": {
                "bytes": {"onthefly_int8": 99_400, "folded_int8": 120_000, "onthefly_int4_weights": 60_000},
                "seconds": {"onthefly_int8": 2e-4, "folded_int8": 1e-4, "onthefly_int4_weights": 3e-4},
                "accuracy": {"onthefly_int8": 0.9, "folded_int8": 0.91, "onthefly_int4_weights": 0.89},
            }
        },
        "controls": {},
    }

    def test_figures(self):
        file = File("dbf", "onthefly_int8")
        assert comparison.figures(self.INDEX, file) == Figures(99_400, 2e-4, 0.9)
        assert comparison.folded(self.INDEX, file) == Figures(120_000, 1e-4, 0.91)
        assert comparison.folded(self.INDEX, File("dbf", "onthefly_int4_weights")) is None
        with pytest.raises(KeyError, match="onthefly"):
            comparison.figures(self.INDEX, File("dbf", "onthefly"))

    @pytest.mark.parametrize(("count", "text"), [(99_968, "100 kB"), (1_411_280, "1.41 MB"), (999_400, "999 kB")])
    def test_size(self, count, text):
        assert comparison.size(count).replace("\N{NO-BREAK SPACE}", " ") == text

    @pytest.mark.parametrize(
        ("seconds", "text"), [((2.418e-4, 2.31e-4), "0.24 / 0.23 ms"), ((9.6e-5,), "0.10 ms"), ((7.4e-6,), "7 µs")]
    )
    def test_latency(self, seconds, text):
        assert comparison.latency(*seconds).replace("\N{NO-BREAK SPACE}", " ") == text

    def test_the_better_figure_is_bold_unless_both_read_the_same(self):
        dbf = [Figures(100_100, 3e-4, 0.89), Figures(140_000, 1.5e-4, 0.8)]
        ours, theirs = comparison._contest(dbf, Figures(100_200, 2e-4, 0.9))
        ours, theirs = (cell.replace("\N{NO-BREAK SPACE}", " ") for cell in (ours, theirs))
        assert ours == "100 kB, **0.30 / 0.15 ms**, 89.00%"  # The folded file's latency counts.
        assert theirs == "100 kB, 0.20 ms, **90.00%**"

    def test_replaced(self):
        text = "above\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n\nbelow\n"
        assert comparison.replaced(text, "| a | b |\n| --- | --- |\n| 5 | 6 |\n") == (
            "above\n\n| a | b |\n| --- | --- |\n| 5 | 6 |\n\nbelow\n"
        )
        with pytest.raises(ValueError, match=r"no table with the headings \| a \| c \|"):
            comparison.replaced(text, "| a | c |\n")

    def test_narrow_networks_are_controls_of_about_as_many_bytes(self):
        index = zoo.index()
        for verdict in comparison.VERDICTS:
            assert verdict.narrow.name in index["controls"] and verdict.twin.name in index["controls"]
            if "int4" in verdict.dbf.role:  # No plain network has int4 weights.
                continue
            dbf, narrow = (comparison.figures(index, file).bytes for file in (verdict.dbf, verdict.narrow))
            assert narrow == pytest.approx(dbf, rel=0.1)


@pytest.mark.parametrize("taps", [(4, 4, 8), (3, 3, 6)])
def test_a_channel_is_the_sum_of_its_spatial_codes(taps):
    kept = codes.select(taps, 0.4, "random:1")
    coefficients = RNG.normal(size=len(kept))
    filters = codes.synthesize(coefficients, kept, taps)
    for channel in range(taps[2]):
        occurring, weights = figures.channel_as_sum(coefficients, kept, taps, channel)
        shown = sum(
            weight * figures.spatial_code(code, taps[0]) for code, weight in zip(occurring, weights, strict=True)
        )
        np.testing.assert_allclose(shown, filters[:, :, channel], atol=1e-12)


@pytest.mark.parametrize("selection", ["spatial_tree", "ovsf", "sequency", "random"])
def test_energy_kept_is_what_the_fit_leaves(selection):
    filters = RNG.normal(size=(3, 4, 4, 4))
    ratios = (0.125, 0.3, 1.0)
    for ratio, share in zip(ratios, figures.energy_kept(filters, selection, ratios), strict=True):
        kept = codes.select((4, 4, 4), ratio, selection)
        error = filters - codes.synthesize(codes.fit(filters, kept, (4, 4, 4)), kept, (4, 4, 4))
        assert share == pytest.approx(1 - np.sum(error**2) / np.sum(filters**2), abs=1e-9)
    best = figures.energy_kept(filters, "energy", ratios)
    assert all(np.array(best) >= np.array(figures.energy_kept(filters, selection, ratios)) - 1e-12)


def test_the_default_keeps_more_than_twice_the_energy_of_ovsf():
    for filters in figures._kernels(figures.PLAIN_MODEL)[-2:]:
        (default,), (paper,) = (figures.energy_kept(filters, name, [0.25]) for name in ("spatial_tree", "ovsf"))
        assert default > 2 * paper


@pytest.mark.parametrize("name", figures.FIGURES)
def test_all_text_of_a_picture_is_on_it_and_readable(name):
    with matplotlib.rc_context(figures._STYLE):
        figure = figures.FIGURES[name]()
        FigureCanvasAgg(figure).draw()
        texts = {text for text in figure.findobj(matplotlib.text.Text) if text.get_text()}
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                    if not (axes.axison and low <= tick.get_loc() <= high):
                        texts -= {tick.label1, tick.label2}  # Not drawn.
        inside = figure.bbox.padded(2)
        assert texts
        for text in texts:
            box = text.get_window_extent()
            assert inside.x0 <= box.x0 and box.x1 <= inside.x1, text.get_text()
            assert inside.y0 <= box.y0 and box.y1 <= inside.y1, text.get_text()
            # A README is shown 830 pixels wide: 11 points of 11 inches are 11.5 pixels there.
            assert text.get_fontsize() * 11 / figure.get_figwidth() >= 11, text.get_text()


def test_the_study_is_read_from_its_table():
    text = (
        "| run | ratio | kernel size | selection | parameters | multiply adds | seeds | accuracy |\n"
        "|---|---|---|---|---|---|---|---|\n"
        "| plain-kernel_size=3 |  | 3 |  | 78,714 | 3,125,888 | 6 | 63.50 % ± 0.72 |\n"
    )
    assert figures.study(text) == [figures.Run("plain-kernel_size=3", 3, 78_714, 63.5, 0.72)]


def test_every_line_of_the_study_s_plot_has_its_points():
    runs = figures.study((zoo.folder().parent / "docs" / "selections.md").read_text())
    assert len(runs) == 66
    for start, *_, dashes in figures._STUDY:
        found = [run for run in runs if run.name.startswith(start) and run.kernel_size == 4]
        assert len(found) == (3 if dashes else 1), start


def test_bars_are_the_index():
    index = zoo.index()
    found = {(network, label): bar for network, label, _, bar in figures.bars()}
    assert len(found) == 8
    for (network, label), bar in found.items():
        entries = index["models"] if label.startswith("DBF") else index["controls"]
        role = "folded_int8" if "folded" in label else "onthefly_int8" if "fly" in label else "explicit_int8"
        same = [
            entry
            for entry in entries.values()
            if entry["network"] == network.lower().replace("-", "") and entry["bytes"].get(role) == bar.bytes
        ]
        assert any(bar == Figures(*(entry[field][role] for field in Figures._fields)) for entry in same)


def test_the_readme_s_picture_is_of_this_index():
    with Image.open(zoo.folder().parent / "docs" / "overview.png") as picture:
        assert picture.info["Description"] == figures.description()
