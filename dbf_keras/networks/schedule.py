"""Ratios and codes by layer, as the plan of ``dbf compress`` holds them."""

from __future__ import annotations

import json
import os
import pathlib

from dbf_keras.codes import DEFAULT_SELECTION, Selection


class PlannedRatios(dict[str, float]):
    """ρ by layer name. Names of layers that a network has, but not as DBF layers, are no mistake."""


def read_plan(path: str | os.PathLike) -> tuple[PlannedRatios, dict[str, Selection]]:
    """Reads what layers keep from the plan that ``dbf compress`` wrote.

    Args:
        path: the .plan.json.

    Returns:
        ρ and selection by layer name; layers that stay plain keep all codes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no plan.
    """
    try:
        layers = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["layers"]
        ratios = PlannedRatios((layer["name"], float(layer["ratio"])) for layer in layers)
        return ratios, {layer["name"]: layer["codes"] or DEFAULT_SELECTION for layer in layers}
    except FileNotFoundError:
        raise FileNotFoundError(f"--ratio: there is no plan {os.fspath(path)!r}.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--ratio: {os.fspath(path)} is no plan that dbf compress wrote: {error!r}.") from None
