"""Each extension: used where it is offered; else a clear error, and nothing was sent."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from anysmtp import (
    DSN,
    SMTP,
    Delivery,
    Envelope,
    Mail,
    Recipient,
    SMTPConnection,
    SMTPDataError,
    SMTPNotSupported,
    SMTPTLSError,
)
from anysmtp.testing import Act, ScriptedServer
from support.clients import RAW, SENDER, connection_to, deliver, email, on_memory
from support.tls import Certificates

pytestmark = pytest.mark.anyio

B, C = "b@x.test", "c@x.test"
CHUNKING = ("PIPELINING", "CHUNKING", "8BITMIME", "BINARYMIME")


def _sent(**options: Any) -> dict[str, Any]:
    return {"sender": SENDER, "recipients": [B], "raw": RAW, **options}


# What is asked for, the keyword that it needs, and what MAIL and RCPT say then.
ASKED: list[tuple[dict[str, Any], str, list[str], list[str]]] = [
    (_sent(sender="jörg@x.test"), "SMTPUTF8", ["SMTPUTF8"], []),
    (_sent(recipients=["jörg@x.test"]), "SMTPUTF8", ["SMTPUTF8"], []),
    (_sent(raw=b"A: b\r\n\r\n\xe4\r\n"), "8BITMIME", ["BODY=8BITMIME"], []),
    (
        _sent(dsn=DSN(ret="headers", envid="a b", notify="never")),
        "DSN",
        ["RET=HDRS", "ENVID=a+20b"],
        ["NOTIFY=NEVER"],
    ),
    (_sent(envelope=Envelope(dsn=DSN(ret="full"))), "DSN", ["RET=FULL"], []),
    (_sent(dsn=DSN(notify=["success", "failure"])), "DSN", [], ["NOTIFY=SUCCESS,FAILURE"]),
    (
        _sent(recipients=[Recipient(B, notify="delay", orcpt="o@x")], dsn=DSN(notify="never")),
        "DSN",
        [],
        ["NOTIFY=DELAY", "ORCPT=rfc822;o@x"],
    ),
    (
        _sent(recipients=Recipient(B, orcpt="o@x"), rcpt_options=["NOTIFY=NEVER"]),
        "DSN",
        [],
        ["ORCPT=rfc822;o@x", "NOTIFY=NEVER"],
    ),
    (
        _sent(recipients=Recipient(B, notify="never"), rcpt_options=["notify=never"]),
        "DSN",
        [],
        ["NOTIFY=NEVER"],
    ),
    (_sent(envelope=Envelope(priority=-3)), "MT-PRIORITY", ["MT-PRIORITY=-3"], []),
    (_sent(envelope=Envelope(deliver_by=60)), "DELIVERBY 60", ["BY=60;R"], []),
    (_sent(envelope=Envelope(hold_until=60)), "FUTURERELEASE 60", ["HOLDFOR=60"], []),
]


async def _send(smtp: SMTP | SMTPConnection, asked: dict[str, Any], **more: Any) -> None:
    options = {**asked, **more}
    positional = (options.pop("sender"), options.pop("recipients"), options.pop("raw"))
    await smtp.sendmail(*positional, **options)


@pytest.mark.parametrize(("asked", "keyword", "mail", "rcpt"), ASKED)
async def test_it_is_used_where_it_is_offered(
    asked: dict[str, Any], keyword: str, mail: list[str], rcpt: list[str]
) -> None:
    async with ScriptedServer(keywords=[keyword]) as server, on_memory(server) as smtp:
        await _send(smtp, asked)
    [message] = server.messages
    assert message.mail_options == mail
    assert list(message.rcpt_options.values()) == [rcpt]


@pytest.mark.parametrize("pipelining", ["auto", "eager"])
@pytest.mark.parametrize(("asked", "keyword", "mail", "rcpt"), ASKED)
async def test_nothing_is_sent_where_it_is_not_offered(
    asked: dict[str, Any], keyword: str, mail: list[str], rcpt: list[str], pipelining: str
) -> None:
    """And the connection can be used as if nothing had been."""
    del mail, rcpt
    delivery: Delivery[None] = Delivery()
    server = ScriptedServer(keywords=["PIPELINING", "CHUNKING"])
    async with server, on_memory(server, pipelining=pipelining) as smtp:
        name = keyword.split(maxsplit=1)[0]
        with pytest.raises(SMTPNotSupported, match=f"does not offer {name}") as caught:
            await _send(smtp, asked, delivery=delivery)
        assert server.connection.verbs == ["EHLO"]
        await deliver(smtp)
    assert server.connection.verbs.count("MAIL") == 1
    assert (caught.value.outcome, delivery.outcome) == ("not_sent", "not_sent")
    assert not caught.value.may_retry
    assert not caught.value.connection_closed
    assert caught.value.server == "mail.example.test:25"


async def test_the_error_names_the_address() -> None:
    async with ScriptedServer(keywords=["PIPELINING"]) as server, on_memory(server) as smtp:
        for recipient in ("jörg@x.test", Recipient(C, notify="never")):
            asked = recipient if isinstance(recipient, str) else C
            with pytest.raises(SMTPNotSupported, match=asked):
                await smtp.sendmail(SENDER, [B, recipient], RAW)
    assert server.connection.verbs == ["EHLO", "QUIT"]


async def test_the_error_names_an_address_that_is_in_the_header_only() -> None:
    message = email(Cc="a@x.test, Jörg <jörg@x.test>")
    async with ScriptedServer(keywords=["8BITMIME"]) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPNotSupported, match=r"address jörg@x\.test in it"):
            await smtp.send_message(message, recipients=B)
    assert server.connection.verbs == ["EHLO", "QUIT"]


async def test_the_longest_parameters_fit_their_commands() -> None:
    raw = [f"X-{number}={'x' * 100}" for number in range(14)]
    recipient = Recipient("b" * 64 + "@" + "x" * 60 + ".test", notify="delay", orcpt="+" * 164)
    dsn = DSN(ret="headers", envid="+" * 33)
    script = {"MAIL": "250 Ok", "RCPT": "250 Ok"}
    server = ScriptedServer(keywords=["DSN", "PIPELINING"], script=script, strict=False)
    async with server, on_memory(server) as smtp:
        receipt = await smtp.sendmail(
            SENDER, recipient, RAW, dsn=dsn, mail_options=raw, rcpt_options=raw
        )
    assert list(receipt.accepted) == [recipient.address]


@pytest.mark.parametrize(
    ("envelope", "offer"),
    [
        (Envelope(deliver_by=59), "DELIVERBY 60"),
        (Envelope(hold_until=61), "FUTURERELEASE 60 2040-01-01T00:00:00Z"),
    ],
)
async def test_nothing_is_sent_beyond_what_is_offered(envelope: Envelope, offer: str) -> None:
    async with ScriptedServer(keywords=[offer]) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPNotSupported, match="is asked for, the server"):
            await deliver(smtp, envelope=envelope)
    assert server.connection.verbs == ["EHLO", "QUIT"]


@pytest.mark.parametrize(
    "options",
    [
        {"dsn": DSN(ret="full"), "mail_options": ["RET=HDRS"]},
        {"dsn": DSN(notify="never"), "rcpt_options": ["NOTIFY=DELAY"]},
        {"dsn": DSN(ret="full"), "envelope": Envelope(dsn=DSN(ret="headers"))},
        {"envelope": Envelope(priority=1, mail_options=["MT-PRIORITY=2"])},
        {"binary": True, "mail_options": ["BODY=7BIT"]},
        {"mail_options": ["BODY=BINARYMIME"]},
        {"mail_options": ["A=1"], "envelope": Envelope(mail_options=["a=2"])},
        {"mail_options": ["HOLDUNTIL=2040-01-01T00:00:00Z"], "envelope": Envelope(hold_until=5)},
        {"mail_options": ["HOLDUNTIL=2040-01-01T00:00:00Z", "holdfor=5"]},
        {"mail_options": ["ENVID=a"], "dsn": DSN(envid="A")},
        {"mail_options": ["REQUIRETLS=yes"], "envelope": Envelope(require_tls=True)},
        {"mail_options": ["body=7bit"], "raw": "ä"},
        {"mail_options": ["BODY=7BIT"], "raw": "ä\r\n" * 500_000},
    ],
)
async def test_contradictions_are_found_before_anything_is_opened(options: dict[str, Any]) -> None:
    async with ScriptedServer(keywords=["DSN"]) as server, on_memory(server) as smtp:
        with pytest.raises(ValueError, match=r"contradict|binary=True"):
            await deliver(smtp, **options)
    assert server.connections == []


async def test_several_connections_and_transactions_ask_for_the_same() -> None:
    """A recipient's own wishes stay his, in whichever transaction he is."""
    server = ScriptedServer(keywords=["PIPELINING", "DSN", "LIMITS RCPTMAX=1"])
    recipients: list[str | Recipient] = [Recipient(B, notify="never"), C]
    async with server, on_memory(server) as smtp:
        receipt = await smtp.sendmail(SENDER, recipients, RAW, dsn=DSN(ret="full"))
    assert list(receipt.accepted) == [B, C]
    assert [message.mail_options for message in server.messages] == [["RET=FULL"]] * 2
    assert [message.rcpt_options for message in server.messages] == [{B: ["NOTIFY=NEVER"]}, {C: []}]


