"""What aiosmtplib documents, asked of aiosmtplib and of the façade by the same programs.

The programs run three times: with aiosmtplib, and with the façade on asyncio and on trio.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import socket
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from anysmtp.testing import DROP, STALL, Act, AiosmtpdServer, ScriptedServer
from support.fixtures import USERS
from support.letters import letter
from support.tls import Certificates

pytestmark = pytest.mark.anyio

FACADE = "anysmtp.compat.aiosmtplib"
SENDER, RECIPIENTS = "a@x.test", ["b@x.test", "c@x.test"]
RAW = "Subject: hello\r\n\r\n.hello\r\n"
GREETING = (220, "mail.example.test ESMTP")
TAKEN = "2.0.0 Ok: queued"


def _needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("aiosmtplib", "asyncio"), marks=_needs("aiosmtplib"), id="aiosmtplib"),
        pytest.param((FACADE, "asyncio"), id="facade-asyncio"),
        pytest.param((FACADE, "trio"), marks=_needs("trio"), id="facade-trio"),
    ],
)
def library_and_backend(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.fixture(scope="module")
def anyio_backend(library_and_backend: tuple[str, str]) -> str:
    return library_and_backend[1]


@pytest.fixture
def lib(library_and_backend: tuple[str, str]) -> Any:
    """The library: what a program has imported as ``aiosmtplib``."""
    return importlib.import_module(library_and_backend[0])


@pytest.fixture(autouse=True)
def without_the_remains_of_aiosmtplib(lib: Any) -> Iterator[None]:
    """Its transports may outlive the event loop: closing them is not waited for."""
    yield
    if lib.__name__ == "aiosmtplib":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


async def client_of(lib: Any, server: ScriptedServer, **options: Any) -> Any:
    port = server.port or await server.listen()
    return lib.SMTP(**{"hostname": "127.0.0.1", "port": port, "timeout": 10, **options})


async def test_a_session_step_by_step(lib: Any) -> None:
    async with ScriptedServer() as server:
        client = await client_of(lib, server)
        assert not client.is_connected
        assert await client.connect() == GREETING
        assert client.is_connected
        assert client.supports_esmtp
        assert client.esmtp_extensions["size"] == "10000000"
        assert client.supports_extension("SIZE")
        assert not client.supports_extension("CHUNKING")
        assert client.last_ehlo_response.message.splitlines()[1] == "PIPELINING"
        assert not client.is_ehlo_or_helo_needed
        response = await client.mail(SENDER)
        assert (response.code, response.message) == response == (250, "2.1.0 Ok")
        assert isinstance(response, lib.SMTPResponse)
        assert (await client.rcpt(RECIPIENTS[0])).code == lib.SMTPStatus.completed
        assert await client.data(RAW) == (250, TAKEN)
        assert await client.quit() == (221, "2.0.0 Bye")
        assert not client.is_connected
        assert client.esmtp_extensions == {}
        assert client.is_ehlo_or_helo_needed
    [message] = server.messages
    assert (message.sender, message.recipients) == (SENDER, RECIPIENTS[:1])
    assert message.raw == RAW.encode()


async def test_the_other_commands(lib: Any) -> None:
    script = {"EXPN": "250-a@x.test\n250  b@x.test ", "HELP": "214-one\n214 two"}
    async with ScriptedServer(script=script) as server, await client_of(lib, server) as client:
        assert (await client.ehlo(hostname=" client.test ")).code == 250
        assert (await client.helo()).code == 250
        assert client.last_helo_response.code == 250
        assert (await client.noop()).code == 250
        assert (await client.rset()).code == 250
        assert await client.help() == "one\ntwo"
        assert (await client.vrfy("Ann <ann@x.test>")).code == lib.SMTPStatus.cannot_vrfy
        assert await client.expn("staff") == (250, "a@x.test\nb@x.test")
        assert (await client.execute_command(b"NOOP", b"hello")).code == 250
        assert (await client.execute_command(b"WHAT")).code == 500
    assert {b"EHLO client.test\r\n", b"VRFY ann@x.test\r\n", b"NOOP hello\r\n"} <= {
        *server.connection.commands
    }
    assert server.connection.end == "quit"


async def test_a_message_to_several_recipients(lib: Any) -> None:
    async with (
        ScriptedServer(script={"RCPT TO:<c@x.test>": "550 5.1.1 no such user"}) as server,
        await client_of(lib, server) as client,
    ):
        refused, text = await client.sendmail(SENDER, RECIPIENTS, RAW)
        again = await client.sendmail(SENDER, RECIPIENTS[0], RAW.encode())
    assert refused == {"c@x.test": (550, "5.1.1 no such user")}
    assert isinstance(refused["c@x.test"], lib.SMTPResponse)
    assert (text, again) == (TAKEN, ({}, TAKEN))
    assert [message.recipients for message in server.messages] == [["b@x.test"], ["b@x.test"]]


async def test_options_of_mail_and_rcpt(lib: Any) -> None:
    keywords = ["SIZE 1000000", "8BITMIME", "DSN"]
    async with (
        ScriptedServer(keywords=keywords) as server,
        await client_of(lib, server) as client,
    ):
        await client.sendmail(
            *(SENDER, RECIPIENTS[0], RAW),
            mail_options=["RET=HDRS", "BODY=8BITMIME"],
            rcpt_options=iter(["NOTIFY=NEVER"]),
        )
        await client.mail(SENDER, options=["RET=FULL"])
        await client.rcpt("c@x.test", options=["NOTIFY=SUCCESS"])
    [message] = server.messages
    assert {"RET=HDRS", "BODY=8BITMIME"} <= {*message.mail_options}
    assert message.rcpt_options == {"b@x.test": ["NOTIFY=NEVER"]}
    assert b"RCPT TO:<c@x.test> NOTIFY=SUCCESS\r\n" in server.commands


async def test_a_message_object(lib: Any) -> None:
    message = letter()
    async with ScriptedServer() as server:
        result = await lib.send(message, hostname="127.0.0.1", port=await server.listen())
        async with await client_of(lib, server) as client:
            other = await client.send_message(message, sender=SENDER, recipients="b@x.test")
    assert result == other == ({}, TAKEN)
    first, second = server.messages
    assert first.recipients == ["ann@example.test", "secret@example.test"]
    assert (second.sender, second.recipients) == (SENDER, ["b@x.test"])
    assert first.raw == second.raw
    assert b"Bcc" not in first.raw
    assert message["Bcc"]


async def test_a_raw_message_by_send(lib: Any) -> None:
    async with ScriptedServer() as server:
        port = await server.listen()
        result = await lib.send(
            RAW.encode(), sender=SENDER, recipients=RECIPIENTS, hostname="127.0.0.1", port=port
        )
    assert result == ({}, TAKEN)
    for missing in ({"sender": SENDER}, {"recipients": RECIPIENTS}):
        with pytest.raises(ValueError, match=r"raw messages?"):
            await lib.send(RAW, hostname="127.0.0.1", port=port, **missing)


# The script, the exception, and what it says.
REFUSALS: Mapping[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "greeting": (
        {"GREETING": "554-not\n554 today"},
        "SMTPConnectResponseError",
        {"code": 554, "message": "not\ntoday"},
    ),
    "greeting, 421": (
        {"GREETING": Act("421 busy", then="close")},
        "SMTPConnectResponseError",
        {"code": 421, "message": "busy"},
    ),
    "no greeting": ({"GREETING": DROP}, "SMTPConnectError", {}),
    "EHLO and HELO": (
        {"EHLO": "502 no", "HELO": "550 nor that"},
        "SMTPHeloError",
        {"code": 550, "message": "nor that"},
    ),
    "EHLO, 421": ({"EHLO": "421 busy"}, "SMTPHeloError", {"code": 421, "message": "busy"}),
    "lost at EHLO": ({"EHLO": DROP}, "SMTPServerDisconnected", {}),
    "MAIL": (
        {"MAIL": "550 5.7.1 not you"},
        "SMTPSenderRefused",
        {"code": 550, "message": "5.7.1 not you", "sender": SENDER},
    ),
    "MAIL, 530": (
        {"MAIL": "530 5.7.0 log in"},
        "SMTPSenderRefused",
        {"code": 530, "message": "5.7.0 log in", "sender": SENDER},
    ),
    "MAIL, 421": (
        {"MAIL": "421 busy"},
        "SMTPSenderRefused",
        {"code": 421, "message": "busy", "sender": SENDER},
    ),
    "RCPT": ({"RCPT": "550 5.1.1 no such user"}, "SMTPRecipientsRefused", {}),
    "DATA": ({"DATA": "451 later"}, "SMTPDataError", {"code": 451, "message": "later"}),
    "the message": ({".": "554 spam"}, "SMTPDataError", {"code": 554, "message": "spam"}),
    "lost at the end": ({".": DROP}, "SMTPServerDisconnected", {}),
    "not SMTP": ({"MAIL": b"what?\r\n"}, "SMTPResponseException", {"code": -1}),
    "no answer": ({"MAIL": STALL}, "SMTPReadTimeoutError", {}),
    "no greeting in time": ({"GREETING": STALL}, "SMTPConnectTimeoutError", {}),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_a_refusal_of_a_message(lib: Any, what: str) -> None:
    script, name, attributes = REFUSALS[what]
    async with ScriptedServer(script=script, strict=False) as server:
        client = await client_of(lib, server, timeout=1 if STALL in script.values() else 10)
        with pytest.raises(lib.SMTPException) as caught:
            async with client:
                await client.sendmail(SENDER, RECIPIENTS, RAW)
    error = caught.value
    assert type(error) is getattr(lib, name)
    assert {key: getattr(error, key) for key in attributes} == attributes
    assert not client.is_connected


async def test_what_is_said_of_recipients_that_were_all_refused(lib: Any) -> None:
    script = {"RCPT": ["550 5.1.1 no such user", "450 4.2.1 later"]}
    async with ScriptedServer(script=script) as server, await client_of(lib, server) as client:
        with pytest.raises(lib.SMTPRecipientsRefused) as caught:
            await client.sendmail(SENDER, RECIPIENTS, RAW)
        assert client.is_connected
        assert await client.sendmail(SENDER, RECIPIENTS, RAW) == ({}, TAKEN)
    assert all(type(each) is lib.SMTPRecipientRefused for each in caught.value.recipients)
    assert [(each.code, each.message, each.recipient) for each in caught.value.recipients] == [
        (550, "5.1.1 no such user", "b@x.test"),
        (450, "4.2.1 later", "c@x.test"),
    ]


# A command that is refused: the script, the call, the exception and its arguments.
COMMANDS: Mapping[str, tuple[str, tuple[Any, ...], str, tuple[Any, ...]]] = {
    "NOOP": ("noop", (), "SMTPResponseException", ()),
    "RSET": ("rset", (), "SMTPResponseException", ()),
    "HELP": ("help", (), "SMTPResponseException", ()),
    "VRFY": ("vrfy", ("ann",), "SMTPResponseException", ()),
    "EXPN": ("expn", ("staff",), "SMTPResponseException", ()),
    "HELO": ("helo", (), "SMTPHeloError", ()),
    "MAIL": ("mail", ("Ann <a@x.test>",), "SMTPSenderRefused", ("Ann <a@x.test>",)),
    "QUIT": ("quit", (), "SMTPResponseException", ()),
}


@pytest.mark.parametrize("verb", COMMANDS)
async def test_a_command_that_is_refused(lib: Any, verb: str) -> None:
    method, arguments, name, more = COMMANDS[verb]
    async with ScriptedServer(script={verb: "550 5.0.0 no"}) as server:
        client = await client_of(lib, server)
        await client.connect()
        with pytest.raises(getattr(lib, name)) as caught:
            await getattr(client, method)(*arguments)
        client.close()
    assert caught.value.args == (550, "5.0.0 no", *more)


async def test_rcpt_and_data_that_are_refused(lib: Any) -> None:
    script = {"RCPT": ["550 5.1.1 no"], "DATA": ["451 later"]}
    async with ScriptedServer(script=script) as server, await client_of(lib, server) as client:
        await client.mail(SENDER)
        with pytest.raises(lib.SMTPRecipientRefused) as refused:
            await client.rcpt("Bob <b@x.test>")
        await client.rcpt("c@x.test")
        with pytest.raises(lib.SMTPDataError) as data:
            await client.data(RAW.encode())
    assert refused.value.args == (550, "5.1.1 no", "Bob <b@x.test>")
    assert data.value.args == (451, "later")


async def test_a_goodbye_closes_the_connection(lib: Any) -> None:
    async with ScriptedServer(script={"XGO": "421 going"}) as server:
        client = await client_of(lib, server)
        await client.connect()
        assert await client.execute_command(b"XGO") == (421, "going")
        assert not client.is_connected
        with pytest.raises(lib.SMTPServerDisconnected):
            await client.noop()
        await client.connect()
        assert (await client.noop()).code == 250
        client.close()
    assert len(server.connections) == 2


async def test_without_a_connection(lib: Any) -> None:
    client = lib.SMTP()
    calls = [
        *(client.noop, client.rset, client.help, client.ehlo, client.helo, client.quit),
        *(client.starttls, lambda: client.login("ann", "secret"), lambda: client.mail(SENDER)),
        *(lambda: client.data(RAW), lambda: client.execute_command(b"NOOP")),
        *(lambda: client.vrfy("ann"), lambda: client.sendmail(SENDER, RECIPIENTS, RAW)),
    ]
    for call in calls:
        with pytest.raises(lib.SMTPServerDisconnected):
            await call()
    with pytest.raises(lib.SMTPServerDisconnected):
        client.get_transport_info("peername")
    client.close()


async def test_nobody_listens(lib: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(lib.SMTPConnectError, match=f"127.0.0.1 on port {port}") as caught:
        await lib.send(letter(), hostname="127.0.0.1", port=port)
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value.__cause__, OSError)


async def test_connected_is_not_connected_again(lib: Any) -> None:
    async with ScriptedServer() as server, await client_of(lib, server) as client:
        with pytest.raises(lib.SMTPException, match="already"):
            await client.connect()
        async with client:
            pass
        assert not client.is_connected


async def test_what_is_given_to_connect_is_kept(lib: Any) -> None:
    async with ScriptedServer() as server:
        port = await server.listen()
        client = lib.SMTP(hostname="nowhere.test", port=1)
        await client.connect(hostname="127.0.0.1", port=port, local_hostname=" me.test ", timeout=9)
        assert (client.hostname, client.port, client.timeout) == ("127.0.0.1", port, 60)
        assert client.local_hostname == "me.test"
        await client.ehlo()
        await client.quit()
        await client.connect()
        await client.quit()
    assert b"EHLO me.test\r\n" in server.connections[1].commands + server.connections[0].commands


@pytest.mark.parametrize(
    "options",
    [
        {"use_tls": True, "start_tls": True},
        {"socket_path": "/run/smtp", "port": 25},
        {"socket_path": "/run/smtp", "use_tls": True},
        {"password": "x", "oauth_token_generator": print},
        {"local_hostname": "two words"},
        {"local_hostname": "  "},
        {"hostname": "a\r\nb"},
    ],
    ids=lambda options: " ".join(options),
)
async def test_arguments_that_contradict_each_other(lib: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        lib.SMTP(**options)


# What cannot be in a command or a message: the method, and its arguments.
MALFORMED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("execute_command", (b"NOOP\r\nRSET",)),
    ("sendmail", ("a b@x.test\r\nRSET", RECIPIENTS, RAW)),
    ("sendmail", (SENDER, RECIPIENTS, "é")),
    ("mail", ("é@x.test",)),
    ("vrfy", ("<a b>",)),
    ("vrfy", ("é",)),
    ("data", ("é",)),
)


@pytest.mark.parametrize(("method", "arguments"), MALFORMED)
async def test_what_cannot_be_sent_is_a_value_error(
    lib: Any, method: str, arguments: tuple[Any, ...]
) -> None:
    async with ScriptedServer() as server, await client_of(lib, server) as client:
        with pytest.raises(ValueError, match=r"."):
            await getattr(client, method)(*arguments)
        with pytest.raises(ValueError, match="hostname"):
            await client.ehlo(hostname="two words")
    assert server.connection.verbs == ["EHLO", "QUIT"]


async def test_addresses_that_need_smtputf8(lib: Any) -> None:
    async with ScriptedServer() as server, await client_of(lib, server) as client:
        for call in [
            client.sendmail("é@x.test", "b@x.test", RAW, mail_options=["smtputf8"]),
            client.send_message(letter(), sender="é@x.test"),
            client.vrfy("é@x.test", options=["SMTPUTF8"]),
            client.expn("é@x.test", options=["SMTPUTF8"]),
        ]:
            with pytest.raises(lib.SMTPNotSupported):
                await call
    async with (
        ScriptedServer(keywords=["SMTPUTF8", "8BITMIME"]) as server,
        await client_of(lib, server) as client,
    ):
        assert (await client.vrfy("é@x.test", options=["SMTPUTF8"])).code == 252
        await client.send_message(letter(), sender="é@x.test", recipients=["b@x.test"])
    assert "VRFY é@x.test SMTPUTF8\r\n".encode() in server.commands
    assert "SMTPUTF8" in server.messages[0].mail_options


async def test_a_message_without_sender_or_recipients(lib: Any) -> None:
    async with ScriptedServer() as server, await client_of(lib, server) as client:
        for field in ("From", "To"):
            message = letter()
            del message[field], message["Cc"], message["Bcc"], message["Sender"]
            with pytest.raises(ValueError, match=r"."):
                await client.send_message(message)
    assert server.messages == []


def check_what_is_known_of_the_transport(client: Any, server: AiosmtpdServer) -> None:
    assert client.get_transport_info("cipher")[1].startswith("TLS")
    assert client.get_transport_info("peercert")["issuer"]
    assert client.get_transport_info("ssl_object").version()
    assert client.get_transport_info("compression") is None
    assert client.get_transport_info("peername") == (server.host, server.port)
    assert client.get_transport_info("sockname")[0] == server.host
    assert client.get_transport_info("socket").fileno() > 0
    assert client.get_transport_info("anything") is None


async def test_starttls_where_it_is_offered(
    lib: Any, aiosmtpd_starttls: AiosmtpdServer, certificates: Certificates
) -> None:
    server = aiosmtpd_starttls
    client = lib.SMTP(
        hostname=server.host,
        port=server.port,
        username="jörg",
        password=USERS["jörg"].encode(),
        cert_bundle=str(certificates.cafile),
    )
    async with client:
        assert client.get_transport_info("sslcontext") is not None
        check_what_is_known_of_the_transport(client, server)
        assert set(client.supported_auth_methods) == {"plain", "login"}
        assert set(client.server_auth_methods) == {"plain", "login"}
        assert client.last_ehlo_response.code == 250
        await client.send_message(letter())
        with pytest.raises(lib.SMTPException, match=r"TLS"):
            await client.starttls()
    assert server.messages[0].tls
    assert server.messages[0].username == "jörg"


async def test_starttls_by_hand(
    lib: Any, aiosmtpd_starttls: AiosmtpdServer, certificates: Certificates
) -> None:
    server = aiosmtpd_starttls
    client = lib.SMTP(hostname=server.host, port=server.port, start_tls=False)
    await client.connect()
    assert client.get_transport_info("sslcontext") is None
    await client.ehlo()
    response = await client.starttls(tls_context=certificates.client)
    assert response.code == lib.SMTPStatus.ready
    assert client.tls_context is certificates.client
    assert client.is_ehlo_or_helo_needed
    await client.login("ann", USERS["ann"], 10)
    assert not client.is_ehlo_or_helo_needed
    assert client.supports_extension("auth")
    await client.quit()


async def test_implicit_tls(
    lib: Any, aiosmtpd_implicit: AiosmtpdServer, certificates: Certificates
) -> None:
    server = aiosmtpd_implicit
    client = lib.SMTP(
        hostname=server.host, port=server.port, use_tls=True, tls_context=certificates.client
    )
    async with client:
        assert client.get_transport_info("sslcontext") is certificates.client
        check_what_is_known_of_the_transport(client, server)
        await client.ehlo()
        await client.auth_plain("ann", USERS["ann"])
        await client.send_message(letter())
    assert server.messages[0].username == "ann"


async def test_a_certificate_that_is_not_accepted(
    lib: Any, aiosmtpd_implicit: AiosmtpdServer, aiosmtpd_starttls: AiosmtpdServer
) -> None:
    where = {"hostname": "127.0.0.1", "port": aiosmtpd_implicit.port}
    with pytest.raises(lib.SMTPConnectError, match="certificate"):
        await lib.send(letter(), use_tls=True, **where)
    # Both are an ssl.SSLError.
    where["port"] = aiosmtpd_starttls.port
    with pytest.raises(OSError, match="certificate"):
        await lib.send(letter(), start_tls=True, **where)
    await lib.send(letter(), username="ann", password=USERS["ann"], validate_certs=False, **where)


@pytest.mark.parametrize("method", ["auth_plain", "auth_login", "auth_crammd5", "login"])
async def test_a_login_that_is_refused(lib: Any, method: str) -> None:
    mechanism = {"auth_login": "LOGIN", "auth_crammd5": "CRAM-MD5"}.get(method, "PLAIN")
    script = {"AUTH": "535 5.7.8 no"}
    keywords = [f"AUTH {mechanism}"]
    async with (
        ScriptedServer(keywords=keywords, script=script) as server,
        await client_of(lib, server) as client,
    ):
        with pytest.raises(lib.SMTPAuthenticationError) as caught:
            await getattr(client, method)("ann", "wrong")
    assert caught.value.args == (535, "5.7.8 no")


async def test_no_login_is_offered(lib: Any) -> None:
    for keywords in ([], ["AUTH SOMETHING"]):
        async with (
            ScriptedServer(keywords=keywords) as server,
            await client_of(lib, server) as client,
        ):
            with pytest.raises(lib.SMTPException) as caught:
                await client.login("ann", "secret")
        assert type(caught.value) is lib.SMTPException


async def get_token() -> str:
    return "token"


async def test_a_token(lib: Any) -> None:
    script = {"AUTH XOAUTH2 dXNlcj1hbm4BYXV0aD1CZWFyZXIgdG9rZW4BAQ==": "235 welcome"}
    async with ScriptedServer(keywords=["AUTH XOAUTH2"], script=script, strict=False) as server:
        client = await client_of(lib, server, username="ann", oauth_token_generator=get_token)
        await client.connect()
        assert (await client.auth_xoauth2(b"ann", b"token")).code == 235
        with pytest.raises(lib.SMTPAuthenticationError):
            await client.auth_xoauth2("ann", "another")
        client.close()


@pytest.mark.parametrize("username", [None, "ann"], ids=["nobody's", "not offered"])
async def test_a_token_that_is_of_no_use(lib: Any, username: str | None) -> None:
    async with ScriptedServer() as server:
        client = await client_of(lib, server, oauth_token_generator=get_token)
        with pytest.raises(lib.SMTPException):
            await client.connect(username=username)
        assert not client.is_connected


async def test_timeouts_of_calls(lib: Any) -> None:
    async with ScriptedServer(script={"NOOP": STALL}, strict=False) as server:
        client = await client_of(lib, server)
        for call in [client.noop, client.rset]:
            await client.connect()
            with pytest.raises(lib.SMTPTimeoutError) as caught:
                await call(timeout=0.1 if call == client.noop else 0)
            # aiosmtplib's is asyncio's, which is another one than the built-in on Python 3.10.
            assert "TimeoutError" in {base.__name__ for base in type(caught.value).__mro__}
            assert not client.is_connected
        with pytest.raises(lib.SMTPConnectTimeoutError) as at_once:
            await client.connect(timeout=0)
        assert isinstance(at_once.value, ConnectionError)
        await client.connect(timeout=None)
        assert (await client.rset(timeout=None)).code == 250
        client.close()
