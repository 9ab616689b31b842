"""The command layer: one method per SMTP command, on a stream of the caller's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any, TypeAlias

import anyio
import pytest
from anyio import to_thread

from anysmtp import (
    Reply,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPConnection,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPProtocolError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    SMTPTLSError,
    sasl,
)
from anysmtp.testing import DEAF, DROP, STALL, Act, Answer, ScriptedServer
from support.bench import LARGE, RECIPIENTS, message
from support.cancel import How, cancel_at
from support.clients import RAW, SENDER, Script, Wrapped, connection_to, deliver, email, on_memory
from support.leaks import no_leaks
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio

Method: TypeAlias = Callable[[SMTPConnection], Awaitable[object]]

ANN = sasl.Plain("ann", "secret")

# Every method that says something.
METHODS: dict[str, Method] = {
    "ehlo": SMTPConnection.ehlo,
    "helo": SMTPConnection.helo,
    "starttls": SMTPConnection.starttls,
    "login": lambda conn: conn.login(ANN),
    "mail": lambda conn: conn.mail(SENDER),
    "rcpt": lambda conn: conn.rcpt(RECIPIENTS[0]),
    "data": lambda conn: conn.data(RAW),
    "rset": SMTPConnection.rset,
    "noop": SMTPConnection.noop,
    "vrfy": lambda conn: conn.vrfy("postmaster"),
    "expn": lambda conn: conn.expn("staff"),
    "help": SMTPConnection.help,
    "quit": SMTPConnection.quit,
    "command": lambda conn: conn.command("XYZZY"),
    "sendmail": deliver,
    "send_message": lambda conn: conn.send_message(email()),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


# The greeting


async def test_the_first_method_reads_the_greeting() -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        assert (await conn.noop()).code == 250
        assert (await conn.noop()).code == 250
    assert server.connection.verbs == ["NOOP", "NOOP"]


@each_method
async def test_a_server_that_does_not_want_to_talk_is_a_connect_error(method: Method) -> None:
    async with ScriptedServer(script={"GREETING": "554 5.3.2 Not today"}) as server:
        conn = await connection_to(server)
        with pytest.raises(SMTPConnectError) as caught:
            await method(conn)
        assert conn.is_closed
        await server.wait_closed()
    assert caught.value.reply is not None
    assert caught.value.reply.code == 554
    assert str(caught.value) == "mail.example.test connection: 554 5.3.2 Not today"
    assert caught.value.connection_closed
    assert not server.commands


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"354 go ahead\r\n", b"\x15\x03\x01\0\2\n"]
)
async def test_a_greeting_that_is_none_is_a_protocol_error(greeting: bytes) -> None:
    async with ScriptedServer(script={"GREETING": greeting}) as server:
        conn = await connection_to(server)
        with pytest.raises(SMTPProtocolError) as caught:
            await conn.noop()
        assert conn.is_closed
        await server.wait_closed()
    assert caught.value.server == "mail.example.test"
    assert caught.value.connection_closed


async def test_a_greeting_in_several_lines_is_waited_for() -> None:
    server = ScriptedServer(script={"GREETING": "220-mail.example.test\n220 ESMTP"})
    async with server, await connection_to(server) as conn:
        assert (await conn.noop()).code == 250


@each_method
async def test_a_server_that_says_nothing_and_goes_is_a_connect_error(method: Method) -> None:
    async with ScriptedServer(script={"GREETING": DROP}) as server:
        conn = await connection_to(server)
        with pytest.raises(SMTPConnectError, match="the server closed the connection"):
            await method(conn)


# EHLO and HELO


async def test_ehlo_reads_what_the_server_offers() -> None:
    server = ScriptedServer(keywords=["SIZE 1000", "HELP"])
    async with server, await connection_to(server) as conn:
        assert not conn.extensions
        reply = await conn.ehlo("client.example.test")
        assert reply.lines == ("mail.example.test", "SIZE 1000", "HELP")
        assert dict(conn.extensions) == {"SIZE": "1000", "HELP": ""}
        await conn.helo("client.example.test")
        assert not conn.extensions
    assert server.commands == [b"EHLO client.example.test\r\n", b"HELO client.example.test\r\n"]


async def test_ehlo_gives_the_address_literal_where_no_name_is_given() -> None:
    async with ScriptedServer() as server:
        async with await connection_to(server) as conn:
            await conn.ehlo()
        async with await connection_to(server, local_hostname="me.example.test") as conn:
            await conn.ehlo()
            await conn.ehlo("other.example.test")
    hellos = [command.split()[1] for command in server.commands]
    assert hellos == [b"[127.0.0.1]", b"me.example.test", b"other.example.test"]


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("mail", None),
        ("vrfy", None),
        ("sendmail", None),
        ("send_message", None),
        ("expn", "500 5.5.2"),
        ("login", "no login .AUTH., before STARTTLS"),
        ("starttls", "was not accepted"),
    ],
)
async def test_what_depends_on_what_is_offered_says_ehlo_first(
    name: str, refusal: str | None, certificates: Certificates
) -> None:
    server = ScriptedServer(starttls=certificates.server)
    async with server, await connection_to(server) as conn:
        with pytest.raises(SMTPException, match=refusal) if refusal else nullcontext():
            await METHODS[name](conn)
    assert server.connection.verbs[0] == "EHLO"
    assert server.connection.verbs.count("EHLO") == 1


async def test_helo_is_said_where_ehlo_is_refused() -> None:
    server = ScriptedServer(script={"EHLO": "502 5.5.1 What?"})
    async with server, await connection_to(server) as conn:
        await conn.mail(SENDER)
        assert not conn.extensions
    assert server.connection.verbs == ["EHLO", "HELO", "MAIL"]


async def test_ehlo_by_itself_is_not_turned_into_helo() -> None:
    server = ScriptedServer(script={"EHLO": "502 5.5.1 What?"})
    async with server, await connection_to(server) as conn:
        with pytest.raises(SMTPHeloError) as caught:
            await conn.ehlo()
        assert (await conn.helo()).code == 250
    assert caught.value.code == 502
    assert caught.value.command == "EHLO [127.0.0.1]"
    assert not caught.value.connection_closed


async def test_a_server_that_refuses_ehlo_and_helo_takes_no_mail() -> None:
    script: Script = {"EHLO": "502 5.5.1 What?", "HELO": "501 5.5.4 You?"}
    async with ScriptedServer(script=script) as server, await connection_to(server) as conn:
        with pytest.raises(SMTPHeloError) as caught:
            await deliver(conn)
    assert caught.value.code == 501
    assert caught.value.outcome == "not_sent"
    assert server.connection.verbs == ["EHLO", "HELO"]


async def test_no_helo_follows_an_ehlo_with_which_the_server_ends_the_session() -> None:
    server = ScriptedServer(script={"EHLO": Act("421 4.3.2 Bye", then="close")})
    async with server, await connection_to(server) as conn:
        with pytest.raises(SMTPHeloError) as caught:
            await conn.mail(SENDER)
    assert caught.value.code == 421
    assert caught.value.connection_closed
    assert server.connection.verbs == ["EHLO"]


# A transaction by hand


async def test_a_message_command_by_command() -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        assert (await conn.mail("Ann <a@x.test>", ["SIZE=100", "body=8bitmime"])).code == 250
        assert (await conn.rcpt(RECIPIENTS[0])).code == 250
        assert (await conn.rcpt(RECIPIENTS[1])).code == 250
        reply = await conn.data("Subject: dots\n\n.\n..\nöäü")
        assert reply.text == "2.0.0 Ok: queued"
        await conn.quit()
    [received] = server.messages
    assert received.sender == SENDER
    assert received.recipients == list(RECIPIENTS)
    assert received.mail_options == ["SIZE=100", "body=8bitmime"]
    assert received.raw == "Subject: dots\r\n\r\n.\r\n..\r\nöäü\r\n".encode()
    assert server.connection.end == "quit"


async def test_the_null_sender_and_options_of_a_recipient() -> None:
    async with ScriptedServer(keywords=["DSN"]) as server, await connection_to(server) as conn:
        await conn.mail("")
        await conn.rcpt("b@x.test", ["NOTIFY=NEVER"])
        await conn.data(RAW)
    assert server.messages[0].sender == ""
    assert server.messages[0].rcpt_options == {"b@x.test": ["NOTIFY=NEVER"]}


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
async def test_what_is_refused_says_by_whom_and_why_and_the_connection_goes_on(size: int) -> None:
    script: Script = {
        "MAIL FROM:<bad@x.test>": "550 5.7.1 Not you",
        "RCPT TO:<bad@x.test>": "450 4.2.1 Not now",
        "DATA": ["451 4.3.0 Not yet"],
        ".": ["554 5.6.0 Not this"],
    }
    async with ScriptedServer(script=script) as server, await connection_to(server) as conn:
        with pytest.raises(SMTPSenderRefused) as sender:
            await conn.mail("bad@x.test")
        await conn.mail(SENDER)
        with pytest.raises(SMTPRecipientsRefused) as recipient:
            await conn.rcpt("Bad <bad@x.test>")
        await conn.rcpt(RECIPIENTS[0])
        with pytest.raises(SMTPDataError) as data:
            await conn.data(message("late", size))
        with pytest.raises(SMTPDataError) as end:
            await conn.data(message("late", size))
        await conn.rset()
        await deliver(conn)
    assert str(sender.value) == "mail.example.test MAIL FROM:<bad@x.test>: 550 5.7.1 Not you"
    assert str(recipient.value) == "mail.example.test RCPT TO:<bad@x.test>: 450 4.2.1 Not now"
    assert recipient.value.refused == {"Bad <bad@x.test>": recipient.value.reply}
    assert recipient.value.may_retry
    assert str(data.value) == "mail.example.test DATA: 451 4.3.0 Not yet"
    assert end.value.code == 554
    assert end.value.reply.enhanced == "5.6.0"
    for caught in (sender, recipient, data, end):
        assert not caught.value.connection_closed
    assert len(server.messages) == 1


async def test_commands_out_of_order_are_an_error_and_nothing_is_written() -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        await conn.ehlo()
        for name in ("rcpt", "data"):
            with pytest.raises(RuntimeError, match="the session is in 'ready'"):
                await METHODS[name](conn)
        await conn.mail(SENDER)
        with pytest.raises(RuntimeError, match="MAIL is not possible now"):
            await conn.mail(SENDER)
        with pytest.raises(RuntimeError, match="DATA is not possible now"):
            await conn.data(RAW)
        await conn.rset()
        await deliver(conn)
    assert server.connection.verbs == [
        *("EHLO", "MAIL", "RSET"),
        *("MAIL", "RCPT", "RCPT", "DATA"),
    ]


async def test_a_planned_send_resets_what_was_begun_by_hand() -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        await conn.mail("other@x.test")
        await conn.rcpt("other@x.test")
        await deliver(conn)
    assert [message.recipients for message in server.messages] == [list(RECIPIENTS)]
    assert b"RSET\r\nMAIL FROM:<a@x.test>" in server.connection.writes[-2]


@pytest.mark.parametrize("address", ["jörg@x.test", "Jörg <jörg@x.test>"])
async def test_an_address_that_needs_smtputf8_is_sent_with_that_option_only(address: str) -> None:
    server = ScriptedServer(keywords=["SMTPUTF8"])
    async with server, await connection_to(server) as conn:
        with pytest.raises(ValueError, match="needs the option SMTPUTF8"):
            await conn.mail(address)
        await conn.mail(SENDER)
        with pytest.raises(ValueError, match="needs a MAIL with the option SMTPUTF8"):
            await conn.rcpt(address)
        await conn.rset()
        await conn.mail(address, ["SMTPUTF8"])
        await conn.rcpt(address)
        await conn.data(RAW)
    assert server.messages[0].sender == "jörg@x.test"


async def test_a_domain_is_sent_in_a_labels() -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        await conn.mail("a@bücher.test")
        await conn.rcpt("b@bücher.test")
    assert server.commands[1:] == [
        b"MAIL FROM:<a@xn--bcher-kva.test>\r\n",
        b"RCPT TO:<b@xn--bcher-kva.test>\r\n",
    ]


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
async def test_a_message_whose_end_has_left_is_in_doubt(size: int) -> None:
    server = ScriptedServer(script={".": DROP})
    async with server, await connection_to(server) as conn:
        await conn.mail(SENDER)
        await conn.rcpt(RECIPIENTS[0])
        with pytest.raises(SMTPServerDisconnected) as caught:
            await conn.data(message("gone", size))
    assert caught.value.outcome == "in_doubt"
    assert caught.value.in_doubt
    assert not caught.value.may_retry
    assert isinstance(caught.value.__cause__, anyio.EndOfStream)


async def test_a_message_whose_end_has_not_left_is_not_sent() -> None:
    server = ScriptedServer(script={"BODY": DROP}, capacity=1000)
    async with server, await connection_to(server) as conn:
        await conn.mail(SENDER)
        await conn.rcpt(RECIPIENTS[0])
        with pytest.raises(SMTPServerDisconnected) as caught:
            await conn.data(message("gone", LARGE))
    assert caught.value.outcome == "not_sent"
    assert caught.value.may_retry


async def test_a_refusal_in_the_middle_of_a_message_is_what_the_caller_sees() -> None:
    refusal = Act("552 5.3.4 Too much", then="deaf")
    server = ScriptedServer(script={"BODY": refusal}, capacity=1000)
    async with server, await connection_to(server) as conn:
        await conn.mail(SENDER)
        await conn.rcpt(RECIPIENTS[0])
        with pytest.raises(SMTPDataError, match="Too much") as caught:
            await conn.data(message("too much", LARGE))
        assert conn.is_closed
    assert caught.value.connection_closed


async def test_data_works_on_what_it_was_given_though_that_changes_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = bytearray(b"Subject: large\r\n\r\n" + b"yyyyyyy\n" * 768 * 1024)
    run_sync = to_thread.run_sync

    async def change_and_run(work: Callable[[], Any], **options: Any) -> Any:
        raw[:] = bytes(len(raw))
        return await run_sync(work, **options)

    async with ScriptedServer() as server, await connection_to(server) as conn:
        await conn.mail(SENDER)
        await conn.rcpt(RECIPIENTS[0])
        monkeypatch.setattr(to_thread, "run_sync", change_and_run)
        await conn.data(raw)
    assert server.messages[0].raw == b"Subject: large\r\n\r\n" + b"yyyyyyy\r\n" * 768 * 1024
    assert not any(raw)


@pytest.mark.parametrize("raw", [None, 5, email()], ids=["None", "int", "Message"])
async def test_a_message_of_another_type_is_an_error_before_data(raw: Any) -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        await conn.mail(SENDER)
        await conn.rcpt(RECIPIENTS[0])
        with pytest.raises(TypeError, match="a raw message is bytes, str"):
            await conn.data(raw)
    assert "DATA" not in server.connection.verbs


# The other commands


async def test_the_small_commands_return_their_replies() -> None:
    script: Script = {
        "EXPN": "250-<a@x.test>\n250 <b@x.test>",
        "HELP ME": "214 Read the manual",
    }
    async with ScriptedServer(script=script) as server, await connection_to(server) as conn:
        assert (await conn.noop()).text == "2.0.0 Ok"
        assert (await conn.rset()).code == 250
        assert (await conn.vrfy("Ann <a@x.test>")).code == 252
        assert (await conn.expn("staff")).lines == ("<a@x.test>", "<b@x.test>")
        assert (await conn.help()).code == 214
        assert (await conn.help("me")).text == "Read the manual"
        assert (await conn.command("xyzzy plugh")).code == 500
        assert (await conn.quit()).code == 221
        assert conn.is_closed
    assert server.commands == [
        *(b"NOOP\r\n", b"RSET\r\n", b"EHLO [127.0.0.1]\r\n", b"VRFY Ann <a@x.test>\r\n"),
        *(b"EXPN staff\r\n", b"HELP\r\n", b"HELP me\r\n", b"xyzzy plugh\r\n", b"QUIT\r\n"),
    ]


@pytest.mark.parametrize("name", ["rset", "noop", "vrfy", "expn", "help"])
@pytest.mark.parametrize("reply", ["450 4.0.0 Not now", "502 5.5.1 Never"])
async def test_a_refused_command_raises_its_reply(name: str, reply: str) -> None:
    server = ScriptedServer(script={name: reply})
    async with server, await connection_to(server) as conn:
        with pytest.raises(SMTPResponseException) as caught:
            await METHODS[name](conn)
        assert (await conn.command("HELP")).code < 600
    assert type(caught.value) is SMTPResponseException
    assert str(caught.value.reply) == reply
    assert caught.value.command is not None
    assert caught.value.command.startswith(name.upper())
    assert not caught.value.connection_closed


async def test_arguments_of_another_type_are_an_error_at_once() -> None:
    stream: Any = object()
    with pytest.raises(TypeError, match="stream is a ByteStream of anyio, not object"):
        SMTPConnection(stream)
    line: Any = b"NOOP"
    async with ScriptedServer() as server, await connection_to(server) as conn:
        with pytest.raises(TypeError, match="a command is a str, not bytes"):
            await conn.command(line)
    assert not server.commands


@pytest.mark.parametrize(
    ("line", "method"),
    [
        ("auth plain AGFubgBzZWNyZXQ=", r"login\(\)"),
        ("BDAT 5 LAST", r"send_message\(\)"),
        ("Data", r"data\(\)"),
        ("QUIT", r"quit\(\)"),
        ("STARTTLS", r"starttls\(\)"),
    ],
)
async def test_commands_that_lead_to_more_than_a_reply_are_not_sent_by_hand(
    line: str, method: str
) -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        with pytest.raises(ValueError, match=method) as caught:
            await conn.command(line)
    assert "AGFubgBzZWNyZXQ" not in str(caught.value)
    assert not server.connection.writes


async def test_quit_closes_the_connection_also_where_the_server_does_not_like_it() -> None:
    async with ScriptedServer(script={"QUIT": "500 5.5.1 No"}) as server:
        conn = await connection_to(server)
        assert (await conn.quit()).code == 500
        assert conn.is_closed
        await server.wait_closed()


@pytest.mark.parametrize("answer", [DROP, "221 Bye\n250 What?"])
async def test_quit_closes_the_connection_also_where_it_gets_no_reply(answer: Answer) -> None:
    async with ScriptedServer(script={"QUIT": answer}) as server:
        conn = await connection_to(server)
        with pytest.raises(SMTPException):
            await conn.quit()
        assert conn.is_closed
        await server.wait_closed()


# Encryption and login


async def test_starttls_encrypts_and_asks_again_what_is_offered(certificates: Certificates) -> None:
    server = ScriptedServer(
        keywords=["SIZE 1000"], tls_keywords=["SIZE 2000", "DSN"], starttls=certificates.server
    )
    async with server, await connection_to(server) as conn:
        await conn.ehlo()
        encrypted = [conn.is_encrypted]
        assert dict(conn.extensions) == {"SIZE": "1000", "STARTTLS": ""}
        assert (await conn.starttls(certificates.client)).code == 220
        encrypted.append(conn.is_encrypted)
        assert dict(conn.extensions) == {"SIZE": "2000", "DSN": ""}
        await conn.mail(SENDER)
        with pytest.raises(SMTPNotSupported, match="does not offer STARTTLS"):
            await conn.starttls(certificates.client)
    assert encrypted == [False, True]
    assert server.connection.verbs == ["EHLO", "STARTTLS", "EHLO", "MAIL"]


async def test_starttls_where_it_is_not_offered_is_not_said() -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        with pytest.raises(SMTPNotSupported, match=r"does not offer STARTTLS$") as caught:
            await conn.starttls()
        assert not caught.value.connection_closed
        await deliver(conn)
    assert "STARTTLS" not in server.connection.verbs


async def test_starttls_that_is_refused_leaves_the_connection_open(
    certificates: Certificates,
) -> None:
    script: Script = {"STARTTLS": "454 4.7.0 Not now"}
    server = ScriptedServer(starttls=certificates.server, script=script)
    async with server, await connection_to(server) as conn:
        with pytest.raises(SMTPTLSError) as caught:
            await conn.starttls(certificates.client)
        assert not conn.is_encrypted
        assert not caught.value.connection_closed
        assert (await conn.noop()).code == 250
    assert str(caught.value) == "mail.example.test STARTTLS: 454 4.7.0 Not now"


async def test_a_handshake_that_fails_closes_the_connection(certificates: Certificates) -> None:
    async with ScriptedServer(starttls=certificates.server) as server:
        conn = await connection_to(server)
        with pytest.raises(SMTPTLSError, match="was not accepted") as caught:
            await conn.starttls()
        assert caught.value.connection_closed
        assert conn.is_closed
        await server.wait_closed()


@in_virtual_time
async def test_a_handshake_that_is_cancelled_closes_the_connection(
    certificates: Certificates,
) -> None:
    script: Script = {"STARTTLS": Act(then="stall")}
    async with no_leaks(), ScriptedServer(starttls=certificates.server, script=script) as server:
        conn = await connection_to(server)
        await conn.ehlo()
        with anyio.move_on_after(0.05):
            await conn.starttls(certificates.client)
        assert conn.is_closed
        await server.wait_closed()


async def test_login_by_hand(certificates: Certificates) -> None:
    users = {"ann": "secret"}
    server = ScriptedServer(starttls=certificates.server, users=users)
    async with server, await connection_to(server) as conn:
        await conn.starttls(certificates.client)
        with pytest.raises(SMTPAuthenticationError) as caught:
            await conn.login(sasl.Plain("ann", "wrong"))
        assert not caught.value.connection_closed
        assert (await conn.login(ANN)).code == 235
    assert [login.accepted for login in server.connection.logins] == [False, True]


async def test_login_without_a_mechanism_is_an_error() -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        with pytest.raises(TypeError, match="takes mechanisms"):
            await conn.login()
    assert not server.commands


# Turns, ends and timeouts


async def test_a_method_waits_until_the_one_before_it_has_its_reply() -> None:
    answer = anyio.Event()
    codes: list[int] = []

    async def say(line: str) -> None:
        codes.append((await conn.command(line)).code)

    script: Script = {"ONE": Act("251 one", late=answer), "TWO": "252 two"}
    server = ScriptedServer(script=script)
    async with server, await connection_to(server) as conn, anyio.create_task_group() as group:
        group.start_soon(say, "ONE")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(say, "TWO")
        await anyio.wait_all_tasks_blocked()
        assert server.connection.verbs == ["ONE"]
        answer.set()
    assert codes == [251, 252]


async def test_behind_a_method_that_is_cancelled_its_reply_is_read_and_thrown_away() -> None:
    late = anyio.Event()
    replies: list[Reply] = []

    async def behind() -> None:
        replies.append(await conn.noop())

    script: Script = {"HELP": Act("214 too late", late=late)}
    async with ScriptedServer(script=script) as server, await connection_to(server) as conn:
        async with anyio.create_task_group() as group, anyio.create_task_group() as stopped:
            stopped.start_soon(conn.help)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(behind)
            await anyio.wait_all_tasks_blocked()
            stopped.cancel_scope.cancel()
            late.set()
        assert [reply.code for reply in replies] == [250]
        assert not conn.is_closed
    assert server.connection.verbs == ["HELP", "NOOP"]


@in_virtual_time
async def test_a_method_that_is_cancelled_closes_the_connection_if_nobody_is_behind_it() -> None:
    async with no_leaks(), ScriptedServer(script={"HELP": STALL}) as server:
        conn = await connection_to(server)
        with anyio.move_on_after(0.02):
            await conn.help()
        assert conn.is_closed
        with pytest.raises(SMTPServerDisconnected, match="a reply was not waited for"):
            await conn.noop()
        await server.wait_closed()


async def test_a_method_that_is_cancelled_before_it_was_said_harms_nobody() -> None:
    async with ScriptedServer() as server, await connection_to(server) as conn:
        await conn.ehlo()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await conn.noop()
        assert scope.cancelled_caught
        assert (await conn.help()).code == 214
    assert server.connection.verbs == ["EHLO", "HELP"]


@in_virtual_time
async def test_a_method_that_gets_no_reply_times_out_and_says_which() -> None:
    async with no_leaks(), ScriptedServer(script={"NOOP": STALL}) as server:
        conn = await connection_to(server, timeout=0.05)
        with pytest.raises(SMTPTimeoutError) as caught:
            await conn.noop()
        assert conn.is_closed
        await server.wait_closed()
    assert str(caught.value) == "mail.example.test NOOP: nothing came within 0.05 seconds"
    assert caught.value.connection_closed
    assert isinstance(caught.value, TimeoutError)


@in_virtual_time
async def test_a_timeout_that_is_felt_between_two_commands_closes_the_connection_too() -> None:
    class Late(Wrapped):
        """What it receives comes when the time is up already."""

        async def receive(self, max_bytes: int = 65536) -> bytes:
            data = await super().receive(max_bytes)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
            return data

    async with no_leaks(), ScriptedServer() as server:
        conn = SMTPConnection(Late(await server.connect()), timeout=0.05)
        with pytest.raises(SMTPTimeoutError) as caught:
            await conn.noop()
        assert caught.value.connection_closed
        assert conn.is_closed
        await server.wait_closed()


@in_virtual_time
async def test_a_server_that_drips_its_reply_is_not_waited_for_any_longer() -> None:
    async def drip() -> None:
        for _ in range(50):
            await anyio.sleep(0.05)
            if conn.is_closed:
                return
            with suppress(anyio.BrokenResourceError):
                await server.push("250-Wait")
        await server.push("250 Thanks")

    server = ScriptedServer(script={"NOOP": STALL})
    async with no_leaks(), server, await connection_to(server, timeout=0.2) as conn:
        await conn.ehlo()
        async with anyio.create_task_group() as group:
            group.start_soon(drip)
            with pytest.raises(SMTPTimeoutError, match="NOOP: nothing came within"):
                await conn.noop()


async def test_a_reply_to_no_command_closes_the_connection() -> None:
    async with ScriptedServer(script={"NOOP": "250 Ok\n250 And more"}) as server:
        conn = await connection_to(server)
        with pytest.raises(SMTPProtocolError, match="a reply to no command"):
            await conn.noop()
        assert conn.is_closed


@pytest.mark.parametrize("endless", [b"250-More\r\n" * 2000, b"250 " + b"x" * 100_000])
async def test_a_reply_without_end_is_not_read_to_its_end(endless: bytes) -> None:
    async with ScriptedServer(script={"NOOP": endless}) as server:
        conn = await connection_to(server)
        with pytest.raises(SMTPProtocolError, match=r"larger than|longer than") as caught:
            await conn.noop()
        assert conn.is_closed
        assert len(str(caught.value)) < 1000
        await server.wait_closed()


async def test_half_a_reply_too_many_closes_the_connection() -> None:
    async with ScriptedServer(script={"NOOP": b"250 Ok\r\n250 And"}) as server:
        conn = await connection_to(server)
        assert (await conn.noop()).text == "Ok"
        assert conn.is_closed
        with pytest.raises(SMTPServerDisconnected, match="a conversation was not finished"):
            await conn.noop()


@each_method
async def test_after_its_end_every_method_says_that_the_connection_is_closed(
    method: Method,
) -> None:
    async with ScriptedServer() as server:
        port = await server.listen()
        conn = SMTPConnection(await anyio.connect_tcp("127.0.0.1", port), "mail.example.test")
        await conn.ehlo()
        await conn.mail(SENDER)
        await conn.rcpt(RECIPIENTS[0])
        await conn.aclose()
        await conn.aclose()
        assert conn.is_closed
        with pytest.raises(SMTPServerDisconnected, match="the connection was closed") as caught:
            await method(conn)
        assert caught.value.connection_closed


async def test_a_stream_that_was_closed_before_anything_was_said_is_a_connect_error() -> None:
    async with ScriptedServer() as server:
        port = await server.listen()
        stream = await anyio.connect_tcp("127.0.0.1", port)
        await stream.aclose()
        with pytest.raises(SMTPConnectError, match="the connection was lost"):
            await SMTPConnection(stream).ehlo()


async def test_a_server_that_says_goodbye_is_not_spoken_to_any_more() -> None:
    server = ScriptedServer(script={"NOOP": "421 4.4.2 Idle"})
    async with server, await connection_to(server) as conn:
        with pytest.raises(SMTPResponseException) as caught:
            await conn.noop()
        assert caught.value.code == 421
        assert caught.value.connection_closed
        assert conn.is_closed
        with pytest.raises(SMTPServerDisconnected) as closed:
            await conn.noop()
        assert closed.value.reply == caught.value.reply
    assert server.connection.verbs == ["NOOP"]


async def test_leaving_the_block_closes_without_quit() -> None:
    async with no_leaks(), ScriptedServer() as server:
        async with await connection_to(server) as conn:
            await conn.noop()
        assert conn.is_closed
        await server.wait_closed()
    assert server.connection.end == "eof"


async def test_the_repr_says_the_state(certificates: Certificates) -> None:
    async with ScriptedServer(starttls=certificates.server) as server:
        async with await connection_to(server) as conn:
            states = [repr(conn)]
            await conn.ehlo()
            states.append(repr(conn))
            await conn.starttls(certificates.client)
            await conn.mail(SENDER)
            states.append(repr(conn))
        states.append(repr(conn))
    assert states == [
        "<SMTPConnection mail.example.test connected>",
        "<SMTPConnection mail.example.test ready>",
        "<SMTPConnection mail.example.test TLS mail>",
        "<SMTPConnection mail.example.test TLS closed>",
    ]


# The connection of a client


async def test_a_connection_of_a_client_is_ready_and_goes_back_to_it() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        async with smtp.connection() as conn:
            assert conn.extensions.pipelining
            await conn.vrfy("postmaster")
            await deliver(conn)
            assert repr(smtp) == "<SMTP mail.example.test:25 1/1 idle 0 waiting 0>"
        assert repr(smtp) == "<SMTP mail.example.test:25 0/1 idle 1 waiting 0>"
        await deliver(smtp)
        with pytest.raises(RuntimeError, match="given back to its client"):
            await conn.noop()
        with pytest.raises(RuntimeError, match="given back to its client"):
            await deliver(conn)
    assert server.connection.verbs.count("EHLO") == 1
    assert len(server.messages) == 2


async def test_a_connection_of_a_client_has_the_clients_settings() -> None:
    server = ScriptedServer(script={f"RCPT TO:<{RECIPIENTS[1]}>": "550 No"})
    options: dict[str, Any] = {
        "local_hostname": "me.example.test",
        "pipelining": "off",
        "require_all": True,
        "add_missing_headers": False,
    }
    async with server, on_memory(server, **options) as smtp, smtp.connection() as conn:
        with pytest.raises(SMTPRecipientsRefused):
            await conn.send_message(email(), recipients=RECIPIENTS)
        await conn.send_message(email())
        await conn.ehlo()
    assert server.connection.verbs == [
        *("EHLO", "MAIL", "RCPT", "RCPT"),
        *("RSET", "MAIL", "RCPT", "DATA", "EHLO", "QUIT"),
    ]
    assert server.connection.hello == "me.example.test"
    assert b"Message-ID" not in server.messages[0].raw


async def test_a_connection_that_is_left_in_the_middle_of_a_command_is_closed() -> None:
    server = ScriptedServer(script={"HELP": STALL})
    async with no_leaks(), server, on_memory(server) as smtp:
        async with anyio.create_task_group() as group, smtp.connection() as conn:
            group.start_soon(conn.help)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        await deliver(smtp)
    assert len(server.connections) == 2


async def test_a_connection_that_was_ended_is_not_kept() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        async with smtp.connection() as conn:
            await conn.quit()
        assert repr(smtp) == "<SMTP mail.example.test:25 0/1 idle 0 waiting 0>"
        await deliver(smtp)
    assert len(server.connections) == 2


async def test_each_connection_of_a_client_is_entered_once() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        borrowed = smtp.connection()
        async with borrowed:
            with pytest.raises(RuntimeError, match="entered once"):
                await borrowed.__aenter__()


async def test_asking_for_another_connection_inside_the_last_one_is_an_error() -> None:
    async with ScriptedServer() as server, on_memory(server) as smtp:
        async with smtp.connection():
            with pytest.raises(RuntimeError, match="holds the last connection"):
                await deliver(smtp)
        await deliver(smtp)
    assert len(server.messages) == 1


@in_virtual_time
async def test_a_deaf_server_does_not_hold_up_the_end_of_a_connection() -> None:
    async with no_leaks(), ScriptedServer(script={"NOOP": DEAF}) as server:
        conn = await connection_to(server)
        with anyio.move_on_after(0.05):
            await conn.noop()
        assert conn.is_closed


# Stopping it anywhere


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
async def test_stopping_a_conversation_at_any_await_mixes_up_no_replies(
    size: int, cancel_how: How, certificates: Certificates
) -> None:
    raw = message("stopped", size)
    script: Script = {"HELP": "214 help", "VRFY": "252 vrfy", "NOOP": "250 noop"}
    server = ScriptedServer(
        starttls=certificates.server, users={"ann": "secret"}, script=script, capacity=1 << 20
    )
    closed: list[bool] = []
    async with no_leaks(), server:
        for k in range(1, 500):
            conn = await connection_to(server)

            async def converse() -> None:
                assert (await conn.help()).text == "help"  # noqa: B023 - called at once
                await conn.starttls(certificates.client)  # noqa: B023
                await conn.login(ANN)  # noqa: B023
                assert (await conn.vrfy("ann")).text == "vrfy"  # noqa: B023
                await conn.mail(SENDER)  # noqa: B023
                await conn.rcpt(RECIPIENTS[0])  # noqa: B023
                assert (await conn.data(raw)).text == "2.0.0 Ok: queued"  # noqa: B023

            ended = await cancel_at(k, cancel_how, converse)
            ended.unwrap()
            closed.append(conn.is_closed)
            if not conn.is_closed:
                assert (await conn.noop()).text == "noop"
                await conn.rset()
                await deliver(conn)
            await conn.aclose()
            if not ended.stopped:
                break
        else:
            pytest.fail("the scenario has no end")
        await server.wait_closed()
    assert {True, False} == set(closed)
