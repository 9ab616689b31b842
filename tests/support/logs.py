"""The log at INFO, with somebody who looks at each line of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def looking_at_the_log(look: Callable[[str], None]) -> Generator[None]:
    """Stands around what is logged; what ``look`` raises is raised where it is logged."""

    def let_through(record: logging.LogRecord) -> bool:
        look(record.getMessage())
        return True

    log = logging.getLogger("anysmtp")
    level = log.level
    log.addFilter(let_through)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeFilter(let_through)
        log.setLevel(level)
