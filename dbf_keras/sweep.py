"""``python -m dbf_keras.sweep runs.yaml --output_dir runs``: trains a list of runs, makes one table and plot of them.

The file holds ``defaults`` and ``runs``. A run sets attributes of `dbf_keras.train.Settings`; any other key is an
option of the network. Values in a ``grid`` are lists, of which each combination is a run, the last axis fastest::

    defaults: {dataset: cifar10, network: resnet8, epochs: 30}
    runs:
      - name: plain
        plain: true
        grid: {seed: [0, 1, 2]}
      - name: dbf
        grid: {ratio: [0.5, 0.25], seed: [0, 1, 2]}
    plot: {x: parameters, panels: kernel_size}   # optional

Runs are called after ``name`` and the grid's values, as in ``dbf-ratio=0.5-seed=0``, and done in the order of the list.
In a text ``{output_dir}`` is the folder of the results, and ``{seed}`` and the like the grid's values, so that a run
can take another's file as its teacher.

The same command may run several times at once, on one machine or on more that share the folder: each process takes runs
that no other is at, and all end with the whole table.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import itertools
import json
import os
import pathlib
import re
import statistics
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import filelock
from absl import flags

from dbf_keras import command, data, train
from dbf_keras.backend import keras
from dbf_keras.networks.cost import multiply_adds

_FIELDS = {field.name for field in dataclasses.fields(train.Settings)}
# What a table shows of a run besides what varies.
_FIGURES = ("parameters", "multiply_adds")
# Seconds between looks at runs that other processes are at.
_PATIENCE = 2


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a sweep.

    Attributes:
        name: unique; of its files.
        group: the name that it shares with runs which differ from it only in the seed.
        title: what the file calls it, without the grid's values.
        given: what the file sets for it, defaults included; ``{output_dir}`` in it stands for itself.
    """

    name: str
    group: str
    title: str
    given: Mapping[str, Any]

    def settings(self, output_dir: str | os.PathLike, data_dir: str | None = None) -> train.Settings:
        """What is trained.

        Args:
            output_dir: what ``{output_dir}`` stands for.
            data_dir: for runs that give none.
        """
        given = _substitute(self.given, {"output_dir": output_dir})
        fields = {"data_dir": data_dir, **{key: value for key, value in given.items() if key in _FIELDS}}
        options = {key: value for key, value in given.items() if key not in _FIELDS}
        return train.Settings(**{**fields, "options": {**fields.get("options", {}), **options}})


def read(path: str | os.PathLike) -> tuple[list[Run], dict[str, str]]:
    """Reads a file of runs.

    Args:
        path: of the yaml file.

    Returns:
        The runs in the order of the file, and what the file says of the plot.

    Raises:
        ValueError: the file is no such list, or two runs have one name.
        OSError: it cannot be read.
    """
    import yaml

    try:
        content = yaml.safe_load(pathlib.Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no yaml: {error}") from None
    if not isinstance(content, Mapping) or not isinstance(content.get("runs"), list):
        raise ValueError(f"{path} must be a mapping with a list 'runs'.")
    unknown = set(content) - {"defaults", "runs", "plot"}
    if unknown:
        raise ValueError(f"{path} has {sorted(unknown)}; known are 'defaults', 'runs' and 'plot'.")
    runs = []
    for number, entry in enumerate(content["runs"], 1):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("grid", {}), Mapping):
            raise ValueError(
                f"{path}: run {number} must be a mapping, and its grid one from name to list; got {entry}."
            )
        runs += _expand(dict(content.get("defaults") or {}), dict(entry))
    if not runs:
        raise ValueError(f"{path} has no runs.")
    doubles = [name for name, count in collections.Counter(run.name for run in runs).items() if count > 1]
    if doubles:
        raise ValueError(f"{path} has more than one run called {', '.join(doubles)}; give them other names.")
    plot = dict(content.get("plot") or {})
    if set(plot) - {"x", "panels", "lines"}:
        raise ValueError(f"{path}: a plot has 'x', 'panels' and 'lines'; got {sorted(plot)}.")
    return runs, plot


def _expand(defaults: dict[str, Any], entry: dict[str, Any]) -> list[Run]:
    axes = entry.pop("grid", {})
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"The grid's axis {axis!r} must be a list of values; got {values!r}.")
    title = entry.pop("name", None)
    if title is None:
        title = "-".join(f"{key}={_slug(value)}" for key, value in entry.items()) or "run"
    runs = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        given = _substitute({**defaults, **entry, **point}, point)
        parts = {key: f"{key}={_slug(value)}" for key, value in point.items()}
        group = "-".join([title, *(part for key, part in parts.items() if key != "seed")])
        runs.append(Run("-".join([title, *parts.values()]), group, title, given))
    return runs


def _slug(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9.=]+", "_", text).strip("_")


