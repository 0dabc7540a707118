"""What the benchmark found, as a web page."""

import string
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

from dbf_keras.benchmark.report import CAPTION, Report, Result, split_details, to_rows

_DOTS = 250  # repetitions drawn per model
_NAME = 40  # letters of a model's name beside its strip
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#eeca3b")


def to_html(reports: Sequence[Report]) -> str:
    """Draws reports as one page that needs no other file, those of several machines side by side.

    Args:
        reports: The reports; speed-ups are against the first model of each.

    Returns:
        The HTML.
    """
    names = list(dict.fromkeys(result.name for report in reports for result in report.results))
    colours = {name: f"c{number % len(_COLOURS)}" for number, name in enumerate(names)}
    several = len(reports) > 1
    tables, strips, facts = [], [], []
    for report in reports:
        heading = f"<h2>{escape(report.machine)}</h2>" if several else ""
        tables.append(heading + _tables(report))
        strips.append(heading + _wide(_strips(report.results, colours)))
        facts.append(_facts(report.settings))
    return string.Template(_PAGE).substitute(
        head=HEAD,
        style=STYLE,
        colours="\n".join(f".c{number} {{ --colour: {colour}; }}" for number, colour in enumerate(_COLOURS)),
        tables="".join(tables),
        charts=_charts(reports, colours),
        strips="".join(strips),
        facts="".join(facts),
    )


def _charts(reports: Sequence[Report], colours: dict[str, str]) -> str:
    """Returns the charts of size, memory, latency and, where it was measured, accuracy."""
    charts = [
        _bars(reports, colours, "File size", "kB, less is better", lambda r, _: (r.size, f"{r.size / 1e3:,.1f}")),
        _bars(
            reports,
            colours,
            "Peak memory",
            "MB, less is better",
            lambda r, _: (r.peak_memory, f"{r.peak_memory / 1e6:.2f}"),
        ),
        _bars(
            reports,
            colours,
            "Latency",
            "median ms, less is better",
            lambda r, first: (r.median, f"{r.median * 1e3:.3f} ({first.median / r.median:.2f}×)"),
        ),
    ]
    measured = [report for report in reports if all(result.accuracy is not None for result in report.results)]
    if measured:
        unit = f"on {', '.join(dict.fromkeys(str(report.settings.get('dataset')) for report in measured))}"
        charts.append(
            _bars(
                measured,
                colours,
                "Accuracy",
                f"{unit}, more is better",
                lambda r, _: _accuracy(r),
            )
        )
    return "".join(charts)


def _accuracy(result: Result) -> tuple[float, str]:
    """Returns the length and text of the bar of an accuracy that was measured."""
    assert result.accuracy is not None  # `_charts` draws reports only in which all accuracies are known.
    return result.accuracy, f"{result.accuracy:.2%}"


def _facts(settings: dict[str, Any]) -> str:
    """Returns a list of how a report was measured."""
    facts = "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>"
        for key, value in settings.items()
        if value is not None
    )
    return f"<dl>{facts}</dl>"


def _failures(report: Report) -> str:
    """Returns a line for each model that did not run."""
    return "".join(f"<p>{escape(name)} did not run: {escape(reason)}</p>" for name, reason in report.failures.items())


def _tables(report: Report) -> str:
    """Returns the table of what decides between models, and folded below it that of the details."""
    decisive, details = split_details(to_rows(report.results))
    folded = f"<details><summary>Details</summary>{_wide(to_table(details))}<p>{escape(CAPTION)}</p></details>"
    return _wide(to_table(decisive)) + _failures(report) + folded


def _wide(content: str) -> str:
    """Returns content that scrolls by itself where the page is narrower."""
    return f'<div class="wide">{content}</div>'


def to_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table; the first row is its heading."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bars(
    reports: Sequence[Report],
    colours: dict[str, str],
    title: str,
    unit: str,
    pick: Callable[[Result, Result], tuple[float, str]],
) -> str:
    """Returns a chart with one bar a model, over one axis for all reports.

    Args:
        reports: The reports.
        colours: The CSS class of each model's name.
        title: What stands above the chart.
        unit: What stands behind the title.
        pick: Takes a bar's length and text from a result and the first one of its report.
    """
    longest = max(pick(result, result)[0] for report in reports for result in report.results) or 1
    bars = []
    for report in reports:
        if len(reports) > 1:
            bars.append(f'<div class="machine">{escape(report.machine)}</div>')
        for result in report.results:
            length, text = pick(result, report.results[0])
            width = 100 * length / longest
            bars.append(
                f'<div class="name">{escape(result.name)}</div>'
                f'<div class="track"><i class="{colours[result.name]}" style="width:{width:.2f}%"></i></div>'
                f'<div class="value">{escape(text)}</div>'
            )
    return f'<section><h2>{title} <small>{escape(unit)}</small></h2><div class="bars">{"".join(bars)}</div></section>'