async def test_a_stream_of_messages_asks_for_what_each_envelope_says() -> None:
    envelopes = [
        Envelope(sender=SENDER, recipients=Recipient(B, notify="never"), priority=1),
        Envelope(sender=SENDER, recipients=C, dsn=DSN(envid="2")),
        Envelope(sender=SENDER, recipients=C, deliver_by=1),
    ]
    mails = [Mail(RAW, envelope) for envelope in envelopes]
    keywords = ["PIPELINING", "DSN", "MT-PRIORITY"]
    async with (
        ScriptedServer(keywords=keywords) as server,
        on_memory(server) as smtp,
        smtp.send_many(mails, ordered=True) as deliveries,
    ):
        outcomes = [delivery.outcome async for delivery in deliveries]
    assert outcomes == ["accepted", "accepted", "not_sent"]
    assert [message.mail_options for message in server.messages] == [["MT-PRIORITY=1"], ["ENVID=2"]]
    assert server.messages[0].rcpt_options == {B: ["NOTIFY=NEVER"]}


async def test_a_recipient_who_hangs_up_is_named_with_what_was_asked() -> None:
    script = {f"RCPT TO:<{B}>": "421 4.7.0 go away"}
    server = ScriptedServer(keywords=["DSN"], script=script, strict=False)
    async with server, on_memory(server) as smtp:
        with pytest.raises(ConnectionError, match=r"RCPT TO:<b@x.test> NOTIFY=NEVER: .*421"):
            await smtp.sendmail(SENDER, Recipient(B, notify="never"), RAW)