def _substitute(value: Any, replacements: Mapping[str, Any]) -> Any:
    """Puts the folder or the grid's values into texts such as "{output_dir}/plain-kernel_size={kernel_size}.keras"."""
    if isinstance(value, str):
        for key, replacement in replacements.items():
            value = value.replace(f"{{{key}}}", str(replacement))
        return value
    if isinstance(value, Mapping):
        return {key: _substitute(part, replacements) for key, part in value.items()}
    if isinstance(value, list):
        return [_substitute(part, replacements) for part in value]
    return value


def execute(run: Run, output_dir: pathlib.Path, data_dir: str | None, datasets: dict) -> dict[str, Any]:
    """Does a run, or goes on with it, unless its result is there.

    Args:
        run: the run.
        output_dir: of its files: ``<name>.json``, the result, and what `dbf_keras.train.train` writes.
        data_dir: for runs that give none.
        datasets: data sets by what they are made from; filled as they are loaded.

    Returns:
        The result: name, group, title, given, loss, accuracy, parameters, multiply_adds, seconds of this process.

    Raises:
        ValueError: the result that is there is of other settings.
    """
    path = output_dir / f"{run.name}.json"
    if path.exists():
        result = json.loads(path.read_text())
        if result["given"] != run.given:
            raise ValueError(
                f"{path} is the result of other settings: {result['given']}. Delete it, or rename the run."
            )
        return result
    settings = run.settings(output_dir, data_dir)
    source = (settings.dataset, settings.data_dir, settings.image_size, settings.train_images)
    if source not in datasets:
        datasets[source] = settings.load_data()
    dataset: data.Dataset = datasets[source]
    start = time.monotonic()
    history = settings.train(dataset, output_dir / f"{run.name}.keras")
    seconds = round(time.monotonic() - start, 1)
    model = settings.build(dataset)
    result = {
        "name": run.name,
        "group": run.group,
        "title": run.title,
        "given": run.given,
        "loss": history[-1]["val_loss"],
        "accuracy": history[-1]["val_accuracy"],
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model),
        "seconds": seconds,
    }
    keras.utils.clear_session()
    text = json.dumps(result, indent=1) + "\n"
    command.write_atomically(path, lambda temporary: temporary.write_text(text))
    return result


def table(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Joins the seeds of runs.

    Args:
        results: of `execute`.

    Returns:
        A row for each group, in the order of the results: run, what of the settings varies, parameters, multiply_adds,
        seeds (number), accuracy (mean, per cent), spread (sample standard deviation over the seeds, points; None for
        one seed).
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["group"], []).append(result)
    keys = dict.fromkeys(key for result in results for key in result["given"] if key != "seed")
    varying = [key for key in keys if len({json.dumps(result["given"].get(key)) for result in results}) > 1]
    rows = []
    for group, members in groups.items():
        accuracies = [100 * member["accuracy"] for member in members]
        rows.append(
            {
                "run": group,
                **{key: members[0]["given"].get(key) for key in varying},
                **{key: members[0][key] for key in _FIGURES},
                "seeds": len(members),
                "accuracy": statistics.mean(accuracies),
                "spread": statistics.stdev(accuracies) if len(members) > 1 else None,
            }
        )
    return rows


