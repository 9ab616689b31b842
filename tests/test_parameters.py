"""What callers may ask for beside delivery, and how it is written."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.headerregistry import Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysmtp import DSN, DeliverBy, Envelope, Recipient
from anysmtp._grammar import ESMTP_PARAMETER
from anysmtp._parameters import (
    BINARY,
    REQUIRETLS,
    Parameter,
    deliver_by_parameter,
    hold_parameter,
    notify_parameter,
    orcpt_parameter,
    untyped,
    xtext,
)

NOW = datetime.now(timezone.utc)
HOUR = timedelta(hours=1)


def texts(*parameters: Parameter) -> list[str]:
    return [parameter.written() for parameter in parameters]


# DSN, RFC 3461


@pytest.mark.parametrize(
    ("dsn", "written"),
    [
        (DSN(), []),
        (DSN(ret="full"), ["RET=FULL"]),
        (DSN(ret="headers", envid="QQ314159"), ["RET=HDRS", "ENVID=QQ314159"]),
        (DSN(envid="a+b = c"), ["ENVID=a+2Bb+20+3D+20c"]),
    ],
)
def test_what_a_dsn_says_in_mail(dsn: DSN, written: list[str]) -> None:
    assert texts(*dsn.of_mail()) == written


@pytest.mark.parametrize(
    ("recipient", "written"),
    [
        (Recipient("a@x"), []),
        (Recipient("a@x", notify="never"), ["NOTIFY=NEVER"]),
        (Recipient("a@x", notify=["success", "delay", "success"]), ["NOTIFY=SUCCESS,DELAY"]),
        (Recipient("a@x", orcpt="b@x"), ["ORCPT=rfc822;b@x"]),
        (Recipient("a@x", orcpt="rfc822;b+c=d@x"), ["ORCPT=rfc822;b+2Bc+3Dd@x"]),
        (Recipient("a@x", orcpt='"a b"@x'), ['ORCPT=rfc822;"a+20b"@x']),
        (Recipient("a@x", orcpt="x400;/C=gb/"), ["ORCPT=x400;/C+3Dgb/"]),
        (Recipient("a@x", orcpt="jörg@x"), [r"ORCPT=utf-8;j\x{F6}rg@x"]),
        (Recipient("a@x", orcpt=r"utf-8;a+\=@x"), [r"ORCPT=utf-8;a\x{2B}\x{5C}\x{3D}@x"]),
        (
            Recipient(Address("A", "a", "x"), notify="failure", orcpt="b@x"),
            ["NOTIFY=FAILURE", "ORCPT=rfc822;b@x"],
        ),
    ],
)
def test_what_a_recipient_says_in_rcpt(recipient: Recipient, written: list[str]) -> None:
    assert texts(*recipient.parameters()) == written


@pytest.mark.parametrize(
    "make",
    [
        lambda: DSN(ret="body"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: DSN(envid=""),
        lambda: DSN(envid="ü"),
        lambda: DSN(envid="a\r\nRCPT"),
        lambda: DSN(envid="a" * 101),
        lambda: DSN(envid="+" * 34),
        lambda: DSN(notify=["never", "delay"]),
        lambda: DSN(notify="NEVER"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: Recipient("a@x", notify=["failure", "never"]),
        lambda: Recipient("a@x", orcpt=""),
        lambda: Recipient("a@x", orcpt="a\n@x"),
        lambda: Recipient("a@x", orcpt="rfc822;jörg@x"),
        lambda: Recipient("a@x", orcpt="a" * 500),
        lambda: Envelope(priority=10),
        lambda: Envelope(priority=-10),
        lambda: Envelope(deliver_by=0),
        lambda: Envelope(deliver_by=-5),
        lambda: Envelope(deliver_by=10**9),
        lambda: Envelope(deliver_by=float("nan")),
        lambda: Envelope(deliver_by=float("inf")),
        lambda: Envelope(deliver_by=datetime(2040, 1, 1)),  # noqa: DTZ001 - that is what is wrong
        lambda: Envelope(deliver_by=NOW - HOUR),
        lambda: DeliverBy(60, mode="drop"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: Envelope(hold_until=NOW - HOUR),
        lambda: Envelope(hold_until=0),
    ],
)
def test_nonsense_is_refused_when_it_is_made(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DSN, {"envid": 3}),
        (Recipient, {"address": None}),
        (Recipient, {"address": "a@x", "orcpt": b"x"}),
        (Envelope, {"dsn": "full"}),
        (Envelope, {"priority": True}),
        (Envelope, {"priority": "3"}),
        (Envelope, {"deliver_by": "soon"}),
        (Envelope, {"hold_until": True}),
        (Envelope, {"require_tls": 1}),
        (Envelope, {"binary": "no"}),
        (Envelope, {"allow_long_lines": None}),
    ],
)
def test_other_types_are_refused_when_it_is_made(
    kind: Callable[..., object], options: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=r" is a"):
        kind(**options)


# The others


@pytest.mark.parametrize(
    ("envelope", "extension", "pattern"),
    [
        (Envelope(require_tls=True), "REQUIRETLS", "REQUIRETLS"),
        (Envelope(priority=-9), "MT-PRIORITY", "MT-PRIORITY=-9"),
        (Envelope(priority=3), "MT-PRIORITY", "MT-PRIORITY=3"),
        (Envelope(deliver_by=120), "DELIVERBY", "BY=120;R"),
        (Envelope(deliver_by=HOUR), "DELIVERBY", "BY=3600;R"),
        (Envelope(deliver_by=0.5), "DELIVERBY", "BY=1;R"),
        (Envelope(deliver_by=DeliverBy(9, mode="notify")), "DELIVERBY", "BY=9;N"),
        (Envelope(deliver_by=DeliverBy(9, trace=True)), "DELIVERBY", "BY=9;RT"),
        (
            Envelope(deliver_by=datetime.max.replace(year=2040, tzinfo=timezone.utc)),
            "DELIVERBY",
            r"BY=\d{9};R",
        ),
        (Envelope(hold_until=90), "FUTURERELEASE", "HOLDFOR=90"),
        (Envelope(hold_until=HOUR), "FUTURERELEASE", "HOLDFOR=3600"),
        (
            Envelope(hold_until=datetime(2040, 1, 2, 3, 4, 5, tzinfo=timezone(HOUR))),
            "FUTURERELEASE",
            "HOLDUNTIL=2040-01-02T02:04:05Z",
        ),
    ],
)
def test_what_an_envelope_says_in_mail(envelope: Envelope, extension: str, pattern: str) -> None:
    [parameter] = envelope.parameters()
    assert parameter.extension == extension
    assert re.fullmatch(pattern, parameter.written())
    assert ESMTP_PARAMETER.fullmatch(parameter.written())


@pytest.mark.parametrize(
    ("envelope", "offer", "objection"),
    [
        (Envelope(priority=3), "STANAG4406", None),
        (Envelope(deliver_by=60), "", None),
        (Envelope(deliver_by=60), "60", None),
        (Envelope(deliver_by=60), "61", "within 60 seconds is asked for, the server wants 61"),
        (Envelope(deliver_by=60), "soon", None),
        (Envelope(deliver_by=DeliverBy(60, mode="notify")), "61", None),
        (Envelope(hold_until=60), "60 2040-01-01T00:00:00Z", None),
        (Envelope(hold_until=61), "60 2040-01-01T00:00:00Z", "HOLDFOR=61 .* holds .* 60 seconds"),
        (Envelope(hold_until=61), "", None),
        (
            Envelope(hold_until=datetime(2039, 1, 1, tzinfo=timezone.utc)),
            "60 2040-01-01T00:00:00Z",
            None,
        ),
        (
            Envelope(hold_until=datetime(2041, 1, 1, tzinfo=timezone.utc)),
            "60 2040-01-01T00:00:00Z",
            "HOLDUNTIL=2041.* holds until 2040",
        ),
        (Envelope(hold_until=datetime(2041, 1, 1, tzinfo=timezone.utc)), "60 never", None),
        (Envelope(hold_until=datetime(2041, 1, 1, tzinfo=timezone.utc)), "60 2040-01-01", None),
    ],
)
def test_what_an_offer_does_not_cover(
    envelope: Envelope, offer: str, objection: str | None
) -> None:
    [parameter] = envelope.parameters()
    found = parameter.objection(offer)
    assert (found is None) if objection is None else re.search(objection, found or "")


def test_a_deadline_may_pass_while_the_message_waits() -> None:
    """The seconds count from the MAIL command, so they are counted again for each."""
    by = DeliverBy(NOW + HOUR)
    [parameter] = Envelope(deliver_by=by).parameters()
    object.__setattr__(by, "within", NOW - HOUR)
    assert parameter.objection("") == "the time to deliver by has passed"
    object.__setattr__(by, "mode", "notify")
    assert parameter.objection("") is None
    assert parameter.written().startswith("BY=-")


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_xtext_can_be_read_back(text: str) -> None:
    written = xtext(text)
    assert not re.search(r"[^!-~]|=|\+(?![0-9A-F]{2})", written)
    assert re.sub(r"\+(..)", lambda found: chr(int(found[1], 16)), written) == text


# Raw ones beside them

FULL = Parameter("DSN", "RET=FULL")
HOLD = hold_parameter(datetime(2040, 1, 1, tzinfo=timezone.utc))


@pytest.mark.parametrize(
    ("raw", "typed", "kept"),
    [
        ((), [], ()),
        (("SIZE=1", "X"), [], ("SIZE=1", "X")),
        (("X=1", "x=1"), [], ("X=1",)),
        (("ret=full", "X"), [FULL], ("X",)),
        (("BODY=BINARYMIME",), [BINARY], ()),
        (("BODY=8BITMIME",), [FULL], ("BODY=8BITMIME",)),
        (("body=8bitmime", "BODY=8BITMIME"), [], ("body=8bitmime",)),
        (("notify=delay,Failure",), [notify_parameter(("failure", "delay"))], ()),
        (("orcpt=RFC822;a@x",), [orcpt_parameter("a@x")], ()),
        (("BY=60;r",), [deliver_by_parameter(60)], ()),
        (("HOLDUNTIL=2040-01-01t00:00:00z",), [HOLD], ()),
        (("HOLDUNTIL=2040-01-01T01:00:00+01:00",), [HOLD], ()),
        (("HOLDUNTIL=soon",), [], ("HOLDUNTIL=soon",)),
    ],
)
def test_what_is_said_twice_is_said_once(
    raw: tuple[str, ...], typed: list[Parameter], kept: tuple[str, ...]
) -> None:
    assert untyped(raw, typed) == kept


@pytest.mark.parametrize(
    ("raw", "typed"),
    [
        (("RET=HDRS",), [FULL]),
        (("X=1", "X=2"), []),
        (("BODY=8BITMIME",), [BINARY]),
        (("BODY=BINARYMIME",), []),
        (("X=a", "x=A"), []),
        (("ENVID=a",), [Parameter("DSN", "ENVID=A")]),
        (("ORCPT=rfc822;A@x",), [orcpt_parameter("a@x")]),
        (("NOTIFY=NEVER",), [notify_parameter(("delay",))]),
        (("HOLDFOR=1",), [HOLD]),
        (("HOLDUNTIL=2040-01-01T00:00:00Z",), [hold_parameter(1)]),
        (("HOLDUNTIL=2040-01-01T00:00:01Z",), [HOLD]),
        (("HOLDFOR=1", "HOLDUNTIL=2040-01-01T00:00:00Z"), []),
        (("REQUIRETLS=1",), [REQUIRETLS]),
    ],
)
def test_contradictions_are_refused(raw: tuple[str, ...], typed: list[Parameter]) -> None:
    with pytest.raises(ValueError, match=r"contradicts|binary=True"):
        untyped(raw, typed)


@pytest.mark.parametrize(
    "value",
    [
        DSN(ret="full", notify="delay"),
        Recipient("a@x", orcpt="b@x"),
        DeliverBy(60),
        Envelope(deliver_by=60, dsn=DSN(envid="1")),
    ],
)
def test_they_are_values(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert hash(value) == hash(pickle.loads(pickle.dumps(value)))
