import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

import common
import comparison
from dbf_keras import zoo
from dbf_keras.export import to_tflite
from dbf_keras.version import __version__

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / name / "README.md" for name in ("android_demo", "export", "models")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


def prose(path):
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """The anchors of a document's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in LINK.findall(prose(path)):
        if re.match("[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert file.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(file), link


@pytest.mark.parametrize(
    ("document", "table"), [(name, table) for name, tables in comparison.TABLES.items() for table in tables]
)
def test_tables_are_what_the_index_says(document, table):
    assert f"\n{table(zoo.index())}\n" in (ROOT / document).read_text()


def test_every_figure_in_the_readme_s_sentences_about_the_table_holds():
    index = zoo.index()
    for verdict in comparison.VERDICTS:
        narrow = comparison.figures(index, verdict.narrow)
        dbf = [comparison.figures(index, verdict.dbf), comparison.folded(index, verdict.dbf)]
        assert all(narrow.seconds < found.seconds for found in dbf if found)  # "the narrow one is faster"
        epochs = comparison.entry(index, verdict.dbf.name)["epochs"]
        assert epochs == (12 if "int4" in verdict.dbf.name else 60)
        assert all(comparison.entry(index, file.name)["epochs"] == 60 for file in (verdict.twin, verdict.narrow))
        assert all(comparison.entry(index, file.name)["machine"] == "AMD EPYC" for file in verdict[2:])


@pytest.mark.parametrize("name", ["resnet18_k4_r025_cifar10", "resnet34_r025_cifar10"])
def test_in_float32_at_a_quarter_narrow_networks_are_slower(name):
    index = zoo.index()
    assert comparison.entry(index, name)["ratio"] == 0.25
    dbf, narrow = comparison.File(name, "onthefly"), comparison.File(comparison.CONTROLS[name], "explicit")
    assert comparison.figures(index, dbf).seconds < comparison.figures(index, narrow).seconds


def test_the_readme_s_example_runs_and_saves_what_it_says():
    (example,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    names = {}
    exec(example, names)  # noqa: S102
    names["interpreter"].allocate_tensors()
    explicit, folded = (to_tflite(names["model"], mode=mode) for mode in ("explicit", "folded"))
    weights = to_tflite(names["model"], mode="explicit", quantize="weights")
    assert len(names["data"]) < 0.6 * len(weights)
    assert common.multiply_adds(folded) < 0.7 * common.multiply_adds(explicit)


def test_the_site_has_every_page_once():
    def pages(entries):
        for entry in entries:
            (value,) = entry.values()
            yield from [value] if isinstance(value, str) else pages(value)

    listed = sorted(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert listed == sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert f"[{citation['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert "use it" in pages["index.html"] and "The code grid" in pages["format/index.html"]
    assert "share of the grid" in pages["reference/layers/index.html"]
    for name, page in pages.items():
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]*?(?:src|href)="?(https?:[^">]*)', page)
        assert not loaded, name
        assert "--8&lt;--" not in page and ".md)" not in page, name
