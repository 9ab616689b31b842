"""A secret is nowhere to be read: not in a log, a repr, an exception or a traceback.

Every mechanism is taken through every way in which a login can end. What is looked for is the
secret as it is, in base64, and every part of either that has six characters.
"""

from __future__ import annotations

import logging
import traceback
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from anysmtp import SMTP, Delivery, SMTPException, sasl
from anysmtp.testing import Answer, ScriptedServer
from anysmtp.testing._state import Mechanism as ServerSide
from anysmtp.testing._state import Steps
from support.bench import RECIPIENTS, message
from support.mechanisms import SECRET, USER, server_side
from support.quick import sampled
from support.tls import Certificates

pytestmark = pytest.mark.anyio

WRONG = "Wr0ng&hors3-Pq7xJ2"


async def get_secret() -> str:
    return SECRET


async def get_wrong() -> str:
    return WRONG


MECHANISMS: dict[str, Callable[[str], sasl.Mechanism | tuple[sasl.Mechanism, ...]]] = {
    "PLAIN": lambda secret: sasl.Plain(USER, secret),
    "LOGIN": lambda secret: sasl.Login(USER, secret),
    "CRAM-MD5": lambda secret: sasl.CramMD5(USER, secret),
    "SCRAM-SHA-1": lambda secret: sasl.ScramSHA1(USER, secret),
    "SCRAM-SHA-256": lambda secret: sasl.ScramSHA256(USER, secret),
    "SCRAM-SHA-512": lambda secret: sasl.ScramSHA512(USER, secret),
    "SCRAM-SHA-1-PLUS": lambda secret: sasl.ScramSHA1Plus(USER, secret),
    "SCRAM-SHA-256-PLUS": lambda secret: sasl.ScramSHA256Plus(USER, secret),
    "SCRAM-SHA-512-PLUS": lambda secret: sasl.ScramSHA512Plus(USER, secret),
    "XOAUTH2": lambda secret: sasl.XOAuth2(USER, secret),
    "OAUTHBEARER": lambda secret: sasl.OAuthBearer(
        USER, get_secret if secret == SECRET else get_wrong, refresh=get_wrong
    ),
    "NTLM": lambda secret: sasl.Ntlm("EXAMPLE\\ann", secret),
    "GSS-SPNEGO": lambda secret: sasl.Spnego("EXAMPLE\\ann", secret),
}
# What the server does in place of a login that goes well.
ENDS: Mapping[str, Answer | None] = {
    "as it should": None,
    "another mechanism": "504 5.5.4 Unrecognized authentication type",
    "transient": "454 4.7.0 Temporary authentication failure",
    "no base64": "334 %",
    "an odd challenge": "334 eyJhIjogMX0=",
    "a yes at once": "235 2.7.0 Welcome",
    "an odd code": "299 Hm",
    "a breach": "354 Go on",
    "garbage": b"\xff\xfe\r\n",
    "hanging up": "421 4.7.0 Go away",
}


def parts(secret: str) -> set[str]:
    """Whatever must not be seen of a secret."""
    said = {secret, f"\0{USER}\0{secret}", f"user={USER}\x01auth=Bearer {secret}\x01\x01"}
    encoded = {b64encode(text.encode()[start:]).decode() for text in said for start in range(3)}
    # Of the whole messages only what is made of the secret is one.
    public = f"\0{USER}\0 user={USER}\x01auth=Bearer "
    harmless = {b64encode(public.encode()[start:]).decode() for start in range(len(public))}
    found = {text[i : i + 6] for text in {secret, *encoded} for i in range(len(text) - 5)}
    return {part for part in found if not any(part in text for text in (public, *harmless))}


FORBIDDEN = parts(SECRET) | parts(WRONG)


class Transcript(logging.Handler):
    """Whatever is logged, and whatever a program may print of the rest."""

    def __init__(self) -> None:
        super().__init__(0)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += [self.format(record), repr(record.args), repr(record.__dict__)]

    def add(self, *things: object) -> None:
        for thing in things:
            self.lines += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                self.lines += traceback.format_exception(thing)
                self.add(thing.args, thing.__dict__, thing.__cause__)

    def check(self) -> None:
        text = "\n".join(self.lines)
        assert not [part for part in FORBIDDEN if part in text]


