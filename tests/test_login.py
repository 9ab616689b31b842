"""Logging in: which mechanism, what is said when it does not work, and that no secret gets out."""

from __future__ import annotations

import base64
import logging
import pickle
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    SMTPAuthenticationError,
    SMTPException,
    SMTPProtocolError,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    Timeouts,
    sasl,
)
from anysmtp.testing import DEFAULT_KEYWORDS, DROP, RESET, STALL, Act, ScriptedServer
from anysmtp.testing._script import Rule
from support.clients import Script, connection_to, deliver, on_memory, on_tcp
from support.leaks import no_leaks
from support.tls import Certificates
from support.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio

SECRET = "correct horse battery staple"
LOGIN: dict[str, Any] = {"username": "ann", "password": SECRET}
USERS = {"ann": SECRET, "jörg": "pässwörd"}
OFFERED = "AUTH PLAIN LOGIN"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


PLAIN_LINE = f"AUTH PLAIN {b64(f'{chr(0)}ann{chr(0)}{SECRET}')}\r\n".encode()


def tls_server(
    certificates: Certificates, *auth: str, script: Script | None = None
) -> ScriptedServer:
    """On TLS, with these lines about AUTH."""
    return ScriptedServer(
        keywords=[*DEFAULT_KEYWORDS, *auth],
        tls_keywords=[*DEFAULT_KEYWORDS, *auth],
        implicit_tls=certificates.server,
        users=USERS,
        script=script or {},
    )


def client(server: ScriptedServer, certificates: Certificates, **options: Any) -> SMTP:
    settings: dict[str, Any] = {"tls": "implicit", "tls_context": certificates.client, **options}
    return on_memory(server, **settings)


# Which mechanism


@pytest.mark.parametrize(
    ("auth", "mechanism"),
    [
        (["AUTH PLAIN LOGIN"], "PLAIN"),
        (["AUTH LOGIN PLAIN"], "PLAIN"),
        (["AUTH X-OWN LOGIN"], "LOGIN"),
        (["auth login plain"], "PLAIN"),
        (["AUTH=PLAIN LOGIN"], "PLAIN"),
        (["AUTH=LOGIN"], "LOGIN"),
        (["AUTH LOGIN", "AUTH=PLAIN"], "PLAIN"),
        (["AUTH", "AUTH=LOGIN"], "LOGIN"),
    ],
)
async def test_the_best_mechanism_that_the_server_offers(
    auth: list[str], mechanism: str, certificates: Certificates
) -> None:
    server = tls_server(certificates, *auth, script={"AUTH": "235 2.7.0 Welcome"})
    async with server, client(server, certificates, **LOGIN) as smtp:
        await deliver(smtp)
    verbs = server.connection.verbs
    assert verbs[:3] == ["EHLO", "AUTH", "MAIL"]
    assert server.commands[1].startswith(f"AUTH {mechanism} ".encode())


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("mechanism", [sasl.Plain, sasl.Login])
async def test_a_login_works_with_any_letters(
    name: str, mechanism: type[sasl.Plain | sasl.Login], certificates: Certificates
) -> None:
    server = tls_server(certificates, OFFERED)
    options = {"auth": mechanism(name, USERS[name])}
    async with server, client(server, certificates, **options) as smtp:
        await deliver(smtp)
        await deliver(smtp)
    assert [login.accepted for login in server.connection.logins] == [True]
    assert server.messages[0].username == name


async def test_the_callers_order_has_precedence(certificates: Certificates) -> None:
    mechanisms = [sasl.Login("ann", SECRET), sasl.Plain("ann", SECRET)]
    server = tls_server(certificates, OFFERED)
    async with server, client(server, certificates, auth=mechanisms) as smtp:
        await deliver(smtp)
    assert server.connection.logins[0].mechanism == "LOGIN"


@pytest.mark.parametrize("code", [504, 534])
async def test_a_mechanism_that_the_server_does_not_like_is_followed_by_the_next(
    code: int, certificates: Certificates
) -> None:
    server = tls_server(certificates, OFFERED, script={"AUTH PLAIN": f"{code} 5.5.4 Not this"})
    async with server, client(server, certificates, **LOGIN) as smtp:
        await deliver(smtp)
    assert server.commands[2].startswith(b"AUTH LOGIN ")
    assert server.connection.verbs[:3] == ["EHLO", "AUTH", "AUTH"]


