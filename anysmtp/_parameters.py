"""What a message asks of a server beyond being delivered: typed parameters of MAIL and RCPT.

A `Parameter` knows the extension that the server must offer for it, how it is written, and whether
what the server says of its extension (the rest of the EHLO line) lets it through. The values that
callers write, `DSN` and `DeliverBy`, are checked when they are made; what they come to is made
here too, so that each extension has one place.

Raw parameters stand beside them for what has no type. One that says what a typed one says already
is left out; one that says otherwise is a ValueError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, TypeAlias, get_args

Notify: TypeAlias = Literal["never", "success", "failure", "delay"]
"""On which events a recipient's server reports to the sender (RFC 3461 section 4.1)."""
Return: TypeAlias = Literal["full", "headers"]

# RFC 3461 section 4: xtext = *( xchar / hexchar )
#     xchar   = any ASCII CHAR between "!" (33) and "~" (126) inclusive, except for "+" and "="
#     hexchar = ASCII "+" immediately followed by two upper case hexadecimal digits
_NOT_XCHAR = re.compile(r"[^!-*,-<>-~]")
# RFC 6533 section 3: utf-8-addr-xtext, in which a character stands as \x{HEX}.
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")
_PRINTABLE = re.compile(r"[ -~]+")
# RFC 3461 section 4.2: original-recipient-address = addr-type ";" xtext
_TYPED_ADDRESS = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*);(.+)", re.DOTALL)
# RFC 3461 sections 4.2 and 4.4.
_MAX_ORCPT = 500
_MAX_ENVID = 100
# RFC 2852 section 4: by-value = ["-"] 1*9DIGIT; RFC 4865 section 4 has nine digits too.
_MAX_SECONDS = 999_999_999


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, and the extension that it needs."""

    extension: str
    """The EHLO keyword."""
    text: str
    """As it stands in the command."""

    @property
    def keyword(self) -> str:
        return self.text.partition("=")[0]

    def written(self) -> str:
        """As it stands in the command that is written now."""
        return self.text

    def objection(self, offer: str) -> str | None:
        """Why a server that offers the extension with these words does not take it, if so."""
        del offer
        return None


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class DSN:
    """What the sender wants to be told about the delivery (RFC 3461). ValueError for nonsense."""

    ret: Return | None
    """What a report of failure returns, the message or its header section; None: as servers do."""
    envid: str | None
    """An identifier that reports repeat, in printable ASCII."""
    notify: tuple[Notify, ...]
    """What is reported, for recipients that do not say themselves; ``"never"`` stands alone."""

    def __init__(
        self,
        *,
        ret: Return | None = None,
        envid: str | None = None,
        notify: Notify | Iterable[Notify] = (),
    ) -> None:
        if ret is not None and ret not in get_args(Return):
            raise ValueError(f"ret is 'full' or 'headers', not {ret!r}")
        if envid is not None and len(_envid(envid)) > _MAX_ENVID:
            raise ValueError(f"envid has more than {_MAX_ENVID} octets once it is encoded")
        object.__setattr__(self, "ret", ret)
        object.__setattr__(self, "envid", envid)
        object.__setattr__(self, "notify", notified(notify))

    def of_mail(self) -> Iterable[Parameter]:
        """RET and ENVID."""
        if self.ret is not None:
            yield Parameter("DSN", "RET=FULL" if self.ret == "full" else "RET=HDRS")
        if self.envid is not None:
            yield Parameter("DSN", f"ENVID={_envid(self.envid)}")


@dataclass(frozen=True, slots=True, init=False)
class DeliverBy:
    """By when a message is to be delivered (RFC 2852), and what happens if it is not.

    ``within`` is a number of seconds, counted from the MAIL command, or a timedelta, or the moment
    itself: a datetime with its zone. ValueError for what is no time, or past.
    """

    within: float | timedelta | datetime
    mode: Literal["return", "notify"]
    """``"return"``: it is sent back. ``"notify"``: it is delivered late, and the sender is told."""
    trace: bool
    """Whether the sender is told of each server that takes it over."""

    def __init__(
        self,
        within: float | timedelta | datetime,
        *,
        mode: Literal["return", "notify"] = "return",
        trace: bool = False,
    ) -> None:
        if mode not in ("return", "notify"):
            raise ValueError(f"mode is 'return' or 'notify', not {mode!r}")
        seconds = _seconds_until("deliver_by", within)
        if not 0 < seconds <= _MAX_SECONDS:
            raise ValueError(f"deliver_by is from 1 to {_MAX_SECONDS} seconds ahead, not {within}")
        object.__setattr__(self, "within", within)
        object.__setattr__(self, "mode", mode)
        object.__setattr__(self, "trace", trace)

    @property
    def seconds(self) -> int:
        """How many are left."""
        return _seconds_until("deliver_by", self.within)


@dataclass(frozen=True, slots=True)
class _By(Parameter):
    """BY, whose seconds count from the MAIL command that they stand in."""

    by: DeliverBy

    def written(self) -> str:
        letters = ("R" if self.by.mode == "return" else "N") + "T" * self.by.trace
        return f"BY={self.by.seconds};{letters}"

    def objection(self, offer: str) -> str | None:
        seconds, is_return = self.by.seconds, self.by.mode == "return"
        if seconds <= 0 and is_return:
            return "the time to deliver by has passed"
        # RFC 2852 section 3: the least by-time that the server takes in this mode.
        least = int(offer) if re.fullmatch(r"[0-9]{1,9}", offer) else 0
        if is_return and seconds < least:
            return f"delivery within {seconds} seconds is asked for, the server wants {least}"
        return None


@dataclass(frozen=True, slots=True)
class _Hold(Parameter):
    """HOLDFOR or HOLDUNTIL, within the limits that the server gives (RFC 4865 section 3)."""

    until: int | datetime

    def objection(self, offer: str) -> str | None:
        interval, _, moment = offer.partition(" ")
        if isinstance(self.until, int):
            is_too_long = interval.isdigit() and self.until > int(interval)
            limit = f"{interval} seconds"
        else:
            latest = _moment(moment.strip())
            is_too_long = latest is not None and self.until > latest
            limit = moment.strip()
        return f"{self.text} is asked for, the server holds until {limit}" if is_too_long else None


def xtext(text: str) -> str:
    """Text in ASCII as xtext (RFC 3461 section 4)."""
    return _NOT_XCHAR.sub(lambda found: f"+{ord(found[0]):02X}", text)


def notified(notify: Any) -> tuple[Notify, ...]:
    """Events of NOTIFY, each once. ValueError for others, and for ``"never"`` beside one."""
    asked: tuple[Any, ...] = (notify,) if isinstance(notify, str) else tuple(notify)
    if unknown := [event for event in asked if event not in get_args(Notify)]:
        raise ValueError(f"notify is one of {', '.join(get_args(Notify))}, not {unknown[0]!r}")
    if "never" in asked and len(set(asked)) > 1:
        raise ValueError("notify has 'never' and something else")
    return tuple(dict.fromkeys(asked))


def notify_parameter(notify: tuple[Notify, ...]) -> Parameter:
    return Parameter("DSN", f"NOTIFY={','.join(notify).upper()}")


def orcpt_parameter(orcpt: str) -> Parameter:
    """ORCPT: an address of type rfc822, or of utf-8 if it is not ASCII, unless it names a type.

    ValueError for what cannot be written.
    """
    if not isinstance(orcpt, str):
        raise TypeError(f"orcpt is a str, not {orcpt!r}")
    typed = _TYPED_ADDRESS.fullmatch(orcpt)
    kind, address = typed.groups() if typed else ("rfc822" if orcpt.isascii() else "utf-8", orcpt)
    is_utf8 = kind.lower() == "utf-8"
    if not address.isprintable() or not (address and (is_utf8 or address.isascii())):
        raise ValueError(f"no original recipient of the type {kind}: {orcpt!r}")
    text = f"ORCPT={kind};{_utf8_xtext(address) if is_utf8 else xtext(address)}"
    if len(text) - len("ORCPT=") > _MAX_ORCPT:
        raise ValueError(f"orcpt has more than {_MAX_ORCPT} octets once it is encoded")
    return Parameter("DSN", text)


def priority_parameter(priority: int) -> Parameter:
    """MT-PRIORITY (RFC 6710 section 5): from -9 to 9."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority is a number, not {priority!r}")
    if not -9 <= priority <= 9:
        raise ValueError(f"priority is from -9 to 9, not {priority}")
    return Parameter("MT-PRIORITY", f"MT-PRIORITY={priority}")


