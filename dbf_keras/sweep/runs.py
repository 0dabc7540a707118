"""The file of runs: what is read from it, and what is trained for each."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from dbf_keras import train

_FIELDS = {field.name for field in dataclasses.fields(train.Settings)}
_PLOT_OPTIONS = ("x", "panels", "lines", "highlight")


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


def read(path: str | os.PathLike) -> tuple[list[Run], dict[str, Any]]:
    """Reads a file of runs.

    Args:
        path: the yaml file.

    Returns:
        The runs in the order of the file, and what the file says of the plot.

    Raises:
        ValueError: the file is no such list, two runs have one name, or one has a name that no file can have.
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
    for run in runs:
        # Files are called after runs: no name leads to another folder, is hidden, or that of the sweep's own files.
        if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*", run.name) or run.name == "results":
            raise ValueError(
                f"{path}: files cannot be called after the run {run.name!r}; give it a name without / and \\, with no "
                "dot at its start, and not 'results'."
            )
    return runs, _plot_options(content.get("plot") or {}, path)


def _plot_options(plot: Any, path: str | os.PathLike) -> dict[str, Any]:
    if not isinstance(plot, Mapping) or set(plot) - set(_PLOT_OPTIONS):
        raise ValueError(f"{path}: a plot has {', '.join(map(repr, _PLOT_OPTIONS))}; got {plot}.")
    if not isinstance(plot.get("highlight", []), list):
        raise ValueError(f"{path}: 'highlight' is a list of lines of the plot; got {plot['highlight']!r}.")
    return dict(plot)


def _expand(defaults: dict[str, Any], entry: dict[str, Any]) -> list[Run]:
    axes = entry.pop("grid", {})
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"The grid's axis {axis!r} must be a list of values; got {values!r}.")
    title = entry.pop("name", None)
    if title is None:
        title = "-".join(f"{key}={slug(value)}" for key, value in entry.items()) or "run"
    runs = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        given = _substitute({**defaults, **entry, **point}, point)
        parts = {key: f"{key}={slug(value)}" for key, value in point.items()}
        group = "-".join([title, *(part for key, part in parts.items() if key != "seed")])
        runs.append(Run("-".join([title, *parts.values()]), group, title, given))
    return runs


def slug(value: Any) -> str:
    """A value as a part of names."""
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
