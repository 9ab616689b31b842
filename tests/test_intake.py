"""A mail that is done with in one step is the one that it would be by any other way to send."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from email import message_from_string, policy
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.mime.text import MIMEText
from typing import Any, cast
from unittest import mock

import pytest

from anysmtp import SMTP, Envelope, Mail, Recipient
from anysmtp._book import Book
from anysmtp._envelope import Job, Stream
from anysmtp._intake import Intake
from anysmtp._item import Item
from anysmtp._letters import Letters
from anysmtp._mailer import BaseMailer
from anysmtp._message import _prepare
from anysmtp._protocol._transaction import MAX_FLIGHT
from anysmtp._transfer import ONE_WRITE
from anysmtp.testing import ScriptedServer
from support.clients import on_memory

pytestmark = pytest.mark.anyio


def letter() -> EmailMessage:
    found = EmailMessage()
    found["From"] = "A Sender <a@x.test>"
    found["To"] = "b@x.test"
    found["Subject"] = "a letter"
    found["Date"] = "Sun, 22 Nov 2026 12:00:00 +0000"
    found["Message-ID"] = "<letter@x.test>"
    found.set_content("Hello,\n\n.\nbye\n")
    return found


def changed(**fields: str | None) -> EmailMessage:
    """A letter with other fields, or without some; those of two words have a hyphen."""
    found = letter()
    for name, value in fields.items():
        del found[name.replace("_", "-")]
        if value is not None:
            found[name.replace("_", "-")] = value
    return found


def with_text(text: str, **kind: Any) -> EmailMessage:
    found = letter()
    found.set_content(text, **kind)
    return found


def parsed(**kind: Any) -> Message:
    return message_from_string(letter().as_string(), **kind)


def legacy() -> Message:
    found = MIMEText("hi\n")
    found["From"], found["To"] = "a@x.test", "b@x.test"
    return found


PLAIN: dict[str, Callable[[], Message]] = {
    "a letter": letter,
    "several recipients": lambda: changed(
        To="b@x.test, C <c@x.test>", Cc="d@x.test", Bcc="e@x.test"
    ),
    "a sender of its own": lambda: changed(Sender="s@x.test"),
    "without what is added": lambda: changed(Date=None, Message_ID=None),
    "dots": lambda: with_text(".\n..\nx\n.y\n"),
    "base64": lambda: with_text("gr\xfc\xdfe\n", cte="base64"),
    "parsed": lambda: parsed(policy=policy.default),
    "parsed the old way": parsed,
    "legacy": legacy,
}
ENVELOPES: dict[str, Envelope | None] = {
    "no envelope": None,
    "a sender": Envelope(sender="other@x.test"),
    "the null sender": Envelope(sender=""),
    "an Address": Envelope(sender=Address(addr_spec="other@x.test")),
    "a recipient": Envelope(recipients="other@x.test"),
    "recipients": Envelope(sender="s@x.test", recipients=("b@x.test", "C <c@x.test>")),
}


async def both(mail: object) -> tuple[Item | None, Item]:
    """The item that is made at once, and the one that is made by the long way; at one moment."""
    smtp = SMTP("mail.x.test", local_hostname="me.x.test")

    async def prepare(given: Mail[Any], book: Book) -> Job:
        return await BaseMailer._entered(smtp, given, book)

    intake = Intake(smtp._leases, prepare)
    with (
        mock.patch.object(_prepare, "_local_date", return_value="Sun, 22 Nov 2026 13:00:00 +0000"),
        mock.patch("os.urandom", bytes),
    ):
        at_once = intake.at_once(7, mail)
        later = intake.item(7, mail)
        await intake.serialise(later, mail)
    return at_once, later


def octets_of(item: Item) -> bytes:
    content = item.job.content
    assert not isinstance(content, Stream)
    return b"".join(content.chunks())


@pytest.mark.parametrize("envelope", ENVELOPES.values(), ids=ENVELOPES.keys())
@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN.keys())
async def test_a_plain_message_object_is_the_same_at_once(
    make: Callable[[], Message], envelope: Envelope | None
) -> None:
    at_once, later = await both(Mail(make(), envelope, key="its key"))
    assert at_once is not None
    assert at_once.letter is not None
    assert at_once.letter.whole == octets_of(later)
    assert at_once.size == later.size == len(at_once.letter.whole)
    for name in ("sender", "recipients", "message_id", "require_all", "mail_parameters"):
        assert getattr(at_once.job, name) == getattr(later.job, name), name
    assert at_once.delivery.key == later.delivery.key == "its key"
    assert at_once.delivery.message_id == later.delivery.message_id
    assert at_once.delivery.not_sent == later.delivery.not_sent


async def test_a_message_object_alone_is_the_same_at_once() -> None:
    at_once, later = await both(letter())
    assert at_once is not None
    assert octets_of(at_once) == octets_of(later)
    assert at_once.delivery.key is None


async def test_a_message_object_may_be_changed_once_it_was_taken() -> None:
    message = letter()
    at_once, _ = await both(message)
    assert at_once is not None
    before = octets_of(at_once)
    message.set_content("something else\n")
    message.replace_header("Subject", "another")
    assert octets_of(at_once) == before


@pytest.mark.parametrize(
    "mail",
    [
        with_text("x" * ONE_WRITE + "\n", cte="base64"),
        with_text("gr\xfc\xdfe\n", cte="8bit"),
        changed(Subject="gr\xfc\xdfe"),
        Mail(letter(), Envelope(priority=1)),
        Mail(letter(), Envelope(recipients=Recipient("b@x.test", notify="never"))),
        Mail(letter(), Envelope(sender="\xfc@x.test")),
    ],
)
async def test_what_is_more_than_plain_is_none_at_once(mail: object) -> None:
    at_once, later = await both(mail)
    assert at_once is None
    assert later.job.content.size


class Once(list[str]):
    """A list that is empty once it was read."""

    def __iter__(self) -> Iterator[str]:
        found = list(super().__iter__())
        self.clear()
        return iter(found)


@pytest.mark.parametrize("kind", [iter, Once], ids=["iterator", "list"])
@pytest.mark.parametrize("message", [letter(), b"hi"], ids=["object", "raw"])
async def test_recipients_that_can_be_read_only_once_are_not_read(
    message: Any, kind: Callable[[list[str]], Iterable[str]]
) -> None:
    envelope = Envelope(sender="a@x.test", recipients=kind(["c@x.test"]))
    at_once, later = await both(Mail(message, envelope))
    assert at_once is None
    assert [each.given for each in later.job.recipients] == ["c@x.test"]


class Equal(list[str]):
    """Recipients that say they are those of the mail before."""

    def __iter__(self) -> Iterator[str]:
        return iter(["other@x.test"])


class AnyCase(str):
    """A sender that is equal to others."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self.lower() == str(other).lower()

    def __hash__(self) -> int:
        return hash(self.lower())


