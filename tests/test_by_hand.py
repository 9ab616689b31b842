"""A transaction by hand: what MAIL has to have said for what comes after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from anysmtp import SMTPNotSupported, SMTPTLSError
from anysmtp.testing import ScriptedServer
from support.clients import RAW, SENDER, connection_to, on_memory
from support.tls import Certificates

pytestmark = pytest.mark.anyio

UTF8_HEADER = "Subject: ä\r\n\r\nhello\r\n".encode()
UTF8_BODY = "Subject: a\r\n\r\nhällo\r\n".encode()


@pytest.mark.parametrize("is_file", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize(
    ("raw", "keywords", "options", "error", "reason"),
    [
        (UTF8_HEADER, ["8BITMIME"], [], SMTPNotSupported, "does not offer SMTPUTF8"),
        (UTF8_HEADER, ["8BITMIME", "SMTPUTF8"], [], ValueError, "needs a MAIL with .* SMTPUTF8"),
        (UTF8_HEADER, [], [], SMTPNotSupported, "does not offer 8BITMIME"),
        (UTF8_BODY, [], [], SMTPNotSupported, "does not offer 8BITMIME"),
        (UTF8_BODY, ["8BITMIME"], ["body=7bit"], ValueError, "the option BODY=7BIT"),
    ],
)
async def test_a_message_that_mail_has_not_announced_is_an_error_before_data(
    raw: bytes,
    keywords: Sequence[str],
    options: Sequence[str],
    error: type[Exception],
    reason: str,
    is_file: bool,
    tmp_path: Path,
) -> None:
    """The transaction goes on, and takes another one."""
    path = tmp_path / "message"
    path.write_bytes(raw + b"line\r\n" * 200_000)
    async with (
        ScriptedServer(keywords=keywords, strict=False) as server,
        await connection_to(server) as conn,
    ):
        await conn.mail(SENDER, options)
        await conn.rcpt("b@x.test")
        with pytest.raises(error, match=reason) as caught:
            await conn.data(path if is_file else raw)
        if isinstance(caught.value, SMTPNotSupported):
            assert caught.value.command == "DATA"
            assert not caught.value.connection_closed
        await conn.data(RAW)
    assert server.connection.verbs == ["EHLO", "MAIL", "RCPT", "DATA"]
    assert [message.raw for message in server.messages] == [RAW]


@pytest.mark.parametrize(
    ("raw", "keywords", "options"),
    [
        (UTF8_BODY, ["8BITMIME"], ["BODY=8BITMIME"]),
        (UTF8_HEADER, ["8BITMIME", "SMTPUTF8"], ["BODY=8BITMIME", "smtputf8"]),
        (RAW, ["8BITMIME"], ["BODY=7BIT"]),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True], ids=["memory", "iterator"])
async def test_a_message_that_mail_has_announced_is_sent(
    raw: bytes, keywords: Sequence[str], options: Sequence[str], is_stream: bool
) -> None:
    async with ScriptedServer(keywords=keywords) as server, await connection_to(server) as conn:
        await conn.mail(SENDER, options)
        await conn.rcpt("b@x.test")
        await conn.data(iter([raw]) if is_stream else raw)
    assert [message.raw for message in server.messages] == [raw]


async def test_octets_that_the_server_takes_need_not_be_announced() -> None:
    """RFC 6152 section 3 has them announced, and servers that take them do not mind."""
    server = ScriptedServer(keywords=["8BITMIME"], strict=False)
    async with server, await connection_to(server) as conn:
        await conn.mail(SENDER)
        await conn.rcpt("b@x.test")
        await conn.data(UTF8_BODY)
    assert [message.raw for message in server.messages] == [UTF8_BODY]


@pytest.mark.parametrize(
    ("raw", "options"), [(UTF8_HEADER, []), (UTF8_BODY, ["BODY=7BIT"])], ids=["utf8", "8bit"]
)
async def test_a_stream_that_mail_has_not_announced_is_stopped_before_its_octets_leave(
    raw: bytes, options: Sequence[str]
) -> None:
    """What can be read once is not read before the server waits for it, so DATA was sent."""
    async with (
        ScriptedServer(keywords=["8BITMIME", "SMTPUTF8"]) as server,
        await connection_to(server) as conn,
    ):
        await conn.mail(SENDER, options)
        await conn.rcpt("b@x.test")
        with pytest.raises(SMTPNotSupported):
            await conn.data(iter([raw]))
    assert server.messages == []
    assert not any(octet > 127 for write in server.connection.writes for octet in write)


async def test_the_options_of_a_transaction_are_its_own() -> None:
    async with (
        ScriptedServer(keywords=["8BITMIME", "SMTPUTF8"]) as server,
        await connection_to(server) as conn,
    ):
        await conn.mail(SENDER, ["SMTPUTF8"])
        await conn.rset()
        await conn.mail(SENDER)
        with pytest.raises(ValueError, match="needs a MAIL with the option SMTPUTF8"):
            await conn.rcpt("jörg@x.test")
        await conn.rcpt("b@x.test")
        with pytest.raises(ValueError, match="needs a MAIL with the option SMTPUTF8"):
            await conn.data(UTF8_HEADER)


async def test_options_that_contradict_each_other_are_an_error_at_once() -> None:
    async with ScriptedServer(keywords=["DSN"]) as server, await connection_to(server) as conn:
        with pytest.raises(ValueError, match="contradicts"):
            await conn.mail(SENDER, ["HOLDFOR=5", "HOLDUNTIL=2040-01-01T00:00:00Z"])
        await conn.mail(SENDER, ["RET=FULL", "ret=full"])
        with pytest.raises(ValueError, match="contradicts"):
            await conn.rcpt("b@x.test", ["NOTIFY=NEVER", "NOTIFY=DELAY"])
    assert server.commands[1:] == [b"MAIL FROM:<a@x.test> RET=FULL\r\n"]


async def test_requiretls_by_hand_needs_tls_that_was_verified(certificates: Certificates) -> None:
    server = ScriptedServer(starttls=certificates.server, tls_keywords=["REQUIRETLS"])
    async with server, await connection_to(server) as conn:
        with pytest.raises(SMTPTLSError, match="not under TLS with a certificate") as caught:
            await conn.mail(SENDER, ["REQUIRETLS"])
        assert caught.value.command == f"MAIL FROM:<{SENDER}> REQUIRETLS"
        assert server.connection.verbs == ["EHLO"]
    options = {"tls": "starttls", "tls_context": certificates.client}
    async with server, on_memory(server, **options) as smtp, smtp.connection() as conn:
        await conn.mail(SENDER, ["REQUIRETLS"])
