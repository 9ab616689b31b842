"""What is written beside the pages for programs that read: ``llms.txt`` and ``llms-full.txt``.

The first is a list of the pages in the order of the contents, each with its first sentence, in the
form of https://llmstxt.org; the second has all their text, signatures and docstrings too. A page
that says nothing in a first sentence is a warning. So is one that loads something from another
host: what is built here is read without a network, the search too, which is Sphinx's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.io import StringOutput
from sphinx.application import Sphinx
from sphinx.builders.text import TextBuilder
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.writers.text import TextWriter

LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=\"((?:https?:)?//[^\"]+)\"")

logger = logging.getLogger(__name__)


def pages_of(env: BuildEnvironment) -> Iterator[str]:
    """The first page, and those of the tables of contents, in their order."""
    root = env.config.root_doc
    yield root
    for toctree in env.get_doctree(root).findall(lambda node: "includefiles" in _attributes(node)):
        yield from _attributes(toctree)["includefiles"]


def _attributes(node: nodes.Node) -> dict[str, list[str]]:
    return getattr(node, "attributes", {})


def first_sentence(env: BuildEnvironment, page: str) -> str:
    paragraph = next(iter(env.get_doctree(page).findall(nodes.paragraph)), None)
    text = " ".join(paragraph.astext().split()) if paragraph else ""
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]


def write(app: Sphinx, error: Exception | None) -> None:
    """Sphinx's hook for the end of a build."""
    if error is not None or app.builder.format != "html":
        return
    folder, env = Path(app.outdir), app.env
    pages = list(pages_of(env))
    lines = [f"# {app.config.project}\n", f"> {first_sentence(env, pages[0])}\n", "## Pages\n"]
    for page in pages:
        title, sentence = env.titles[page].astext(), first_sentence(env, page)
        lines.append(f"- [{title}]({page}.html): {sentence}")
        if not sentence:
            logger.warning("%s has no first sentence", page)
    (folder / "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "llms-full.txt").write_text("\n\n".join(_texts(app, pages)), "utf-8")
    _look_for_other_hosts(folder)


def _texts(app: Sphinx, pages: list[str]) -> Iterator[str]:
    builder = TextBuilder(app, app.env)
    builder.init()
    for page in pages:
        writer = TextWriter(builder)
        doctree = app.env.get_and_resolve_doctree(page, builder)
        yield writer.write(doctree, StringOutput(encoding="unicode"))


def _look_for_other_hosts(folder: Path) -> None:
    for page in folder.rglob("*.html"):
        for url in LOADED.findall(page.read_text("utf-8")):
            logger.warning("%s loads %s", page.relative_to(folder), url)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
