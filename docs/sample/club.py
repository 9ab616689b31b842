"""A club's mail: a link for a member who has forgotten the password, and a letter to all members.

Whatever sends is given a mailer; the program makes one, of its environment, and its tests another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from email.message import EmailMessage
from typing import Literal

import anyio

import anysmtp

CLUB = "The Club <club@example.org>"


def open_mailer(environ: Mapping[str, str]) -> anysmtp.SMTP:
    """The mailer of the program: ``async with open_mailer(os.environ) as smtp``."""
    return anysmtp.SMTP(
        environ["CLUB_HOST"],
        int(environ["CLUB_PORT"]),
        tls="starttls",
        tls_context=anysmtp.create_tls_context(cafile=environ.get("CLUB_CAFILE")),
        username=environ["CLUB_USERNAME"],
        password=environ["CLUB_PASSWORD"],
    )


async def send_reset(
    mailer: anysmtp.Mailer, member: str, link: str, *, patience: float = 10
) -> Literal["sent", "wrong address", "ask again", "perhaps"]:
    """Send a member a link, within so many seconds; what to tell the member."""
    message = _message(member, "Your password", f"Choose a new one here:\n{link}\n")
    delivery = anysmtp.Delivery()
    try:
        with anyio.fail_after(patience):
            await mailer.send_message(message, delivery=delivery)
    except (anysmtp.SMTPException, TimeoutError):
        if delivery.outcome == "in_doubt":
            return "perhaps"
        return "ask again" if delivery.may_retry else "wrong address"
    return "sent"


async def send_letter(
    smtp: anysmtp.SMTP, members: Iterable[str], subject: str, text: str
) -> dict[str, str | None]:
    """Send a letter to every member; what became of each."""

    def letters() -> Iterator[anysmtp.Mail[str]]:
        for member in members:
            yield anysmtp.Mail(_message(member, subject, text), key=member)

    async with smtp.send_many(letters()) as deliveries:
        return {delivery.key: delivery.outcome async for delivery in deliveries}


def _message(member: str, subject: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = CLUB, member, subject
    message.set_content(text)
    return message
