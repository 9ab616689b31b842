"""A message with something of everything: non-ASCII text, dots, an attachment, a Bcc."""

from __future__ import annotations

from email.message import EmailMessage


def letter() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Jörg <joerg@example.test>"
    message["To"] = "ann@example.test"
    message["Bcc"] = "secret@example.test"
    message["Subject"] = "Grüße, 世界"
    message["Date"] = "Sun, 22 Nov 2026 12:00:00 +0000"
    message["Message-ID"] = "<letter@example.test>"
    message.set_content("Hällo\n.\n..\n\nFrom here\n")
    message.add_attachment(bytes(range(256)) * 1000, "application", "octet-stream", filename="all")
    message.set_boundary("between-the-parts")
    return message
