"""The progress bar of ``anysmtp bulk``, on two lines at the bottom of a terminal::

    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╺━━━━━━━━━━━━━━━━━━━━━━━━━  612/1000  118.4/s 0:00:03 left
    accepted 601  refused 10  in doubt 1

Rate and time left are those of the last half minute. What was accepted in an earlier run is not a
part of it. Where nobody watches there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.text import Text

from ._screen import Screen
from ._shipment import End, Shipment

_SHOWN: tuple[tuple[End, str], ...] = (
    ("accepted", "green"),
    ("refused", "red"),
    ("in doubt", "bold red"),
)


class Watched:
    """A context manager: the shipment's progress is shown inside it."""

    def __init__(self, shipment: Shipment, screen: Screen) -> None:
        self._shipment = shipment
        self._bar: _Bar | None = None
        if screen.live is not None:
            self._bar = _Bar(
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                _Rate(),
                _TimeLeft(),
                console=screen.live,
                expand=True,
            )

    def __enter__(self) -> Watched:
        if self._bar is not None:
            self._task = self._bar.add_task("", total=self._shipment.total)
            self._shipment.on_progress = self._move
            self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._move()
            self._bar.stop()

    def _move(self) -> None:
        assert self._bar is not None
        tally, total = self._shipment.tally, self._shipment.total
        before = tally["accepted before"]
        counts = (Text(f"{end} {tally[end]}", style) for end, style in _SHOWN)
        self._bar.counts = Text("  ").join(counts)
        self._bar.update(self._task, total=total - before, completed=sum(tally.values()) - before)


class _Bar(Progress):
    counts = Text()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield self.counts


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{'-' if speed is None else f'{speed:.1f}':>6}/s")


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text(f"{'-:--:--' if left is None else timedelta(seconds=int(left))} left")