async def test_what_only_says_that_it_is_like_the_one_before_is_looked_at_again() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await smtp.sendmail(AnyCase("Al@x.test"), ["b@x.test"], b"hi")
        await smtp.sendmail("al@x.test", ["b@x.test"], b"hi")
        receipt = await smtp.sendmail("al@x.test", Equal(["b@x.test"]), b"hi")
    assert [each.sender for each in server.messages] == ["Al@x.test", *["al@x.test"] * 2]
    assert list(receipt.accepted) == ["other@x.test"]


def most() -> list[str]:
    """As many recipients as can be named in one flight."""
    return [f"r{number}@x.test" for number in range(MAX_FLIGHT - 2)]


def to_all(recipients: list[str]) -> EmailMessage:
    return changed(To=", ".join(recipients))


@pytest.mark.parametrize(
    ("message", "recipients", "is_letter"),
    [
        *((b"hi", most(), True), (b"hi", [*most(), "a@x.test"], False)),
        *((to_all(most()), None, True), (to_all([*most(), "a@x.test"]), None, False)),
        *(
            ("text", "b@x.test", True),
            ("Gr\xfc\xdfe", "b@x.test", True),
            ("\ud800", "b@x.test", False),
        ),
        *((b"x\n" * 21845, "b@x.test", True), (b"x\n" * 21846, "b@x.test", False)),
        *((b"x" * 65537, "b@x.test", False), ("\xfc\r\n" * 16385, "b@x.test", False)),
    ],
)
async def test_what_is_a_letter(
    message: str | bytes | Message, recipients: Any, is_letter: bool
) -> None:
    letter = Letters(add_missing_headers=True).letter(message, "a@x.test", recipients)
    assert (letter is not None) == is_letter


