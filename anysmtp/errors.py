"""The exceptions, and whose fault each is.

::

    SMTPException                     anything below
    ├─ SMTPConnectError               no connection: name, network, greeting     (ConnectionError)
    │  └─ SMTPProxyError              the proxy, its login, or its way to the server
    ├─ SMTPServerDisconnected         the connection was lost or closed          (ConnectionError)
    ├─ SMTPTimeoutError               the client's own timeout, never yours      (TimeoutError)
    ├─ SMTPTLSError                   encryption wanted and not had
    ├─ SMTPProtocolError              the server broke the grammar
    ├─ SMTPNotSupported               the server does not offer what is needed
    ├─ SMTPMessageTooLarge            over the size that the server declared
    ├─ SMTPAuthenticationError        the login was refused, or not possible
    ├─ SMTPRecipientsRefused          the server took none of the recipients
    └─ SMTPResponseException          a command was refused, with the server's reply
       ├─ SMTPHeloError               EHLO or HELO
       ├─ SMTPSenderRefused           MAIL
       └─ SMTPDataError               DATA, or the message after it

The caller's mistakes are ValueError, TypeError and RuntimeError, raised before a byte is sent.
The caller's own cancellation and timeouts pass through as what they are. Every exception here
can be pickled, and constructed by tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ._reply import Reply

if TYPE_CHECKING:
    from ._delivery import Delivery, Outcome

__all__ = [
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPMessageTooLarge",
    "SMTPNotSupported",
    "SMTPProtocolError",
    "SMTPProxyError",
    "SMTPRecipientsRefused",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "SMTPTLSError",
    "SMTPTimeoutError",
]


class SMTPException(Exception):
    """Whatever went wrong between the client and the server.

    ``str()`` reads ``smtp.example.com:587 RCPT TO:<b@x>: 550 5.1.1 no such user``.
    """

    server: str | None
    """The server, as ``"smtp.example.com:587"``."""
    command: str | None
    """The command that failed, as ``"RCPT TO:<b@x>"``; never with a secret."""
    delivery: Delivery[Any] | None
    """What is known about each recipient, if this ended a send."""
    connection_closed: bool
    """Whether the connection is gone."""

    def __init__(
        self,
        message: str = "",
        *,
        reply: Reply | None = None,
        server: str | None = None,
        command: str | None = None,
        delivery: Delivery[Any] | None = None,
        outcome: Outcome | None = None,
        connection_closed: bool = False,
    ) -> None:
        super().__init__(message)
        self._reply = reply
        self.server = server
        self.command = command
        self.delivery = delivery
        self.connection_closed = connection_closed
        self._message = message
        self._outcome: Outcome | None = outcome

    @property
    def reply(self) -> Reply | None:
        """The server's reply, if one is the reason."""
        return self._reply

    @property
    def outcome(self) -> Outcome | None:
        """What became of the message, if this ended a send: the worst of its recipients'."""
        if self._outcome is None and self.delivery is not None:
            return self.delivery.outcome
        return self._outcome

    @property
    def in_doubt(self) -> bool:
        """Whether the server may have the message although this was raised (RFC 1047)."""
        return self.outcome == "in_doubt"

    @property
    def may_retry(self) -> bool:
        """Whether sending again can work, and cannot deliver twice.

        With a ``delivery``, to its ``retry_recipients``.
        """
        if is_final(self):
            return False
        if self.delivery is not None:
            return self.delivery.may_retry
        if self.outcome == "not_sent":
            return True
        return self.reply is not None and self.reply.is_transient and not self.in_doubt

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __str__(self) -> str:
        where = " ".join(filter(None, (self.server, self.command)))
        what = self._message
        if self.reply is not None:
            what = f"{what} ({self.reply})" if what else str(self.reply)
        return ": ".join(filter(None, (where, what)))


class SMTPConnectError(SMTPException, ConnectionError):
    """No connection came about: the name, the network or the server's greeting says no."""

    @property
    def outcome(self) -> Outcome:
        """What became of the message: nothing can have been sent."""
        return super().outcome or "not_sent"


class SMTPProxyError(SMTPConnectError):
    """The way to the server ended at the proxy.

    A mail server's own refusals, and TLS with it, fail as they do without a proxy.
    """

    hop: Literal["proxy", "login", "target"]
    """Where: ``"proxy"``, it cannot be reached, or does not speak the protocol; ``"login"``, it
    wants another login than it was given; ``"target"``, it cannot or will not connect to the mail
    server."""

    def __init__(
        self,
        message: str = "",
        *,
        hop: Literal["proxy", "login", "target"] = "proxy",
        reply: Reply | None = None,
        server: str | None = None,
        command: str | None = None,
        delivery: Delivery[Any] | None = None,
        outcome: Outcome | None = None,
        connection_closed: bool = False,
    ) -> None:
        super().__init__(
            message,
            reply=reply,
            server=server,
            command=command,
            delivery=delivery,
            outcome=outcome,
            connection_closed=connection_closed,
        )
        self.hop = hop


