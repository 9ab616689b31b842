"""``anysmtp send``: messages to a server, one after the other, over one connection.

What is wrong with the call is found before anything is sent. After that each message has its own
end, which the report gives, however the run ends: to its end, by ``--timeout`` or by Ctrl-C. A
server that cannot be reached, or does not let one in, is not asked again for the next message.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import click

from .. import (
    SMTP,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPException,
    SMTPHeloError,
    SMTPProtocolError,
    SMTPTimeoutError,
    SMTPTLSError,
    TLSMode,
)
from ._compose import Fields, Letter, letters
from ._exit import Exit, of_delivery, worst
from ._loop import run
from ._screen import Screen, dialogue_shown, print_json, reply_for_json
from ._server import Server, in_other_words, server_options

# After these the next message would only meet the same.
_NO_SERVER = (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPHeloError,
    SMTPProtocolError,
    SMTPTLSError,
    SMTPTimeoutError,
)


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--from", "sender", metavar="ADDRESS", help="Who it is from.")
@click.option("--to", multiple=True, metavar="ADDRESS", help="Whom it is for; several times.")
@click.option("--cc", multiple=True, metavar="ADDRESS", help="Who gets a copy.")
@click.option("--bcc", multiple=True, metavar="ADDRESS", help="Who gets a copy unseen.")
@click.option("--subject", metavar="TEXT", help="The subject.")
@click.option("--body", metavar="TEXT", help="The text; - reads it from standard input.")
@click.option("--attach", multiple=True, type=click.Path(path_type=Path), help="A file to attach.")
@server_options
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="For all of it. Without this, only each wait for the server has a limit.",
)
@click.option("--json", "as_json", is_flag=True, help="The result for machines.")
@click.option("-v", "--verbose", is_flag=True, help="Show the dialogue, without secrets.")
@click.pass_context
def send(
    context: click.Context,
    files: tuple[str, ...],
    sender: str | None,
    to: tuple[str, ...],
    cc: tuple[str, ...],
    bcc: tuple[str, ...],
    subject: str | None,
    body: str | None,
    attach: tuple[Path, ...],
    server: str,
    username: str | None,
    password_file: Path | None,
    tls: TLSMode | None,
    cafile: Path | None,
    timeout: float | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Send messages.

    Each FILE is a whole message, as .eml files are, and - is one on standard input. With them,
    --from and --to are sender and recipients instead of those in the header fields. Without a
    FILE a message is made from the options.
    """
    fields = Fields(sender, to, cc, bcc, subject, body, attach)
    to_send = letters(files, fields)
    client = Server(server, username, password_file, tls, cafile).client(context)
    envelope = (sender, to or None) if files else (None, None)
    report = _Report(to_send, as_json)

    async def work() -> None:
        with anyio.move_on_after(timeout) as scope:
            await _send_all(client, to_send, *envelope)
        if scope.cancelled_caught:
            report.stopped = f"not within {timeout:g} seconds"

    with dialogue_shown(report.screen, verbose):
        run(work, backend=context.obj, last_words=report.interrupted)
    return report.show()


async def _send_all(
    client: SMTP, to_send: Sequence[Letter], sender: str | None, to: Sequence[str] | None
) -> None:
    async with client:
        for letter in to_send:
            start = time.perf_counter()
            try:
                await client.send_message(
                    letter.message, sender=sender, recipients=to, delivery=letter.delivery
                )
            except (SMTPException, ValueError) as error:
                letter.error = error
            finally:
                letter.seconds = time.perf_counter() - start
            if isinstance(letter.error, _NO_SERVER):
                return


class _Report:
    """What became of the messages, for people or for machines."""

    def __init__(self, to_send: Sequence[Letter], as_json: bool) -> None:
        self.screen = Screen()
        self.stopped = "not tried"
        """Why there are messages that have not come to an end of their own."""
        self._letters = to_send
        self._as_json = as_json

    def interrupted(self) -> Exit:
        """The last words after Ctrl-C."""
        self.stopped = "interrupted"
        in_doubt = self._exit_code is Exit.IN_DOUBT
        return self.show(Exit.IN_DOUBT if in_doubt else Exit.INTERRUPTED)

    def show(self, code: Exit | None = None) -> Exit:
        """Print it, and return the exit code, which is that of the messages unless it is given."""
        code = self._exit_code if code is None else code
        if self._as_json:
            messages = [self._as_value(letter) for letter in self._letters]
            print_json({"exit_code": code, "messages": messages})
        else:
            for letter in self._letters:
                self._show(letter)
        return code

    @property
    def _exit_code(self) -> Exit:
        return worst(of_delivery(letter.delivery, letter.error) for letter in self._letters)

    def _show(self, letter: Letter) -> None:
        delivery, source = letter.delivery, letter.source
        by_reply: dict[str, list[str]] = {}
        for address, reply in delivery.accepted.items():
            by_reply.setdefault(str(reply), []).append(address)
        for said, addresses in by_reply.items():
            self.screen.say(f"{source}: accepted for {', '.join(addresses)}: {said}", "green")
        for address, reply in delivery.refused.items():
            self.screen.complain(f"{source}: refused for {address}: {reply}")
        if delivery.in_doubt:
            why = f"the server may have it: {self._reason(letter)}"
            self.screen.complain(f"{source}: in doubt for {', '.join(delivery.in_doubt)}, {why}")
        elif delivery.not_sent or not (delivery.accepted or delivery.refused):
            self.screen.complain(f"{source}: not sent: {self._reason(letter)}")

    def _reason(self, letter: Letter) -> str:
        return self.stopped if letter.error is None else in_other_words(str(letter.error))

    def _as_value(self, letter: Letter) -> Mapping[str, object]:
        delivery = letter.delivery
        outcome = delivery.outcome or "not_sent"
        return {
            "source": letter.source,
            "message_id": delivery.message_id,
            "outcome": outcome,
            "accepted": {key: reply_for_json(reply) for key, reply in delivery.accepted.items()},
            "refused": {key: reply_for_json(reply) for key, reply in delivery.refused.items()},
            "not_sent": list(delivery.not_sent),
            "in_doubt": list(delivery.in_doubt),
            "may_retry": delivery.may_retry,
            "retry_recipients": list(delivery.retry_recipients),
            "error": None if outcome == "accepted" else self._error(letter),
            "seconds": None if letter.seconds is None else round(letter.seconds, 6),
        }

    def _error(self, letter: Letter) -> Mapping[str, object] | None:
        error = letter.error
        if error is None and letter.delivery.accepted:
            return None
        ours = error if isinstance(error, SMTPException) else None
        return {
            "type": None if error is None else type(error).__name__,
            "text": self._reason(letter),
            "command": None if ours is None else ours.command,
            "reply": None if ours is None or ours.reply is None else reply_for_json(ours.reply),
        }
