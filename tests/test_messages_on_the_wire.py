"""What a message is on its way: CRLF lines, stuffed dots, no Bcc, and no more than is offered."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from email.mime.text import MIMEText
from typing import Any

import anyio
import pytest

import anysmtp
from anysmtp import (
    Delivery,
    SMTPDataError,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPRecipientsRefused,
)
from anysmtp.testing import DEFAULT_KEYWORDS, Act, ScriptedServer
from support.bench import LARGE, RECIPIENTS, message
from support.clients import RAW, SENDER, connection_to, deliver, email, on_memory, on_tcp
from support.slow import SlowMessage

pytestmark = pytest.mark.anyio

# What the caller has, and what the server gets.
TEXTS: dict[str, tuple[bytes | str, bytes]] = {
    "clean": (b"Subject: a\r\n\r\nb\r\n", b"Subject: a\r\n\r\nb\r\n"),
    "LF": (b"Subject: a\n\nb\n", b"Subject: a\r\n\r\nb\r\n"),
    "CR": (b"Subject: a\r\rb\r", b"Subject: a\r\n\r\nb\r\n"),
    "mixed": (b"a\rb\nc\r\nd\n\re\r\r\nf", b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n\r\nf\r\n"),
    "no final line end": (b"a\r\nb", b"a\r\nb\r\n"),
    "final CR": (b"a\r", b"a\r\n"),
    "only line ends": (b"\n\n", b"\r\n\r\n"),
    "a dot": (b".", b".\r\n"),
    "dots": (b".\n..\n...\n.a\n", b".\r\n..\r\n...\r\n.a\r\n"),
    "a lone dot": (b"a\n.\nb\n", b"a\r\n.\r\nb\r\n"),
    "a lone dot in CRLF lines": (b"a\r\n.\r\nMAIL FROM:<>\r\n", b"a\r\n.\r\nMAIL FROM:<>\r\n"),
    "smuggling LF": (b"a\n.\r\nRSET\r\n", b"a\r\n.\r\nRSET\r\n"),
    "smuggling CR": (b"a\r.\rRSET\r", b"a\r\n.\r\nRSET\r\n"),
    "smuggling CR LF": (b"a\r\n.\rRSET\n.\n", b"a\r\n.\r\nRSET\r\n.\r\n"),
    "NUL": (b"a\0b\r\n", b"a\0b\r\n"),
    "8bit": (b"Subject: a\n\n\xff\xe4\n", b"Subject: a\r\n\r\n\xff\xe4\r\n"),
    "text": ("Subject: a\n\nä\u2028b\x85c\n", "Subject: a\r\n\r\nä\u2028b\x85c\r\n".encode()),
    "From ": (b"From me\n\nFrom here\n", b"From me\r\n\r\nFrom here\r\n"),
    "longest lines": ((b"x" * 998 + b"\n") * 9, (b"x" * 998 + b"\r\n") * 9),
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.values(), ids=TEXTS)
async def test_a_raw_message_is_the_same_text_in_crlf_lines(
    text: bytes | str, expected: bytes
) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp, text)
        if isinstance(text, bytes):
            await smtp.sendmail(SENDER, RECIPIENTS, bytearray(text))
            await smtp.sendmail(SENDER, RECIPIENTS, memoryview(text))
        async with await connection_to(server) as conn:
            await conn.mail(SENDER, ["BODY=8BITMIME"])
            await conn.rcpt(RECIPIENTS[0])
            await conn.data(text)
    assert {received.raw for received in server.messages} == {expected}
    assert len(server.messages) >= 2


@pytest.mark.parametrize("offset", range(-4, 5))
@pytest.mark.parametrize("line", [b".\r\n", b"\n.\n", b"\r\n.\r\n", b"..\r\n", b"\r.\r"])
async def test_dots_and_line_ends_at_the_seams_of_a_large_message(line: bytes, offset: int) -> None:
    """A large message leaves in pieces of 64 KiB."""
    raw = b"x" * (65536 + offset) + line + b"y" * (65536 - 7) + b"\r\n" + line + b"z"
    lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp, raw, allow_long_lines=True)
    assert server.messages[0].raw == b"".join(line + b"\r\n" for line in lines)


async def test_a_large_message_arrives_byte_for_byte_over_tcp() -> None:
    raw = message("large", 3_000_000)
    async with ScriptedServer() as server, await on_tcp(server) as smtp:
        delivery: Delivery[None] = Delivery()
        await deliver(smtp, raw, delivery=delivery)
    assert server.messages[0].raw == raw
    assert delivery.bytes_sent == delivery.bytes_total == len(raw)


# Message objects


async def test_bcc_never_leaves_and_the_callers_object_is_not_touched() -> None:
    letter = email(Cc="c@x.test", Bcc="secret@x.test, other@x.test")
    before = letter.as_bytes(), letter.items()
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await smtp.send_message(letter)
        await smtp.send_message(letter, recipients="only@x.test")
    assert "secret@x.test" in server.messages[0].recipients
    for received in server.messages:
        assert b"secret" not in received.raw
        assert b"bcc:" not in received.raw.lower()
    assert (letter.as_bytes(), letter.items()) == before


async def test_a_message_id_that_is_longer_than_a_line_should_be_is_added_all_the_same() -> None:
    sender = f"a@{'long.' * 10}example"
    async with ScriptedServer() as server, on_memory(server) as smtp:
        receipt = await smtp.send_message(email(), sender=sender)
    [received] = server.messages
    assert received.raw.count(b"\r\nMessage-ID:") == received.raw.count(b"\r\nDate: ") == 1
    assert len(str(receipt.message_id)) > 78
    assert message_from_bytes(received.raw)["Message-ID"].strip() == receipt.message_id


async def test_resent_bcc_never_leaves() -> None:
    letter = email(Resent_From="c@x.test", Resent_To="d@x.test", Resent_Bcc="secret@x.test")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await smtp.send_message(letter)
    assert server.messages[0].recipients == ["d@x.test", "secret@x.test"]
    assert b"secret" not in server.messages[0].raw


async def test_the_bcc_of_an_attached_message_is_its_own_affair() -> None:
    letter, inner = email(Bcc="secret@x.test"), email(Bcc="inner@x.test")
    letter.add_attachment(inner)
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await smtp.send_message(letter)
    assert b"inner@x.test" in server.messages[0].raw
    assert b"secret@x.test" not in server.messages[0].raw
    assert server.messages[0].recipients == [RECIPIENTS[0], "secret@x.test"]


def _eight_bit() -> EmailMessage:
    letter = email(Subject="Grüße")
    letter.set_content("Hällo\n.\nFrom here\n", cte="8bit")
    return letter


async def test_8bit_leaves_as_it_is_where_8bitmime_is_offered() -> None:
    async with ScriptedServer(keywords=["8BITMIME"]) as server, on_memory(server) as smtp:
        await smtp.send_message(_eight_bit())
    [received] = server.messages
    assert received.mail_options == ["BODY=8BITMIME"]
    assert "Hällo\r\n.\r\nFrom here\r\n".encode() in received.raw
    header, _, _ = received.raw.partition(b"\r\n\r\n")
    assert header.isascii()


@pytest.mark.parametrize("size", [1, 30_000], ids=["small", "large"])
async def test_8bit_becomes_7bit_where_it_is_not_offered(size: int) -> None:
    letter = _eight_bit()
    letter.set_content("Hällo\n" * size, cte="8bit")
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(keywords=[]) as server, on_memory(server) as smtp:
        await smtp.send_message(letter, delivery=delivery)
    [received] = server.messages
    assert received.raw.isascii()
    assert received.mail_options == []
    parsed = message_from_bytes(received.raw, policy=policy.default)
    assert parsed.get_content().splitlines() == ["Hällo"] * size
    assert parsed["Subject"] == "Grüße"
    assert delivery.bytes_sent == delivery.bytes_total == len(received.raw)


async def test_the_size_that_is_declared_is_that_of_what_leaves() -> None:
    async with ScriptedServer(keywords=["SIZE"]) as server, on_memory(server) as smtp:
        await smtp.send_message(_eight_bit())
        await deliver(smtp, "no final line end\n.")
    for received in server.messages:
        assert received.mail_options == [f"SIZE={len(received.raw)}"]


async def test_raw_8bit_is_not_sent_where_it_is_not_offered() -> None:
    async with ScriptedServer(keywords=["PIPELINING"]) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPNotSupported, match="does not offer 8BITMIME") as caught:
            await deliver(smtp, b"Subject: a\r\n\r\n\xe4\r\n")
        assert not caught.value.may_retry
        assert not caught.value.connection_closed
        await deliver(smtp)
    assert server.connection.verbs == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]


async def test_a_legacy_message_is_sent_by_its_own_policy() -> None:
    letter = MIMEText("From here\n.\nund grüße\n", "plain", "utf-8")
    letter["From"], letter["To"], letter["Subject"] = SENDER, RECIPIENTS[0], "Grüße"
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await smtp.send_message(letter)
    parsed = message_from_bytes(server.messages[0].raw, policy=policy.default)
    assert parsed["Subject"] == "Grüße"
    assert parsed.get_content() == "From here\n.\nund grüße\n"


async def test_a_parsed_message_with_raw_octets_is_sent_as_it_was() -> None:
    source = b"From: a@x.test\nTo: b@x.test\nSubject: raw\n\n\xff.\n.\n"
    letter: Message = message_from_bytes(source)
    async with ScriptedServer() as server, on_memory(server, add_missing_headers=False) as smtp:
        await smtp.send_message(letter)
    assert server.messages[0].raw == source.replace(b"\n", b"\r\n")


# SMTPUTF8


async def test_an_address_that_needs_smtputf8_is_sent_with_it() -> None:
    letter = email(From="Jörg <jörg@bücher.test>", To="b@bücher.test")
    server = ScriptedServer(keywords=["SMTPUTF8", "8BITMIME"])
    async with server, on_memory(server) as smtp:
        receipt = await smtp.send_message(letter)
    [received] = server.messages
    assert received.sender == "jörg@bücher.test"
    assert "SMTPUTF8" in received.mail_options
    assert "Jörg <jörg@bücher.test>".encode() in received.raw
    assert list(receipt.accepted) == ["b@bücher.test"]


@pytest.mark.parametrize(
    ("sender", "recipient"), [("jörg@x.test", "b@x.test"), ("a@x.test", "jörg@x.test")]
)
async def test_an_address_that_needs_smtputf8_is_refused_where_it_is_not_offered(
    sender: str, recipient: str
) -> None:
    async with ScriptedServer(keywords=[]) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPNotSupported, match="does not offer SMTPUTF8") as caught:
            await smtp.sendmail(sender, recipient, RAW)
        assert not caught.value.may_retry
        await deliver(smtp)
    assert server.connection.verbs.count("MAIL") == 1


async def test_raw_header_fields_in_utf8_need_smtputf8() -> None:
    raw = "Subject: Grüße\r\n\r\nhello\r\n"
    async with ScriptedServer(keywords=["8BITMIME"]) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPNotSupported, match="header section is not ASCII"):
            await deliver(smtp, raw)
    server = ScriptedServer(keywords=["8BITMIME", "SMTPUTF8"])
    async with server, on_memory(server) as smtp:
        await deliver(smtp, raw)
    assert server.messages[0].mail_options == ["BODY=8BITMIME", "SMTPUTF8"]


async def test_a_domain_in_other_letters_needs_no_smtputf8() -> None:
    letter = email(From="a@bücher.test", To="Bücher <b@bücher.test>")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        receipt = await smtp.send_message(letter)
    [received] = server.messages
    assert received.sender == "a@xn--bcher-kva.test"
    assert received.recipients == ["b@xn--bcher-kva.test"]
    assert b"a@xn--bcher-kva.test" in received.raw
    assert received.raw.isascii()
    assert list(receipt.accepted) == ["b@bücher.test"]


# SIZE


async def test_a_message_over_the_declared_size_is_not_sent() -> None:
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(keywords=["SIZE 1000"]) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPMessageTooLarge, match="has 1001 octets") as caught:
            await deliver(smtp, b"x" * 996 + b"\r\ny", delivery=delivery)
        await deliver(smtp, b"x" * 998)
    assert not caught.value.may_retry
    assert not delivery.may_retry
    assert delivery.outcome == caught.value.outcome == "not_sent"
    assert server.connection.verbs.count("MAIL") == 1
    assert str(caught.value).endswith("the server takes 1000")


@pytest.mark.parametrize("keyword", ["SIZE", "SIZE 0", "SIZE x"])
async def test_a_size_that_says_nothing_is_no_limit(keyword: str) -> None:
    server = ScriptedServer(
        script={"EHLO": f"250-x\n250 {keyword}", "MAIL": ["250 Ok"]}, strict=False
    )
    async with server, on_memory(server) as smtp:
        await deliver(smtp, b"x\r\n" * 50_000)
    assert len(server.messages) == 1


async def test_the_callers_own_parameters_are_not_doubled() -> None:
    keywords = ["SIZE 10000", "8BITMIME", "SMTPUTF8"]
    options = ["size=500", "BODY=8BITMIME", "smtputf8"]
    async with ScriptedServer(keywords=keywords) as server, on_memory(server) as smtp:
        await deliver(smtp, "Subject: ä\r\n\r\nä\r\n", mail_options=options)
    assert server.messages[0].mail_options == options


# Large message objects


async def test_a_large_object_may_be_changed_as_soon_as_the_call_has_begun() -> None:
    with SlowMessage() as slow:
        async with (
            ScriptedServer() as server,
            on_memory(server) as smtp,
            anyio.create_task_group() as group,
        ):
            group.start_soon(smtp.send_message, slow.message)
            await slow.wait_started()
            del slow.message["To"]
            slow.message["To"] = "eve@x.test"
            slow.message.replace_header("Subject", "changed")
            slow.message.set_content("changed\n")
            slow.go_on()
    [received] = server.messages
    assert received.recipients == [RECIPIENTS[0]]
    assert b"Subject: slow\r\n" in received.raw
    assert b"changed" not in received.raw
    assert b"eve" not in received.raw
    assert received.raw.count(b"x" * 70 + b"\r\n") == 200_000 // 71


async def test_the_same_large_object_may_be_sent_by_many_tasks_at_once() -> None:
    letter = email()
    for number in range(3):
        letter.add_attachment(bytes(100_000), "application", "octet-stream", filename=str(number))
    async with (
        ScriptedServer() as server,
        on_memory(server) as smtp,
        anyio.create_task_group() as group,
    ):
        for _ in range(5):
            group.start_soon(smtp.send_message, letter)
    assert len(server.messages) == 5
    for received in server.messages:
        parsed = message_from_bytes(received.raw, policy=policy.default)
        assert [len(part.get_content()) for part in parsed.iter_attachments()] == [100_000] * 3


async def test_an_early_refusal_of_a_large_message_over_tcp_is_what_the_caller_sees() -> None:
    delivery: Delivery[None] = Delivery()
    refusal = Act("552 5.3.4 Too much", then="close")
    async with ScriptedServer(script={"BODY": [refusal]}) as server, await on_tcp(server) as smtp:
        with pytest.raises(SMTPDataError, match="Too much"):
            await deliver(smtp, message("large", 20 * LARGE), delivery=delivery)
        await deliver(smtp)
    assert delivery.outcome == "refused"
    assert len(server.messages) == 1


async def test_send_alone_takes_both_kinds_of_message() -> None:
    async with ScriptedServer(keywords=DEFAULT_KEYWORDS) as server:
        options: dict[str, Any] = {"connectable": server.connectable, "tls": "off"}
        receipt = await anysmtp.send(email(), "mail.example.test", **options)
        await anysmtp.send(email(), sender="", recipients="c@x.test", **options)
        await anysmtp.send(RAW, sender=SENDER, recipients=RECIPIENTS, require_all=True, **options)
        send: Any = anysmtp.send
        with pytest.raises(TypeError, match="with a sender and recipients"):
            await send(RAW, sender=SENDER, **options)
        with pytest.raises(TypeError, match="no option of this name: nonsense"):
            await send(email(), nonsense=1, **options)
        server.script["RCPT"] = "550 5.1.1 No"
        with pytest.raises(SMTPRecipientsRefused):
            await anysmtp.send(email(), **options)
        await server.wait_closed()
    assert receipt.server == "mail.example.test:25"
    assert [record.end for record in server.connections] == ["quit"] * 3 + ["eof"]
    assert [received.sender for received in server.messages] == [SENDER, "", SENDER]
