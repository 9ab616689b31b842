"""What a job demands of a server, before a byte of it is sent: the parameters of MAIL and RCPT.

Some follow from the message (SIZE, BODY, SMTPUTF8), some were asked for with types, the raw ones
stand as they were given. What has a type and is not offered is SMTPNotSupported, and what is
offered with limits is held against these. Nothing is left out quietly: a message that needs an
extension and goes without it is another message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .._envelope import Content, Job, Mailbox, Stream
from .._parameters import (
    REQUIRETLS,
    Notify,
    Parameter,
    is_seven_bit,
    notify_parameter,
    says,
    untyped,
)
from ..errors import SMTPMessageTooLarge, SMTPNotSupported, SMTPTLSError
from ._extensions import Extensions

_NO_8BIT = "the message has octets above 127 and the server does not offer 8BITMIME"
_UTF8 = "the header section is not ASCII"


def needs_downgrade(content: Content | Stream, extensions: Extensions) -> bool:
    """Whether the server takes the message only in 7bit (RFC 6152 section 3)."""
    return bool(content.is_8bit) and not extensions.eight_bit_mime


def takes_8bit(mail_options: Iterable[str], extensions: Extensions) -> bool:
    """Whether a message that nobody has read yet may turn out to have octets above 127."""
    return extensions.eight_bit_mime and not is_seven_bit(mail_options)


def check_by_hand(
    content: Content | Stream, mail_options: Iterable[str], extensions: Extensions
) -> None:
    """Hold a message against a transaction that was begun by hand, with these options of MAIL.

    SMTPNotSupported for what the server does not offer, ValueError for what MAIL did not say.
    """
    if needs_downgrade(content, extensions):
        raise SMTPNotSupported(_NO_8BIT)
    if content.is_8bit and is_seven_bit(mail_options):
        raise ValueError("the message has octets above 127, and MAIL had the option BODY=7BIT")
    if content.is_utf8 and not says(mail_options, "SMTPUTF8"):
        if not extensions.smtputf8:
            raise SMTPNotSupported(f"{_UTF8} and the server does not offer SMTPUTF8")
        raise ValueError(f"{_UTF8}, and needs a MAIL with the option SMTPUTF8")


def mail_parameters(
    job: Job, content: Content | Stream, extensions: Extensions, *, is_tls_verified: bool
) -> tuple[list[str], bool]:
    """The parameters of MAIL; and whether the transaction uses SMTPUTF8."""
    given = _keywords(job.mail_options) if job.mail_options else ()
    parameters: list[str] = []
    size, limit = content.size, extensions.size
    if extensions.takes_size and "SIZE" not in given and size is not None:
        parameters.append(f"SIZE={size}")
    if limit is not None and size is not None and size > limit:
        raise SMTPMessageTooLarge(f"the message has {size} octets, the server takes {limit}")
    if content.is_8bit and not job.is_binary:
        _require_8bit(job, extensions)
        if "BODY" not in given:
            parameters.append("BODY=8BITMIME")
    elif content.is_8bit is None and _may_be_8bit(job, extensions) and "BODY" not in given:
        parameters.append("BODY=8BITMIME")
    asks_for_utf8 = "SMTPUTF8" in given
    if (reason := _needs_utf8(job, content)) is not None:
        if not extensions.smtputf8:
            raise SMTPNotSupported(f"{reason} and the server does not offer SMTPUTF8")
        if not asks_for_utf8:
            parameters.append("SMTPUTF8")
            asks_for_utf8 = True
    if job.mail_parameters:
        if REQUIRETLS in job.mail_parameters:
            require_tls(is_tls_verified=is_tls_verified)
        parameters += _offered(job.mail_parameters, extensions, "the message")
        if job.is_binary and not extensions.chunking:
            raise SMTPNotSupported("a binary message needs BDAT, the server offers no CHUNKING")
    for recipient in job.recipients:
        if recipient.parameters:
            _offered(recipient.parameters, extensions, recipient.given)
    return [*parameters, *job.mail_options], asks_for_utf8 and extensions.smtputf8


def rcpt_parameters(job: Job, recipient: Mailbox) -> tuple[str, ...]:
    """The parameters of RCPT, which `mail_parameters` has held against the server's offer."""
    if not recipient.parameters:
        return job.rcpt_options
    typed = (parameter.written() for parameter in recipient.parameters)
    return (*typed, *untyped(job.rcpt_options, recipient.parameters))


def with_notify(recipients: tuple[Mailbox, ...], notify: Sequence[Notify]) -> tuple[Mailbox, ...]:
    """The recipients, with what the message's DSN says for those that do not say it themselves."""
    parameter = notify_parameter(tuple(notify))
    return tuple(
        recipient
        if any(own.keyword == parameter.keyword for own in recipient.parameters)
        else replace(recipient, parameters=(parameter, *recipient.parameters))
        for recipient in recipients
    )


def _offered(parameters: Iterable[Parameter], extensions: Extensions, whose: str) -> Iterable[str]:
    """Parameters as they are written; SMTPNotSupported for one that the server does not take."""
    written: list[str] = []
    for parameter in parameters:
        text = parameter.written()
        offer = extensions.get(parameter.extension)
        if offer is None:
            raise SMTPNotSupported(
                f"{text} is asked for {whose} and the server does not offer {parameter.extension}"
            )
        if (reason := parameter.objection(offer)) is not None:
            raise SMTPNotSupported(reason)
        written.append(text)
    return written


def require_tls(*, is_tls_verified: bool) -> None:
    """RFC 8689 section 4.2.1: the first hop, too, has TLS with a certificate that was verified."""
    if not is_tls_verified:
        raise SMTPTLSError(
            "REQUIRETLS is asked for and the connection is not under TLS with a certificate that "
            "was verified"
        )


def _keywords(options: Iterable[str]) -> set[str]:
    return {option.partition("=")[0].upper() for option in options}


def _may_be_8bit(job: Job, extensions: Extensions) -> bool:
    """Whether a message that nobody has read yet may have octets above 127."""
    return extensions.eight_bit_mime and not job.is_binary


def _require_8bit(job: Job, extensions: Extensions) -> None:
    if extensions.eight_bit_mime:
        return
    reason = "" if job.fixed is None else f"; it cannot be converted, for {job.fixed}"
    raise SMTPNotSupported(f"{_NO_8BIT}{reason}")


def _needs_utf8(job: Job, content: Content | Stream) -> str | None:
    """Why the transaction must use SMTPUTF8 (RFC 6531 section 3.4), if it must."""
    for mailbox in (job.sender, *job.recipients):
        if mailbox is not None and mailbox.ascii is None:
            return f"the local part of {mailbox.given} is not ASCII"
    if not content.is_utf8:
        return None
    address = job.utf8_address
    where = "" if address is None else f", for the address {address} in it,"
    return f"{_UTF8}{where}"
