"""The blocks of code on a page of the documentation, each with the output that stands under it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# What opens a block of code in Markdown or reStructuredText, in whatever way.
OPENING = re.compile(
    r" *(```\S+|>>> |\.\. (code|code-block|sourcecode|parsed-literal|literalinclude)::"
    r"|(?!\.\. )\S.*::$)"
)
MARKDOWN = re.compile(r"^```(?P<language>\S+)\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
RST = re.compile(
    r"^(?P<indent> *)\.\. code-block:: (?P<language>\S+)\n"
    r"(?P<options>(?:(?P=indent)   :.*\n)*)\n+"
    r"(?P<source>(?:(?P=indent)   .*\n|\n)+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code, and what is written under it as its output."""

    page: Path
    line: int
    language: str
    source: str
    caption: str = ""
    """The name of the file that the reader makes of it."""
    output: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    block = None
    for found in (MARKDOWN if page.suffix == ".md" else RST).finditer(text):
        line = text.count("\n", 0, found.start("source")) + 1
        source = textwrap.dedent(found["source"]).strip("\n") + "\n"
        if found["language"] != "output":
            if block is not None:
                yield block
            options = found.groupdict().get("options", "")
            caption = options.partition(":caption:")[2].partition("\n")[0].strip()
            block = Block(page, line, found["language"], source, caption)
        elif block is None or block.output:
            raise ValueError(f"{page.name}:{line} is the output of nothing")
        else:
            block = replace(block, output=source)
    if block is not None:
        yield block
