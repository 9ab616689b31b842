"""Logging in, from the client to a server and back: every mechanism, each refusal, and tokens."""

from __future__ import annotations

import pickle
import threading
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from anysmtp import (
    SMTP,
    Receipt,
    SMTPAuthenticationError,
    SMTPException,
    SMTPProtocolError,
    SMTPSenderRefused,
    sasl,
)
from anysmtp.testing import DEFAULT_KEYWORDS, Answer, ScriptedServer, Transcript
from anysmtp.testing._state import Mechanism as ServerSide
from anysmtp.testing._state import Steps
from support.bench import RECIPIENTS, message
from support.cancel import How, cancel_at
from support.leaks import no_leaks
from support.mechanisms import ERROR, SCRAM, SECRET, STRONGEST_FIRST, USER, server_side
from support.tls import Certificates

pytestmark = pytest.mark.anyio


@pytest.fixture
def mechanisms(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, ServerSide]:
    """The server's side of all mechanisms, by name."""
    monkeypatch.setenv("NTLM_USER_FILE", str(tmp_path / "accounts"))
    return dict(server_side(certificates, tmp_path))


def only(mechanisms: dict[str, ServerSide], *names: str) -> dict[str, ServerSide]:
    return {name: mechanisms[name] for name in names}


async def secured(server: ScriptedServer, certificates: Certificates, **options: Any) -> SMTP:
    """A client on a TLS connection."""
    settings: dict[str, Any] = {
        "tls": "implicit",
        "tls_context": certificates.client,
        "timeout": None,
        **options,
    }
    port = await server.listen()
    await anyio.wait_all_tasks_blocked()
    return SMTP("localhost", port, **settings)


def in_clear(server: ScriptedServer, **options: Any) -> SMTP:
    """A client on memory streams, which count as a network."""
    return SMTP("mail.example.test", connectable=server.connectable, tls="off", **options)


async def deliver(smtp: SMTP) -> Receipt:
    return await smtp.sendmail("a@x.test", RECIPIENTS, message("hello"))


async def refusal(smtp: SMTP) -> SMTPException:
    """Why a login failed."""
    async with smtp:
        with pytest.raises(SMTPException) as caught:
            await smtp.connect()
    return caught.value


def auth_lines(server: ScriptedServer) -> list[bytes]:
    return [line for line in server.commands if line.startswith(b"AUTH")]


# Every mechanism

OTHERS: dict[str, sasl.Mechanism] = {
    "XOAUTH2": sasl.XOAuth2(USER, SECRET),
    "OAUTHBEARER": sasl.OAuthBearer(USER, SECRET),
    "EXTERNAL": sasl.External(),
    "ANONYMOUS": sasl.Anonymous("sirhc"),
    "NTLM": sasl.Ntlm("EXAMPLE\\ann", SECRET),
    "GSS-SPNEGO": sasl.Spnego("EXAMPLE\\ann", SECRET),
}


