"""What a send asks for beside delivery: its options and those of its `Envelope` as one value.

The two may say the same, and must not contradict each other; nor may a raw parameter contradict
one that has a type. That is found out here, when a send is called and before anything is opened.
What comes of it is held against the server's offer later (`_protocol/_demands`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from ._envelope import Envelope, Mailbox
from ._parameters import BINARY, DSN, REQUIRETLS, Notify, Parameter, says, untyped
from ._protocol._commands import parameters
from ._protocol._demands import with_notify

T = TypeVar("T")


class Wishes(NamedTuple):
    """All of them, checked; most sends have none."""

    mail_parameters: tuple[Parameter, ...] = ()
    mail_options: tuple[str, ...] = ()
    rcpt_options: tuple[str, ...] = ()
    notify: tuple[Notify, ...] = ()
    is_binary: bool = False
    allow_long_lines: bool = False

    def of_each(self, recipients: tuple[Mailbox, ...]) -> tuple[Mailbox, ...]:
        """The recipients, with what is asked for all of them. ValueError for contradictions."""
        if self.notify:
            recipients = with_notify(recipients, self.notify)
        if self.rcpt_options:
            for recipient in recipients:
                untyped(self.rcpt_options, recipient.parameters)
        return recipients


NO_WISHES = Wishes()
_NO_ENVELOPE = Envelope()
# The options of a send that ask for nothing of the kind.
_OTHERS = frozenset(("delivery", "envelope", "require_all", "sign"))


def wishes_of(options: Mapping[str, Any], envelope: Envelope | None) -> Wishes:
    """What the keyword options of a send, and its envelope, come to."""
    if (envelope is None or envelope.is_bare) and _OTHERS.issuperset(options):
        return NO_WISHES
    envelope = envelope or _NO_ENVELOPE
    dsn: DSN | None = one("dsn", given("dsn", options, DSN), envelope.dsn)
    is_binary = given("binary", options, bool) or envelope.binary
    typed: tuple[Parameter, ...] = (
        *((BINARY,) if is_binary else ()),
        *(() if dsn is None else dsn.of_mail()),
        *envelope.parameters(),
    )
    mail_options = untyped(_both("mail_options", options, envelope.mail_options), typed)
    if says(mail_options, REQUIRETLS.text):
        # RFC 8689 section 4.2.1 has the client see to it that it holds, however it was asked for.
        typed = (*typed, REQUIRETLS)
    return Wishes(
        mail_parameters=typed,
        mail_options=untyped(mail_options, typed),
        rcpt_options=untyped(_both("rcpt_options", options, envelope.rcpt_options), ()),
        notify=() if dsn is None else dsn.notify,
        is_binary=is_binary,
        allow_long_lines=given("allow_long_lines", options, bool) or envelope.allow_long_lines,
    )


def wrong_type(name: str, kind: type, given: str) -> TypeError:
    """What to raise for an option that is of another type."""
    # As they are spoken: an Envelope, an SSLContext.
    article = "an" if kind.__name__[0] in "AEIOS" else "a"
    return TypeError(f"{name} is {article} {kind.__name__}, not {given}")


def given(name: str, options: Mapping[str, Any], kind: type[T]) -> T | None:
    """An option, of its type or None: not whatever can be taken for it."""
    value = options.get(name)
    if value is not None and not isinstance(value, kind):
        raise wrong_type(name, kind, repr(value))
    return value


def one(name: str, argument: Any, in_envelope: Any) -> Any:
    """An argument, or its namesake in the envelope."""
    if argument is not None and in_envelope is not None and argument != in_envelope:
        raise ValueError(f"the argument {name} and the envelope's contradict each other")
    return in_envelope if argument is None else argument


def _both(name: str, options: Mapping[str, Any], in_envelope: Iterable[str]) -> tuple[str, ...]:
    """The raw parameters of an option and of its namesake in the envelope, checked together."""
    argument = options.get(name, ())
    if argument == () and in_envelope == ():
        return ()
    return parameters((*parameters(argument), *parameters(in_envelope)))
