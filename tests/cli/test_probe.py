"""``anysmtp probe`` against servers, good ones and all kinds of bad ones."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from anysmtp.cli._exit import Exit
from anysmtp.testing import DROP, STALL, AiosmtpdServer, Answer
from support.cli import Ran, cli, cli_process, shape
from support.threaded import ThreadedServer
from support.tls import Certificates

Server = AiosmtpdServer | ThreadedServer
SILENCE = "0.3"


@pytest.fixture
def ca(certificates: Certificates) -> tuple[str, str]:
    return "--cafile", str(certificates.cafile)


def probe(server: Server, *arguments: str, host: str = "127.0.0.1") -> Ran:
    return cli("probe", f"{host}:{server.port}", *arguments)


def codes(ran: Ran) -> list[str]:
    return [finding["code"] for finding in ran.value["findings"]]


def test_it_shows_what_a_server_offers_before_and_under_tls(
    aiosmtpd_starttls: AiosmtpdServer, ca: tuple[str, str]
) -> None:
    ran = probe(aiosmtpd_starttls, *ca, host="localhost")
    assert (ran.code, ran.errors) == (Exit.OK, "")
    rows = dict(line.strip().split(maxsplit=1) for line in ran.output.splitlines()[1:] if line)
    assert ran.output.startswith(f"localhost, port {aiosmtpd_starttls.port}\n")
    assert rows["greeting"]
    for shown in (
        "in clear       SIZE 10000000, 8BITMIME, SMTPUTF8, STARTTLS, HELP\n",
        "under TLS      SIZE 10000000, 8BITMIME, SMTPUTF8, AUTH LOGIN PLAIN, HELP\n",
        "TLS            TLSv1.3, TLS_AES_256_GCM_SHA384, 256 bits\n",
        "names          localhost, mail.example.test, smtp.example.com, 127.0.0.1, ::1\n",
        "valid          2000-01-01 to 3000-01-01, ",
        "logins         LOGIN, PLAIN\n",
        "limits         messages of 10000000 octets\n",
        "STARTTLS ",
        "1 round trip\n",
        "  Nothing is wrong.\n",
    ):
        assert shown in ran.output
    assert aiosmtpd_starttls.messages == []


SCHEMA = {
    "exit_code": int,
    "host": str,
    "port": int,
    "addresses": [str],
    "mode": str,
    "greeting": str,
    "in_clear": {"LIMITS": str, "SIZE": str, "STARTTLS": str},
    "under_tls": {"LIMITS": str, "SIZE": str},
    "tls": {"version": str, "cipher": str, "bits": int},
    "certificate": {
        "subject": str,
        "names": [str],
        "issuer": str,
        "not_before": str,
        "not_after": str,
        "days_left": int,
        "sha256": str,
        "is_accepted": bool,
    },
    "logins": [],
    "size": int,
    "limits": {"RCPTMAX": str, "MAILMAX": str},
    "steps": [{"name": str, "seconds": float, "round_trips": int}],
    "findings": [],
}


def test_the_json_has_the_shape_that_the_documentation_shows(
    certificates: Certificates, ca: tuple[str, str]
) -> None:
    keywords = ["SIZE 1000", "LIMITS RCPTMAX=100 MAILMAX=5"]
    with ThreadedServer(starttls=certificates.server, keywords=keywords) as server:
        ran = probe(server, *ca, "--json", host="localhost")
        shown = probe(server, *ca, host="localhost")
    assert (ran.code, ran.errors) == (Exit.OK, "")
    assert shape(ran.value) == SCHEMA
    assert ran.value["limits"] == {"RCPTMAX": "100", "MAILMAX": "5"}
    assert "limits         messages of 1000 octets, RCPTMAX 100, MAILMAX 5\n" in shown.output


def test_the_json_of_nothing_has_the_same_keys() -> None:
    ran = cli("probe", "127.0.0.1:1", "--json")
    assert ran.value.keys() == SCHEMA.keys()
    assert ran.value["exit_code"] == ran.code == Exit.UNREACHABLE


# A handshake of TLS 1.3 is one round trip, of TLS 1.2 two, and nothing else takes more than one.
STEPS = {
    ("starttls", "server"): ["greeting", "EHLO", "STARTTLS", "TLS handshake", "EHLO"],
    ("starttls", "server_tls12"): ["greeting", "EHLO", "STARTTLS", "TLS handshake 2", "EHLO"],
    ("implicit_tls", "server"): ["TLS handshake", "greeting", "EHLO"],
    # The server has the last word of this handshake, and its greeting comes with that.
    ("implicit_tls", "server_tls12"): ["TLS handshake 2", "greeting 0", "EHLO"],
}


@pytest.mark.parametrize(("how", "which"), STEPS)
def test_each_step_has_its_time_and_its_round_trips(
    how: str, which: str, certificates: Certificates, ca: tuple[str, str]
) -> None:
    options: dict[str, Any] = {how: getattr(certificates, which)}
    mode = how.removesuffix("_tls")
    with ThreadedServer(**options) as server:
        ran = probe(server, *ca, "--json", "--tls", mode)
    steps = ran.value["steps"]
    expected = ["look-up 0", "connect", *STEPS[how, which], "NOOP", "QUIT"]
    assert [f"{step['name']} {step['round_trips']}" for step in steps] == [
        name if name[-1].isdigit() else f"{name} 1" for name in expected
    ]
    assert all(step["seconds"] >= 0 for step in steps)
    assert ran.value["mode"] == mode


def test_it_says_only_what_changes_nothing(certificates: Certificates, ca: tuple[str, str]) -> None:
    with ThreadedServer(starttls=certificates.server) as server:
        assert probe(server, *ca).code == Exit.OK
        said = [command.split()[0] for command in server.server.commands]
    assert said == [b"EHLO", b"STARTTLS", b"EHLO", b"NOOP", b"QUIT"]


CERTIFICATES = {
    "server_expired": ["certificate_expired"],
    "server_misnamed": ["certificate_name"],
    "server_untrusted": ["certificate_untrusted"],
    "server_not_yet_valid": ["certificate_not_yet_valid"],
    "server_expired_and_misnamed": ["certificate_name", "certificate_expired"],
}


@pytest.mark.parametrize("how", ["starttls", "implicit_tls"])
@pytest.mark.parametrize("which", CERTIFICATES)
def test_a_bad_certificate_is_told_and_shown(
    which: str, how: str, certificates: Certificates, ca: tuple[str, str]
) -> None:
    options: dict[str, Any] = {how: getattr(certificates, which)}
    with ThreadedServer(**options) as server:
        ran = probe(server, *ca, "--json", "--tls", how.removesuffix("_tls"))
    assert ran.code == Exit.TROUBLE
    assert codes(ran) == CERTIFICATES[which]
    assert ran.value["certificate"]["is_accepted"] is False
    assert ran.value["under_tls"] is not None


def test_plain_words_for_a_certificate(certificates: Certificates, ca: tuple[str, str]) -> None:
    with AiosmtpdServer(implicit_tls=certificates.server_expired_and_misnamed) as server:
        ran = probe(server, *ca, "--tls", "implicit", host="localhost")
    assert ran.code == Exit.TROUBLE
    assert (
        "  WRONG  the certificate is for old.example.org, and not for localhost: connect by a name "
        "that it has, or give the server one for this name\n"
        "  WRONG  the certificate expired on 2001-02-01\n"
    ) in ran.output
    assert "valid          2001-01-01 to 2001-02-01, expired\n" in ran.output
    assert "Nothing is wrong" not in ran.output


def test_the_name_of_the_certificate_can_be_another(
    certificates: Certificates, ca: tuple[str, str]
) -> None:
    with AiosmtpdServer(implicit_tls=certificates.server_misnamed) as server:
        ran = probe(server, *ca, "--tls", "implicit", "--name", "elsewhere.example.org.")
    assert ran.code == Exit.OK


def test_a_certificate_that_expires_soon_is_a_note(
    certificates: Certificates, ca: tuple[str, str]
) -> None:
    with ThreadedServer(starttls=certificates.server_expiring(5)) as server:
        ran = probe(server, *ca)
    assert ran.code == Exit.OK
    assert "note   the certificate expires in 5 days" in ran.output


def test_the_systems_authorities_are_asked_where_no_others_are_named(
    aiosmtpd_starttls: AiosmtpdServer,
) -> None:
    ran = probe(aiosmtpd_starttls, "--json")
    assert codes(ran) == ["certificate_untrusted"]


def test_tls_at_once_on_a_port_for_starttls_is_the_wrong_port(
    certificates: Certificates, ca: tuple[str, str]
) -> None:
    with ThreadedServer(starttls=certificates.server, strict=False) as server:
        ran = probe(server, *ca, "--tls", "implicit")
        as_json = probe(server, *ca, "--tls", "implicit", "--json")
    assert ran.code == Exit.TROUBLE
    assert "does not begin with TLS, the server speaks in clear there: this is a port for" in (
        ran.output
    )
    assert codes(as_json) == ["wrong_tls_mode"]
    assert as_json.value["mode"] == "starttls"
    assert as_json.value["under_tls"] is not None


def test_starttls_on_a_port_for_tls_at_once_is_the_wrong_port(
    certificates: Certificates, ca: tuple[str, str]
) -> None:
    with ThreadedServer(implicit_tls=certificates.server, strict=False) as server:
        ran = probe(server, *ca, "--tls", "starttls", "--timeout", SILENCE, "--json")
        unasked = probe(server, *ca, "--timeout", SILENCE, "--json")
    assert (ran.code, codes(ran)) == (Exit.TROUBLE, ["wrong_tls_mode"])
    assert ran.value["mode"] == "implicit"
    # Where nobody says what the port is for, this is how it is.
    assert (unasked.code, codes(unasked)) == (Exit.OK, ["tls_at_once"])


def test_a_server_without_starttls_is_a_problem_unless_nobody_wants_it(
    aiosmtpd_plain: AiosmtpdServer,
) -> None:
    ran = probe(aiosmtpd_plain)
    assert ran.code == Exit.TROUBLE
    assert "STARTTLS is not offered: whatever is said on this port is said in clear" in ran.output
    assert probe(aiosmtpd_plain, "--tls", "off").code == Exit.OK


def test_starttls_that_is_refused_is_a_problem(
    certificates: Certificates, ca: tuple[str, str]
) -> None:
    script: dict[str, Answer] = {"STARTTLS": "454 4.7.0 TLS not available"}
    with ThreadedServer(starttls=certificates.server, script=script) as server:
        ran = probe(server, *ca, "--json")
    assert (ran.code, codes(ran)) == (Exit.TROUBLE, ["starttls_refused"])
    assert "454 4.7.0 TLS not available" in ran.value["findings"][0]["text"]


def test_what_is_said_too_soon_behind_starttls_is_a_problem(
    certificates: Certificates, ca: tuple[str, str]
) -> None:
    script: dict[str, Answer] = {"STARTTLS": b"220 go\r\n250 injected\r\n"}
    with ThreadedServer(starttls=certificates.server, script=script, strict=False) as server:
        ran = probe(server, *ca, "--json")
    assert (ran.code, codes(ran)) == (Exit.TROUBLE, ["tls_handshake"])
    assert "more than one reply came before the TLS handshake" in ran.value["findings"][0]["text"]


@pytest.mark.parametrize("how", ["starttls", "implicit_tls"])
def test_tls_that_is_too_old_is_a_problem(
    how: str, certificates: Certificates, ca: tuple[str, str]
) -> None:
    options: dict[str, Any] = {how: certificates.server_old}
    with ThreadedServer(**options, strict=False) as server:
        ran = probe(server, *ca, "--json", "--tls", how.removesuffix("_tls"))
    assert codes(ran) == ["tls_handshake"]
    if how == "starttls":
        assert ran.code == Exit.TROUBLE
        assert "STARTTLS" in ran.value["in_clear"]
    else:
        assert ran.code == Exit.UNREACHABLE


def test_a_login_before_tls_is_a_note(certificates: Certificates, ca: tuple[str, str]) -> None:
    keywords = ["AUTH PLAIN LOGIN CRAM-MD5"]
    with ThreadedServer(starttls=certificates.server, keywords=keywords) as server:
        ran = probe(server, *ca)
    assert ran.code == Exit.OK
    assert "note   a login is offered before TLS (PLAIN, LOGIN)" in ran.output


def test_an_odd_reply_to_ehlo_is_a_note() -> None:
    with ThreadedServer(keywords=["SIZE 1", "?"]) as server:
        ran = probe(server, "--tls", "off", "--json")
    assert (ran.code, codes(ran)) == (Exit.OK, ["odd_ehlo"])


def test_a_server_that_knows_helo_only_is_shown() -> None:
    with ThreadedServer(script={"EHLO": "500 what?"}) as server:
        ran = probe(server, "--tls", "off")
    assert ran.code == Exit.OK
    assert "in clear       no extensions\n" in ran.output
    assert "limits         none declared\n" in ran.output


REFUSALS: dict[str, dict[str, Answer]] = {
    "greeting": {"GREETING": "554 5.7.1 blocked"},
    "EHLO": {"EHLO": "550 5.7.1 blocked", "HELO": "550 5.7.1 blocked"},
    "EHLO, and hangs up": {"EHLO": "421 5.7.1 blocked"},
}


@pytest.mark.parametrize("script", REFUSALS.values(), ids=REFUSALS)
def test_a_server_that_does_not_want_to_talk_is_exit_code_3(script: dict[str, Answer]) -> None:
    with ThreadedServer(script=script) as server:
        ran = probe(server)
    assert ran.code == Exit.REFUSED
    assert "WRONG  the server does not want to talk: " in ran.output
    assert "5.7.1 blocked" in ran.output


ENDS: dict[str, tuple[dict[str, Answer], str, Exit]] = {
    "says nothing": ({"GREETING": STALL}, "silent", Exit.UNREACHABLE),
    "hangs up": ({"GREETING": DROP}, "lost", Exit.UNREACHABLE),
    "says nothing more": ({"EHLO": STALL}, "lost", Exit.UNREACHABLE),
    "garbage": ({"GREETING": b"\xff\xfe\r\n"}, "lost", Exit.UNREACHABLE),
    "hangs up late": ({"NOOP": DROP}, "lost", Exit.TROUBLE),
}


@pytest.mark.parametrize("case", ENDS.values(), ids=ENDS)
def test_a_conversation_that_ends_early_is_told(
    case: tuple[dict[str, Answer], str, Exit],
) -> None:
    script, code, exit_code = case
    with ThreadedServer(script=script, strict=False) as server:
        ran = probe(server, "--timeout", SILENCE, "--json", "--tls", "off")
    assert ran.code == exit_code
    assert code in codes(ran)


def test_a_server_that_says_nothing_in_the_handshake_is_told(ca: tuple[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        ran = cli("probe", f"127.0.0.1:{port}", *ca, "--tls", "implicit", "--timeout", SILENCE)
    assert ran.code == Exit.UNREACHABLE
    assert "WRONG  the TLS handshake fails: no answer" in ran.output


def test_where_nothing_listens_is_exit_code_5() -> None:
    ran = cli("probe", "127.0.0.1:1")
    assert ran.code == Exit.UNREACHABLE
    assert "WRONG  no connection to 127.0.0.1, port 1: Connection refused; " in ran.output


def test_a_name_that_nobody_has_is_exit_code_5(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    ran = cli("probe", "nowhere.invalid")
    assert ran.code == Exit.UNREACHABLE
    assert "the name nowhere.invalid leads nowhere: Name or service not known" in ran.output


def test_a_name_that_is_too_long_is_exit_code_5() -> None:
    ran = cli("probe", "x" * 64 + ".invalid")
    assert ran.code == Exit.UNREACHABLE


def test_a_look_up_that_takes_too_long_is_exit_code_5(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    ran = cli("probe", "slow.invalid", "--timeout", SILENCE)
    assert ran.code == Exit.UNREACHABLE
    assert "the name slow.invalid leads nowhere: nobody answered" in ran.output


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], int | None]:
    """Which loopback port each address and port leads to; None: nowhere, without an answer."""
    ports: dict[tuple[str, int], int | None] = {}
    real_connect = anyio.connect_tcp

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(0, 0, 0, "", address) for address in ports if address[1] == port]

    async def connect_tcp(host: str, port: int) -> ByteStream:
        to = ports[host, port]
        if to is None:
            await anyio.sleep_forever()
        return await real_connect("127.0.0.1", to or 0)

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)
    return ports


def test_an_address_that_does_not_answer_is_a_note_if_another_does(
    network: dict[tuple[str, int], int | None],
    aiosmtpd_starttls: AiosmtpdServer,
    ca: tuple[str, str],
) -> None:
    network["2001:db8::25", 587] = None
    network["192.0.2.25", 587] = aiosmtpd_starttls.port
    ran = cli("probe", "smtp.example.com", *ca, "--timeout", SILENCE)
    assert ran.code == Exit.OK
    assert f"no connection to 2001:db8::25, port 587: no answer in {SILENCE} s; another" in (
        ran.output
    )
    assert "address        192.0.2.25\n" in ran.output


def test_the_port_is_587_or_465_and_says_how_tls_begins(
    network: dict[tuple[str, int], int | None],
    aiosmtpd_starttls: AiosmtpdServer,
    aiosmtpd_implicit: AiosmtpdServer,
    ca: tuple[str, str],
) -> None:
    network["192.0.2.25", 587] = aiosmtpd_starttls.port
    network["192.0.2.25", 465] = aiosmtpd_implicit.port
    for arguments, mode in (
        (["smtp.example.com"], "starttls"),
        (["smtp.example.com:465"], "implicit"),
        (["smtp.example.com", "--tls", "implicit"], "implicit"),
    ):
        ran = cli("probe", *arguments, *ca, "--json")
        assert (ran.code, codes(ran), ran.value["mode"]) == (Exit.OK, [], mode)


def test_ports_that_are_exchanged_are_problems(
    network: dict[tuple[str, int], int | None], certificates: Certificates, ca: tuple[str, str]
) -> None:
    with (
        ThreadedServer(starttls=certificates.server, strict=False) as plain,
        ThreadedServer(implicit_tls=certificates.server, strict=False) as implicit,
    ):
        network["192.0.2.25", 465], network["192.0.2.25", 587] = plain.port, implicit.port
        for port in (465, 587):
            ran = cli("probe", f"smtp.example.com:{port}", *ca, "--json", "--timeout", SILENCE)
            assert ran.code == Exit.TROUBLE
            assert codes(ran) == ["wrong_tls_mode", "no_login"]


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("smtp.example.com", "smtp.example.com", 587),
        ("smtp.example.com:25", "smtp.example.com", 25),
        ("192.0.2.25:25", "192.0.2.25", 25),
        ("::1", "::1", 587),
        ("[::1]", "::1", 587),
        ("[fe80::1%eth0]:25", "fe80::1%eth0", 25),
        ("bücher.example", "bücher.example", 587),
    ],
)
def test_the_server_is_a_host_with_or_without_a_port(
    given: str, host: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(*_: object, **__: object) -> object:
        raise OSError("this is far enough")

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    ran = cli("probe", given, "--json")
    assert (ran.value["host"], ran.value["port"]) == (host, port)


@pytest.mark.parametrize(
    "given", ["", "a b", "x:0", "x:65536", "x:y", "[::1", "[x]", "smtp://x", "a@x", "x:1:2", "x/y"]
)
def test_a_server_that_is_none_is_a_wrong_call(given: str) -> None:
    assert cli("probe", given).code == Exit.USAGE


def test_authorities_that_are_none_are_a_wrong_call() -> None:
    assert cli("probe", "localhost", "--cafile", "nowhere.pem").code == Exit.USAGE


def test_the_dialogue_can_be_watched(
    aiosmtpd_starttls: AiosmtpdServer, ca: tuple[str, str]
) -> None:
    ran = probe(aiosmtpd_starttls, *ca, "-v")
    assert " ms  127.0.0.1 > STARTTLS\n" in ran.errors
    assert probe(aiosmtpd_starttls, *ca).errors == ""


def test_what_a_server_says_does_nothing_to_the_terminal() -> None:
    script: dict[str, Answer] = {"GREETING": b"220-\x1b[31mhi\r\n220 \x07[red]\r\n"}
    with ThreadedServer(script=script) as server:
        ran = probe(server, "--tls", "off")
    assert "\x1b" not in ran.output
    assert r"greeting       220-\x1b[31mhi / 220 \x07[red]" in ran.output


def test_it_runs_on_either_backend(
    anyio_backend: str, aiosmtpd_starttls: AiosmtpdServer, ca: tuple[str, str]
) -> None:
    arguments = ["probe", f"localhost:{aiosmtpd_starttls.port}", *ca]
    ran = cli_process("--backend", anyio_backend, *arguments)
    assert (ran.code, ran.errors) == (Exit.OK, "")
    assert "Nothing is wrong." in ran.output
