"""The tests of the club's mail, with each part of the kit where it is good.

What the application sends, and what it does when that fails, is asked with an outbox. What becomes
of a stream of letters on the way, with a real client and a server that does as it is told. Whether
the settings are right, with a server of somebody else's, under TLS and with a login.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from club import open_mailer, send_letter, send_reset

from anysmtp.testing import DROP, AiosmtpdServer, Certificates, Outbox, ScriptedServer

pytestmark = pytest.mark.anyio

ANN = "ann@example.com"
LINK = "https://club.example.org/reset/1234"


async def test_the_link_is_sent_to_the_member(smtp_outbox: Outbox) -> None:
    assert await send_reset(smtp_outbox, ANN, LINK) == "sent"
    (sent,) = smtp_outbox
    assert sent.recipients == [ANN]
    assert LINK in sent.message.get_content()


async def test_a_member_who_does_not_exist_is_told(smtp_outbox: Outbox) -> None:
    smtp_outbox.refuse(ANN, "550 5.1.1 no such user")
    assert await send_reset(smtp_outbox, ANN, LINK) == "wrong address"


async def test_a_link_that_may_have_been_sent_is_not_sent_again(smtp_outbox: Outbox) -> None:
    smtp_outbox.doubt_next()
    assert await send_reset(smtp_outbox, ANN, LINK) == "perhaps"
    assert len(smtp_outbox) == 1


async def test_nobody_waits_for_a_slow_server(smtp_outbox: Outbox) -> None:
    smtp_outbox.stall_next()
    assert await send_reset(smtp_outbox, ANN, LINK, patience=0.1) == "ask again"


async def test_a_letter_reaches_all_members_but_one(smtp_server: ScriptedServer) -> None:
    members = [f"member{number}@example.com" for number in range(20)]
    smtp_server.script["RCPT TO:<member7@"] = "550 5.1.1 no such user"
    # Half of the letters find that the server has hung up; the client opens another connection.
    smtp_server.script["MAIL"] = ["250 Ok"] * 9 + [DROP]
    async with smtp_server.client() as smtp:
        outcomes = await send_letter(smtp, members, "News", "There is none.\n")
    assert {member for member in members if outcomes[member] != "accepted"} == {members[7]}
    assert len(smtp_server.messages) == 19
    assert set(smtp_server.deliveries("To").values()) == {1}


async def test_the_settings_lead_to_an_encrypted_server_and_a_login(
    smtpd: AiosmtpdServer, smtp_certificates: Certificates, tmp_path: Path
) -> None:
    smtpd.users["club"] = "correct horse"
    cafile = tmp_path / "ca.pem"
    cafile.write_text(smtp_certificates.pem)
    settings = {
        "CLUB_HOST": smtpd.host,
        "CLUB_PORT": str(smtpd.port),
        "CLUB_CAFILE": str(cafile),
        "CLUB_USERNAME": "club",
        "CLUB_PASSWORD": "correct horse",
    }
    async with open_mailer(settings) as smtp:
        assert await send_reset(smtp, ANN, LINK) == "sent"
    (sent,) = smtpd.messages
    assert (sent.tls, sent.username, sent.sender) == (True, "club", "club@example.org")