async def test_a_message_object_contradicts_body_7bit_before_anything_is_opened() -> None:
    message, delivery = email(), Delivery()
    message.set_content("ä\n", cte="8bit")
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ValueError, match="BODY=7BIT contradicts the message"):
            await smtp.send_message(message, mail_options=["BODY=7BIT"], delivery=delivery)
    assert server.connections == []
    assert delivery.outcome == "not_sent"


async def test_what_is_read_while_it_is_sent_is_held_to_body_7bit() -> None:
    server = ScriptedServer()
    async with server, on_memory(server) as smtp:
        await deliver(smtp, iter([RAW]), mail_options=["BODY=7BIT"])
        with pytest.raises(SMTPNotSupported, match="BODY=7BIT was said"):
            await deliver(smtp, iter([RAW, "ä".encode()]), mail_options=["BODY=7BIT"])
    assert [message.raw for message in server.messages] == [RAW]


# REQUIRETLS

however = pytest.mark.parametrize(
    "asked", [{"envelope": Envelope(require_tls=True)}, {"mail_options": ["RequireTLS"]}]
)


@however
async def test_requiretls_is_said_under_tls_that_was_verified(
    asked: dict[str, Any], certificates: Certificates
) -> None:
    server = ScriptedServer(starttls=certificates.server, tls_keywords=["REQUIRETLS"])
    options = {"tls": "starttls", "tls_context": certificates.client}
    async with server, on_memory(server, **options) as smtp:
        await deliver(smtp, **asked)
    assert server.messages[0].mail_options == ["REQUIRETLS"]


@however
@pytest.mark.parametrize("tls", ["off", "opportunistic"])
async def test_requiretls_is_an_error_without(
    tls: str, asked: dict[str, Any], certificates: Certificates
) -> None:
    server = ScriptedServer(keywords=["REQUIRETLS"], starttls=certificates.server)
    async with server, on_memory(server, tls=tls) as smtp:
        with pytest.raises(SMTPTLSError, match="not under TLS with a certificate"):
            await deliver(smtp, **asked)
        await deliver(smtp)
    assert server.connection.verbs.count("MAIL") == 1


@however
async def test_requiretls_is_an_error_where_it_is_not_offered(
    asked: dict[str, Any], certificates: Certificates
) -> None:
    server = ScriptedServer(starttls=certificates.server)
    options = {"tls": "starttls", "tls_context": certificates.client}
    async with server, on_memory(server, **options) as smtp:
        with pytest.raises(SMTPNotSupported, match="does not offer REQUIRETLS"):
            await deliver(smtp, **asked)
    assert "MAIL" not in server.connection.verbs


# CHUNKING


