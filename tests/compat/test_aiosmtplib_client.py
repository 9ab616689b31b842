"""The façade's own: what aiosmtplib does not do, or does otherwise, and how a client ends."""

from __future__ import annotations

import pickle
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.from_thread import start_blocking_portal

import anysmtp
from anysmtp.compat import aiosmtplib
from anysmtp.compat.aiosmtplib import SMTP, SMTPException, smtp
from anysmtp.compat.aiosmtplib._session import _run_now
from anysmtp.compat.aiosmtplib._translate import translated
from anysmtp.compat.aiosmtplib.errors import SMTPTLSError
from anysmtp.testing import STALL, Act, AiosmtpdServer, ScriptedServer
from support.clients import Wrapped
from support.fixtures import USERS
from support.letters import letter
from support.tls import Certificates

SENDER, RECIPIENTS = "a@x.test", ["b@x.test", "c@x.test"]
RAW = "Subject: hello\r\n\r\nhello\r\n"


async def connected(server: ScriptedServer, **options: Any) -> SMTP:
    client = SMTP(hostname="127.0.0.1", port=server.port or await server.listen(), **options)
    await client.connect()
    return client


class FarAway(Wrapped):
    """A stream that does not say that it ends on this machine."""


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP connections whose other end is not known."""
    connect: Callable[..., Awaitable[ByteStream]] = vars(anyio)["connect_tcp"]

    async def connect_tcp(host: str, port: int, **options: Any) -> ByteStream:
        return FarAway(await connect(host, port, **options))

    monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)


@pytest.mark.anyio
async def test_close_does_not_wait_and_the_server_sees_it() -> None:
    async with ScriptedServer() as server:
        client = await connected(server)
        client.close()
        client.close()
        assert not client.is_connected
        assert client.protocol is None
        assert client.transport is None
        await server.wait_closed()
        assert (await client.connect()).code == 220
        client.close()
        await server.wait_closed()
    assert [record.end for record in server.connections] == ["eof", "eof"]


@pytest.mark.anyio
async def test_close_under_tls(certificates: Certificates) -> None:
    async with ScriptedServer(implicit_tls=certificates.server) as server:
        client = await connected(server, use_tls=True, tls_context=certificates.client)
        client.close()
        await server.wait_closed()


@pytest.mark.anyio
async def test_close_ends_what_another_task_is_waiting_for() -> None:
    async with ScriptedServer(script={"NOOP": STALL}) as server:
        client = await connected(server)

        async def wait() -> None:
            with pytest.raises(aiosmtplib.SMTPServerDisconnected):
                await client.noop()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            while b"NOOP\r\n" not in server.commands:
                await anyio.lowlevel.checkpoint()
            client.close()
        assert not client.is_connected


def test_close_outside_of_the_event_loop_forgets_the_connection(
    aiosmtpd_plain: AiosmtpdServer,
) -> None:
    client = SMTP(hostname=aiosmtpd_plain.host, port=aiosmtpd_plain.port)
    with start_blocking_portal() as portal:
        portal.call(client.connect)
        stream = client.transport
        assert stream is not None
        client.close()
        assert not client.is_connected
        portal.call(stream.aclose)


def test_what_closes_a_connection_is_not_run_for_ever() -> None:
    rounds: list[int] = []

    class Rounds:
        def __await__(self) -> Generator[None, None, None]:
            for number in range(1000):
                rounds.append(number)
                yield

    async def close_slowly() -> None:
        await Rounds()

    _run_now(close_slowly())
    assert len(rounds) < 1000


@pytest.mark.anyio
async def test_leaving_by_an_exception_says_no_quit() -> None:
    async with ScriptedServer() as server:
        with pytest.raises(ZeroDivisionError):
            async with await connected(server):
                raise ZeroDivisionError
        await server.wait_closed()
    assert server.connection.end == "eof"


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [STALL, "500 no"], ids=["none", "no"])
async def test_leaving_does_not_fail_for_the_answer_to_quit(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "_QUIT_TIMEOUT", 0.1)
    async with ScriptedServer(script={"QUIT": answer}) as server:
        async with await connected(server) as client:
            pass
        assert not client.is_connected
        await server.wait_closed()


@pytest.mark.anyio
async def test_a_cancelled_call_closes_the_connection() -> None:
    async with ScriptedServer(script={"NOOP": STALL}) as server:
        client = await connected(server)
        with anyio.move_on_after(0.05) as scope:
            await client.noop()
        assert scope.cancelled_caught
        assert not client.is_connected
        await server.wait_closed()


@pytest.mark.anyio
async def test_a_cancelled_connect_leaves_nothing() -> None:
    async with ScriptedServer(script={"AUTH": STALL}, keywords=["AUTH PLAIN"]) as server:
        port = await server.listen()
        client = SMTP(hostname="127.0.0.1", port=port, username="ann", password="secret")
        with anyio.move_on_after(0.05) as scope:
            await client.connect()
        assert scope.cancelled_caught
        assert not client.is_connected
        await server.wait_closed()


@pytest.mark.anyio
async def test_tasks_take_turns_and_no_timeout_counts_the_waiting() -> None:
    script = {".": [Act(late=0.6) for _ in range(4)]}
    results: list[object] = []
    async with (
        ScriptedServer(script=script) as server,
        await connected(server, timeout=2) as client,
    ):

        async def send() -> None:
            results.append(await client.sendmail(SENDER, RECIPIENTS, RAW))

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(send)
    assert results == [({}, "2.0.0 Ok: queued")] * 4
    assert len(server.messages) == 4


@pytest.mark.anyio
async def test_a_second_connect_waits_for_the_end_of_the_first() -> None:
    async with ScriptedServer() as server:
        client = SMTP(hostname="127.0.0.1", port=await server.listen())

        async def send() -> None:
            async with client:
                await client.send_message(letter())

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(send)
    assert [len(record.messages) for record in server.connections] == [1, 1, 1]


@pytest.mark.anyio
async def test_a_failed_connect_lets_the_next_one_go_on() -> None:
    async with ScriptedServer(script={"GREETING": ["554 no"]}) as server:
        client = SMTP(hostname="127.0.0.1", port=await server.listen())
        ends: list[str] = []

        async def connect() -> None:
            try:
                ends.append(str((await client.connect()).code))
            except SMTPException as error:
                ends.append(type(error).__name__)

        async with anyio.create_task_group() as group:
            group.start_soon(connect)
            group.start_soon(connect)
        client.close()
    assert ends == ["SMTPConnectResponseError", "220"]


@pytest.mark.anyio
async def test_a_connect_that_was_closed_does_not_end_the_one_that_followed() -> None:
    async with ScriptedServer(script={"EHLO": [STALL]}) as server:
        client = SMTP(hostname="127.0.0.1", port=await server.listen())

        async def connect() -> None:
            with pytest.raises(aiosmtplib.SMTPServerDisconnected):
                await client.connect()

        async def connect_again() -> None:
            await client.connect()

        async with anyio.create_task_group() as group:
            group.start_soon(connect)
            while not server.commands:
                await anyio.lowlevel.checkpoint()
            client.close()
            group.start_soon(connect_again)
        assert client.is_connected
        client.close()


@pytest.mark.anyio
async def test_the_cause_says_what_became_of_the_message() -> None:
    async with (
        ScriptedServer(script={"RCPT": "450 later"}) as server,
        await connected(server) as client,
    ):
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as caught:
            await client.sendmail(SENDER, RECIPIENTS, RAW)
    cause = caught.value.__cause__
    assert isinstance(cause, anysmtp.SMTPRecipientsRefused)
    assert cause.delivery is not None
    assert cause.delivery.retry_recipients == tuple(RECIPIENTS)


@pytest.mark.anyio
async def test_the_sender_of_a_message_object_is_in_the_error() -> None:
    async with (
        ScriptedServer(script={"MAIL": "550 no"}) as server,
        await connected(server) as client,
    ):
        with pytest.raises(aiosmtplib.SMTPSenderRefused) as caught:
            await client.send_message(letter())
    assert caught.value.sender == "joerg@example.test"


@pytest.mark.anyio
async def test_a_message_that_is_too_large_is_not_sent() -> None:
    async with (
        ScriptedServer(keywords=["SIZE 10"]) as server,
        await connected(server) as client,
    ):
        with pytest.raises(aiosmtplib.SMTPSenderRefused) as caught:
            await client.sendmail(SENDER, RECIPIENTS, RAW)
        with pytest.raises(aiosmtplib.SMTPSenderRefused):
            await client.send_message(letter())
    assert (caught.value.code, caught.value.sender) == (552, SENDER)
    assert server.connection.verbs == ["EHLO", "QUIT"]


@pytest.mark.anyio
async def test_an_address_beyond_ascii_needs_no_option_but_a_server_that_takes_it() -> None:
    keywords = ["SMTPUTF8", "8BITMIME"]
    async with ScriptedServer(keywords=keywords) as server, await connected(server) as client:
        await client.sendmail("é@x.test", RECIPIENTS, RAW)
    assert server.messages[0].sender == "é@x.test"
    async with ScriptedServer() as server, await connected(server) as client:
        with pytest.raises(aiosmtplib.SMTPNotSupported):
            await client.sendmail("é@x.test", RECIPIENTS, RAW)
    assert server.messages == []


def test_a_goodbye_that_comes_between_commands_is_a_lost_connection() -> None:
    goodbye = anysmtp.SMTPServerDisconnected("closed", reply=anysmtp.Reply(421, "idle"))
    error = translated(goodbye)
    assert type(error) is aiosmtplib.SMTPServerDisconnected
    assert "421 idle" in error.message


@pytest.mark.parametrize(
    "error",
    [
        SMTPException("no"),
        aiosmtplib.SMTPConnectResponseError(554, "no"),
        aiosmtplib.SMTPSenderRefused(550, "no", SENDER),
        aiosmtplib.SMTPRecipientsRefused([aiosmtplib.SMTPRecipientRefused(550, "no", "b@x.test")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_can_be_pickled(error: SMTPException) -> None:
    copy: SMTPException = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert repr(copy.args) == repr(error.args)


@pytest.mark.anyio
async def test_a_name_that_does_not_resolve_and_a_network_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for error, kind in (
        (OSError("no such name"), aiosmtplib.SMTPConnectError),
        (TimeoutError("timed out"), aiosmtplib.SMTPConnectTimeoutError),
        (UnicodeError("label too long"), aiosmtplib.SMTPConnectError),
    ):

        async def fail(*_: object, error: Exception = error, **__: object) -> ByteStream:
            raise error

        monkeypatch.setattr(anyio, "connect_tcp", fail)
        with pytest.raises(kind, match=f"smtp.example.test on port 587: {error}"):
            await SMTP(hostname="smtp.example.test", start_tls=True).connect()


@pytest.mark.anyio
async def test_a_handshake_that_fails_after_starttls(certificates: Certificates) -> None:
    async with ScriptedServer(starttls=certificates.server_untrusted) as server:
        client = SMTP(hostname="127.0.0.1", port=await server.listen())
        with pytest.raises(SMTPTLSError, match="certificate") as caught:
            await client.connect(start_tls=True, tls_context=certificates.client)
        assert isinstance(caught.value, (ssl.SSLError, ConnectionError))
        assert not client.is_connected


@pytest.mark.anyio
async def test_starttls_that_is_refused_or_not_offered(certificates: Certificates) -> None:
    script = {"STARTTLS": "454 4.7.0 not now"}
    async with ScriptedServer(starttls=certificates.server, script=script) as server:
        client = await connected(server, start_tls=False)
        with pytest.raises(aiosmtplib.SMTPResponseException) as caught:
            await client.starttls()
        assert caught.value.args == (454, "4.7.0 not now")
        assert (await client.noop()).code == 250
        with pytest.raises(ValueError, match="hostname"):
            await client.starttls(server_hostname="another.test")
        client.close()
    async with ScriptedServer() as server:
        with pytest.raises(SMTPException, match="STARTTLS"):
            await connected(server, start_tls=True)


@pytest.mark.anyio
async def test_what_is_known_after_starttls(certificates: Certificates) -> None:
    tls_keywords = ["SIZE 1000", "AUTH PLAIN"]
    async with ScriptedServer(starttls=certificates.server, tls_keywords=tls_keywords) as server:
        options = {"start_tls": True, "tls_context": certificates.client}
        async with await connected(server, **options) as client:
            assert client.is_ehlo_or_helo_needed
            await client.noop()
            assert client.last_ehlo_response == (250, "127.0.0.1\nSIZE 1000\nAUTH PLAIN")
            assert client.esmtp_extensions == {"size": "1000", "auth": "PLAIN"}
            assert client.get_transport_info("sslcontext") is certificates.client
    # EHLO is not said twice.
    assert server.connection.verbs == ["EHLO", "STARTTLS", "EHLO", "NOOP", "QUIT"]


@pytest.mark.anyio
async def test_a_client_certificate(certificates: Certificates) -> None:
    async with (
        ScriptedServer(implicit_tls=certificates.server_asking) as server,
        await connected(
            server,
            use_tls=True,
            cert_bundle=str(certificates.cafile),
            client_cert=str(certificates.client_cert),
            client_key=str(certificates.client_key),
        ),
    ):
        pass
    assert server.connection.client_certificate is not None


@pytest.mark.anyio
async def test_a_login_does_not_cross_a_network_in_clear_unasked(far_away: None) -> None:
    options = {"username": "ann", "password": "secret"}
    async with ScriptedServer(users={"ann": "secret"}) as server:
        with pytest.raises(SMTPException, match="start_tls=False") as caught:
            await connected(server, **options)
        assert type(caught.value) is SMTPException
        async with await connected(server, start_tls=False, **options) as client:
            await client.send_message(letter())
    assert server.messages[0].username == "ann"


@pytest.mark.anyio
async def test_on_loopback_a_login_needs_no_encryption() -> None:
    async with (
        ScriptedServer(users={"ann": "secret"}) as server,
        await connected(server, username=b"ann", password=b"secret"),
    ):
        pass
    assert server.connection.logins[0].accepted


@pytest.mark.anyio
async def test_a_password_that_was_refused_is_not_tried_again() -> None:
    async with ScriptedServer(users={"ann": "secret"}) as server:
        client = await connected(server)
        with pytest.raises(aiosmtplib.SMTPAuthenticationError):
            await client.login("ann", "wrong")
        assert client.is_connected
        client.close()
    assert len(server.connection.logins) == 1


@pytest.mark.anyio
async def test_the_methods_of_a_login_can_be_chosen() -> None:
    class Chooses(SMTP):
        AUTH_METHODS = ("login",)

    async with (
        ScriptedServer(users={"ann": "secret"}) as server,
        Chooses(hostname="127.0.0.1", port=await server.listen()) as client,
    ):
        assert client.supported_auth_methods == ["login"]
        await client.login("ann", "secret")
        client.AUTH_METHODS = ("ntlm",)
        with pytest.raises(SMTPException, match="AUTH_METHODS"):
            await client.login("ann", "secret")
    assert server.connection.logins[0].mechanism == "LOGIN"


@pytest.mark.anyio
async def test_an_empty_password_is_one() -> None:
    async with (
        ScriptedServer(users={"ann": ""}) as server,
        await connected(server, username="ann"),
    ):
        pass


@pytest.mark.anyio
async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    for given in (path, str(path), bytes(path)):
        async with ScriptedServer(users={"ann": "secret"}) as server:
            await server.listen_unix(path)
            await aiosmtplib.send(
                letter(), hostname=None, socket_path=given, username="ann", password="secret"
            )
            await server.wait_closed()
            assert len(server.messages) == 1
        path.unlink()
    with pytest.raises(aiosmtplib.SMTPConnectError, match=str(path)):
        await aiosmtplib.send(letter(), socket_path=path)


@pytest.mark.anyio
async def test_a_socket_that_is_connected() -> None:
    async with ScriptedServer(users={"ann": "secret"}) as server:
        port = await server.listen()
        await aiosmtplib.send(letter(), sock=socket.create_connection(("127.0.0.1", port)))
        # Where it leads is not known: ssh -D listens on loopback too.
        sock = socket.create_connection(("127.0.0.1", port))
        with pytest.raises(SMTPException, match="start_tls=False"):
            await aiosmtplib.send(letter(), sock=sock, username="ann", password="secret")
        await server.wait_closed()
    assert len(server.messages) == 1


@pytest.mark.anyio
async def test_a_socket_whose_server_says_nothing() -> None:
    async with ScriptedServer(script={"GREETING": STALL}) as server:
        sock = socket.create_connection(("127.0.0.1", await server.listen()))
        with pytest.raises(aiosmtplib.SMTPConnectTimeoutError, match="the socket"):
            await SMTP(sock=sock).connect(timeout=0.1)


@pytest.mark.anyio
async def test_a_source_address() -> None:
    async with ScriptedServer() as server:
        client = await connected(server, source_address=("127.0.0.2", 0))
        assert client.get_transport_info("sockname")[0] == "127.0.0.2"
        client.close()


@pytest.mark.anyio
async def test_what_a_connection_that_was_reset_does_not_tell() -> None:
    class Reset(Wrapped):
        @property
        def extra_attributes(self) -> Any:
            def fail() -> object:
                raise OSError("not connected")

            return {SocketAttribute.remote_address: fail}

    async with ScriptedServer() as server:
        client = await connected(server)
        assert client.transport is not None
        client.transport._stream = Reset(client.transport._stream)
        assert client.get_transport_info("peername") is None
        client.close()


def test_the_default_ports() -> None:
    assert SMTP().server_port == 25
    assert SMTP(use_tls=True).server_port == 465
    assert SMTP(start_tls=True).server_port == 587
    assert SMTP(port=2525, use_tls=True).server_port == 2525


@pytest.mark.anyio
async def test_a_multi_line_greeting_that_comes_in_pieces() -> None:
    script = {"GREETING": "220-mail.example.test\n220  at your service "}
    async with ScriptedServer(script=script, split=3) as server:
        client = SMTP(hostname="127.0.0.1", port=await server.listen())
        assert await client.connect() == (220, "mail.example.test\nat your service")
        client.close()


@pytest.mark.anyio
async def test_a_greeting_without_end_is_not_kept() -> None:
    script = {"GREETING": b"220-" + b"x" * 200_000}
    async with ScriptedServer(script=script, strict=False) as server:
        client = SMTP(hostname="127.0.0.1", port=await server.listen())
        with pytest.raises(aiosmtplib.SMTPResponseException):
            await client.connect()


@pytest.mark.anyio
async def test_only_one_line_commands_are_executed_as_they_are() -> None:
    async with ScriptedServer() as server:
        client = await connected(server)
        for command in (b"DATA", b"AUTH", b"STARTTLS", b"BDAT"):
            with pytest.raises(ValueError, match=command.decode()):
                await client.execute_command(command)
        assert await client.execute_command(b"quit") == (221, "2.0.0 Bye")
        assert not client.is_connected


@pytest.mark.anyio
async def test_a_command_that_is_not_possible_is_not_sent() -> None:
    async with ScriptedServer() as server, await connected(server) as client:
        with pytest.raises(RuntimeError, match="RCPT"):
            await client.rcpt("b@x.test")
        with pytest.raises(ValueError, match="latin-1"):
            await client.mail(SENDER, encoding="latin-1")
        await client.mail(SENDER, encoding="utf8")


@pytest.mark.anyio
async def test_the_stream_passes_on_an_end_of_sending() -> None:
    async with ScriptedServer() as server:
        client = await connected(server)
        assert client.transport is not None
        await client.transport.send_eof()
        await server.wait_closed()
        client.close()
    assert server.connection.end == "eof"


def test_the_synchronous_helpers(aiosmtpd_starttls: AiosmtpdServer) -> None:
    server = aiosmtpd_starttls
    client = SMTP(
        hostname=server.host,
        port=server.port,
        username="ann",
        password=USERS["ann"],
        validate_certs=False,
    )
    assert client.sendmail_sync(SENDER, RECIPIENTS, RAW) == ({}, "2.0.0 OK")
    assert client.send_message_sync(letter(), recipients="b@x.test") == ({}, "2.0.0 OK")
    assert [message.recipients for message in server.messages] == [
        ["b@x.test", "c@x.test"],
        ["b@x.test"],
    ]


@pytest.mark.anyio
async def test_the_synchronous_helpers_are_not_for_event_loops() -> None:
    with pytest.raises(RuntimeError, match=r"[Rr]unning"):
        SMTP().send_message_sync(letter())