def deliver_by_parameter(deliver_by: float | timedelta | datetime | DeliverBy) -> Parameter:
    by = deliver_by if isinstance(deliver_by, DeliverBy) else DeliverBy(deliver_by)
    return _By("DELIVERBY", "BY", by)


def hold_parameter(hold_until: float | timedelta | datetime) -> Parameter:
    """HOLDUNTIL for a moment, HOLDFOR for a number of seconds or a timedelta."""
    seconds = _seconds_until("hold_until", hold_until)
    if not 0 < seconds <= _MAX_SECONDS:
        raise ValueError(f"hold_until is from 1 to {_MAX_SECONDS} seconds ahead, not {hold_until}")
    if isinstance(hold_until, datetime):
        moment = hold_until.astimezone(timezone.utc).replace(microsecond=0)
        text = f"HOLDUNTIL={moment:%Y-%m-%dT%H:%M:%S}Z"
        return _Hold("FUTURERELEASE", text, moment)
    return _Hold("FUTURERELEASE", f"HOLDFOR={seconds}", seconds)


REQUIRETLS = Parameter("REQUIRETLS", "REQUIRETLS")
BINARY = Parameter("BINARYMIME", "BODY=BINARYMIME")

# RFC 4865 section 4: a message is held by one of the two.
_ONE_OF: Mapping[str, str] = {"HOLDUNTIL": "HOLDFOR"}
# How values are read that may be written in several ways; others stand for themselves.
_READ: Mapping[str, Callable[[str], object]] = {
    "BODY": str.upper,
    "BY": str.upper,
    "HOLDUNTIL": lambda moment: _moment(moment) or moment,
    "NOTIFY": lambda events: frozenset(events.upper().split(",")),
    "ORCPT": lambda typed: (typed.partition(";")[0].lower(), typed.partition(";")[2]),
    "RET": str.upper,
}


