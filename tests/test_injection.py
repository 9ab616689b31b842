"""No argument gets a control character into a command line: ValueError, and not a byte is sent.

CR and LF would start another command, NUL ends a line for servers written in C, and DEL and the
rest are nobody's business in one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.headerregistry import Address
from email.message import EmailMessage, Message
from typing import TypeAlias

import pytest

import anysmtp
from anysmtp import SMTP, Envelope, SMTPConnection, sasl
from anysmtp.testing import ScriptedServer
from support.clients import RAW, SENDER, connection_to, deliver, email, on_memory

pytestmark = pytest.mark.anyio

Say: TypeAlias = Callable[[SMTPConnection, str], Awaitable[object]]
Send: TypeAlias = Callable[[SMTP, str], Awaitable[object]]
Make: TypeAlias = Callable[[str], object]

BAD = {
    "CR": "\r",
    "LF": "\n",
    "CRLF": "\r\n",
    "command": "\r\nRSET\r\n",
    "NUL": "\0",
    "DEL": "\x7f",
    "TAB": "\t",
    "ESC": "\x1b",
}


def written(server: ScriptedServer) -> list[bytes]:
    return [write for record in server.connections for write in record.writes]


each_bad = pytest.mark.parametrize("bad", BAD.values(), ids=BAD)


# Settings


MAKE: dict[str, Make] = {
    "hostname": lambda bad: SMTP(f"mail{bad}.example.test"),
    "end of hostname": lambda bad: SMTP(f"mail.example.test{bad}"),
    "IPv6 zone": lambda bad: SMTP(f"fe80::1%eth{bad}0"),
    "local_hostname": lambda bad: SMTP(local_hostname=f"me{bad}.example.test"),
    "end of local_hostname": lambda bad: SMTP(local_hostname=f"me.example.test{bad}"),
    "username": lambda bad: SMTP(username=f"a{bad}b", password="x"),
    "password": lambda bad: SMTP(username="ann", password=f"a{bad}b"),
    "source_address": lambda bad: SMTP(source_address=f"127.0.0.1{bad}"),
    "URL": lambda bad: SMTP.from_url(f"smtp://mail{bad}.example.test"),
    "URL, encoded": lambda bad: SMTP.from_url(
        f"smtp://mail{''.join(f'%{ord(c):02x}' for c in bad)}.example.test"
    ),
    "URL, user": lambda bad: SMTP.from_url(
        f"smtp://ann:a{''.join(f'%{ord(c):02x}' for c in bad)}b@mail.example.test"
    ),
    "URL, local_hostname": lambda bad: SMTP.from_url(
        f"smtp://mail.example.test?local_hostname=a{''.join(f'%{ord(c):02x}' for c in bad)}b"
    ),
    "Plain": lambda bad: sasl.Plain("ann", f"a{bad}b"),
    "Plain, authzid": lambda bad: sasl.Plain("ann", "x", f"a{bad}b"),
    "Login": lambda bad: sasl.Login(f"a{bad}b", "x"),
}


@each_bad
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_settings(make: Make, bad: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        make(bad)
    # What is shown of it is escaped.
    assert bad not in str(caught.value)


# Commands


SAY: dict[str, Say] = {
    "ehlo": lambda conn, bad: conn.ehlo(f"me{bad}"),
    "helo": lambda conn, bad: conn.helo(f"me{bad}"),
    "mail": lambda conn, bad: conn.mail(f"a{bad}@x.test"),
    "mail, domain": lambda conn, bad: conn.mail(f"a@x{bad}.test"),
    "mail, quoted": lambda conn, bad: conn.mail(f'"a{bad}"@x.test'),
    "mail, option": lambda conn, bad: conn.mail(SENDER, [f"SIZE=1{bad}"]),
    "rcpt": lambda conn, bad: conn.rcpt(f"b@x.test{bad}"),
    "rcpt, name": lambda conn, bad: conn.rcpt(f"B{bad} <b@x.test>"),
    "rcpt, option": lambda conn, bad: conn.rcpt("b@x.test", [f"NOTIFY=NEVER{bad}"]),
    "vrfy": lambda conn, bad: conn.vrfy(f"ann{bad}"),
    "expn": lambda conn, bad: conn.expn(f"staff{bad}"),
    "help": lambda conn, bad: conn.help(f"mail{bad}"),
    "command": lambda conn, bad: conn.command(f"XYZZY{bad}"),
    "command, argument": lambda conn, bad: conn.command(f"XYZZY {bad}plugh"),
}


@each_bad
@pytest.mark.parametrize("say", SAY.values(), ids=SAY)
async def test_commands(say: Say, bad: str) -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        with pytest.raises(ValueError, match=r".") as caught:
            await say(conn, bad)
        assert written(server) == []
        assert bad not in str(caught.value)
        # It has harmed nobody.
        await deliver(conn)
    assert len(server.messages) == 1


NOT_ONE_WORD: dict[str, Say] = {
    "ehlo": lambda conn, bad: conn.ehlo(bad),
    "helo": lambda conn, bad: conn.helo(bad),
    "mail option": lambda conn, bad: conn.mail(SENDER, [bad]),
    "rcpt option": lambda conn, bad: conn.rcpt("b@x.test", [bad]),
}


@pytest.mark.parametrize("bad", ["two words", " ", "\udc80", "a b=c"])
@pytest.mark.parametrize("say", NOT_ONE_WORD.values(), ids=NOT_ONE_WORD)
async def test_more_than_one_word_where_one_belongs(say: Say, bad: str) -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        with pytest.raises(ValueError, match=r"."):
            await say(conn, bad)
        assert written(server) == []


@pytest.mark.parametrize(
    "path", ["a@x.test> SIZE=1 <", "a@x.test>", "<a@x.test", "a@x.test ORCPT=x"]
)
async def test_an_address_does_not_end_its_path(path: str) -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        for say in (conn.mail, conn.rcpt):
            with pytest.raises(ValueError, match=r"is not one address|malformed"):
                await say(path)
        assert written(server) == []


async def test_a_line_that_is_too_long_or_empty() -> None:
    lines: list[str] = ["NOOP " + "x" * 506, "", " NOOP", "NOOP \udc80"]
    async with ScriptedServer() as server, await connection_to(server) as conn:
        for line in lines:
            with pytest.raises(ValueError, match=r"."):
                await conn.command(line)
        with pytest.raises(ValueError, match="1024 allowed"):
            await conn.vrfy("x" * 1100)
        assert written(server) == []
        assert (await conn.command("NOOP " + "x" * 505)).code == 250


# Messages


def _raw_field(name: str, value: str) -> Message:
    """As a parser may leave it, past every check of the email package."""
    message = email()
    message.__dict__["_headers"].append((name, value))
    return message


SEND: dict[str, Send] = {
    "sender": lambda smtp, bad: smtp.sendmail(f"a{bad}@x.test", "b@x.test", RAW),
    "recipient": lambda smtp, bad: smtp.sendmail(SENDER, f"b@x.test{bad}", RAW),
    "one of several": lambda smtp, bad: smtp.sendmail(SENDER, ["b@x.test", f"c@x{bad}"], RAW),
    "display name": lambda smtp, bad: smtp.sendmail(SENDER, f"B{bad} <b@x.test>", RAW),
    "mail option": lambda smtp, bad: smtp.sendmail(
        SENDER, "b@x.test", RAW, mail_options=[f"RET=HDRS{bad}"]
    ),
    "rcpt option": lambda smtp, bad: smtp.sendmail(
        SENDER, "b@x.test", RAW, rcpt_options=[f"NOTIFY{bad}=NEVER"]
    ),
    "envelope": lambda smtp, bad: smtp.send_message(
        email(), envelope=Envelope(sender=f"a@x.test{bad}")
    ),
    "envelope, recipients": lambda smtp, bad: smtp.send_message(
        email(), envelope=Envelope(recipients=[f"a@x.test{bad}"])
    ),
    "envelope, option": lambda smtp, bad: smtp.send_message(
        email(), envelope=Envelope(mail_options=[f"RET=HDRS{bad}"])
    ),
    # In a header field a tab is a blank, and the others are what they are everywhere.
    "Sender": lambda smtp, bad: smtp.send_message(
        _raw_field("Sender", f"a{bad if bad != chr(9) else chr(0)}@x.test"), recipients="b@x.test"
    ),
    "Cc": lambda smtp, bad: smtp.send_message(
        _raw_field("Cc", f"c{bad if bad != chr(9) else chr(0)}@x.test")
    ),
    "send": lambda smtp, bad: anysmtp.send(RAW, sender=f"a@x.test{bad}", recipients="b@x.test"),
}


@each_bad
@pytest.mark.parametrize("send", SEND.values(), ids=SEND)
async def test_envelopes(send: Send, bad: str) -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ValueError, match=r".") as caught:
            await send(smtp, bad)
        assert not server.connections
        assert bad not in str(caught.value)
        await smtp.connect()
        with pytest.raises(ValueError, match=r"."):
            await send(smtp, bad)
        assert len(server.connection.writes) == 1


@pytest.mark.parametrize("bad", ["\r", "\n", "\r\n", "\r\nBcc: d@x.test", "\n\nbody"])
async def test_header_fields(bad: str) -> None:
    messages = [_raw_field("Subject", f"hello{bad}there"), _raw_field(f"X{bad}", "value")]
    async with ScriptedServer() as server, on_memory(server) as smtp:
        for message in messages:
            with pytest.raises(ValueError, match="cannot be serialised"):
                await smtp.send_message(message)
        assert not server.connections


async def test_addresses_of_the_email_package_cannot_smuggle_either() -> None:
    address = Address("Ann", "ann", "x.test")
    address.__dict__["_username"] = "ann>\r\nRCPT TO:<eve"
    async with ScriptedServer() as server, on_memory(server) as smtp:
        with pytest.raises(ValueError, match=r"control character|malformed|is not one"):
            await smtp.sendmail(address, "b@x.test", RAW)
        with pytest.raises(ValueError, match=r"control character|malformed|is not one"):
            await smtp.sendmail(SENDER, [address], RAW)
        assert not server.connections


async def test_encoded_words_do_not_become_addresses() -> None:
    """``=?utf-8?q?=3Cevil=40x.test=3E?=`` in a display name stays a display name."""
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = "=?utf-8?q?eve=40x=2Etest=2C?= <b@x.test>"
    async with ScriptedServer() as server, on_memory(server) as smtp:
        await smtp.send_message(message)
    assert server.messages[0].recipients == ["b@x.test"]


async def test_what_the_server_says_is_shown_without_its_control_characters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A terminal obeys some of them."""
    caplog.set_level("DEBUG")
    server = ScriptedServer(script={"NOOP": b"550 \x1b[2J\x07\xff\r\n"})
    async with server, await connection_to(server) as conn:
        with pytest.raises(anysmtp.SMTPResponseException) as caught:
            await conn.noop()
    assert str(caught.value).endswith(r"550 \x1b[2J\x07\xff")
    assert "\x1b" not in caplog.text
    assert caught.value.reply.text.encode("utf-8", "surrogateescape") == b"\x1b[2J\x07\xff"