@pytest.mark.parametrize("size", [1, 5_000], ids=["small", "large"])
@pytest.mark.parametrize(
    ("options", "verb"),
    [
        ({}, "DATA"),
        ({"chunking": "always"}, "BDAT"),
        ({"require_all": True}, "BDAT"),
        ({"chunking": "off", "require_all": True}, "DATA"),
    ],
)
async def test_bdat_is_used_where_it_is_asked_for_or_saves_a_flight(
    options: dict[str, Any], verb: str, size: int
) -> None:
    raw = b"Subject: x\r\n\r\n" + b".\r\n..\r\nthirty octets and a line end\r\n" * size
    delivery: Delivery[None] = Delivery()
    async with ScriptedServer(keywords=CHUNKING) as server, on_memory(server, **options) as smtp:
        await deliver(smtp, raw, delivery=delivery)
        await deliver(smtp, raw)
    assert [message.raw for message in server.messages] == [raw, raw]
    assert delivery.bytes_sent == len(raw)
    assert set(server.connection.verbs) & {"DATA", "BDAT"} == {verb}


async def test_chunking_is_not_used_where_it_is_not_offered() -> None:
    async with ScriptedServer() as server, on_memory(server, chunking="always") as smtp:
        await deliver(smtp)
    assert "DATA" in server.connection.verbs


@pytest.mark.parametrize("size", [1, 50_000], ids=["small", "large"])
async def test_after_a_chunk_that_was_refused_another_connection_is_used(size: int) -> None:
    script = {"BDAT": ["554 5.6.0 No"]}
    server = ScriptedServer(keywords=CHUNKING, script=script)
    async with server, on_memory(server, chunking="always") as smtp:
        with pytest.raises(SMTPDataError, match="No") as caught:
            await deliver(smtp, b"x\r\n" * size)
        await deliver(smtp)
    assert caught.value.outcome == "refused"
    assert [record.verbs.count("BDAT") for record in server.connections] == [1, 1]


async def test_a_chunk_that_is_cancelled_half_way_was_not_sent() -> None:
    """It cannot be taken back, so the connection is closed, and the server discards it."""
    delivery: Delivery[None] = Delivery()
    script = {f"RCPT TO:<{C}>": Act("250 2.1.5 Ok", then="deaf")}
    server = ScriptedServer(keywords=CHUNKING, script=script, capacity=1000)
    async with server, on_memory(server, chunking="always") as smtp:
        with anyio.move_on_after(5) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(partial(deliver, smtp, b"x\r\n" * 50_000, delivery=delivery))
                while delivery.phase != "body":
                    await anyio.lowlevel.checkpoint()
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert smtp.statistics().open_connections == 0
    assert delivery.outcome == "not_sent"
    assert delivery.may_retry


async def test_recipients_of_a_chunk_that_are_refused_cost_no_chunk() -> None:
    script = {"RCPT": "550 5.1.1 No"}
    server = ScriptedServer(keywords=CHUNKING, script=script)
    async with server, on_memory(server, chunking="always") as smtp:
        with pytest.raises(Exception, match="recipients refused"):
            await deliver(smtp)
        server.script["RCPT"] = "250 Ok"
        await deliver(smtp)
    assert server.connection.verbs.count("BDAT") == 1


# BINARYMIME


def _with_attachment(data: bytes) -> EmailMessage:
    message = email()
    message.add_attachment(data, "application", "octet-stream", filename="a.bin")
    return message


@pytest.mark.parametrize("data", [bytes(range(256)) * 30, b"\n.\r\n", b"", b"x" * 200_000])
async def test_an_attachment_travels_as_raw_octets(data: bytes) -> None:
    message = _with_attachment(data)
    async with ScriptedServer(keywords=CHUNKING) as server, on_memory(server) as smtp:
        await smtp.send_message(message, binary=True)
    [received] = server.messages
    assert received.mail_options == ["BODY=BINARYMIME"]
    assert data in received.raw
    assert len(received.raw) < len(data) + 1000
    parsed = message_from_bytes(received.raw, policy=policy.default)
    assert parsed["Content-Transfer-Encoding"] == "binary"
    [attachment] = parsed.iter_attachments()
    assert attachment["Content-Transfer-Encoding"] == "binary"
    assert "DATA" not in server.connection.verbs


async def test_a_raw_message_is_sent_as_it_is_if_it_is_binary() -> None:
    raw = b"Subject: x\nMessage-ID: <1@x>\n\na\rb\nc\0\xff"
    async with ScriptedServer(keywords=CHUNKING) as server, on_memory(server) as smtp:
        receipt = await deliver(smtp, raw, envelope=Envelope(binary=True))
    assert server.messages[0].raw == raw.replace(b"\n", b"\r\n", 3)
    assert receipt.message_id == "<1@x>"