def untyped(raw: tuple[str, ...], typed: Iterable[Parameter]) -> tuple[str, ...]:
    """The raw parameters, each once, but for those that a typed one says as well.

    ValueError for what is said in two ways.
    """
    if not raw:
        return raw
    said = {_about(parameter.keyword): parameter.written() for parameter in typed}
    kept: dict[str, str] = {}
    for option in raw:
        about = _about(option)
        if option.upper() == BINARY.text and about not in said:
            raise ValueError(f"{option} is asked for by binary=True")
        other = said.get(about) or kept.setdefault(about, option)
        if _meaning(other) != _meaning(option):
            raise ValueError(f"{option} contradicts {other}, which is asked for as well")
    return tuple(kept.values())


def says(options: Iterable[str], parameter: str) -> bool:
    """Whether one of these raw parameters is this one, which has no value or one in any case."""
    return any(option.upper() == parameter for option in options)


def is_seven_bit(mail_options: Iterable[str]) -> bool:
    """Whether a message was declared to have no octets above 127 (RFC 6152 section 3)."""
    return says(mail_options, "BODY=7BIT")


def _about(option: str) -> str:
    keyword = option.partition("=")[0].upper()
    return _ONE_OF.get(keyword, keyword)


def _meaning(option: str) -> tuple[str, object]:
    """Equal for parameters that ask for the same."""
    keyword, _, value = option.partition("=")
    keyword = keyword.upper()
    return keyword, _READ.get(keyword, str)(value)


def _envid(envid: str) -> str:
    if not isinstance(envid, str):
        raise TypeError(f"envid is a str, not {envid!r}")
    if not _PRINTABLE.fullmatch(envid):
        raise ValueError(f"envid is printable ASCII, not {envid!r}")
    return xtext(envid)


def _utf8_xtext(address: str) -> str:
    """RFC 6533 section 3; in ASCII, so that it can be sent where SMTPUTF8 is not used."""
    return _NOT_QCHAR.sub(lambda found: rf"\x{{{ord(found[0]):02X}}}", address)


def _seconds_until(name: str, moment: Any) -> int:
    """Whole seconds from now; at least one of a time that is ahead."""
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(f"{name} is a datetime without its zone")
        return math.ceil((moment - datetime.now(timezone.utc)).total_seconds())
    if isinstance(moment, timedelta):
        return math.ceil(moment.total_seconds())
    if isinstance(moment, bool) or not isinstance(moment, (int, float)):
        raise TypeError(f"{name} is a number of seconds, a timedelta or a datetime, not {moment!r}")
    if not math.isfinite(moment):
        raise ValueError(f"{name} is a number of seconds, not {moment!r}")
    return math.ceil(moment)


def _moment(text: str) -> datetime | None:
    """A date-time of RFC 3339 in UTC, or None for what is none."""
    try:
        found = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
