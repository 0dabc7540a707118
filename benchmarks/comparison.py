"""Prints the tables of README.md and docs/results.md that hold DBF networks against plain ones, from the zoo's index.

    python benchmarks/comparison.py
    python benchmarks/comparison.py --write     # puts them into the documents, after the zoo has changed

A test holds both documents to what this script prints.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from dbf_keras import command, zoo

_FLAGS = flags.FLAGS
flags.DEFINE_bool("write", False, "Replace the tables in the documents.")

_ROOT = pathlib.Path(__file__).resolve().parents[1]

Index = Mapping[str, Any]

_NBSP = "\N{NO-BREAK SPACE}"
_FRACTIONS = {0.25: "¼", 0.5: "½", 0.75: "¾", 1.0: "1"}


class File(NamedTuple):
    """A file of the zoo.

    Attributes:
        name: The zoo entry.
        role: Which of the entry's files, such as ``"onthefly_int8"``.
    """

    name: str
    role: str


class Figures(NamedTuple):
    """What is known of a file: its bytes, its median latency in seconds and its share of right answers."""

    bytes: int
    seconds: float
    accuracy: float


class Verdict(NamedTuple):
    """A row of the README's table.

    Attributes:
        advice: Whether to use deterministic binary filters.
        reason: The aim that the advice is for, and the case that is measured.
        twin: The same network with ordinary filters.
        narrow: A plain network of about as many bytes as the DBF one.
        dbf: The DBF network; if it has a folded file of that type, that one's latency is given too.
    """

    advice: str
    reason: str
    twin: File
    narrow: File
    dbf: File


VERDICTS = (
    Verdict(
        "use it",
        "to shrink a network and keep most of its accuracy: ResNet-34, ρ = ¼, int8",
        File("resnet34_plain_cifar10", "explicit_int8"),
        File("resnet34_r025_cifar10_narrow", "explicit_int8"),
        File("resnet34_r025_cifar10", "onthefly_int8"),
    ),
    Verdict(
        "use it",
        "for accuracy in equal bytes: ResNet-18, ρ from 1 in shallow layers to ⅛ in deep ones, int8",
        File("resnet18_k4_plain_cifar10", "explicit_int8"),
        File("resnet18_k4_cifar10_narrow", "explicit_int8"),
        File("resnet18_k4_cifar10", "onthefly_int8"),
    ),
    Verdict(
        "use it",
        "for the smallest file: the same ResNet-18 in float32, of int4 coefficients, the plain ones of int8 weights",
        File("resnet18_k4_plain_cifar10", "explicit_int8_weights"),
        File("resnet18_k4_cifar10_narrow", "explicit_int8_weights"),
        File("resnet18_k4_int4_cifar10", "onthefly_int4_weights"),
    ),
    Verdict(
        "don't",
        "if int8 latency is all that counts: ResNet-18, ρ = ¼",
        File("resnet18_k4_plain_cifar10", "explicit_int8"),
        File("resnet18_k4_r025_cifar10_narrow", "explicit_int8"),
        File("resnet18_k4_r025_cifar10", "onthefly_int8"),
    ),
    Verdict(
        "don't",
        "if every layer is to keep more than ¼ of its codes: ResNet-18, ρ = 0.35, int8",
        File("resnet18_k4_plain_cifar10", "explicit_int8"),
        File("resnet18_k4_r035_cifar10_narrow", "explicit_int8"),
        File("resnet18_k4_r035_cifar10", "onthefly_int8"),
    ),
)

# The networks of the table of ratios, with the zoo entries of their plain twin and of each ratio.
_RATIOS = ("1", "¾, DBFNet 0.7", "½", "0.35", "¼")
_RATIO_ROWS = {
    "ResNet-18, 4×4": (
        "resnet18_k4_plain_cifar10",
        "resnet18_k4_r100_cifar10",
        "resnet18_k4_r075_cifar10",
        "resnet18_k4_r050_cifar10",
        "resnet18_k4_r035_cifar10",
        "resnet18_k4_r025_cifar10",
    ),
    "ResNet-18, 3×3": ("resnet18_k3_plain_cifar10", "resnet18_k3_r100_cifar10", None, None, None, None),
    "ResNet-34, 4×4": (
        "resnet34_plain_cifar10",
        "resnet34_r100_cifar10",
        None,
        "resnet34_r050_cifar10",
        None,
        "resnet34_r025_cifar10",
    ),
    "SqueezeNet, 4×4": (
        "squeezenet_plain_cifar10",
        "squeezenet_r100_cifar10",
        None,
        "squeezenet_r050_cifar10",
        None,
        "squeezenet_r025_cifar10",
    ),
    "DBFNet, 4×4": (
        "dbfnet_plain_cifar10",
        "dbfnet_r100_cifar10",
        "dbfnet_r070_cifar10",
        "dbfnet_r050_cifar10",
        None,
        "dbfnet_r025_cifar10",
    ),
}

# DBF entries and the plain ones that they are held against in the table of controls.
CONTROLS = {
    "resnet18_k4_cifar10": "resnet18_k4_cifar10_narrow",
    "resnet18_k4_taught_cifar10": "resnet18_k4_taught_cifar10_narrow",
    "resnet18_k4_r025_cifar10": "resnet18_k4_r025_cifar10_narrow",
    "resnet18_k4_r035_cifar10": "resnet18_k4_r035_cifar10_narrow",
    "resnet34_r025_cifar10": "resnet34_r025_cifar10_narrow",
    "resnet18_k4_r050_cifar10": "resnet18_k3_plain_cifar10",
    "resnet18_cifar10": "resnet18_cifar10_narrow",
    "digits": "digits_narrow",
}


def entry(index: Index, name: str) -> Mapping[str, Any]:
    """Returns a model or control of the zoo's index.

    Raises:
        KeyError: The index has no such entry.
    """
    return next(index[group] for group in zoo.GROUPS if name in index[group])[name]


def figures(index: Index, file: File) -> Figures:
    """Returns the figures of a file."""
    found = entry(index, file.name)
    return Figures(*(found[field][file.role] for field in Figures._fields))


def folded(index: Index, file: File) -> Figures | None:
    """Returns the figures of the folded file beside an on-the-fly one of the same type, or None if there is none."""
    role = file.role.replace("onthefly", "folded")
    return figures(index, file._replace(role=role)) if role in entry(index, file.name)["bytes"] else None


def size(count: int) -> str:
    """Returns bytes as text, in kB or MB of three digits."""
    return f"{count / 1e3:.0f}{_NBSP}kB" if count < 1e6 else f"{count / 1e6:.2f}{_NBSP}MB"


def latency(*seconds: float) -> str:
    """Returns latencies as text, in ms or, the short ones, µs."""
    scale, digits, unit = (1e6, 0, "µs") if max(seconds) < 5e-5 else (1e3, 2, "ms")
    return _NBSP.join([f"{_NBSP}/{_NBSP}".join(f"{scale * one:.{digits}f}" for one in seconds), unit])


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (lines[0], ["---"] * len(lines[0]), *lines[1:]))


def _contest(dbf: Sequence[Figures], plain: Figures) -> tuple[str, str]:
    """Returns the cells of a DBF network and of a plain one; the better figures are bold, unless they read the same.

    Args:
        dbf: The on-the-fly file's figures, then those of the folded file, if there is one. The latter counts for its
            latency only.
        plain: The plain network's figures.
    """
    times = [found.seconds for found in dbf]
    best = dbf[0]._replace(seconds=min(times))
    ours = [size(best.bytes), latency(*times), f"{best.accuracy:.2%}"]
    theirs = [size(plain.bytes), latency(plain.seconds), f"{plain.accuracy:.2%}"]
    smaller = [best.bytes < plain.bytes, best.seconds < plain.seconds, best.accuracy > plain.accuracy]
    for place, (win, text) in enumerate(zip(smaller, [ours[0], latency(best.seconds), ours[2]], strict=True)):
        if text != theirs[place]:
            winner = ours if win else theirs
            winner[place] = f"**{winner[place]}**"
    return ", ".join(ours), ", ".join(theirs)


def _with_folded(index: Index, file: File) -> list[Figures]:
    return [found for found in (figures(index, file), folded(index, file)) if found is not None]


def verdicts(index: Index) -> str:
    """Returns the table of the README."""
    lines = [["", "why, and what was measured", "plain twin", "narrow plain network", "DBF (on the fly / folded)"]]
    for verdict in VERDICTS:
        twin, narrow = figures(index, verdict.twin), figures(index, verdict.narrow)
        ours, theirs = _contest(_with_folded(index, verdict.dbf), narrow)
        plain = ", ".join([size(twin.bytes), latency(twin.seconds), f"{twin.accuracy:.2%}"])
        lines.append([f"**{verdict.advice}**", verdict.reason, plain, theirs, ours])
    return _markdown(lines)


def ratios(index: Index) -> str:
    """Returns the table of what a smaller ρ costs: accuracy and bytes of the file with int8 weights."""
    usual = entry(index, "resnet18_k4_plain_cifar10")["epochs"]
    lines = [["", "plain twin", *_RATIOS]]
    for network, names in _RATIO_ROWS.items():
        cells = []
        for name in names:
            if name is None:
                cells.append("")
                continue
            epochs = entry(index, name)["epochs"]
            mode = "onthefly" if "ratio" in entry(index, name) else "explicit"
            found = figures(index, File(name, f"{mode}_int8_weights"))
            note = "" if epochs == usual else f" ({epochs} epochs from the twin's filters)"
            cells.append(f"{found.accuracy:.2%}, {size(found.bytes)}{note}")
        lines.append([network, *cells])
    return _markdown(lines)


def controls(index: Index) -> str:
    """Returns the table of DBF networks beside plain ones: int8 weights' accuracy and bytes, float32's latency."""
    lines = [["zoo entry", "ρ", "codes", "epochs", "DBF (on the fly / folded)", "plain network"]]
    for name, control in CONTROLS.items():
        found = entry(index, name)
        seconds = [own.seconds for own in _with_folded(index, File(name, "onthefly"))]
        weights = figures(index, File(name, "onthefly_int8_weights"))
        plain = figures(index, File(control, "explicit_int8_weights"))
        plain = plain._replace(seconds=figures(index, File(control, "explicit")).seconds)
        ours, theirs = _contest([weights._replace(seconds=own) for own in seconds], plain)
        ratio = found["ratio"]
        shown = _FRACTIONS.get(ratio, f"{ratio:g}") if isinstance(ratio, float) else "1 … ⅛"
        lines.append([f"`{name}`", shown, f"`{found['selection']}`", str(found["epochs"]), ours, theirs])
    return _markdown(lines)


def models(index: Index) -> str:
    """Returns the table of the models that come with their weights: accuracy, bytes and speed-up of the float files."""
    lines = [["model", "ρ", "float32 accuracy", "explicit", "on the fly", "with few-bit coefficients", "speed-up"]]
    for name, found in index["models"].items():
        if "weights" not in found["files"]:
            continue
        kind, role = "int8", "onthefly_int8_weights"
        if "int4" in name:
            kind, role = "int4", "onthefly_int4_weights"
        elif f"{role}_coded" in found["files"]:
            kind, role = "coded", f"{role}_coded"
        small = figures(index, File(name, role))
        own, explicit = (figures(index, File(name, mode)) for mode in ("onthefly", "explicit"))
        lines.append(
            [
                f"[{name}](../models/{name}/README.md)",
                _FRACTIONS.get(found["overall_ratio"], f"{found['overall_ratio']:.2f}"),
                f"{own.accuracy:.2%}",
                size(explicit.bytes),
                size(own.bytes),
                f"{kind}: {size(small.bytes)}, {small.accuracy:.2%}",
                f"{explicit.seconds / own.seconds:.1f}×",
            ]
        )
    return _markdown(lines)


# The tables by the document that holds them.
TABLES = {"README.md": (verdicts,), "docs/results.md": (ratios, controls, models)}


def replaced(document: str, table: str) -> str:
    """Returns a document with the table of the same headings replaced.

    Raises:
        ValueError: The document has no such table.
    """
    heading = table.split("\n", 1)[0] + "\n"
    before, found, after = document.partition(heading)
    if not found:
        raise ValueError(f"there is no table with the headings {heading.strip()}")
    rows = after.split("\n")
    left = next(number for number, row in enumerate(rows) if not row.startswith("|"))
    return before + table + "\n".join(rows[left:])


def main(_: list[str]) -> None:
    """Prints the tables, and writes them if asked."""
    index = zoo.index()
    for document, tables in TABLES.items():
        path = _ROOT / document
        for table in tables:
            print(f"{document}: {table.__name__}\n\n{table(index)}")
            if _FLAGS.write:
                text = replaced(path.read_text(), table(index))
                command.write_atomically(path, lambda temporary, text=text: temporary.write_text(text))


if __name__ == "__main__":
    command.run(main)