@pytest.mark.parametrize("name", STRONGEST_FIRST)
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_a_password_logs_in_by_whatever_the_server_has(
    name: str, version: str, certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    context = certificates.server if version == "TLSv1.3" else certificates.server_tls12
    async with (
        ScriptedServer(
            implicit_tls=context, mechanisms=only(mechanisms, name), require_auth=True
        ) as server,
        await secured(server, certificates, username=USER, password=SECRET) as smtp,
    ):
        await deliver(smtp)
    assert server.connection.tls_version == version
    assert server.messages[0].username == USER
    assert auth_lines(server)[0].split()[1].decode() == name


@pytest.mark.parametrize("name", OTHERS)
async def test_other_credentials_log_in_too(
    name: str, certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    async with (
        ScriptedServer(
            implicit_tls=certificates.server_asking,
            mechanisms=only(mechanisms, name),
            require_auth=True,
        ) as server,
        await secured(
            server, certificates, auth=OTHERS[name], tls_context=certificates.client_certified
        ) as smtp,
    ):
        await deliver(smtp)
    assert server.messages[0].username == ("anonymous" if name == "ANONYMOUS" else USER)


@pytest.mark.parametrize("start", range(len(STRONGEST_FIRST)))
async def test_of_what_is_offered_the_strongest_is_used(
    start: int, certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    # Offered in the wrong order, as servers do.
    offered = only(mechanisms, *reversed(STRONGEST_FIRST[start:]))
    async with (
        ScriptedServer(implicit_tls=certificates.server, mechanisms=offered) as server,
        await secured(server, certificates, username=USER, password=SECRET) as smtp,
    ):
        await smtp.connect()
    (line,) = auth_lines(server)
    assert line.split()[1].decode() == STRONGEST_FIRST[start]


async def test_the_callers_choice_wins(
    certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    async with ScriptedServer(implicit_tls=certificates.server, mechanisms=mechanisms) as server:
        auth = [sasl.Plain(USER, SECRET), sasl.ScramSHA256(USER, SECRET)]
        async with await secured(server, certificates, auth=auth) as smtp:
            await smtp.connect()
    assert auth_lines(server)[0].startswith(b"AUTH PLAIN ")


async def test_whoever_sits_between_the_ends_of_tls_is_refused(
    certificates: Certificates, tmp_path: Path, mechanisms: dict[str, ServerSide]
) -> None:
    # The server behind him has another certificate than the one that the client sees.
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    behind = server_side(other, tmp_path)["SCRAM-SHA-256-PLUS"]
    async with ScriptedServer(
        implicit_tls=certificates.server, mechanisms={"SCRAM-SHA-256-PLUS": behind}
    ) as server:
        smtp = await secured(server, certificates, username=USER, password=SECRET)
        error = await refusal(smtp)
    assert error.reply is not None
    assert error.reply.code == 535


async def test_one_value_serves_many_logins_at_once(
    certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    credentials = sasl.ScramSHA256(USER, SECRET)
    async with ScriptedServer(
        implicit_tls=certificates.server, mechanisms=mechanisms, require_auth=True
    ) as server:
        smtp = await secured(server, certificates, auth=credentials)

        async def log_in_and_send() -> None:
            options: Any = {"tls": "implicit", "tls_context": certificates.client}
            async with SMTP("localhost", server.port, auth=credentials, **options) as client:
                await deliver(client)

        async with smtp, anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(log_in_and_send)
    assert [message.username for message in server.messages] == [USER] * 5


# What is offered, and where


@pytest.mark.parametrize(
    ("keywords", "tls_keywords", "works"),
    [
        (DEFAULT_KEYWORDS, ["AUTH PLAIN"], True),
        (["STARTTLS", "AUTH LOGIN"], ["AUTH PLAIN"], True),
        (["STARTTLS", "AUTH PLAIN"], ["SIZE"], False),
        (DEFAULT_KEYWORDS, ["AUTH=PLAIN"], True),
        (DEFAULT_KEYWORDS, ["AUTH", "AUTH=LOGIN PLAIN"], True),
        (DEFAULT_KEYWORDS, ["AUTH"], False),
    ],
)
async def test_what_is_offered_after_starttls_counts(
    keywords: Sequence[str],
    tls_keywords: Sequence[str],
    works: bool,
    certificates: Certificates,
    mechanisms: dict[str, ServerSide],
) -> None:
    # The keyword of the server's old form is none to itself: it takes AUTH as it comes.
    async with ScriptedServer(
        keywords=keywords,
        tls_keywords=tls_keywords,
        starttls=certificates.server,
        mechanisms=only(mechanisms, "PLAIN"),
        script={"AUTH PLAIN": "235 2.7.0 Welcome"} if "=" in tls_keywords[-1] else {},
    ) as server:
        smtp = await secured(server, certificates, tls="starttls", username=USER, password=SECRET)
        if works:
            async with smtp:
                await smtp.connect()
            assert auth_lines(server)[0].startswith(b"AUTH PLAIN ")
        else:
            error = await refusal(smtp)
            assert str(error).endswith("AUTH: the server offers no login (AUTH)")
            assert not auth_lines(server)


@pytest.mark.parametrize(
    "mechanism",
    [
        sasl.CramMD5(USER, SECRET),
        sasl.Login(USER, SECRET),
        sasl.Ntlm(USER, SECRET),
        sasl.OAuthBearer(USER, SECRET),
        sasl.Plain(USER, SECRET),
        sasl.Spnego(USER, SECRET),
        sasl.XOAuth2(USER, SECRET),
    ],
    ids=lambda mechanism: mechanism.name,
)
async def test_nothing_that_a_listener_can_use_crosses_a_network_in_clear(
    mechanism: sasl.Mechanism, mechanisms: dict[str, ServerSide]
) -> None:
    async with ScriptedServer(mechanisms=only(mechanisms, mechanism.name)) as server:
        error = await refusal(in_clear(server, auth=mechanism))
        assert isinstance(error, SMTPAuthenticationError)
        assert f"offers {mechanism.name}, and the login would cross" in str(error)
        assert not auth_lines(server)
        async with in_clear(server, auth=mechanism, allow_plaintext_auth=True) as smtp:
            if mechanism.name not in ("NTLM", "GSS-SPNEGO"):
                await smtp.connect()


@pytest.mark.parametrize("name", ["SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1"])
async def test_scram_crosses_a_network_in_clear(
    name: str, mechanisms: dict[str, ServerSide]
) -> None:
    offered = only(mechanisms, f"{name}-PLUS", "PLAIN", name)
    async with (
        ScriptedServer(mechanisms=offered) as server,
        in_clear(server, username=USER, password=SECRET) as smtp,
    ):
        await smtp.connect()
    (line,) = auth_lines(server)
    assert line.split()[1].decode() == name


# Initial responses


async def test_what_does_not_fit_the_line_is_asked_for(
    certificates: Certificates, tmp_path: Path
) -> None:
    long = "x" * 3000
    both = server_side(certificates, tmp_path, tokens=lambda token: token == long)
    async with ScriptedServer(implicit_tls=certificates.server, mechanisms=both) as server:
        auth = sasl.XOAuth2(USER, long)
        async with await secured(server, certificates, auth=auth) as smtp:
            await smtp.connect()
    commands = server.commands
    assert commands[1] == b"AUTH XOAUTH2\r\n"
    said = f"user={USER}\x01auth=Bearer {long}\x01\x01"
    assert commands[2] == b64encode(said.encode()) + b"\r\n"


async def test_an_empty_response_is_an_equals_sign(
    certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    async with (
        ScriptedServer(implicit_tls=certificates.server_asking, mechanisms=mechanisms) as server,
        await secured(
            server,
            certificates,
            auth=sasl.External(),
            tls_context=certificates.client_certified,
        ) as smtp,
    ):
        await smtp.connect()
    assert auth_lines(server) == [b"AUTH EXTERNAL =\r\n"]


# Refusals

OFFERED = ("PLAIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "SCRAM-SHA-256")


async def test_each_refusal_says_what_it_is_and_what_the_server_offers(
    certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    script: dict[str, Answer] = {"AUTH CRAM-MD5": "504 5.5.4 Not this type"}
    wrong: dict[str, tuple[Sequence[sasl.Mechanism], str]] = {
        "password": (
            [sasl.Plain(USER, "wrong"), sasl.Login(USER, "wrong")],
            "the server refused the user name or password (PLAIN); {} (535 5.7.8 Wrong)",
        ),
        "scram": (
            sasl.from_password(USER, "wrong"),
            "the server refused the user name or password (SCRAM-SHA-256); {} (535 5.7.8 Wrong)",
        ),
        "token": (
            [sasl.XOAuth2(USER, "wrong")],
            "the server refused the token (XOAUTH2); {} (535 5.7.8 Wrong)",
        ),
        "mechanism": (
            [sasl.CramMD5(USER, SECRET)],
            "the server does not take CRAM-MD5 here; {} (504 5.5.4 Not this type)",
        ),
        "common": (
            [sasl.Login(USER, SECRET), sasl.External()],
            "no mechanism in common: {}, not LOGIN, EXTERNAL",
        ),
    }
    offers = f"the server offers {' '.join(OFFERED)}"
    async with ScriptedServer(
        implicit_tls=certificates.server, mechanisms=only(mechanisms, *OFFERED), script=script
    ) as server:
        await server.listen()
        for auth, text in wrong.values():
            error = await refusal(
                SMTP(
                    "localhost",
                    server.port,
                    tls="implicit",
                    tls_context=certificates.client,
                    auth=auth,
                )
            )
            assert isinstance(error, SMTPAuthenticationError)
            where = f"localhost:{server.port} AUTH: "
            assert str(error) == where + text.format(offers)
            assert not error.may_retry


@pytest.mark.parametrize(("code", "tried"), [(504, 2), (534, 2), (535, 1), (454, 1), (500, 1)])
async def test_another_mechanism_is_tried_where_the_server_means_the_mechanism(
    code: int, tried: int, certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    script: dict[str, Answer] = {"AUTH PLAIN": f"{code} no"}
    auth = [sasl.Plain(USER, SECRET), sasl.Login(USER, SECRET)]
    async with ScriptedServer(
        implicit_tls=certificates.server, mechanisms=mechanisms, script=script
    ) as server:
        smtp = await secured(server, certificates, auth=auth)
        if tried == 2:
            async with smtp:
                await smtp.connect()
        else:
            error = await refusal(smtp)
            assert error.may_retry == (code == 454)
            if code != 535:
                assert "the login with PLAIN failed; the server offers" in str(error)
    assert len(auth_lines(server)) == tried


async def test_no_other_mechanism_is_tried_on_a_connection_that_is_gone(
    certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    script: dict[str, Answer] = {"AUTH PLAIN": "421 4.7.0 Too many"}
    auth = [sasl.Plain(USER, SECRET), sasl.Login(USER, SECRET)]
    async with ScriptedServer(
        implicit_tls=certificates.server, mechanisms=mechanisms, script=script
    ) as server:
        error = await refusal(await secured(server, certificates, auth=auth))
    assert error.connection_closed
    assert len(auth_lines(server)) == 1


async def test_after_a_refusal_the_connection_goes_on(
    certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    async with ScriptedServer(
        implicit_tls=certificates.server, mechanisms=mechanisms, require_auth=True
    ) as server:
        smtp = await secured(server, certificates)
        async with smtp, smtp.connection() as conn:
            for wrong in (sasl.Plain(USER, "wrong"), sasl.XOAuth2(USER, "wrong")):
                with pytest.raises(SMTPAuthenticationError) as caught:
                    await conn.login(wrong)
                assert not caught.value.connection_closed
            with pytest.raises(SMTPAuthenticationError, match="no mechanism in common"):
                await conn.login(sasl.Gssapi())
            await conn.login(*sasl.from_password(USER, SECRET))
            await conn.mail("a@x.test")


# Servers that break the rules

PROVED = b64encode(b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").decode()


def scram_server(
    *behind: bytes, iterations: int = 4096, yes: bool = True
) -> Callable[[Transcript], Steps]:
    """Something that says that it is SCRAM, and then these challenges."""

    def steps(_: Transcript) -> Steps:
        first = yield b""
        nonce = first.decode().rpartition("r=")[2]
        yield f"r={nonce}more,s=QSXCR+Q6sek8bf92,i={iterations}".encode()
        for challenge in behind:  # noqa: UP028 - responses are sent into it
            yield challenge
        return USER if yes else None

    return steps


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (scram_server(), "did not prove that it knows the password"),
        (scram_server(b"e=other-error"), "did not prove that it knows the password"),
        (scram_server(b"v=AAAA"), "the server broke the rules of SCRAM"),
        (scram_server(b""), "the server broke the rules of SCRAM"),
        (scram_server(b"\xff"), "the server broke the rules of SCRAM"),
        (scram_server(iterations=9_999_999), "9999999 iterations of SCRAM"),
        (scram_server(iterations=1), "the server broke the rules of SCRAM"),
    ],
)
async def test_a_server_that_cheats_at_scram_is_left(
    steps: Callable[[Transcript], Steps], message: str, certificates: Certificates
) -> None:
    async with ScriptedServer(
        implicit_tls=certificates.server, mechanisms={"SCRAM-SHA-256": steps}
    ) as server:
        smtp = await secured(server, certificates)
        async with no_leaks(), smtp, smtp.connection() as conn:
            with pytest.raises(SMTPAuthenticationError, match=message) as caught:
                await conn.login(*sasl.from_password(USER, SECRET))
            assert conn.is_closed
            assert caught.value.connection_closed
        await server.wait_closed()


@pytest.mark.parametrize(
    ("challenge", "error", "message"),
    [
        ("334 *", SMTPProtocolError, "a challenge that is not base64"),
        ("334 QUJ", SMTPProtocolError, "a challenge that is not base64"),
        ("334 Gehen Sie weiter", SMTPProtocolError, "a challenge that is not base64"),
        ("334 \u00e4", SMTPProtocolError, "a challenge that is not base64"),
        ("334-QUJD\n334 QUJD", SMTPProtocolError, "a challenge that is not base64"),
        ("334 " + "QUJD" * 3073, SMTPProtocolError, "longer than"),
        ("334 " + "QUJD" * 100_000, SMTPProtocolError, "longer than"),
    ],
)
@pytest.mark.parametrize("name", ["CRAM-MD5", "LOGIN", "SCRAM-SHA-256", "XOAUTH2"])
async def test_a_challenge_that_is_none_ends_the_connection(
    name: str, challenge: str, error: type[SMTPException], message: str
) -> None:
    kinds: dict[str, type[Any]] = {
        "CRAM-MD5": sasl.CramMD5,
        "LOGIN": sasl.Login,
        "SCRAM-SHA-256": sasl.ScramSHA256,
        "XOAUTH2": sasl.XOAuth2,
    }
    async with ScriptedServer(keywords=[f"AUTH {name}"], script={"AUTH": challenge}) as server:
        smtp = in_clear(server, allow_plaintext_auth=True)
        async with smtp, smtp.connection() as conn:
            with pytest.raises(error, match=message) as caught:
                await conn.login(kinds[name](USER, SECRET))
            assert conn.is_closed
            assert caught.value.connection_closed
            assert SECRET not in str(caught.value)


async def test_the_largest_challenge_that_is_allowed_is_read(
    mechanisms: dict[str, ServerSide],
) -> None:
    # RFC 4954 section 4: 12288 octets of base64.
    def steps(_: Transcript) -> Steps:
        said = yield b"x" * 9216
        return USER if said.startswith(USER.encode()) else None

    async with ScriptedServer(mechanisms={"CRAM-MD5": steps}) as server:
        auth = sasl.CramMD5(USER, SECRET)
        async with in_clear(server, auth=auth, allow_plaintext_auth=True) as smtp:
            await smtp.connect()


class Endless(sasl.Mechanism):
    """Answers whatever it is asked."""

    name = "ENDLESS"
    needs_encryption = False

    def start(self, context: sasl.Context) -> sasl.Exchange:
        return _Echo()


class _Echo(sasl.Exchange):
    def step(self, challenge: bytes) -> bytes | None:
        return challenge


async def test_a_server_that_asks_on_and_on_is_left() -> None:
    def steps(_: Transcript) -> Steps:
        while True:
            yield b"and"

    async with (
        ScriptedServer(mechanisms={"ENDLESS": steps}) as server,
        in_clear(server) as smtp,
        smtp.connection() as conn,
    ):
        with pytest.raises(SMTPAuthenticationError, match="more than 12 challenges"):
            await conn.login(Endless())
        assert conn.is_closed
    assert len(server.commands) < 20


@pytest.mark.parametrize("name", ["CRAM-MD5", "LOGIN", "PLAIN", "OAUTHBEARER", "XOAUTH2"])
async def test_a_mechanism_that_has_nothing_more_to_say_gives_up(name: str) -> None:
    def steps(_: Transcript) -> Steps:
        while True:
            yield b"e30="

    kinds: dict[str, type[Any]] = {
        "CRAM-MD5": sasl.CramMD5,
        "LOGIN": sasl.Login,
        "PLAIN": sasl.Plain,
        "OAUTHBEARER": sasl.OAuthBearer,
        "XOAUTH2": sasl.XOAuth2,
    }
    async with ScriptedServer(mechanisms={name: steps}) as server:
        smtp = in_clear(server, auth=kinds[name](USER, SECRET), allow_plaintext_auth=True)
        error = await refusal(smtp)
    assert f"the login with {name} failed; the server offers {name} (501" in str(error)
    assert server.commands[-1] == b"*\r\n" or server.commands[-2] == b"*\r\n"


async def test_a_response_that_no_line_holds_is_an_error(
    certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    async with ScriptedServer(implicit_tls=certificates.server, mechanisms=mechanisms) as server:
        smtp = await secured(server, certificates)
        async with smtp, smtp.connection() as conn:
            with pytest.raises(SMTPAuthenticationError, match="the response is too long"):
                await conn.login(sasl.XOAuth2("u" * 300, "x" * 9000))
            assert conn.is_closed


# Tokens


class Tokens:
    """A source of tokens, and the server that knows which are good."""

    def __init__(self, *good: str) -> None:
        self.good = set(good)
        self.calls: list[str] = []

    def source(self, kind: str, *tokens: str) -> Callable[[], Awaitable[str]]:
        queue = list(tokens)

        async def get() -> str:
            # As a program of the caller's may do.
            with anyio.fail_after(5):
                await anyio.lowlevel.checkpoint()
            self.calls.append(kind)
            return queue.pop(0)

        return get

    def server(self, certificates: Certificates, folder: Path, **options: Any) -> ScriptedServer:
        return ScriptedServer(
            implicit_tls=certificates.server,
            mechanisms=only(
                dict(server_side(certificates, folder, tokens=self.good.__contains__)),
                "XOAUTH2",
                "OAUTHBEARER",
            ),
            require_auth=True,
            **options,
        )


each_token_mechanism = pytest.mark.parametrize(
    "kind", [sasl.XOAuth2, sasl.OAuthBearer], ids=["XOAUTH2", "OAUTHBEARER"]
)


@each_token_mechanism
async def test_a_token_is_fetched_before_each_login(
    kind: Any, certificates: Certificates, tmp_path: Path
) -> None:
    tokens = Tokens("first", "second")
    auth = kind(USER, tokens.source("token", "first", "second"))
    async with (
        tokens.server(certificates, tmp_path) as server,
        await secured(server, certificates, auth=auth) as smtp,
    ):
        assert not tokens.calls
        await deliver(smtp)
        await deliver(smtp)
        assert len(tokens.calls) == 1
        await server.hang_up()
        await deliver(smtp)
    assert len(tokens.calls) == 2
    assert [message.username for message in server.messages] == [USER] * 3


@each_token_mechanism
async def test_a_token_that_was_refused_is_replaced_once(
    kind: Any, certificates: Certificates, tmp_path: Path
) -> None:
    tokens = Tokens("fresh")
    auth = kind(
        USER, tokens.source("token", "stale"), refresh=tokens.source("refresh", "fresh", "x")
    )
    async with (
        tokens.server(certificates, tmp_path) as server,
        await secured(server, certificates, auth=auth) as smtp,
    ):
        await deliver(smtp)
    assert tokens.calls == ["token", "refresh"]
    assert len(auth_lines(server)) == 2


@each_token_mechanism
async def test_a_replacement_that_is_refused_is_the_end_of_it(
    kind: Any, certificates: Certificates, tmp_path: Path
) -> None:
    tokens = Tokens()
    auth = kind(USER, "stale", refresh=tokens.source("refresh", "stale too", "x"))
    async with tokens.server(certificates, tmp_path) as server:
        error = await refusal(await secured(server, certificates, auth=auth))
    assert tokens.calls == ["refresh"]
    assert isinstance(error, SMTPAuthenticationError)
    assert error.details == ERROR
    assert "the server refused the token" in str(error)
    assert not error.may_retry
    copy = pickle.loads(pickle.dumps(error))
    assert copy.details == ERROR
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("reply", "calls"),
    [
        ("535 5.7.3 Authentication unsuccessful", 1),
        ("454 4.7.0 Temporary authentication failure", 0),
        ("504 5.5.4 Unrecognized", 0),
        ("535 and\n421 gone", 1),
        ("421 4.7.0 Try again later", 0),
    ],
)
async def test_only_a_refused_token_is_replaced(
    reply: str, calls: int, certificates: Certificates, tmp_path: Path
) -> None:
    tokens = Tokens("good")
    auth = sasl.XOAuth2(USER, "good", refresh=tokens.source("refresh", *["good"] * 2))
    async with tokens.server(certificates, tmp_path, script={"AUTH": reply}) as server:
        await refusal(await secured(server, certificates, auth=auth))
    assert len(tokens.calls) == (0 if "421 gone" in reply else calls)


async def test_an_error_challenge_before_another_code_counts_as_well(
    certificates: Certificates, tmp_path: Path
) -> None:
    tokens = Tokens("fresh")
    auth = sasl.OAuthBearer(USER, "stale", refresh=tokens.source("refresh", "fresh"))
    script: dict[str, Sequence[Answer]] = {"RESPONSE": ["501 5.7.0 Authentication failed"]}
    async with (
        tokens.server(certificates, tmp_path, script=script) as server,
        await secured(server, certificates, auth=auth) as smtp,
    ):
        await deliver(smtp)
    assert tokens.calls == ["refresh"]


async def test_what_the_callers_code_raises_is_the_callers(
    certificates: Certificates, tmp_path: Path
) -> None:
    async def broken() -> str:
        raise ZeroDivisionError

    tokens = Tokens()
    async with tokens.server(certificates, tmp_path) as server:
        for auth in (sasl.XOAuth2(USER, broken), sasl.XOAuth2(USER, "stale", refresh=broken)):
            smtp = await secured(server, certificates)
            async with no_leaks(), smtp, smtp.connection() as conn:
                with pytest.raises(ZeroDivisionError):
                    await conn.login(auth)
                # Nothing was under way.
                await conn.noop()
            async with await secured(server, certificates, auth=auth) as client:
                with pytest.raises(ZeroDivisionError):
                    await deliver(client)
        await server.wait_closed()


async def test_what_is_no_token_is_not_sent(certificates: Certificates, tmp_path: Path) -> None:
    async def no_text() -> Any:
        return 1

    async def controls() -> str:
        return f"{SECRET}\r\nRSET"

    tokens = Tokens()
    async with tokens.server(certificates, tmp_path) as server:
        smtp = await secured(server, certificates)
        async with smtp, smtp.connection() as conn:
            with pytest.raises(TypeError, match=r"^token is a str, not int$"):
                await conn.login(sasl.XOAuth2(USER, no_text))
            with pytest.raises(ValueError, match=r"^control character in token$"):
                await conn.login(sasl.XOAuth2(USER, controls))
            with pytest.raises(TypeError, match=r"^token is a str, not int$"):
                await conn.login(sasl.XOAuth2(USER, "stale", refresh=no_text))
    assert len(auth_lines(server)) == 1


async def test_a_cancelled_fetch_leaves_nothing_open(
    certificates: Certificates, tmp_path: Path
) -> None:
    scope = anyio.CancelScope()

    async def slow() -> str:
        scope.cancel()
        await anyio.sleep(60)
        raise AssertionError

    async with Tokens().server(certificates, tmp_path) as server:
        async with await secured(server, certificates, auth=sasl.XOAuth2(USER, slow)) as smtp:
            with scope:
                await deliver(smtp)
        await server.wait_closed()
    assert scope.cancelled_caught
    assert not auth_lines(server)


@pytest.mark.parametrize("name", ["SCRAM-SHA-256-PLUS", "OAUTHBEARER"])
async def test_stopping_a_login_at_any_await_leaves_nothing_behind(
    name: str,
    cancel_how: How,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    mechanisms = server_side(certificates, tmp_path, tokens=lambda token: token == "fresh")
    tokens = Tokens()
    async with ScriptedServer(
        implicit_tls=certificates.server,
        mechanisms={name: mechanisms[name]},
        require_auth=True,
        strict=False,
    ) as server:
        await server.listen()
        await anyio.wait_all_tasks_blocked()
        # The package is imported, and there is a thread to work in.
        await anyio.to_thread.run_sync(
            sasl.ScramSHA1("u", "p").start(sasl.Context()).initial_response
        )
        async with no_leaks():
            for k in range(1, 300):
                auth: dict[str, sasl.Mechanism] = {
                    "SCRAM-SHA-256-PLUS": sasl.ScramSHA256Plus(USER, SECRET),
                    "OAUTHBEARER": sasl.OAuthBearer(
                        USER,
                        tokens.source("token", "stale", "stale"),
                        refresh=tokens.source("refresh", "fresh", "fresh"),
                    ),
                }
                async with SMTP(
                    "localhost",
                    server.port,
                    tls="implicit",
                    tls_context=certificates.client,
                    auth=auth[name],
                ) as smtp:

                    async def stopped() -> None:
                        await smtp.connect()

                    ended = await cancel_at(k, cancel_how, stopped)
                    ended.unwrap()
                    # Whatever was stopped, the next connection is a good one.
                    await deliver(smtp)
                if not ended.stopped:
                    break
            else:
                pytest.fail("the scenario has no end")
            await server.wait_closed()
    assert len(server.messages) == k
    assert {message.username for message in server.messages} == {USER}


# Later in the session


async def test_a_new_connection_logs_in_by_itself(
    certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    async with (
        ScriptedServer(
            implicit_tls=certificates.server, mechanisms=mechanisms, require_auth=True
        ) as server,
        await secured(server, certificates, username=USER, password=SECRET) as smtp,
    ):
        for _ in range(3):
            await deliver(smtp)
            await server.hang_up()
    assert [message.username for message in server.messages] == [USER] * 3
    assert len(auth_lines(server)) == 3


@pytest.mark.parametrize("code", [530, 535])
async def test_a_login_that_the_server_has_forgotten_is_made_again(
    code: int, certificates: Certificates, mechanisms: dict[str, ServerSide]
) -> None:
    async with (
        ScriptedServer(
            implicit_tls=certificates.server, mechanisms=mechanisms, require_auth=True
        ) as server,
        await secured(server, certificates, username=USER, password=SECRET) as smtp,
    ):
        await deliver(smtp)
        server.script["MAIL"] = [f"{code} 5.7.0 Authentication required"]
        await deliver(smtp)
    assert len(server.connections) == 2
    assert len(server.messages) == 2


@pytest.mark.parametrize("code", [530, 535])
async def test_a_login_that_is_missing_is_reported_as_that(code: int) -> None:
    async with (
        ScriptedServer(script={"MAIL": f"{code} 5.7.0 Authentication required"}) as server,
        in_clear(server) as smtp,
    ):
        for _ in range(2):
            with pytest.raises(SMTPAuthenticationError) as caught:
                await deliver(smtp)
            assert str(caught.value) == (
                f"mail.example.test:25 MAIL FROM:<a@x.test> SIZE={len(message('hello'))}: the "
                f"server wants a login ({code} 5.7.0 Authentication required)"
            )
            assert caught.value.outcome == "refused"
    assert len(server.connections) == 2


async def test_a_530_that_asks_for_starttls_is_no_missing_login(certificates: Certificates) -> None:
    async with (
        ScriptedServer(
            starttls=certificates.server, script={"MAIL": "530 5.7.0 Must issue STARTTLS first"}
        ) as server,
        in_clear(server) as smtp,
    ):
        with pytest.raises(SMTPSenderRefused):
            await deliver(smtp)


# Where the work is done


class Slow(sasl.Mechanism):
    """Writes down in which thread it was called."""

    name = "SLOW"
    needs_encryption = False

    def __init__(self, is_slow: bool) -> None:
        self.exchange = _Slow()
        self.exchange.is_slow = is_slow

    def start(self, context: sasl.Context) -> sasl.Exchange:
        assert context.hostname == "mail.example.test"
        assert context.offered == ("SLOW",)
        assert context.channel_bindings == {}
        return self.exchange


class _Slow(sasl.Exchange):
    def __init__(self) -> None:
        self.threads: list[int] = []

    def initial_response(self) -> bytes | None:
        self.threads.append(threading.get_ident())
        return b"first"

    def step(self, challenge: bytes) -> bytes | None:
        self.threads.append(threading.get_ident())
        return b"second"

    def finish(self) -> None:
        self.threads.append(threading.get_ident())


@pytest.mark.parametrize("is_slow", [True, False])
async def test_what_takes_long_is_done_in_a_thread(is_slow: bool) -> None:
    def steps(_: Transcript) -> Steps:
        assert (yield b"") == b"first"
        assert (yield b"more") == b"second"
        return USER

    auth = Slow(is_slow)
    async with (
        ScriptedServer(mechanisms={"SLOW": steps}) as server,
        in_clear(server, auth=auth) as smtp,
    ):
        await smtp.connect()
    assert len(auth.exchange.threads) == 3
    assert (threading.get_ident() in auth.exchange.threads) != is_slow


def test_the_plus_forms_are_those_of_the_table() -> None:
    assert [name for name in STRONGEST_FIRST if name.startswith("SCRAM")] == SCRAM
    assert [m.name for m in sasl.from_password("u", "p")] == STRONGEST_FIRST
