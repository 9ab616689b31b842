"""`send`: one message over a connection of its own."""

from __future__ import annotations

from email.message import Message
from typing import TYPE_CHECKING, cast, overload

from ._book import SendOptions
from ._client import SMTP
from ._envelope import AddressLike, Envelope, RawMessage, Receipt, Recipients
from ._settings import Options

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SendAloneOptions(Options, SendOptions, total=False):
    """The keyword options of `send`: those of a client, and those of one send."""


@overload
async def send(
    message: Message,
    /,
    hostname: str = "localhost",
    port: int | None = None,
    *,
    sender: AddressLike | None = None,
    recipients: Recipients | None = None,
    **options: Unpack[SendAloneOptions],
) -> Receipt: ...
@overload
async def send(
    message: RawMessage,
    /,
    hostname: str = "localhost",
    port: int | None = None,
    *,
    sender: AddressLike,
    recipients: Recipients,
    **options: Unpack[SendAloneOptions],
) -> Receipt: ...
async def send(
    message: Message | RawMessage,
    /,
    hostname: str = "localhost",
    port: int | None = None,
    *,
    sender: AddressLike | None = None,
    recipients: Recipients | None = None,
    **options: Unpack[SendAloneOptions],
) -> Receipt:
    """Connect, send one message, say QUIT.

    A message object's sender and recipients come from its header fields unless they are given;
    for a raw message both are required. The keyword options are those of `Options` and
    `SendOptions`. Raises and returns what `SMTP.send_message` and `SMTP.sendmail` do; cancelled, it
    closes the connection, and ``delivery`` says what became of the message.
    """
    of_send, of_client = _split(options)
    client = SMTP(hostname, port, **of_client)
    async with client:
        if isinstance(message, Message):
            return await client.send_message(
                message, sender=sender, recipients=recipients, **of_send
            )
        envelope = options.get("envelope") or Envelope()
        sender = envelope.sender if sender is None else sender
        recipients = envelope.recipients if recipients is None else recipients
        if sender is None or recipients is None:
            raise TypeError("a raw message is sent with a sender and recipients")
        return await client.sendmail(sender, recipients, message, **of_send)


def _split(options: SendAloneOptions) -> tuple[SendOptions, Options]:
    """The options of the send, and those of the client, which also judges unknown ones."""
    of_send = {key: value for key, value in options.items() if key in SendOptions.__annotations__}
    of_client = {key: value for key, value in options.items() if key not in of_send}
    return cast("SendOptions", of_send), cast("Options", of_client)