@pytest.mark.parametrize(("keywords", "lacks"), [((), "BINARYMIME"), (("BINARYMIME",), "CHUNKING")])
async def test_binary_is_an_error_where_it_cannot_be(keywords: tuple[str, ...], lacks: str) -> None:
    async with ScriptedServer(keywords=keywords) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPNotSupported, match=lacks):
            await smtp.send_message(_with_attachment(b"\0"), binary=True)
    assert server.connection.verbs == ["EHLO", "QUIT"]


# 8BITMIME, and what is signed


def _signed(text: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = SENDER, B
    message.set_content(text, cte="8bit")
    message.make_mixed()
    message.replace_header(
        "Content-Type", 'multipart/signed; micalg=sha-256; protocol="application/pgp-signature"'
    )
    message.add_attachment(b"signature", "application", "pgp-signature")
    return message


async def test_a_signed_part_is_not_converted() -> None:
    async with ScriptedServer(keywords=["PIPELINING"]) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPNotSupported, match="signed"):
            await smtp.send_message(_signed("Grüße\n"))
        await smtp.send_message(_signed("ASCII\n"))
    assert server.connection.verbs.count("MAIL") == 1


async def test_a_message_with_a_dkim_signature_is_not_converted() -> None:
    message = email(DKIM_Signature="v=1; a=rsa-sha256; d=x.test; s=s; b=AA==")
    message.set_content("Grüße\n", cte="8bit")
    async with ScriptedServer(keywords=[]) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPNotSupported, match="DKIM-Signature"):
            await smtp.send_message(message)
    assert server.connection.verbs == ["EHLO", "QUIT"]
    async with ScriptedServer(keywords=["8BITMIME"]) as server, on_memory(server) as smtp:
        await smtp.send_message(message)
    assert "Grüße\r\n".encode() in server.messages[0].raw


# Long lines


async def test_a_raw_line_that_is_too_long_is_an_error_or_sent_as_it_is() -> None:
    raw = b"Subject: x\r\n\r\n" + b"x" * 999
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ValueError, match="more than 998 octets"):
            await deliver(smtp, raw)
        assert server.connections == []
        await deliver(smtp, raw, allow_long_lines=True)
        await deliver(smtp, raw, envelope=Envelope(allow_long_lines=True))
        await deliver(smtp, raw[:-1])
    assert [len(message.raw) for message in server.messages] == [1015, 1015, 1014]


async def test_a_long_line_of_a_message_object_is_encoded() -> None:
    message = email()
    message.set_payload("x" * 5000)
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await smtp.send_message(message)
    [received] = server.messages
    assert max(map(len, received.raw.split(b"\r\n"))) <= 78
    parsed = message_from_bytes(received.raw, policy=policy.default)
    assert parsed.get_content().rstrip() == "x" * 5000


async def test_the_command_layer_says_it_too() -> None:
    async with ScriptedServer() as server:
        conn = await connection_to(server)
        await conn.mail(SENDER)
        await conn.rcpt(B)
        with pytest.raises(ValueError, match="998"):
            await conn.data(b"x" * 999)
        await conn.data(b"x" * 999, allow_long_lines=True)
        await conn.quit()
    assert len(server.messages) == 1


# VRFY and EXPN


@pytest.mark.parametrize("verb", ["vrfy", "expn"])
async def test_an_inquiry_takes_utf8(verb: str) -> None:
    script = {verb: "250 2.0.0 Jörg <jörg@x.test>"}
    async with ScriptedServer(keywords=["SMTPUTF8"], script=script) as server:
        conn = await connection_to(server)
        for name in ("jörg", "jörg smtputf8", "ann"):
            reply = await getattr(conn, verb)(name)
            assert reply.text == "2.0.0 Jörg <jörg@x.test>"
        with pytest.raises(ValueError, match="needs an argument"):
            await getattr(conn, verb)("")
        await conn.quit()
    expected = [f"{verb.upper()} {name}\r\n" for name in ("jörg SMTPUTF8", "jörg smtputf8", "ann")]
    assert server.connection.commands[1:4] == [line.encode() for line in expected]


@pytest.mark.parametrize("verb", ["vrfy", "expn"])
async def test_an_inquiry_in_utf8_is_an_error_where_that_is_not_offered(verb: str) -> None:
    async with ScriptedServer(keywords=[]) as server:
        conn = await connection_to(server)
        with pytest.raises(SMTPNotSupported, match=r"jörg is not ASCII .* SMTPUTF8"):
            await getattr(conn, verb)("jörg")
        await conn.quit()
    assert server.connection.verbs == ["EHLO", "QUIT"]
