"""smtplib, which is nobody's fake, talks to the Postfix of the kit."""

from __future__ import annotations

import os
import shutil
import smtplib

import pytest
from anyio import Path as AsyncPath
from anyio import to_thread

from support.fixtures import USERS, check_postfix
from support.postfix import Postfix, why_not
from support.tls import Certificates

MESSAGE = b"Subject: hello\r\nTo: b@x.test\r\n\r\n.one\r\n..two\r\ncaf\xc3\xa9\r\n"

pytestmark = pytest.mark.anyio


def connect(postfix: Postfix, port: str) -> smtplib.SMTP:
    return smtplib.SMTP(postfix.host, postfix.ports[port], timeout=30)


@pytest.mark.parametrize("port", ["plain", "limits", "bare"])
async def test_the_message_comes_back_byte_for_byte(postfix: Postfix, port: str) -> None:
    address = postfix.address()
    with connect(postfix, port) as client:
        client.sendmail("a@x.test", [address], MESSAGE)
    stored = await postfix.wait_for(address)
    assert (stored.data, stored.sender) == (MESSAGE, "a@x.test")
    assert stored.raw.startswith(b"Return-Path: <a@x.test>\n")


async def test_submission_needs_starttls_and_a_login(
    postfix: Postfix, certificates: Certificates
) -> None:
    address = postfix.address()
    with connect(postfix, "submission") as client:
        assert client.ehlo()[0] == 250
        assert not client.has_extn("auth")
        client.starttls(context=certificates.client)
        with pytest.raises(smtplib.SMTPSenderRefused):
            client.sendmail("a@x.test", [address], MESSAGE)
        client.login("ann", USERS["ann"])
        client.sendmail("a@x.test", [address], MESSAGE)
    assert (await postfix.wait_for(address)).data == MESSAGE


async def test_smtps_needs_a_login(postfix: Postfix, certificates: Certificates) -> None:
    address = postfix.address()
    port = postfix.ports["smtps"]
    with smtplib.SMTP_SSL(postfix.host, port, context=certificates.client) as client:
        client.login("ann", USERS["ann"])
        client.sendmail("a@x.test", [address], MESSAGE)
    assert (await postfix.wait_for(address)).data == MESSAGE


def test_a_login_in_clear_text(postfix: Postfix) -> None:
    with connect(postfix, "clear") as client:
        with pytest.raises(smtplib.SMTPAuthenticationError, match=r"5\.7\.8"):
            client.login("ann", "wrong")
        assert client.login("ann", USERS["ann"])[0] == 235


def test_what_the_ports_offer(postfix: Postfix) -> None:
    offers = {}
    for name in ("plain", "bare", "limits"):
        with connect(postfix, name) as client:
            client.ehlo()
            offers[name] = set(client.esmtp_features)
    assert offers["bare"] == set()
    assert {"pipelining", "chunking", "dsn", "smtputf8"} < offers["plain"]
    assert "starttls" not in offers["plain"]


def test_what_it_refuses(postfix: Postfix) -> None:
    with connect(postfix, "plain") as client:
        client.ehlo()
        assert client.mail("refused@example.test")[0] == 550
        assert client.mail("refused-data@example.test")[0] == 250
        assert client.rcpt("unknown@example.test")[0] == 550
        assert client.rcpt("a@elsewhere.test")[0] == 554
        assert client.rcpt("later@example.test")[0] == 450
        assert client.rcpt(postfix.address())[0] == 250
        assert client.data(MESSAGE)[0] == 550
        client.rset()
        client.mail("a@x.test")
        assert client.rcpt("quit421@example.test")[0] == 421


def test_the_fourth_recipient_is_too_many_at_limits(postfix: Postfix) -> None:
    with connect(postfix, "limits") as client:
        client.ehlo()
        client.mail("a@x.test")
        replies = [client.rcpt(postfix.address())[0] for _ in range(4)]
    assert replies == [250, 250, 250, 452]


async def test_two_run_at_once_and_stop(certificates: Certificates) -> None:
    check_postfix(why_not())
    with (
        Postfix(certificates.server_file, {}) as one,
        Postfix(certificates.server_file, {}) as other,
    ):
        address = other.address()
        with connect(other, "plain") as client:
            await to_thread.run_sync(client.sendmail, "a@x.test", [address], MESSAGE)
        assert (await other.wait_for(address)).data == MESSAGE
        assert one.messages(address) == []
    assert not await AsyncPath(one.folder).exists()


@pytest.mark.parametrize("required", [False, True])
def test_without_postfix_a_test_is_skipped_or_fails_if_it_is_required(
    monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    monkeypatch.setenv("ANYSMTP_REQUIRE_POSTFIX", str(int(required)))
    outcome = pytest.fail.Exception if required else pytest.skip.Exception
    with pytest.raises(outcome, match="the reason"):
        check_postfix("the reason")


def test_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found: str | None = "/usr/sbin/there"

    def which(name: str, path: str) -> str | None:
        return found

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_not() == "Postfix runs as root only"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert why_not() is None
    found = None
    assert why_not() == "Postfix is not installed here: no postconf and no saslpasswd2"