async def test_where_it_likes_none_the_last_reply_is_the_error(
    certificates: Certificates,
) -> None:
    script: Script = {"AUTH PLAIN": "504 5.5.4 Not this", "AUTH LOGIN": "504 5.5.4 Nor this"}
    server = tls_server(certificates, OFFERED, script=script)
    async with server, client(server, certificates, **LOGIN) as smtp:
        with pytest.raises(SMTPAuthenticationError, match="Nor this"):
            await deliver(smtp)


@pytest.mark.parametrize("code", [454, 500, 501, 530, 535, 538])
async def test_after_any_other_refusal_the_password_is_not_tried_again(
    code: int, certificates: Certificates
) -> None:
    delivery: Delivery[None] = Delivery()
    server = tls_server(certificates, OFFERED, script={"AUTH": f"{code} No"})
    async with server, client(server, certificates, **LOGIN) as smtp:
        with pytest.raises(SMTPAuthenticationError) as caught:
            await deliver(smtp, delivery=delivery)
        await server.wait_closed()
    assert server.connection.verbs == ["EHLO", "AUTH"]
    assert str(caught.value).startswith("mail.example.test:465 AUTH: the ")
    assert str(caught.value).endswith(f"; the server offers PLAIN LOGIN ({code} No)")
    assert caught.value.connection_closed
    assert caught.value.outcome == "not_sent"
    assert caught.value.may_retry == delivery.may_retry == (code == 454)


@pytest.mark.parametrize(
    ("auth", "match"),
    [
        ([], r"the server offers no login \(AUTH\)$"),
        (["AUTH"], r"the server offers no login \(AUTH\)$"),
        (["AUTH X-OWN X"], r"the server offers X-OWN X, not SCRAM-.*, PLAIN, LOGIN$"),
    ],
)
async def test_a_server_without_a_mechanism_that_fits_is_told_nothing(
    auth: list[str], match: str, certificates: Certificates
) -> None:
    server = tls_server(certificates, *auth)
    async with server, client(server, certificates, **LOGIN) as smtp:
        with pytest.raises(SMTPAuthenticationError, match=match) as caught:
            await deliver(smtp)
    assert server.connection.verbs == ["EHLO"]
    assert not caught.value.may_retry


async def test_each_connection_logs_in_and_says_ehlo_no_second_time(
    certificates: Certificates,
) -> None:
    server = tls_server(certificates, OFFERED)
    async with server, client(server, certificates, auth=sasl.Login("ann", SECRET)) as smtp:
        await deliver(smtp)
        await server.hang_up()
        await deliver(smtp)
    assert [record.logins[0].accepted for record in server.connections] == [True, True]
    assert all(record.verbs.count("EHLO") == 1 for record in server.connections)


# Never in clear over a network


@pytest.mark.parametrize("offered", ["AUTH PLAIN LOGIN", "AUTH=PLAIN"])
async def test_a_secret_does_not_cross_a_network_in_clear(offered: str) -> None:
    server = ScriptedServer(keywords=[*DEFAULT_KEYWORDS, offered], users=USERS)
    async with server:
        async with on_memory(server, **LOGIN) as smtp:
            with pytest.raises(SMTPAuthenticationError, match="cross the network unencrypted"):
                await deliver(smtp)
        async with await connection_to(server) as conn:
            with pytest.raises(SMTPAuthenticationError, match="allow_plaintext_auth=True"):
                await conn.login(sasl.Plain("ann", SECRET))
            await conn.noop()
    said = [b"".join(record.writes) for record in server.connections]
    assert said == [b"EHLO [127.0.0.1]\r\n", b"EHLO [127.0.0.1]\r\nNOOP\r\n"]


async def test_the_hint_where_a_login_would_need_starttls_first(
    certificates: Certificates,
) -> None:
    server = ScriptedServer(starttls=certificates.server, users=USERS)
    async with server, await connection_to(server) as conn:
        with pytest.raises(SMTPAuthenticationError, match="before STARTTLS at least"):
            await conn.login(sasl.Plain("ann", SECRET))
    assert server.connection.verbs == ["EHLO"]


async def test_it_may_if_the_caller_says_so() -> None:
    async with ScriptedServer(users=USERS) as server:
        async with on_memory(server, allow_plaintext_auth=True, **LOGIN) as smtp:
            await deliver(smtp)
            async with smtp.connection() as conn:
                assert (await conn.command("VRFY ann")).code == 252
        async with await connection_to(server, allow_plaintext_auth=True) as conn:
            await conn.login(sasl.Plain("ann", SECRET))
    assert [record.logins[0].accepted for record in server.connections] == [True, True]
    assert PLAIN_LINE in server.connections[0].commands


