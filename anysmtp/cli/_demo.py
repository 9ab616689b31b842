"""``python -m anysmtp demo``: a message goes to an embedded server, and we see it arrive.

Once under asyncio and once under trio, with everything that is easily got wrong in it: STARTTLS, a
login, text that is not ASCII in the body, in header fields and in a file's name, a line that is
only a dot, and an attachment of all the bytes that there are. It has gone well, and the exit code
says so, if what the server received is what was sent.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import textwrap
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from ssl import SSLContext
from typing import TYPE_CHECKING

import anyio

from .. import SMTP, Receipt, __version__, create_tls_context

if TYPE_CHECKING:
    from ._demo_server import DemoServer, Received

USERNAME, PASSWORD = "zoe", "cœur de pirate"
SENDER, RECIPIENT = "zoe@example.com", "joerg@example.org"
WIDTH = 92

TEXT = """\
Dear Jörg,

greetings from Zürich! If you can read this, then €, Ω, 漢字 and ⛵ made it too.
.
At the dot above a careless client ends the message.

Zoë
"""

SNIPPET = """\
import anyio, anysmtp

async def main():
    async with anysmtp.SMTP("smtp.example.com", username="you", password="secret") as smtp:
        with anyio.fail_after(30):
            await smtp.send_message(message)  # an email.message.EmailMessage

anyio.run(main)  # or anyio.run(main, backend="trio")
"""


@dataclass(frozen=True, slots=True)
class _Run:
    """One message on its way: what was sent, what arrived, and how long it took."""

    sent: EmailMessage
    receipt: Receipt
    received: Received
    seconds: float


def demo() -> int:
    """Run the demo, and return the exit code."""
    missing = [name for name in ("aiosmtpd", "trustme") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"The demo needs {' and '.join(missing)}. This installs it:", file=sys.stderr)
        print("    pip install 'anysmtp[demo]'", file=sys.stderr)
        return 1
    from ._demo_server import DemoServer

    with DemoServer(USERNAME, PASSWORD) as server:
        _introduce(server)
        differences = [what for backend in _backends() for what in _show(backend, server)]
    return _conclude(differences)


def _backends() -> list[str]:
    return ["asyncio", *(["trio"] if importlib.util.find_spec("trio") else [])]


def _introduce(server: DemoServer) -> None:
    _say(f"anysmtp {__version__}: a message through STARTTLS and a login")
    _say()
    _say_wrapped(
        f"The server is aiosmtpd {importlib.metadata.version('aiosmtpd')}, in a thread of this "
        f"program, on {server.host} port {server.port}. Its certificate is of an authority "
        "that was made a moment ago; the client trusts that one, and no other."
    )


def _conclude(differences: list[str]) -> int:
    _say()
    if len(_backends()) == 1:
        _say("trio is not installed, so that was asyncio only: pip install 'anysmtp[trio]'")
        _say()
    if differences:
        _say("What the server received is NOT what was sent:")
        for difference in differences:
            _say(f"  {difference}")
        return 1
    _say("What the server received is what was sent. In a program of your own:")
    _say()
    _say(textwrap.indent(SNIPPET, "    ").rstrip())
    return 0


def _show(backend: str, server: DemoServer) -> list[str]:
    """Send under this backend, show what happened, and return what is not as it should be."""
    message = _message()
    tls_context = create_tls_context(cadata=server.authority)
    receipt, seconds = anyio.run(_send, message, server, tls_context, backend=backend)
    run = _Run(message, receipt, server.received[-1], seconds)
    arrived = BytesParser(policy=policy.SMTP).parsebytes(run.received.data)
    _say()
    _say(f"Under {backend}")
    for name, value in _rows(run, arrived):
        _say(f"  {name:12} {textwrap.indent(value, ' ' * 15).strip()}")
    return [f"under {backend}: {what}" for what in _differences(run, arrived)]


async def _send(
    message: EmailMessage, server: DemoServer, tls_context: SSLContext
) -> tuple[Receipt, float]:
    start = time.perf_counter()
    async with SMTP(
        server.host,
        server.port,
        username=USERNAME,
        password=PASSWORD,
        tls="starttls",
        tls_context=tls_context,
    ) as smtp:
        receipt = await smtp.send_message(message)
    return receipt, time.perf_counter() - start


def _message() -> EmailMessage:
    message = EmailMessage()
    message["From"] = f"Zoë Müller <{SENDER}>"
    message["To"] = f"Jörg Straße <{RECIPIENT}>"
    message["Subject"] = "Grüße aus Zürich ⛵"
    message.set_content(TEXT)
    message.add_attachment(
        bytes(range(256)) * 4,
        maintype="application",
        subtype="octet-stream",
        filename="every byte, für Jörg.bin",
    )
    return message


def _rows(run: _Run, arrived: EmailMessage) -> Iterable[tuple[str, str]]:
    """What there is to see, as names and values."""
    yield "took", f"{run.seconds * 1000:.0f} ms, from the connection to the farewell"
    yield "reply", str(run.receipt.reply)
    yield "encryption", run.received.tls
    yield "login", run.received.username
    yield "envelope", f"{run.received.sender} -> {', '.join(run.received.recipients)}"
    for name in ("From", "To", "Subject", "Date", "Message-ID"):
        yield name, str(arrived[name])
    yield "text", _text(arrived)
    for filename, content in _attachments(arrived):
        yield "attachment", f"{filename}, {len(content)} bytes"


def _differences(run: _Run, arrived: EmailMessage) -> Iterable[str]:
    """In what way the message that arrived is not the one that was sent."""
    expected = {
        "sender": (SENDER, run.received.sender),
        "recipients": ((RECIPIENT,), run.received.recipients),
        "login": (USERNAME, run.received.username),
        "Message-ID": (run.receipt.message_id, arrived["Message-ID"]),
        "text": (_text(run.sent), _text(arrived)),
        "attachments": (_attachments(run.sent), _attachments(arrived)),
        **{name: (str(run.sent[name]), str(arrived[name])) for name in ("From", "To", "Subject")},
    }
    for name, (sent, received) in expected.items():
        if sent != received:
            yield f"{name}: sent {sent!r}, received {received!r}"


def _text(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    return "" if body is None else "\n".join(body.get_content().splitlines())


def _attachments(message: EmailMessage) -> list[tuple[str | None, bytes]]:
    return [(part.get_filename(), part.get_content()) for part in message.iter_attachments()]


def _say_wrapped(text: str) -> None:
    _say(textwrap.fill(text, WIDTH))


def _say(text: str = "") -> None:
    # What the terminal cannot show is shown as an escape.
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