def write_table(rows: Sequence[Mapping[str, Any]], output_dir: pathlib.Path) -> None:
    """Writes ``results.csv`` and ``results.md``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    shown = [key for key in rows[0] if key != "spread"]
    lines = ["| " + " | ".join(shown).replace("_", " ") + " |", "|" + "---|" * len(shown)]
    for row in rows:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
        cells = {**row, "accuracy": f"{row['accuracy']:.2f} %{spread}", **{key: f"{row[key]:,}" for key in _FIGURES}}
        lines.append("| " + " | ".join("" if cells[key] is None else str(cells[key]) for key in shown) + " |")
    for name, content in {"results.csv": text.getvalue(), "results.md": "\n".join(lines) + "\n"}.items():
        command.write_atomically(output_dir / name, lambda path, content=content: path.write_text(content))


def plot(results: Sequence[Mapping[str, Any]], options: Mapping[str, str], path: pathlib.Path) -> None:
    """Draws the accuracy of every group, mean and spread over seeds, as a PNG.

    Args:
        results: of `execute`.
        options: ``x``, a figure or setting to draw the accuracy against, with a line for each title; without it each
            group has a row. ``lines``, a setting whose values in a grid are lines of their own. ``panels``, a setting
            with a panel for each of its values.
        path: of the file.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    panels: dict[Any, list[Mapping[str, Any]]] = {}
    for result in results:
        panels.setdefault(result["given"].get(options.get("panels")), []).append(result)
    tallest = max(len(table(members)) for members in panels.values())
    height = 4.5 if "x" in options else 1 + 0.25 * tallest
    figure = Figure(figsize=(6.5 * len(panels), height), layout="constrained")
    for axes, (value, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        rows = table(members)
        if "x" in options:
            lines: dict[str, list] = {}
            firsts = {member["group"]: member for member in reversed(members)}
            for row in rows:
                member = firsts[row["run"]]
                x = member.get(options["x"], member["given"].get(options["x"]))
                lines.setdefault(_line(member, options.get("lines")), []).append(
                    (float(x), row["accuracy"], row["spread"] or 0.0)
                )
            for number, (title, points) in enumerate(lines.items()):
                xs, means, spreads = zip(*sorted(points), strict=True)
                marker = "os^vDP*X"[number % 8]
                color = colormaps["tab20"](number * 2 % 20 + number // 10 % 2)  # All the dark ones first.
                axes.errorbar(xs, means, spreads, label=title, color=color, marker=marker, markersize=4, capsize=3)
            axes.set(xlabel=options["x"].replace("_", " "), ylabel="test accuracy, %", xscale="log")
            axes.legend(frameon=False, fontsize=7)
        else:
            places = range(len(rows))
            spreads = [row["spread"] or 0.0 for row in rows]
            axes.errorbar([row["accuracy"] for row in rows], places, xerr=spreads, fmt="o", markersize=4, capsize=3)
            axes.set_yticks(places, [row["run"] for row in rows], fontsize=7)
            axes.invert_yaxis()
            axes.set(xlabel="test accuracy, %")
        if "panels" in options:
            axes.set_title(f"{options['panels'].replace('_', ' ')} {value}")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _line(member: Mapping[str, Any], setting: str | None) -> str:
    """The title, and the value of a setting if the grid gave it."""
    value = f"{setting}={_slug(member['given'].get(setting))}"
    return f"{member['title']} {_slug(member['given'][setting])}" if value in member["group"] else member["title"]


def sweep(
    runs: Sequence[Run], plot_options: Mapping[str, str], output_dir: str | os.PathLike, data_dir: str | None = None
) -> dict[str, str]:
    """Does the runs that are not done and that no other process is at, and writes table and plot after each.

    Returns when all are done, those of other processes too.

    Args:
        runs: the runs.
        plot_options: see `plot`.
        output_dir: of all files.
        data_dir: for runs that give none.

    Returns:
        The errors, by the name of the run.
    """
    output_dir = pathlib.Path(output_dir)
    locks = output_dir / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    if keras.backend.backend() == "jax":  # Seeds of a run share what XLA made for the first.
        import jax

        jax.config.update("jax_compilation_cache_dir", str(output_dir / ".jax_cache"))
    errors: dict[str, str] = {}
    datasets: dict = {}
    pending = dict(enumerate(runs, 1))
    while pending:
        busy = {}
        for number, run in pending.items():
            try:
                with filelock.FileLock(locks / run.name, blocking=False):
                    done = (output_dir / f"{run.name}.json").exists()
                    if not done:
                        print(f"[{number}/{len(runs)}] {run.name}", flush=True)
                    error = _attempt(run, output_dir, data_dir, datasets)
            except filelock.Timeout:
                busy[number] = run
                continue
            if isinstance(error, FileNotFoundError) and busy:  # Of a run that is being made, perhaps.
                busy[number] = run
            elif error is not None:
                errors[run.name] = f"{type(error).__name__}: {error}"
                print(f"{run.name} failed: {errors[run.name]}", file=sys.stderr, flush=True)
            elif not done:
                _report(runs, plot_options, output_dir)
        if len(busy) == len(pending):
            time.sleep(_PATIENCE)
        pending = busy
    _report(runs, plot_options, output_dir)
    return errors


def _attempt(run: Run, output_dir: pathlib.Path, data_dir: str | None, datasets: dict) -> Exception | None:
    """`execute`, whatever it fails of being returned, so that the other runs go on."""
    try:
        execute(run, output_dir, data_dir, datasets)
    except (ValueError, OSError) as error:
        return error
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return error
    return None


def _report(runs: Sequence[Run], plot_options: Mapping[str, str], output_dir: pathlib.Path) -> None:
    """Writes table and plot of all results that are there, in the order of the runs."""
    results = []
    for run in runs:
        path = output_dir / f"{run.name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            if result["given"] == run.given:
                results.append(result)
    if results:
        write_table(table(results), output_dir)
        command.write_atomically(output_dir / "results.png", lambda path: plot(results, plot_options, path))


def main(arguments: list[str]) -> int:
    """Sweeps as the command line says; 1 if a run failed."""
    if len(arguments) != 2:
        raise ValueError(f"Give one file of runs: python -m dbf_keras.sweep runs.yaml; got {arguments[1:]}.")
    output_dir = flags.FLAGS.output_dir
    runs, plot_options = read(arguments[1])
    errors = sweep(runs, plot_options, output_dir, flags.FLAGS.data_dir)
    for name, error in errors.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    table_path = pathlib.Path(output_dir) / "results.md"
    if table_path.exists():
        print(table_path.read_text(), end="")
    return 1 if errors else 0


main.takes_arguments = True

if __name__ == "__main__":
    flags.DEFINE_string("output_dir", None, "Where results, models, table and plot are written.", required=True)
    flags.DEFINE_string("data_dir", None, "Where the data sets are, for runs that do not say.")
    command.run(main)