async def test_it_may_on_this_machine(tmp_path: Path) -> None:
    async with ScriptedServer(users=USERS) as server:
        async with await on_tcp(server, **LOGIN) as smtp:
            await deliver(smtp)
        await server.listen_unix(tmp_path / "socket")
        async with SMTP(connectable=tmp_path / "socket", **LOGIN) as smtp:
            await deliver(smtp)
    assert [received.username for received in server.messages] == ["ann", "ann"]


class Harmless(sasl.Mechanism):
    """Whoever listens learns nothing that he can use."""

    name = "PLAIN"
    needs_encryption = False

    def __init__(self, exchange: sasl.Exchange) -> None:
        self._exchange = exchange

    def start(self, context: sasl.Context) -> sasl.Exchange:
        return self._exchange


class Answers(sasl.Exchange):
    """Answers from a list; an exception in it is raised, None gives up."""

    def __init__(
        self, answers: Sequence[bytes | Exception | None] = (), *, first: bytes | None = None
    ) -> None:
        self._answers = list(answers)
        self._first = first
        self.challenges: list[bytes] = []
        self.finished: Exception | None = None

    def initial_response(self) -> bytes | None:
        return self._first

    def step(self, challenge: bytes) -> bytes | None:
        self.challenges.append(challenge)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def finish(self) -> None:
        if self.finished is not None:
            raise self.finished


async def test_a_mechanism_that_gives_nothing_away_is_preferred_in_clear() -> None:
    exchange = Answers(first=b"token")
    mechanisms = [sasl.Plain("ann", SECRET), Harmless(exchange)]
    server = ScriptedServer(users=USERS, script={"AUTH": "235 Welcome"})
    async with server, on_memory(server, auth=mechanisms) as smtp:
        await deliver(smtp)
    assert server.commands[1] == b"AUTH PLAIN " + base64.b64encode(b"token") + b"\r\n"


# Exchanges that go wrong


def answering(*replies: str | bytes) -> Rule:
    """A script for AUTH and whatever follows it, of which the last reply is repeated."""
    left = list(replies)

    def rule(line: str) -> str | bytes | None:
        if line in ("CONNECT", "GREETING") or line.startswith(("EHLO", "QUIT")):
            return None
        return left.pop(0) if len(left) > 1 else left[0]

    return rule


async def exchange_with(
    exchange: sasl.Exchange, *replies: str | bytes
) -> tuple[ScriptedServer, SMTPException | None]:
    """Log in with this exchange, to which the server replies so; and what that raised."""
    error: SMTPException | None = None
    server = ScriptedServer(users=USERS, script=answering(*replies))
    async with server, await connection_to(server) as conn:
        try:
            await conn.login(Harmless(exchange))
        except SMTPException as raised:
            error = raised
        assert conn.is_closed is (error is not None and error.connection_closed)
    return server, error


async def test_an_empty_initial_response_is_written_as_an_equals_sign() -> None:
    """RFC 4954 section 4."""
    server, error = await exchange_with(Answers(first=b""), "235 Welcome")
    assert error is None
    assert server.commands[1] == b"AUTH PLAIN =\r\n"


async def test_challenges_are_decoded_and_answered_in_base64() -> None:
    exchange = Answers([b"one", b"", b"\xff"])
    challenges = [f"334 {b64('first')}", f"334 {b64('second')}", "334 "]
    server, error = await exchange_with(exchange, *challenges, "235 Welcome")
    assert error is None
    assert exchange.challenges == [b"first", b"second", b""]
    assert server.commands[1:] == [b"AUTH PLAIN\r\n", b"b25l\r\n", b"\r\n", b"/w==\r\n"]


@pytest.mark.parametrize("mechanism", [sasl.Plain, sasl.Login])
async def test_a_server_that_wants_more_than_there_is_is_told_that_we_give_up(
    mechanism: type[sasl.Plain | sasl.Login],
) -> None:
    exchange = mechanism("ann", SECRET).start(sasl.Context())
    script = ["334 Zm9v", "334 Zm9v", "501 5.7.0 Given up"]
    server, error = await exchange_with(exchange, *script[mechanism is sasl.Plain :])
    assert type(error) is SMTPAuthenticationError
    assert str(error).endswith("the server offers PLAIN LOGIN (501 5.7.0 Given up)")
    assert server.commands[-1] == b"*\r\n"