@pytest.fixture
def transcript() -> Any:
    """All records of all loggers, at every level."""
    handler, root = Transcript(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(1)
    yield handler
    root.setLevel(before)
    root.removeHandler(handler)


@sampled(5)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("secret", [SECRET, WRONG], ids=["right", "wrong"])
@pytest.mark.parametrize("name", MECHANISMS)
async def test_no_login_lets_a_secret_be_seen(
    name: str,
    secret: str,
    end: str,
    certificates: Certificates,
    tmp_path: Path,
    transcript: Transcript,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NTLM_USER_FILE", str(tmp_path / "accounts"))
    offered = {name: server_side(certificates, tmp_path)[name]}
    answer = ENDS[end]
    script: dict[str, Answer | Sequence[Answer]] = {} if answer is None else {"AUTH": answer}
    auth = MECHANISMS[name](secret)
    transcript.add(auth)
    await log_in(certificates, offered, script, auth, transcript)
    if answer is not None:
        await log_in(certificates, offered, {"RESPONSE": answer}, auth, transcript)
    assert any("AUTH" in line for line in transcript.lines)
    transcript.check()


@pytest.mark.parametrize("name", MECHANISMS)
async def test_nor_does_one_that_is_not_begun(
    name: str, certificates: Certificates, transcript: Transcript
) -> None:
    """None in common; no login at all; a network in clear; a server that wants too much, and one
    that repeats what it was told."""

    def bomb(_: object) -> Steps:
        first = (yield b"").decode(errors="replace")
        yield f"r={first.rpartition('r=')[2]}x,s=QSXCR+Q6sek8bf92,i=9999999".encode()
        return None

    def echo(_: object) -> Steps:
        said = b""
        while True:
            said = yield said

    auth = MECHANISMS[name](SECRET)
    await log_in(certificates, {"OTHER": bomb}, {}, auth, transcript)
    await log_in(certificates, {}, {}, auth, transcript)
    await log_in(certificates, {name: bomb}, {}, auth, transcript)
    await log_in(certificates, {name: echo}, {}, auth, transcript)
    async with ScriptedServer(mechanisms={name: bomb}) as server:
        smtp = SMTP("mail.example.test", connectable=server.connectable, tls="off", auth=auth)
        await use(smtp, transcript)
    transcript.check()


async def log_in(
    certificates: Certificates,
    offered: Mapping[str, ServerSide],
    script: dict[str, Answer | Sequence[Answer]],
    auth: Any,
    transcript: Transcript,
) -> None:
    # What a server does after a breach of its own is no matter here.
    async with ScriptedServer(
        implicit_tls=certificates.server, mechanisms=offered, script=script, strict=False
    ) as server:
        smtp = SMTP(
            "localhost",
            await server.listen(),
            tls="implicit",
            tls_context=certificates.client,
            auth=auth,
        )
        await use(smtp, transcript)


async def use(smtp: SMTP, transcript: Transcript) -> None:
    delivery: Delivery[None] = Delivery()
    async with smtp:
        transcript.add(smtp)
        try:
            receipt = await smtp.sendmail(
                "a@x.test", RECIPIENTS, message("hello"), delivery=delivery
            )
            transcript.add(receipt)
        except SMTPException as error:
            transcript.add(error)
        transcript.add(delivery, delivery.exception(), smtp)


def test_the_transcript_finds_what_it_looks_for() -> None:
    for leak in (
        SECRET,
        SECRET[3:9],
        b64encode(SECRET.encode()).decode(),
        b64encode(f"\0{USER}\0{SECRET}".encode()).decode(),
        b64encode(f"xx{WRONG}".encode()).decode(),
    ):
        transcript = Transcript()
        transcript.add(leak)
        with pytest.raises(AssertionError):
            transcript.check()


MADE_OF: list[Callable[[str], object]] = [
    lambda bad: SMTP("h", username="u", password=bad),
    lambda bad: SMTP("h", username=bad, password="x"),
    lambda bad: sasl.Plain("u", bad),
    lambda bad: sasl.CramMD5("u", bad),
    lambda bad: sasl.ScramSHA256("u", bad),
    lambda bad: sasl.XOAuth2("u", bad),
    lambda bad: sasl.OAuthBearer("u", bad),
    lambda bad: sasl.Ntlm("u", bad),
]


@pytest.mark.parametrize("make", MADE_OF)
@pytest.mark.parametrize("odd", ["\n", "\x00", "\ud800"])
def test_an_error_about_a_credential_does_not_show_it(
    make: Callable[[str], object], odd: str
) -> None:
    transcript = Transcript()
    with pytest.raises(ValueError, match=r"control character|UTF-8") as caught:
        make(f"{SECRET}{odd}{SECRET}")
    transcript.add(caught.value)
    # The lines of this test are in the traceback, and have the secret by its name only.
    transcript.check()
