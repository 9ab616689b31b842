"""``anysmtp send``: what leaves, what is said about it, and the exit code of each end."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from anysmtp.cli._exit import Exit
from anysmtp.testing import DROP, STALL, AiosmtpdServer, Answer
from support.cli import Ran, cli, shape
from support.fixtures import USERS
from support.threaded import ThreadedServer
from support.tls import Certificates

NEW = ("--from", "ann@x.test", "--to", "bob@x.test", "--body", "hello")
Server = AiosmtpdServer | ThreadedServer


def send(server: Server, *arguments: str, scheme: str = "smtp", **options: Any) -> Ran:
    return cli("send", "--server", f"{scheme}://{server.host}:{server.port}", *arguments, **options)


def only(server: AiosmtpdServer) -> EmailMessage:
    [delivered] = server.messages
    parsed = message_from_bytes(delivered.raw, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def test_a_message_is_made_from_options(aiosmtpd_plain: AiosmtpdServer, tmp_path: Path) -> None:
    picture, archive = tmp_path / "Bild.png", tmp_path / "logs.tar.gz"
    picture.write_bytes(b"\x89PNG\r\n")
    archive.write_bytes(b"\x1f\x8b")
    letter = tmp_path / "old.eml"
    letter.write_text("Subject: old\n\n")
    ran = send(
        aiosmtpd_plain,
        *("--from", "Änn <ann@x.test>", "--to", "bob@x.test", "--to", "Carol <carol@x.test>"),
        *("--cc", "dan@x.test", "--bcc", "eve@x.test", "--subject", "Grüße", "--body", "Hällo"),
        *("--attach", str(picture), "--attach", str(archive), "--attach", str(letter)),
    )
    assert (ran.code, ran.errors) == (Exit.OK, "")
    assert ran.output == (
        "the message: accepted for bob@x.test, carol@x.test, dan@x.test, eve@x.test: 250 2.0.0 OK\n"
    )
    message = only(aiosmtpd_plain)
    assert aiosmtpd_plain.messages[0].sender == "ann@x.test"
    assert message["From"] == "Änn <ann@x.test>"
    assert message["To"] == "bob@x.test, Carol <carol@x.test>"
    assert (message["Cc"], message["Bcc"], message["Subject"]) == ("dan@x.test", None, "Grüße")
    assert message["Date"]
    assert message["Message-ID"]
    body, *attached = message.iter_parts()
    assert isinstance(body, EmailMessage)
    assert body.get_content() == "Hällo\r\n"
    assert [(part.get_content_type(), part.get_filename()) for part in attached] == [
        ("image/png", "Bild.png"),
        ("application/octet-stream", "logs.tar.gz"),
        ("application/octet-stream", "old.eml"),
    ]
    assert [part.get_payload(decode=True) for part in attached] == [
        b"\x89PNG\r\n",
        b"\x1f\x8b",
        b"Subject: old\n\n",
    ]


def test_the_text_can_come_from_standard_input(aiosmtpd_plain: AiosmtpdServer) -> None:
    ran = send(aiosmtpd_plain, *NEW[:-1], "-", stdin="Hällo\n".encode())
    assert ran.code == Exit.OK
    assert only(aiosmtpd_plain).get_content() == "Hällo\r\n"


def test_text_can_be_left_out(aiosmtpd_plain: AiosmtpdServer) -> None:
    ran = send(aiosmtpd_plain, *NEW[:-2], "--subject", "nothing")
    assert ran.code == Exit.OK
    assert only(aiosmtpd_plain).get_content() == "\r\n"


EML = (
    b"From: ann@x.test\r\nTo: bob@x.test\r\nBcc: eve@x.test\r\n"
    b"Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@x.test>\r\nSubject: "
    + b"a subject that is long, "
    * 6
    + b"\r\n"
    b"X-Signature: v=1;\r\n\ta=b;  c=d\r\n\r\nhello\r\n..\r\n"
)


def test_files_leave_as_they_stand_without_bcc(
    aiosmtpd_plain: AiosmtpdServer, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.eml", tmp_path / "two.eml"
    one.write_bytes(EML)
    two.write_bytes(EML.replace(b"\r\n", b"\n"))
    ran = send(aiosmtpd_plain, str(one), str(two))
    assert ran.code == Exit.OK
    assert ran.output == "".join(
        f"{path}: accepted for bob@x.test, eve@x.test: 250 2.0.0 OK\n" for path in (one, two)
    )
    expected = EML.replace(b"Bcc: eve@x.test\r\n", b"")
    assert [message.raw for message in aiosmtpd_plain.messages] == [expected, expected]
    assert aiosmtpd_plain.messages[0].recipients == ["bob@x.test", "eve@x.test"]


def test_a_message_can_come_from_standard_input_with_an_envelope_of_its_own(
    aiosmtpd_plain: AiosmtpdServer,
) -> None:
    ran = send(aiosmtpd_plain, "-", "--from", "", "--to", "dan@x.test", stdin=EML)
    assert ran.output == "standard input: accepted for dan@x.test: 250 2.0.0 OK\n"
    [delivered] = aiosmtpd_plain.messages
    assert delivered.sender == ""
    assert delivered.recipients == ["dan@x.test"]


def test_all_messages_go_over_one_connection(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(EML)
    with ThreadedServer() as server:
        ran = send(server, *[str(tmp_path / "a.eml")] * 3)
        assert ran.code == Exit.OK
        assert len(server.server.messages) == 3
        assert server.server.connection.commands[-1] == b"QUIT\r\n"


def test_a_mail_store_is_spoken_to_in_lmtp() -> None:
    with ThreadedServer(lmtp=True, script={". <carol@x.test>": "452 4.2.2 full"}) as server:
        ran = send(server, *NEW, "--to", "carol@x.test", scheme="lmtp")
    assert ran.code == Exit.REFUSED
    assert ran.output.startswith("the message: accepted for bob@x.test: 250 ")
    assert ran.errors == "the message: refused for carol@x.test: 452 4.2.2 full\n"


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
def test_it_encrypts_and_logs_in(
    scheme: str, certificates: Certificates, request: pytest.FixtureRequest
) -> None:
    which = {"smtps": "aiosmtpd_implicit", "smtp+starttls": "aiosmtpd_starttls"}[scheme]
    server: AiosmtpdServer = request.getfixturevalue(which)
    options = ("--username", "jörg", "--cafile", str(certificates.cafile))
    ran = send(server, *NEW, *options, scheme=scheme, ANYSMTP_PASSWORD=USERS["jörg"])
    assert ran.code == Exit.OK
    assert (server.messages[0].tls, server.messages[0].username) == (True, "jörg")


def test_the_mode_of_tls_is_an_option_too(
    aiosmtpd_implicit: AiosmtpdServer, certificates: Certificates
) -> None:
    url = f"smtp://ann@localhost:{aiosmtpd_implicit.port}"
    options = ("--tls", "implicit", "--cafile", str(certificates.cafile))
    ran = cli("send", *NEW, *options, ANYSMTP_URL=url, ANYSMTP_PASSWORD=USERS["ann"])
    assert ran.code == Exit.OK


def test_a_recipient_that_is_refused_is_said(certificates: Certificates) -> None:
    with AiosmtpdServer(refuse={"carol@x.test": "550 5.1.1 no such user"}) as server:
        ran = send(server, *NEW, "--to", "carol@x.test")
    assert ran.code == Exit.REFUSED
    assert ran.output == "the message: accepted for bob@x.test: 250 2.0.0 OK\n"
    assert ran.errors == "the message: refused for carol@x.test: 550 5.1.1 no such user\n"


REFUSALS: dict[str, tuple[dict[str, Answer], str]] = {
    "greeting": ({"GREETING": "554 5.7.1 blocked"}, "554 5.7.1 blocked"),
    "ehlo": ({"EHLO": "550 no", "HELO": "550 no"}, "550 no"),
    "sender": ({"MAIL": "553 5.1.8 not you"}, "553 5.1.8 not you"),
    "recipient": ({"RCPT": "451 4.7.1 later"}, "451 4.7.1 later"),
    "message": ({".": "554 5.7.1 spam"}, "554 5.7.1 spam"),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_what_the_server_refuses_is_exit_code_3(case: tuple[dict[str, Answer], str]) -> None:
    script, reply = case
    with ThreadedServer(script=script) as server:
        ran = send(server, *NEW)
        as_json = send(server, *NEW, "--json")
    assert (ran.code, ran.output) == (Exit.REFUSED, "")
    assert reply in ran.errors
    assert as_json.code == as_json.value["exit_code"] == Exit.REFUSED


def test_a_login_that_is_refused_is_exit_code_3_and_is_not_tried_again(
    certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "a.eml").write_bytes(EML)
    users = {"ann": "secret"}
    with ThreadedServer(starttls=certificates.server, users=users) as server:
        options = ("--username", "ann", "--cafile", str(certificates.cafile))
        ran = send(server, *[str(tmp_path / "a.eml")] * 2, *options, ANYSMTP_PASSWORD="Wr0ng&hors3")
        assert [command[:4] for command in server.server.commands].count(b"AUTH") == 1
    assert ran.code == Exit.REFUSED
    assert "the server refused the user name or password" in ran.errors
    assert ran.errors.endswith("a.eml: not sent: not tried\n")


def test_what_the_server_does_not_offer_is_exit_code_3() -> None:
    with ThreadedServer(keywords=["SIZE 10"]) as server:
        too_large = send(server, *NEW)
        no_starttls = send(server, *NEW, scheme="smtp+starttls")
    assert too_large.code == no_starttls.code == Exit.REFUSED
    assert "--tls implicit (port 465) encrypts from the first octet" in no_starttls.errors


def test_an_end_without_a_reply_is_in_doubt() -> None:
    with ThreadedServer(script={".": DROP}) as server:
        ran = send(server, *NEW)
        as_json = send(server, *NEW, "--json")
    assert (ran.code, ran.output) == (Exit.IN_DOUBT, "")
    assert "the message: in doubt for bob@x.test, the server may have it: " in ran.errors
    [message] = as_json.value["messages"]
    assert as_json.code == Exit.IN_DOUBT
    assert (message["outcome"], message["in_doubt"]) == ("in_doubt", ["bob@x.test"])
    assert message["may_retry"] is False


UNREACHABLE: dict[str, dict[str, Answer]] = {
    "hangs up": {"GREETING": DROP},
    "leaves": {"MAIL": DROP},
    "garbage": {"EHLO": b"\xff\xfe\r\n"},
}


@pytest.mark.parametrize("script", UNREACHABLE.values(), ids=UNREACHABLE)
def test_a_server_that_cannot_be_talked_to_is_exit_code_5(script: dict[str, Answer]) -> None:
    with ThreadedServer(script=script) as server:
        ran = send(server, *NEW)
    assert (ran.code, ran.output) == (Exit.UNREACHABLE, "")
    assert ran.errors.startswith("the message: not sent: 127.0.0.1:")


def test_where_nothing_listens_it_is_exit_code_5() -> None:
    ran = cli("send", "--server", "smtp://localhost:1", *NEW)
    assert (ran.code, ran.output) == (Exit.UNREACHABLE, "")


def test_a_certificate_that_is_not_accepted_is_exit_code_5(
    certificates: Certificates,
) -> None:
    with AiosmtpdServer(implicit_tls=certificates.server) as server:
        ran = send(server, *NEW, scheme="smtps")
    assert ran.code == Exit.UNREACHABLE
    assert "--cafile trusts another authority, --tls sets another mode" in ran.errors
    with AiosmtpdServer(implicit_tls=certificates.server_misnamed) as server:
        ran = send(server, *NEW, "--cafile", str(certificates.cafile), scheme="smtps")
    assert ran.code == Exit.UNREACHABLE
    assert ran.errors.endswith("connect by a name that the certificate has\n")


def test_it_ends_in_the_time_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(EML)
    for point, code, what in (
        ("MAIL", Exit.UNREACHABLE, "not sent"),
        (".", Exit.IN_DOUBT, "in doubt"),
    ):
        with ThreadedServer(script={point: STALL}) as server:
            ran = send(server, *[str(tmp_path / "a.eml")] * 2, "--timeout", "0.2")
        assert ran.code == code
        first, second = ran.errors.splitlines()
        assert f"a.eml: {what}" in first
        assert "not within 0.2 seconds" in first
        assert "a.eml: not sent: not within 0.2 seconds" in second


def test_of_several_messages_the_worst_decides(tmp_path: Path) -> None:
    for name in ("refused", "doubtful", "good"):
        eml = EML.replace(b"ann@", name.encode() + b"@").replace(b"Bcc: eve@x.test\r\n", b"")
        (tmp_path / f"{name}.eml").write_bytes(eml)
    refused = {"MAIL FROM:<refused@x.test>": "553 no"}
    with ThreadedServer(script=refused) as server:
        ran = send(server, *(str(tmp_path / f"{name}.eml") for name in ("refused", "good")))
        assert len(server.server.messages) == 1
    assert ran.code == Exit.REFUSED
    assert "good.eml: accepted for bob@x.test" in ran.output


def test_a_file_that_is_no_message_does_not_keep_others_back(
    aiosmtpd_plain: AiosmtpdServer, tmp_path: Path
) -> None:
    (tmp_path / "bad.eml").write_bytes(b"To: bob@x.test\r\n\r\n")
    (tmp_path / "good.eml").write_bytes(EML)
    ran = send(aiosmtpd_plain, str(tmp_path / "bad.eml"), str(tmp_path / "good.eml"))
    assert ran.code == Exit.USAGE
    assert "bad.eml: not sent: " in ran.errors
    assert len(aiosmtpd_plain.messages) == 1


REPLY = {"code": int, "enhanced": str, "text": str}
SCHEMA = {
    "exit_code": int,
    "messages": [
        {
            "source": str,
            "message_id": str,
            "outcome": str,
            "accepted": {"bob@x.test": REPLY},
            "refused": {"carol@x.test": REPLY},
            "not_sent": [],
            "in_doubt": [],
            "may_retry": bool,
            "retry_recipients": ["x"][:0],
            "error": type(None),
            "seconds": float,
        }
    ],
}


def test_the_json_has_the_shape_that_the_documentation_shows() -> None:
    with ThreadedServer(script={"RCPT TO:<carol": "550 5.1.1 no"}) as server:
        ran = send(server, *NEW, "--to", "carol@x.test", "--json")
    assert (ran.code, ran.errors) == (Exit.REFUSED, "")
    assert shape(ran.value) == SCHEMA
    assert ran.value["messages"][0]["outcome"] == "refused"


def test_the_json_of_a_failure_has_the_error() -> None:
    with ThreadedServer(keywords=[], script={"MAIL": "451 4.3.0 later"}) as server:
        ran = send(server, *NEW, "--json")
    [message] = ran.value["messages"]
    assert message["error"] == {
        "type": "SMTPSenderRefused",
        "text": f"127.0.0.1:{server.port} MAIL FROM:<ann@x.test>: 451 4.3.0 later",
        "command": "MAIL FROM:<ann@x.test>",
        "reply": {"code": 451, "enhanced": "4.3.0", "text": "4.3.0 later"},
    }
    assert message["may_retry"] is True
    assert message["retry_recipients"] == ["bob@x.test"]


def test_the_json_of_what_was_not_tried_has_no_type_of_error(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(EML)
    ran = cli("send", "--server", "smtp://localhost:1", *[str(tmp_path / "a.eml")] * 2, "--json")
    tried, untried = ran.value["messages"]
    assert tried["error"]["type"] == "SMTPConnectError"
    assert tried["seconds"] >= 0
    assert untried["error"] == {"type": None, "text": "not tried", "command": None, "reply": None}
    assert untried["seconds"] is None


def test_the_dialogue_is_shown_with_timings_and_without_secrets(
    aiosmtpd_starttls: AiosmtpdServer, certificates: Certificates
) -> None:
    options = ("--username", "ann", "--cafile", str(certificates.cafile), "-v")
    ran = send(aiosmtpd_starttls, *NEW, *options, ANYSMTP_PASSWORD=USERS["ann"])
    assert ran.code == Exit.OK
    lines = ran.errors.splitlines()
    said = [line.split(" ms  ", 1)[1] for line in lines]
    times = [float(line.split(" ms  ", 1)[0]) for line in lines]
    assert times == sorted(times)
    server = f"127.0.0.1:{aiosmtpd_starttls.port}"
    assert f"{server} > AUTH PLAIN ***" in said
    assert f"connected to {server} (TLSv1.3)" in said
    assert f"{server} < 250 2.0.0 OK" in said
    assert said[-2:] == [
        f"{server} < 221 Bye",
        f"connection to {server} ended: the session was ended with QUIT",
    ]


def test_without_v_there_is_no_dialogue(aiosmtpd_plain: AiosmtpdServer) -> None:
    assert send(aiosmtpd_plain, *NEW, "-v").errors
    assert send(aiosmtpd_plain, *NEW).errors == ""


def test_what_a_server_says_does_nothing_to_the_terminal() -> None:
    with ThreadedServer(script={".": b"554 \x1b[31m\x07 [red]no[/red]\r\n"}) as server:
        ran = send(server, *NEW, "-v")
    assert ran.errors.isascii()
    assert "\x1b" not in ran.errors
    assert r"554 \x1b[31m\x07 [red]no[/red]" in ran.errors


WRONG: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "nothing to send"),
    "only an envelope": (["--from", "a@x.test", "--to", "b@x.test"], "nothing to send"),
    "nobody it is from": (["--to", "b@x.test", "--body", "x"], "a new message needs --from"),
    "a field beside a file": (["-", "--subject", "x"], "a FILE is a whole message"),
    "two files from one stream": (["-", "-"], "- is standard input, which can be read once"),
    "text and a file from one stream": (
        [*NEW[:-1], "-", "--attach", "-"],
        "- is standard input, which can be read once",
    ),
    "no such file": (["nowhere.eml"], "nowhere.eml: No such file or directory"),
    "no such attachment": ([*NEW, "--attach", "nowhere"], "nowhere: No such file or directory"),
    "a line end in a field": ([*NEW, "--subject", "a\nb"], "not a message: "),
    "a scheme": ([*NEW, "--server", "http://x.test"], "the scheme is one of"),
    "an address": ([*NEW, "--server", "smtp://[x.test"], "it cannot be parsed"),
    "twice": ([*NEW, "--server", "smtps://x.test", "--tls", "off"], "the URL says it already: tls"),
    "a limit": ([*NEW, "--timeout", "0"], "--timeout"),
    "no authorities": ([*NEW, "--cafile", "nowhere.pem"], "No such file or directory"),
    "odd authorities": ([*NEW, "--cafile", __file__], f"--cafile {__file__}: "),
    "vain authorities": ([*NEW, "--tls", "off", "--cafile", "CA"], "--cafile is of no use with"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_exit_code_2_before_anything_is_sent(
    case: tuple[list[str], str], certificates: Certificates
) -> None:
    given, said = case
    arguments = [str(certificates.cafile) if word == "CA" else word for word in given]
    ran = cli("send", *arguments, ANYSMTP_URL="smtp://localhost:1", stdin=EML)
    assert (ran.code, ran.output) == (Exit.USAGE, "")
    assert said in ran.errors


def test_text_that_is_not_utf_8_is_a_wrong_call() -> None:
    ran = cli("send", "--server", "smtp://localhost:1", *NEW[:-1], "-", stdin=b"\xff")
    assert ran.code == Exit.USAGE
    assert "not a message: 'utf-8' codec can't decode byte 0xff" in ran.errors


@pytest.mark.parametrize("to", ["bob@", "bob@x.test\r\nRCPT TO:<eve@x.test>", "a@x.test, b@x.test"])
def test_an_address_that_is_none_is_a_wrong_call(to: str) -> None:
    ran = cli("send", "--server", "smtp://localhost:1", "-", "--to", to, stdin=EML)
    assert ran.code == Exit.USAGE


def test_a_message_to_nobody_is_a_wrong_call() -> None:
    ran = cli("send", "--server", "smtp://localhost:1", *NEW[:2], "--body", "x")
    assert ran.code == Exit.USAGE
    assert "not sent: " in ran.errors