class SMTPServerDisconnected(SMTPException, ConnectionError):
    """The connection was lost, or closed by the server (``reply`` is its 421, if it sent one)."""


class SMTPTimeoutError(SMTPException, TimeoutError):
    """The client's own timeout (`Timeouts`) expired; the connection is closed.

    A timeout of the caller's, such as ``anyio.fail_after``, raises what the caller's code
    raises: a plain TimeoutError.
    """


class SMTPTLSError(SMTPException):
    """The connection could not be encrypted as the caller asked.

    It is closed, unless the server only refused STARTTLS to an `SMTPConnection`.
    """


class SMTPProtocolError(SMTPException):
    """The server said what SMTP does not allow; the connection is closed."""


class SMTPNotSupported(SMTPException):
    """The server does not offer an extension that is needed; nothing was sent."""


class SMTPMessageTooLarge(SMTPException):
    """The message is larger than the server's declared maximum (RFC 1870); nothing was sent."""


class SMTPAuthenticationError(SMTPException):
    """The login was refused, or no mechanism fits what the server offers."""

    details: Mapping[str, Any] | None
    """What a server that refused a token said about it: the JSON object of its error challenge
    (RFC 7628 section 3.2.2), such as ``{"status": "invalid_token"}``; else None."""

    def __init__(
        self,
        message: str = "",
        *,
        reply: Reply | None = None,
        server: str | None = None,
        command: str | None = None,
        delivery: Delivery[Any] | None = None,
        outcome: Outcome | None = None,
        connection_closed: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            message,
            reply=reply,
            server=server,
            command=command,
            delivery=delivery,
            outcome=outcome,
            connection_closed=connection_closed,
        )
        self.details = details


class SMTPRecipientsRefused(SMTPException):
    """The server took the message for no recipient.

    With ``require_all`` or `Receipt.raise_for_refused`: it refused some of them.
    """

    refused: Mapping[str, Reply]
    """The server's reply to each refused recipient; keys are the addresses as given."""

    def __init__(
        self,
        refused: Mapping[str, Reply],
        *,
        server: str | None = None,
        command: str | None = None,
        delivery: Delivery[Any] | None = None,
        outcome: Outcome | None = None,
        connection_closed: bool = False,
    ) -> None:
        refused = dict(refused)
        super().__init__(
            f"{len(refused)} recipients refused, first" if len(refused) > 1 else "",
            reply=next(iter(refused.values()), None),
            server=server,
            command=command or next((f"RCPT TO:{_path(key)}" for key in refused), None),
            delivery=delivery,
            outcome=outcome,
            connection_closed=connection_closed,
        )
        self.args: tuple[Any, ...] = (refused,)
        self.refused = refused

    @property
    def outcome(self) -> Outcome | None:
        """What became of the message: ``"refused"`` where no send says otherwise."""
        return super().outcome or "refused"

    @property
    def may_retry(self) -> bool:
        """Whether a recipient was refused for now only, and sending again to it can work."""
        if self.delivery is not None:
            return self.delivery.may_retry
        return any(reply.is_transient for reply in self.refused.values())


class SMTPResponseException(SMTPException):
    """A command was refused; the connection can be used further unless ``connection_closed``."""

    def __init__(
        self,
        reply: Reply,
        *,
        server: str | None = None,
        command: str | None = None,
        delivery: Delivery[Any] | None = None,
        outcome: Outcome | None = None,
        connection_closed: bool = False,
    ) -> None:
        super().__init__(
            reply=reply,
            server=server,
            command=command,
            delivery=delivery,
            outcome=outcome,
            connection_closed=connection_closed,
        )
        self.args: tuple[Any, ...] = (reply,)

    @property
    def reply(self) -> Reply:
        """The server's reply."""
        assert self._reply is not None
        return self._reply

    @property
    def code(self) -> int:
        """The reply code."""
        return self.reply.code


class SMTPHeloError(SMTPResponseException):
    """The server refused EHLO and HELO."""


class SMTPSenderRefused(SMTPResponseException):
    """The server refused the sender (MAIL)."""


class SMTPDataError(SMTPResponseException):
    """The server refused the message: DATA, or its content after the final dot."""


def is_final(error: BaseException | None) -> bool:
    """Whether the same send, tried again, would only fail in the same way again.

    What the server does not offer it will not offer to the next try, a wrong password that is
    tried again locks the account, and the caller's mistakes stay what they are.
    """
    if isinstance(error, SMTPAuthenticationError):
        return error.reply is None or not error.reply.is_transient
    if isinstance(error, SMTPProxyError):
        return error.hop == "login"
    return isinstance(error, (SMTPNotSupported, SMTPMessageTooLarge, ValueError, TypeError))


def _path(key: str) -> str:
    """The path in an address as given, ``a@x`` or ``Name <a@x>``."""
    return key[key.rindex("<") :] if key.endswith(">") and "<" in key else f"<{key}>"


def with_outcome(error: SMTPException, outcome: Outcome) -> SMTPException:
    """The same error, with what became of the message where no Delivery says it."""
    error._outcome = outcome
    return error