async def test_what_is_wrong_with_a_mail_ends_no_stream() -> None:
    class Options(list[str]):
        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        __hash__ = None

    wrong = Envelope(sender="a@x.test", recipients="b@x.test", mail_options=Options())
    empty: Mail[Any] = Mail.__new__(Mail)
    good = Mail(b"hi", Envelope(sender="a@x.test", recipients="b@x.test"))
    mails: list[Mail[Any]] = [Mail(b"hi", wrong), empty, good]
    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        smtp.send_many(mails, ordered=True) as deliveries,
    ):
        found = [type(each.exception()) async for each in deliveries]
    assert found == [ZeroDivisionError, AttributeError, type(None)]


@pytest.mark.parametrize("subject", ["plain", "gr\xfc\xdfe"])
async def test_a_message_object_has_no_key_of_its_own(subject: str) -> None:
    class Keyed(EmailMessage):
        key = "mine"

    message = Keyed()
    message["From"], message["To"], message["Subject"] = "a@x.test", "b@x.test", subject
    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        smtp.send_many([message]) as deliveries,
    ):
        assert [each.key async for each in deliveries] == [None]


async def test_what_is_wrong_with_a_message_object_is_in_its_delivery() -> None:
    class Strange(EmailMessage):
        """Which was never made ready."""

        def __init__(self) -> None:
            self.policy = policy.default

    class Lazy(list[str]):
        """Recipients that are not there when they are read."""

        def __iter__(self) -> Iterator[str]:
            raise OSError("gone")

    mails = [
        Mail(letter(), Envelope(recipients=Lazy(["c@x.test"])), key="lazy"),
        Mail(b"hi", Envelope(sender="a@x.test", recipients=Lazy(["c@x.test"])), key="lazy, raw"),
        Mail(changed(To=None), key="nobody"),
        Mail(changed(From=None), key="from nobody"),
        Mail(letter(), Envelope(recipients="no address"), key="no address"),
        Mail(letter(), cast("Any", ""), key="no envelope"),
        Mail(Strange(), key="strange"),
        Mail(letter(), key="good"),
    ]
    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        smtp.send_many(mails, ordered=True) as deliveries,
    ):
        found = {each.key: each.exception() async for each in deliveries}
    assert {key: type(error) for key, error in found.items()} == {
        **dict.fromkeys(("nobody", "from nobody", "no address"), ValueError),
        **dict.fromkeys(("lazy", "lazy, raw"), OSError),
        "no envelope": TypeError,
        "strange": KeyError,
        "good": type(None),
    }
    assert len(server.messages) == 1


async def test_signers_get_to_see_every_message_object() -> None:
    signed: list[bytes] = []

    def sign(message: bytes) -> bytes:
        signed.append(message)
        return b"X-Signed: yes\r\n"

    async with (
        ScriptedServer() as server,
        on_memory(server, sign=sign) as smtp,
        smtp.send_many([letter(), letter()]) as deliveries,
    ):
        assert [each.exception() async for each in deliveries] == [None, None]
    assert len(signed) == 2
    assert all(b"X-Signed: yes" in each.raw for each in server.messages)
