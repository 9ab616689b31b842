"""What is logged: no address at INFO and above, no secret and no body anywhere."""

from __future__ import annotations

import base64
import logging
from contextlib import suppress
from typing import Any

import pytest

from anysmtp import SMTPException
from anysmtp.testing import DROP, STALL, Answer, ScriptedServer
from support.bench import LARGE, RECIPIENTS, message
from support.clients import Script, connection_to, deliver, email, on_memory
from support.tls import Certificates

pytestmark = pytest.mark.anyio

WHATEVER_HAPPENS: dict[str, tuple[Script, dict[str, Any]]] = {
    "accepted": ({}, {}),
    "some refused": ({f"RCPT TO:<{RECIPIENTS[0]}>": f"550 <{RECIPIENTS[0]}> unknown"}, {}),
    "all refused": ({"RCPT": f"550 <{RECIPIENTS[0]}> unknown"}, {}),
    "sender refused": ({"MAIL": "550 <a@x.test> unknown"}, {}),
    "message refused": ({".": "550 for <b@x.test>"}, {}),
    "gone": ({"RCPT": DROP}, {}),
    "gone at the end": ({".": DROP}, {}),
    "timed out": ({"RCPT": STALL}, {"timeout": 0.05}),
    "no greeting": ({"GREETING": "554 a@x.test is blocked"}, {}),
    "garbage": ({"MAIL": b"a@x.test?\r\n"}, {}),
    "no good-bye": ({"QUIT": "421 Bye, a@x.test"}, {}),
}


@pytest.mark.parametrize("case", WHATEVER_HAPPENS.values(), ids=WHATEVER_HAPPENS)
async def test_no_addresses_at_info_and_above(
    case: tuple[Script, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    script, options = case
    async with ScriptedServer(script=script) as server, on_memory(server, **options) as smtp:
        with suppress(SMTPException):
            await deliver(smtp)
        with suppress(SMTPException):
            await smtp.send_message(email())
    ours = [record for record in caplog.records if record.name.startswith("anysmtp")]
    assert ours
    assert {record.name for record in ours} == {"anysmtp"}
    for record in ours:
        assert "@" not in record.getMessage()
        assert record.exc_info is None


async def test_a_connection_and_a_message_are_one_line_each_at_info(
    caplog: pytest.LogCaptureFixture, certificates: Certificates
) -> None:
    caplog.set_level(logging.INFO, "anysmtp")
    async with ScriptedServer(starttls=certificates.server) as server:
        options = {"tls": "auto", "tls_context": certificates.client}
        async with on_memory(server, **options) as smtp:
            await deliver(smtp)
            await deliver(smtp)
    assert [record.getMessage() for record in caplog.records] == [
        "connected to mail.example.test:25 (TLSv1.3)",
        "mail.example.test:25 accepted 25 octets for 2",
        "mail.example.test:25 accepted 25 octets for 2",
    ]


async def test_a_partial_refusal_is_a_warning_with_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    server = ScriptedServer(script={f"RCPT TO:<{RECIPIENTS[0]}>": "550 5.1.1 No"})
    async with server, on_memory(server) as smtp:
        await deliver(smtp)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "mail.example.test:25 refused 1 of 2 recipients"


async def test_what_became_of_a_send_that_failed_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "anysmtp")
    async with ScriptedServer(script={".": DROP}) as server, on_memory(server) as smtp:
        with pytest.raises(SMTPException):
            await deliver(smtp)
    assert caplog.records[-1].getMessage() == "in_doubt: SMTPServerDisconnected"


async def test_the_wire_is_traced_at_debug_in_both_directions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "anysmtp.wire")
    server = ScriptedServer(keywords=["HELP"])
    async with server, on_memory(server, local_hostname="[127.0.0.1]") as smtp:
        await deliver(smtp)
    where = "mail.example.test:25"
    assert [record.getMessage() for record in caplog.records] == [
        f"{where} < 220 mail.example.test ESMTP",
        f"{where} > EHLO [127.0.0.1]",
        f"{where} < 250-mail.example.test",
        f"{where} < 250 HELP",
        f"{where} > MAIL FROM:<a@x.test>",
        f"{where} < 250 2.1.0 Ok",
        f"{where} > RCPT TO:<b@x.test>",
        f"{where} < 250 2.1.5 Ok",
        f"{where} > RCPT TO:<c@x.test>",
        f"{where} < 250 2.1.5 Ok",
        f"{where} > DATA",
        f"{where} < 354 End data with <CR><LF>.<CR><LF>",
        f"{where} > (a message of 25 octets)",
        f"{where} < 250 2.0.0 Ok: queued",
        f"{where} > QUIT",
        f"{where} < 221 2.0.0 Bye",
    ]
    assert {record.name for record in caplog.records} == {"anysmtp.wire"}


async def test_an_eager_message_is_traced_by_its_size_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "anysmtp.wire")
    server = ScriptedServer(keywords=["PIPELINING", "CHUNKING"])
    async with server, on_memory(server, pipelining="eager") as smtp:
        await deliver(smtp)
    written = [record.getMessage() for record in caplog.records if " > " in record.getMessage()]
    where = "mail.example.test:25"
    assert written[-3:-1] == [f"{where} > BDAT 25 LAST", f"{where} > (a message of 25 octets)"]


async def test_nothing_is_traced_unless_somebody_wants_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await deliver(smtp)
    assert "anysmtp.wire" not in {record.name for record in caplog.records}


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("script", [{}, {".": "550 No"}, {".": DROP}, {"BODY": DROP}])
async def test_bodies_are_never_logged(
    size: int, script: dict[str, Answer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    raw = b"Subject: private\r\n\r\nprivate matters\r\n" + message("private", size)
    async with ScriptedServer(script=script) as server, on_memory(server) as smtp:
        with suppress(SMTPException):
            await deliver(smtp, raw)
    assert "DATA" in caplog.text
    assert "private" not in caplog.text
    assert all("private" not in repr(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_secrets_are_shown_as_stars(mechanism: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keywords = [f"AUTH {mechanism}"]
    server = ScriptedServer(keywords=keywords, users={"ann": "secret"})
    options = {"username": "ann", "password": "secret", "allow_plaintext_auth": True}
    async with server, on_memory(server, **options) as smtp:
        await smtp.connect()
    sent = [
        record.getMessage().partition(" > ")[2]
        for record in caplog.records
        if " > " in record.getMessage()
    ]
    expected = ["AUTH PLAIN ***"] if mechanism == "PLAIN" else ["AUTH LOGIN ***", "***"]
    assert sent[1:-1] == expected
    for secret in (b"secret", b"ann", b"\0ann\0secret"):
        assert base64.b64encode(secret).decode() not in caplog.text


async def test_a_debugger_may_look_at_the_command_layer_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = ScriptedServer(script={"VRFY": "550-No\n550 \tsuch"})
    async with server, await connection_to(server) as conn:
        with pytest.raises(SMTPException):
            await conn.vrfy("ann@x.test")
    lines = [record.getMessage() for record in caplog.records]
    assert "mail.example.test > VRFY ann@x.test" in lines
    assert lines[-3:-1] == ["mail.example.test < 550-No", r"mail.example.test < 550 \x09such"]