def _axis_end(results: Sequence[Result]) -> float:
    """Returns where the axis of latencies ends, in ms: beyond all but outliers.

    These are as usual what lies three times the quartiles' distance above the upper quartile (Tukey's far out values).
    """
    ends = []
    for result in results:
        lower, upper = np.percentile(result.times, (25, 75))
        inside = result.times[result.times <= upper + 3 * (upper - lower)]
        ends.append(max(float(inside.max()), result.median * 1.05))
    return 1.05e3 * max(ends)


def _strips(results: Sequence[Result], colours: dict[str, str]) -> str:
    """Returns a chart of latencies, dots over one axis in ms, a strip for each model, with a line at its median."""
    left = 20 + 8 * min(max(len(result.name) for result in results), _NAME)
    width, pitch = 1000 - left, 36
    height = pitch * len(results)
    end = _axis_end(results)
    power = 10.0 ** np.floor(np.log10(end / 6))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - end / 6))
    parts, outside = [], []
    for tick in np.arange(0, end, step):
        x = left + width * tick / end
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height + 20}" text-anchor="middle">{tick:.6g}</text>')
    rng = np.random.default_rng(0)
    for number, result in enumerate(results):
        middle = pitch * (number + 0.5)
        name = result.name if len(result.name) <= _NAME else f"{result.name[: _NAME - 1]}…"
        parts.append(f'<text x="{left - 14}" y="{middle + 5:.1f}" text-anchor="end">{escape(name)}</text>')
        milliseconds = result.times * 1e3
        beyond = int(np.count_nonzero(milliseconds > end))
        if beyond:
            longest = f"{milliseconds.max():.3g} ms"
            outside.append(f"{beyond:,} of {len(milliseconds):,} of {escape(result.name)}, the longest {longest}")
        shown = milliseconds[:: -(-len(milliseconds) // _DOTS)]
        shown = shown[shown <= end]
        for x, y in zip(left + width * shown / end, middle + rng.uniform(-10, 10, len(shown)), strict=True):
            parts.append(f'<circle class="{colours[result.name]}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>')
        x = left + width * result.median * 1e3 / end
        parts.append(f'<line class="median" x1="{x:.1f}" y1="{middle - 14:.1f}" x2="{x:.1f}" y2="{middle + 14:.1f}"/>')
    note = f'<p class="note">Beyond the axis: {"; ".join(outside)}.</p>' if outside else ""
    return f'<svg viewBox="0 0 1020 {height + 28}" role="img">{"".join(parts)}</svg>{note}'


# What pages of this package begin with, and the colours, text and headings that they share.
HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""
STYLE = """
:root { color-scheme: light dark; --text: #1d2329; --soft: #66707a; --line: #e0e4e9; --back: #fff; --card: #f7f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8ebee; --soft: #98a2ad; --line: #333b44; --back: #14181c; --card: #1c2126; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 1040px;
  margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 1.2rem; }
h2 { font-size: 1.02rem; margin: 0 0 .7rem; }"""

_PAGE = """$head<title>dbf benchmark</title>
<style>$style
.wide + h2 { margin-top: 1.4rem; }
small { color: var(--soft); font-weight: normal; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: 1rem;
  margin: 1.4rem 0 1rem; }
.bars { display: grid; grid-template-columns: fit-content(50%) 1fr auto; gap: .35rem .8rem; align-items: center;
  font-size: .88rem; }
.machine { grid-column: 1 / -1; color: var(--soft); margin-top: .5rem; }
.name { overflow-wrap: anywhere; }
.track { height: 15px; background: var(--line); border-radius: 3px; overflow: hidden; }
.track i { display: block; height: 100%; min-width: 2px; border-radius: 3px; background: var(--colour); }
.value { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { width: 100%; min-width: 700px; height: auto; display: block; font-size: 14px; fill: var(--text); }
circle { fill: var(--colour); opacity: .45; }
.grid { stroke: var(--line); }
.median { stroke: var(--text); stroke-width: 2; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 5em; }
summary, details p, .note { color: var(--soft); font-size: .88rem; }
details { margin-top: .6rem; }
details + h2 { margin-top: 1.4rem; }
@media (max-width: 600px) {
  body { padding: 0 .6rem; margin-top: 1rem; }
  section { padding: .8rem .6rem; }
  table { font-size: .75rem; }
  th, td { padding: .35rem .25rem; white-space: normal; }
}
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem 1.2rem; color: var(--soft); font-size: .88rem; }
dd { margin: 0; }
$colours
</style>
<h1>dbf benchmark</h1>
$tables
<div class="charts">$charts</div>
<section><h2>Every repetition <small>ms; the line is the median</small></h2>$strips</section>
$facts
</html>
"""
