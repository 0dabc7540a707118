"""Makes the site's pages of the repository's Markdown, so that no text is kept twice.

A page that is the one line ``--8<-- "PATH"`` shows that file of the repository. Links between files of the repository
become links between pages; a link to a file that no page shows becomes plain text.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[1]
_INCLUDE = re.compile(r'--8<-- "(?P<path>[^"]+)"\s*')
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$|^ {4}.*$)", re.MULTILINE | re.DOTALL)

# Pages with tables so wide that they take the place of the table of contents.
_WIDE = {"zoo.md", "selections.md"}

# Pages and pictures of the site by the file of the repository that they show; filled by `on_files`.
_shown: dict[str, str] = {}


def on_files(files, config):
    """Adds the zoo's cards and pictures to the site, and notes what each page shows."""
    _shown.clear()
    cards = sorted(path.relative_to(ROOT) for path in ROOT.glob("models/*/README.md"))
    for path in [*cards, *(picture.relative_to(ROOT) for picture in ROOT.glob("models/*.png"))]:
        page = f"zoo/{path.parent.name}.md" if path.suffix == ".md" else f"zoo/{path.name}"
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
        _shown[path.as_posix()] = page
    for file in files:
        if file.abs_src_path is None or file.src_uri in _shown.values():
            continue
        source = pathlib.Path(file.abs_src_path)
        if source.is_relative_to(ROOT / "docs"):
            _shown[source.relative_to(ROOT).as_posix()] = file.src_uri
            included = _INCLUDE.fullmatch(source.read_text()) if source.suffix == ".md" else None
            if included:
                _shown[included["path"]] = file.src_uri
    return files


def on_page_markdown(markdown, page, **_):
    """Includes the file that the page shows, and turns its links into the site's."""
    path = pathlib.Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    included = _INCLUDE.fullmatch(markdown)
    if included:
        path = included["path"]
        markdown = (ROOT / path).read_text()
    if page.file.src_uri in _WIDE:
        page.meta["hide"] = ["toc"]
    pieces = _FENCE.split(markdown)  # Every other one is code.
    pieces[::2] = [_LINK.sub(lambda link: _link(link, path, page.file.src_uri), piece) for piece in pieces[::2]]
    return "".join(pieces)


def _link(link: re.Match, path: str, page: str) -> str:
    """Returns a link of a file of the repository as one of the page that shows the file."""
    if re.match(r"[a-z]+:|#", link["target"]):
        return link[0]
    target, hash_sign, anchor = link["target"].partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if target not in _shown:
        return link["text"]
    relative = posixpath.relpath(_shown[target], posixpath.dirname(page) or ".")
    return f"{link['image']}[{link['text']}]({relative}{hash_sign}{anchor})"