@pytest.mark.parametrize(
    "challenge", ["334 not base64", "334 Zm9v!", "334 é", "334-Zm9v\n334 Zm9v"]
)
async def test_a_challenge_that_is_not_base64_ends_the_connection(challenge: str) -> None:
    server, error = await exchange_with(Answers([b"x"]), challenge)
    assert type(error) is SMTPProtocolError
    assert "a challenge that is not base64" in str(error)
    assert error.command == "AUTH"
    assert error.connection_closed
    assert server.connection.verbs == ["EHLO", "AUTH"]


async def test_a_server_that_asks_on_and_on_is_not_humoured() -> None:
    server, error = await exchange_with(Answers([b"x"] * 100), "334 ")
    assert type(error) is SMTPAuthenticationError
    assert "more than 12 challenges" in str(error)
    assert error.connection_closed
    assert len(server.commands) < 20


@pytest.mark.parametrize("where", ["step", "finish"])
async def test_an_exchange_may_say_that_it_does_not_trust_the_server(where: str) -> None:
    exchange = Answers([SMTPAuthenticationError("not him")])
    exchange.finished = SMTPAuthenticationError("not him") if where == "finish" else None
    server, error = await exchange_with(exchange, "334 " if where == "step" else "235 Welcome")
    assert str(error) == "mail.example.test AUTH: not him"
    assert error is not None
    assert error.connection_closed
    assert server.connection.verbs == ["EHLO", "AUTH"]


async def test_an_exchange_that_breaks_takes_the_connection_with_it() -> None:
    server = ScriptedServer(users=USERS, script={"AUTH": "334 "})
    async with server, await connection_to(server) as conn:
        with pytest.raises(ZeroDivisionError):
            await conn.login(Harmless(Answers([ZeroDivisionError()])))
        assert conn.is_closed


@pytest.mark.parametrize("act", [DROP, RESET, Act("421 4.3.0 Bye", then="close")])
@pytest.mark.parametrize("point", ["AUTH", "RESPONSE"])
async def test_a_server_that_goes_during_the_login(
    act: Act, point: str, certificates: Certificates
) -> None:
    server = tls_server(certificates, "AUTH LOGIN", script={point: act})
    async with no_leaks(), server, client(server, certificates, **LOGIN) as smtp:
        with pytest.raises(SMTPException) as caught:
            await deliver(smtp)
    expected = SMTPServerDisconnected if not act.reply else SMTPAuthenticationError
    assert type(caught.value) is expected
    assert caught.value.may_retry
    assert caught.value.connection_closed


# Long secrets


@pytest.mark.parametrize("length", [300, 400, 2500])
async def test_a_secret_that_does_not_fit_the_line_of_auth_follows_by_itself(
    length: int, certificates: Certificates
) -> None:
    """RFC 5321 section 4.5.3.1.4 has 512 octets for a line, RFC 4954 12288 for a response."""
    password = "x" * length
    for mechanism in (sasl.Plain("ann", password), sasl.Login("ann", password)):
        server = ScriptedServer(implicit_tls=certificates.server, users={"ann": password})
        async with server, client(server, certificates, auth=mechanism) as smtp:
            await deliver(smtp)
        assert server.connection.logins[0].accepted


async def test_plain_and_login_with_a_long_name(certificates: Certificates) -> None:
    name, password = "n" * 1000, "p" * 1000
    for mechanism in (sasl.Plain(name, password), sasl.Login(name, password)):
        server = ScriptedServer(implicit_tls=certificates.server, users={name: password})
        async with server, client(server, certificates, auth=mechanism) as smtp:
            await deliver(smtp)
        assert server.commands[1] == f"AUTH {mechanism.name}\r\n".encode()
        assert server.connection.logins[0].accepted


@pytest.mark.parametrize("mechanism", [sasl.Plain, sasl.Login])
@pytest.mark.parametrize("arguments", [("n" * 3001, "p"), ("n", "ü" * 1501)])
def test_a_secret_that_cannot_be_sent_at_all_is_an_error_at_once(
    mechanism: type[sasl.Plain | sasl.Login], arguments: tuple[str, str]
) -> None:
    with pytest.raises(ValueError, match="more than 3000 octets") as caught:
        mechanism(*arguments)
    assert not any(argument in str(caught.value) for argument in arguments if len(argument) > 1)


# No secret gets out

