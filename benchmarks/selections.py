"""Draws the plot of the study of selections from the table in its page, for which the results need not be there.

    python benchmarks/selections.py docs/selections.md

writes selections.png beside the page, as `python -m dbf_keras.sweep benchmarks/studies/selections.yaml` does from the
results themselves.
"""

import ast
import pathlib
import re

from dbf_keras import command, sweep
from dbf_keras.sweep.results import FIGURES

_STUDY = pathlib.Path(__file__).parent / "studies" / "selections.yaml"


def read(text: str) -> list[sweep.Group]:
    """Reads the groups of runs back from the Markdown table that a sweep wrote.

    Args:
        text: The page; its first table whose first column is "run".

    Raises:
        ValueError: If there is no such table.
    """
    lines = re.search(r"^\| run \|.*\n\|[-|]+\n((?:\|.*\n?)+)", text, re.M)
    if not lines:
        raise ValueError("The page has no table of runs.")
    heading, _, *rows = (
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[0].splitlines()
    )
    return [_group(dict(zip(heading, row, strict=True))) for row in rows]


def _group(cells: dict[str, str]) -> sweep.Group:
    name, seeds = cells.pop("run"), int(cells.pop("seeds"))
    accuracy, _, spread = cells.pop("accuracy").replace("%", "").partition("±")
    figures = {figure: cells.pop(figure.replace("_", " "), "").replace(",", "") for figure in FIGURES}
    return sweep.Group(
        name,
        re.split(r"-(?=\w+=)", name)[0],
        {key.replace(" ", "_"): _value(cell) for key, cell in cells.items() if cell},
        {figure: int(value) if value else None for figure, value in figures.items()},
        seeds,
        float(accuracy),
        float(spread) if spread else None,
    )


def _value(cell: str):
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        return cell


def main(arguments: list[str]) -> None:
    """Draws the plot of a page."""
    if len(arguments) != 2:
        raise ValueError(f"Give one page: python benchmarks/selections.py docs/selections.md; got {arguments[1:]}.")
    page = pathlib.Path(arguments[1])
    groups, (_, options) = read(page.read_text()), sweep.read(_STUDY)
    command.write_atomically(page.with_suffix(".png"), lambda path: sweep.plot(groups, options, path))


main.takes_arguments = True

if __name__ == "__main__":
    command.run(main)
