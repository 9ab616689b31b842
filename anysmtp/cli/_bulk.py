"""``anysmtp bulk``: many messages, over several connections, with a journal.

`_letters` and `_template` are where they come from, `_journal` knows what became of them, in this
run and those before it, `_shipment` sends them. Here it is asked for, watched and told. What is
told is how things stand, earlier runs included: the exit code is 0 when all of it is accepted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import click

from .. import Limits, Options, SMTPException, TLSMode
from .._message import parse_recipients, parse_sender
from ..events import Event
from ._exit import Exit, of_error, worst
from ._journal import Journal, JournalError
from ._letters import letters_at
from ._loop import run
from ._past import Fact, Wanted
from ._progress import Watched
from ._rows import Rows
from ._screen import Screen, dialogue_shown, print_json, reply_for_json
from ._server import Server, in_other_words, server_options
from ._shipment import End, Shipment, Trouble
from ._template import Template

_RATE = re.compile(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,6})?(s|min|h|)")
_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600}
_ENDS: tuple[End, ...] = (
    "accepted",
    "accepted before",
    "changed",
    "refused",
    "in doubt",
    "malformed",
    "not sent",
)


def _rate(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, float] | None:
    if text is None:
        return None
    found = _RATE.fullmatch(text)
    if found is None:
        raise click.BadParameter("MESSAGES/TIME, as 10/s, 300/min or 50/2min", context, parameter)
    messages, count, unit = found.groups()
    return int(messages), float(int(count or 1) * _SECONDS[unit])


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--csv",
    "rows",
    type=click.Path(path_type=Path, dir_okay=False),
    help="SOURCE is a template, with a message for each row of this.",
)
@click.option(
    "--column",
    metavar="NAME",
    default="email",
    show_default=True,
    help="The column with the recipients.",
)
@click.option("--from", "sender", metavar="ADDRESS", help="Who sends them, in the envelope.")
@click.option("--to", multiple=True, metavar="ADDRESS", help="Who gets them; several times.")
@server_options
@click.option(
    "--connections",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="How many at most.",
)
@click.option(
    "--rate", callback=_rate, metavar="N/TIME", help="How many messages at most: 10/s, 300/min."
)
@click.option(
    "--journal",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What is known of each message; by default SOURCE.journal, or that of the CSV file.",
)
@click.option("--resend-in-doubt", is_flag=True, help="Send what is in doubt again.")
@click.option("--retry-refused", is_flag=True, help="Send again what was refused for good.")
@click.option("--json", "as_json", is_flag=True, help="The result for machines.")
@click.option("-v", "--verbose", is_flag=True, help="Show the dialogue, without secrets.")
@click.pass_context
def bulk(
    context: click.Context,
    source: Path,
    rows: Path | None,
    column: str,
    sender: str | None,
    to: tuple[str, ...],
    server: str,
    username: str | None,
    password_file: Path | None,
    tls: TLSMode | None,
    cafile: Path | None,
    connections: int,
    rate: tuple[int, float] | None,
    journal: Path | None,
    resend_in_doubt: bool,
    retry_refused: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    """Send many messages, and go on where an earlier run stopped.

    SOURCE is a folder of .eml files, a Maildir, an mbox, or with --csv a template, a message with
    {{column}} in its fields and text. What was accepted is in the journal, and is never sent
    again; what was refused for now is tried again by the next run.
    """
    _check_envelope(sender, to, is_template=rows is not None)
    letters = letters_at(source) if rows is None else Template(source, Rows(rows), column)
    path = journal or _beside(source if rows is None else rows)
    wanted = Wanted(in_doubt=resend_in_doubt, refused=retry_refused)
    identity = {**letters.identity, "from": sender, "to": list(to)}
    limits = Limits(max_connections=connections, rate=rate)
    shipment: Shipment

    def observe(event: Event) -> None:
        shipment.observe(event)

    # The client is made, and so checked, before there is a journal.
    options: Options = {"limits": limits, "observer": observe}
    client = Server(server, username, password_file, tls, cafile).client(context, options)
    try:
        with Journal(path, identity) as opened:
            shipment = Shipment(letters, opened, wanted, sender, to)
            shipment.suit(limits)
            report = _Report(shipment, path, as_json, letters.nothing)
            watched = Watched(shipment, report.screen)

            async def work() -> None:
                with watched:
                    await shipment.send(client)

            with dialogue_shown(report.screen, verbose):
                run(work, backend=context.obj, last_words=report.interrupted)
            return report.show()
    except JournalError as error:
        raise click.UsageError(str(error)) from None


def _check_envelope(sender: str | None, to: tuple[str, ...], *, is_template: bool) -> None:
    if to and is_template:
        raise click.UsageError("--to is not for a template: --column has its recipients")
    try:
        if sender is not None:
            parse_sender(sender)
        if to:
            parse_recipients(to)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _beside(source: Path) -> Path:
    resolved = source.resolve()
    if not resolved.name:
        raise click.UsageError(f"nothing can stand beside {resolved}: --journal says where it is")
    return resolved.with_name(f"{resolved.name}.journal")


class _Report:
    """How things stand at the end, for people or for machines."""

    def __init__(self, shipment: Shipment, journal: Path, as_json: bool, nothing: str) -> None:
        self.screen = Screen()
        self._shipment = shipment
        self._journal = journal
        self._as_json = as_json
        self._nothing = nothing
        self._start = time.perf_counter()

    def interrupted(self) -> Exit:
        """The last words after Ctrl-C."""
        self._shipment.finish()
        in_doubt = bool(self._shipment.tally["in doubt"])
        self.screen.complain("interrupted")
        return self._tell(Exit.IN_DOUBT if in_doubt else Exit.INTERRUPTED)

    def show(self) -> Exit:
        """Print it, and return the exit code."""
        self._shipment.finish()
        return self._tell(self._exit_code())

    def _exit_code(self) -> Exit:
        shipment = self._shipment
        codes = [trouble.code for trouble in shipment.troubles]
        if isinstance(shipment.failure, SMTPException):
            codes.append(of_error(shipment.failure))
        elif shipment.failure is not None:
            return Exit.TROUBLE
        elif shipment.unfinished:
            codes.append(Exit.UNREACHABLE)
        return worst([Exit.OK, *codes])

    def _tell(self, code: Exit) -> Exit:
        if self._as_json:
            print_json(self._as_value(code))
            return code
        for trouble in self._shipment.troubles:
            for line in _told(trouble):
                self.screen.complain(f"{trouble.name}: {line}")
        if self._shipment.failure is not None:
            self.screen.complain(_words(self._shipment.failure))
        if not self._shipment.total:
            self.screen.complain(self._nothing, "")
        counts = self._counts()
        told = [f"{count} {end}" for end, count in counts.items() if count or end == "accepted"]
        seconds = time.perf_counter() - self._start
        self.screen.say(
            f"{self._shipment.total} messages in {seconds:.1f} s: {', '.join(told)}",
            "green" if code is Exit.OK else "",
        )
        if code is not Exit.OK:
            self._say_what_is_next(counts)
        return code

    def _say_what_is_next(self, counts: Mapping[End, int]) -> None:
        if counts["in doubt"]:
            self.screen.complain("--resend-in-doubt sends again what is in doubt", "")
        if counts["not sent"] or any(map(_may_go_on, self._shipment.troubles)):
            self.screen.complain(
                "the same command goes on with what was not sent, or refused for now", ""
            )

    def _counts(self) -> dict[End, int]:
        counts: dict[End, int] = {end: self._shipment.tally[end] for end in _ENDS}
        counts["not sent"] += self._shipment.unfinished
        return counts

    def _as_value(self, code: Exit) -> Mapping[str, object]:
        failure = self._shipment.failure
        counts = {end.replace(" ", "_"): count for end, count in self._counts().items()}
        return {
            "exit_code": code,
            "journal": str(self._journal),
            "messages": self._shipment.total,
            **counts,
            "seconds": round(time.perf_counter() - self._start, 3),
            "error": None if failure is None else _words(failure),
            "troubles": [_for_json(trouble) for trouble in self._shipment.troubles],
        }


def _may_go_on(trouble: Trouble) -> bool:
    """Whether another run sends it to somebody."""
    facts = trouble.facts.values()
    is_for_now = any(fact.reply is not None and fact.reply.is_transient for fact in facts)
    return is_for_now or any(fact.outcome == "not_sent" for fact in facts)


def _words(error: Exception) -> str:
    return in_other_words(str(error))


def _told(trouble: Trouble) -> list[str]:
    """A trouble in words: a line for each of its kinds."""
    facts = trouble.facts
    why = f": {in_other_words(trouble.reason)}" if trouble.reason else ""
    lines = [
        f"refused for {address}: {fact.reply}"
        for address, fact in facts.items()
        if fact.outcome == "refused"
    ]
    if trouble.end == "in doubt":
        whom = ", ".join(_whose(facts, "in_doubt")) or "everybody"
        lines.append(f"in doubt for {whom}, the server may have it{why}")
    elif trouble.end == "changed":
        lines.append("was accepted, and edited since: it is not sent again")
    elif trouble.end in ("malformed", "not sent"):
        lines.append(f"not sent{why}")
    return lines


def _whose(facts: Mapping[str, Fact], outcome: str) -> list[str]:
    return [address for address, fact in facts.items() if fact.outcome == outcome]


def _for_json(trouble: Trouble) -> Mapping[str, object]:
    facts = trouble.facts
    return {
        "source": trouble.name,
        "key": trouble.key,
        "end": trouble.end.replace(" ", "_"),
        "accepted": _whose(facts, "accepted"),
        "refused": {
            address: None if fact.reply is None else reply_for_json(fact.reply)
            for address, fact in facts.items()
            if fact.outcome == "refused"
        },
        "in_doubt": _whose(facts, "in_doubt"),
        "not_sent": _whose(facts, "not_sent"),
        "error": in_other_words(trouble.reason) or None,
    }