LEAKS: dict[str, tuple[str, Script]] = {
    "works": ("AUTH PLAIN", {}),
    "works by LOGIN": ("AUTH LOGIN", {}),
    "is refused": (OFFERED, {"AUTH": "535 5.7.8 Wrong"}),
    "is refused later": ("AUTH LOGIN", {"RESPONSE": [f"334 {b64('Password')}", "535 Wrong"]}),
    "bad challenge": ("AUTH LOGIN", {"AUTH": "334 ?"}),
    "more challenges": ("AUTH LOGIN", {"AUTH": "334 ", "RESPONSE": "334 "}),
    "gone": (OFFERED, {"AUTH": DROP}),
    "gone later": ("AUTH LOGIN", {"RESPONSE": RESET}),
    "stalls": (OFFERED, {"AUTH": STALL}),
    "stalls later": ("AUTH LOGIN", {"RESPONSE": STALL}),
    "breach": (OFFERED, {"AUTH": b"what?\r\n"}),
    "not offered": ("X", {}),
}


@pytest.mark.parametrize("case", LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("password", [SECRET, "p" * 700], ids=["short", "long"])
async def test_secrets_are_in_no_log_repr_exception_or_traceback(
    case: tuple[str, Script],
    password: str,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    offered, script = case
    server = tls_server(certificates, offered, script=script)
    timeout = Timeouts(connect=0.3 if STALL in script.values() else 30)
    delivery = Delivery(key="secret")
    shown: list[str] = []
    async with server:
        options = {"username": "ann", "password": password, "timeout": timeout}
        async with client(server, certificates, **options) as smtp:
            try:
                await deliver(smtp, delivery=delivery)
            except SMTPException as error:
                shown += [str(error), repr(error), str(error.args), repr(vars(error))]
                shown += traceback.format_exception(error)
                shown.append(pickle.dumps(error).decode("latin-1"))
                shown.append("timed out" * isinstance(error, SMTPTimeoutError))
            shown += [repr(smtp), repr(smtp._settings), repr(delivery)]
            shown += [repr(smtp.connection())]
        shown += [repr(sasl.Plain("ann", password)), repr(sasl.Login("ann", password))]
    shown += [record.getMessage() + repr(vars(record)) for record in caplog.records]
    everything = "\n".join(shown)
    assert "EHLO" in everything
    assert ("timed out" in shown) is (STALL in script.values())
    for form in (password, b64(password), b64(f"\0ann\0{password}"), "AGFubg"):
        assert form not in everything


async def test_wrong_credentials_are_never_shown() -> None:
    wrong = "pass\nword-of-ann"
    shown: list[str] = []
    makers: list[Any] = [
        lambda: SMTP(username="ann", password=wrong),
        lambda: SMTP(username=wrong, password="x"),
        lambda: SMTP(username="ann", password="word-of-ann\udc80"),
        lambda: SMTP.from_url(f"smtp://ann:{'word-of-ann%0A'}@x.test"),
        lambda: SMTP.from_url("smtp://ann:word-of-ann@x.test/path"),
        lambda: SMTP.from_url("smtp://ann:word-of-ann@x.test:port"),
        lambda: SMTP.from_url("smtp://ann:word-of-ann/@x.test"),
        lambda: sasl.Plain("ann", wrong),
        lambda: sasl.Plain("ann", "x", wrong),
        lambda: sasl.Login("ann", wrong),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=r".") as caught:
            make()
        shown += [str(caught.value), *traceback.format_exception_only(caught.value)]
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert "word-of-ann" not in "\n".join(shown)


@in_virtual_time
async def test_a_login_that_is_cancelled_leaves_nothing_open(certificates: Certificates) -> None:
    server = tls_server(certificates, OFFERED, script={"AUTH": [STALL]})
    async with no_leaks(), server, client(server, certificates, **LOGIN) as smtp:
        with anyio.move_on_after(0.2):
            await deliver(smtp)
        await server.wait_closed()
        await deliver(smtp)
    assert len(server.connections) == 2


async def test_an_opportunistic_connection_has_no_login(certificates: Certificates) -> None:
    server = ScriptedServer(starttls=certificates.server, users={"ann": "secret"})
    async with server, on_memory(server, tls="opportunistic") as smtp, smtp.connection() as conn:
        assert conn.is_encrypted
        with pytest.raises(ValueError, match="does not verify the server"):
            await conn.login(sasl.Plain("ann", "secret"))
    assert "AUTH" not in server.connection.verbs
