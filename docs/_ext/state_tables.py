"""The session's tables as tables of the documentation: made from the code at each build.

``.. state-table:: phases`` shows what each verb leads to in each phase, ``.. state-table:: verbs``
what is known about each verb. Verbs of which the same is known share a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from anysmtp._protocol import _states

NAMES = {
    "greeting": "(greeting)",
    ".": "end of message",
    "*": "response to a challenge",
    "other": "any other",
}


Facts: TypeAlias = Callable[[str], Iterator[str]]


class StateTable(SphinxDirective):
    """Puts one of the tables where it stands."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        head, *rows = _grouped(*_tables()[self.arguments[0]])
        return self.parse_text_to_nodes("\n".join(_list_table(head, rows)))


def _tables() -> dict[str, tuple[Iterable[str], Facts]]:
    """What each table has as columns, and how a verb's row is made."""
    return {
        "phases": (_states.NEXT, _phases),
        "verbs": (("success", "more may follow in its flight", "transaction"), _facts),
    }


def _phases(verb: str) -> Iterator[str]:
    """The phase that the verb leads to from each phase."""
    for phase, row in _states.NEXT.items():
        reached = row.get(verb, "")
        yield "stays" if reached == phase else reached


def _facts(verb: str) -> Iterator[str]:
    digit = _states.SUCCESS.get(verb, _states.DEFAULT_SUCCESS)
    challenged = "; 3yz is a challenge" if verb in _states.CHALLENGED else ""
    always = _states.ALWAYS_REACHED.get(verb)
    yield f"{digit}yz{challenged}" + (f"; leads to {always} even behind refusals" if always else "")
    yield "yes" if verb in _states.MAY_BE_FOLLOWED else "no"
    opens, ends = verb in _states.OPENS_TRANSACTION, verb in _states.ENDS_TRANSACTION
    yield "may open one" if opens else "ends one" if ends else ""


def _grouped(columns: Iterable[str], facts: Facts) -> list[list[str]]:
    """A head, and a row for each group of verbs of which the facts are the same."""
    verbs = dict.fromkeys(verb for row in _states.NEXT.values() for verb in row)
    groups: dict[tuple[str, ...], list[str]] = {}
    for verb in verbs:
        groups.setdefault(tuple(facts(verb)), []).append(NAMES.get(verb, verb))
    return [["verb", *columns], *([", ".join(group), *cells] for cells, group in groups.items())]


def _list_table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield from (".. list-table::", "   :header-rows: 1", "")
    for row in (head, *rows):
        for column, cell in enumerate(row):
            yield f"   {'   ' if column else '*  '}- {cell}"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("state-table", StateTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
