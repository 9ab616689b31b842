"""The session's phases as a picture: made from the tables of the code at each build.

``.. state-diagram::`` puts it where it stands, as SVG inside the page, in the colours of the text.
The phases stand in a column, in the order in which a session can first come to them. An arrow on
the right leads down to a later phase, one on the left back up. What keeps the phase is left out,
and so is what leads to the same phase from wherever commands can be sent, which the caption names;
but for the way to the next phase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from state_tables import NAMES

from anysmtp._protocol import _states

WIDTH, ROW, BOX = 720, 64, 100
TOP, MIDDLE = 16, 390
HEIGHT_OF_BOX = 28
STYLE = "fill:none;stroke:currentColor;stroke-opacity:0.6"
# A label covers the lines that it crosses, in the page's own background.
LABEL = "paint-order:stroke;stroke:var(--color-background-primary,white);stroke-width:5px"
# How far an arc goes aside for each row that it passes, and where its label stands.
ASIDE = 34


@dataclass(frozen=True)
class Arrow:
    start: str
    end: str
    verbs: tuple[str, ...]


class StateDiagram(SphinxDirective):
    """Puts the picture where it stands."""

    required_arguments = 0
    option_spec: ClassVar[dict[str, object]] = {}

    def run(self) -> list[nodes.Node]:
        common = _common(_states.NEXT)
        picture = nodes.raw("", _svg([*_states.NEXT], _arrows(common)), format="html")
        words = nodes.paragraph(text=f"Not drawn, because it is so everywhere: {_said(common)}.")
        return [picture, words]


def _said(common: Mapping[str, str]) -> str:
    return ", ".join(f"{verb} leads to {phase}" for verb, phase in common.items())


def _common(table: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The verbs that lead to one phase from wherever QUIT can be said, or but for one place."""
    rows = [row for row in table.values() if "QUIT" in row]
    found = dict[str, str]()
    for verb in rows[0]:
        ((phase, times),) = Counter(row.get(verb, "") for row in rows).most_common(1)
        if times >= len(rows) - 1:
            found[verb] = phase
    return found


def _arrows(common: Mapping[str, str]) -> list[Arrow]:
    """What leads from one phase to another, the verbs of each pair together."""
    pairs = dict[tuple[str, str], list[str]]()
    following = dict(pairwise(_states.NEXT))
    for start, row in _states.NEXT.items():
        for verb, end in row.items():
            is_drawn = common.get(verb) != end or following.get(start) == end != "closed"
            if end != start and is_drawn:
                pairs.setdefault((start, end), []).append(NAMES.get(verb, verb))
        if any(verb in _states.CHALLENGED for verb in row) and start != "auth":
            pairs.setdefault((start, "auth"), []).append("AUTH, 334")
    return [Arrow(start, end, tuple(verbs)) for (start, end), verbs in pairs.items()]


def _svg(phases: list[str], arrows: Iterable[Arrow]) -> str:
    height = TOP * 2 + ROW * (len(phases) - 1) + HEIGHT_OF_BOX
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="phases of a session"',
        f' style="max-width:{WIDTH}px;width:100%;font:13px sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"',
        ' markerHeight="7" orient="auto"><path d="M0,0L8,4L0,8z" fill="currentColor"/>',
        "</marker></defs>",
        *(_box(phase, row) for row, phase in enumerate(phases)),
        *(_arc(arrow, phases.index(arrow.start), phases.index(arrow.end)) for arrow in arrows),
        "</svg>",
    ]
    return "".join(parts)


def _centre(row: int) -> int:
    return TOP + HEIGHT_OF_BOX // 2 + ROW * row


def _box(phase: str, row: int) -> str:
    x, y = MIDDLE - BOX // 2, _centre(row) - HEIGHT_OF_BOX // 2
    return (
        f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT_OF_BOX}" rx="6" style="{STYLE}"/>'
        f'<text x="{MIDDLE}" y="{_centre(row) + 5}" text-anchor="middle" fill="currentColor">'
        f"{escape(phase)}</text>"
    )


def _arc(arrow: Arrow, start: int, end: int) -> str:
    """A curve beside the column; one to the next phase is straight."""
    label = escape(", ".join(arrow.verbs))
    if end == start + 1:
        top, bottom = (_centre(start) + HEIGHT_OF_BOX // 2, _centre(end) - HEIGHT_OF_BOX // 2)
        path = f"M{MIDDLE},{top}L{MIDDLE},{bottom}"
        return _drawn(path, label, MIDDLE + 6, (top + bottom) // 2 + 4, "start")
    side = 1 if end > start else -1
    x, lean = MIDDLE + side * BOX // 2, 7 if end > start else -7
    away = x + side * ASIDE * abs(end - start)
    top, bottom = _centre(start) + lean, _centre(end) - lean
    path = f"M{x},{top}C{away},{top} {away},{bottom} {x},{bottom}"
    middle = (x + 3 * away) // 4 + side * 6
    anchor = "start" if side > 0 else "end"
    return _drawn(path, label, middle, (top + bottom) // 2 + 4, anchor)


def _drawn(path: str, label: str, x: int, y: int, anchor: str) -> str:
    return (
        f'<path d="{path}" marker-end="url(#tip)" style="{STYLE}"/>'
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="currentColor" style="{LABEL}">'
        f"{label}</text>"
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("state-diagram", StateDiagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
