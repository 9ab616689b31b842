"""What an SMTP server knows, and what it answers by itself: RFC 5321 without any I/O.

`State.own` takes a command line and says what a server would do: the reply, the first digit that a
reply must have for the command to take effect, the effect, and what comes after it on the
connection. Nothing has happened yet then. Whoever speaks for the server (`_session`) may reply
otherwise, and calls the effect if the reply lets it.

After a refused end of data the transaction stays open, as on Postfix: the next MAIL without a
RSET is answered 503.

The octets of a chunk (BDAT, RFC 3030) are read whatever its reply is, and one that no message can
take is answered as Postfix does.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

from ._records import Login, Sent, Transcript
from ._script import lines

# The path may hold a quoted local part, with a ">" in it (RFC 5321 section 4.1.2).
_PATH = r'<((?:"(?:\\.|[^"\\])*"|[^<>"])*)>(?: (.*))?'
_MAIL = re.compile(r"FROM:" + _PATH, re.IGNORECASE)
_RCPT = re.compile(r"TO:" + _PATH, re.IGNORECASE)
_BDAT = re.compile(r"BDAT (\d+)( LAST)?", re.IGNORECASE)

# Which keyword must have been offered for a parameter of MAIL or RCPT.
_PARAMETERS = {
    "SIZE": "SIZE",
    "BODY": "8BITMIME",
    "SMTPUTF8": "SMTPUTF8",
    "AUTH": "AUTH",
    "RET": "DSN",
    "ENVID": "DSN",
    "NOTIFY": "DSN",
    "ORCPT": "DSN",
    "REQUIRETLS": "REQUIRETLS",
    "MT-PRIORITY": "MT-PRIORITY",
    "BY": "DELIVERBY",
    "HOLDFOR": "FUTURERELEASE",
    "HOLDUNTIL": "FUTURERELEASE",
}


# The server's side of a SASL mechanism: yields challenges, is sent responses, and says at its end
# who has logged in; None for nobody. The first challenge is for a login without initial response.
Steps: TypeAlias = "Generator[bytes, bytes, str | None]"
Mechanism: TypeAlias = "Callable[[Transcript], Steps]"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server is, beside its script."""

    hostname: str
    keywords: Sequence[str]
    tls_keywords: Sequence[str] | None = None
    starttls: ssl.SSLContext | None = None
    implicit_tls: ssl.SSLContext | None = None
    users: Mapping[str, str] | None = None
    mechanisms: Mapping[str, Mechanism] = field(default_factory=dict[str, "Mechanism"])
    require_auth: bool = False
    lmtp: bool = False
    one_by_one: bool = False
    split: int | None = None


@dataclass(frozen=True)
class Own:
    """What a server does by itself about one command."""

    reply: str
    effect: Callable[[], None] | None = None
    then: Literal["handshake", "response", "message", "quit", "close"] | None = None
    on: str = "2"
    """The first digit of a reply, the server's or another, that lets the command take effect."""


@dataclass(frozen=True)
class Chunk:
    """How many octets follow a BDAT, and whether the message ends with them."""

    size: int
    is_last: bool


@dataclass
class Transaction:
    """A mail transaction that is under way."""

    sender: str = ""
    options: list[str] = field(default_factory=list[str])
    recipients: dict[str, list[str]] = field(default_factory=dict[str, "list[str]"])
    asked: int = 0
    """How many recipients were asked for."""
    chunks: bytes | None = None
    """What came by BDAT; None before the first one."""

    @property
    def declares_8bit(self) -> bool:
        options = [option.upper() for option in self.options]
        return "BODY=8BITMIME" in options or "SMTPUTF8" in options or self.declares_binary

    @property
    def declares_binary(self) -> bool:
        return "BODY=BINARYMIME" in map(str.upper, self.options)


class State:
    """The server's side of one conversation."""

    def __init__(self, settings: Settings, record: Transcript) -> None:
        self._settings = settings
        self._record = record
        self._offered: list[str] = []
        self._username: str | None = None
        self._transaction: Transaction | None = None
        self._exchange: Steps | None = None
        self._mails = 0
        self._domains: set[str] = set()
        self._discards = False  # the chunks of a message of which one was refused
        # Those of the test's own stand in front.
        self._mechanisms: dict[str, Mechanism] = dict(settings.mechanisms)
        if settings.users is not None:
            self._mechanisms |= {"PLAIN": self._plain, "LOGIN": self._login}
        # RFC 2033 section 4.1: LHLO stands in the place of both.
        hellos = {"LHLO": self._ehlo} if settings.lmtp else {"EHLO": self._ehlo, "HELO": self._helo}
        self._verbs: dict[str, Callable[[str], Own]] = {
            **hellos,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "BDAT": lambda _: Own("521 5.5.4 Syntax: BDAT count [LAST]", then="close", on="5"),
            "RSET": lambda _: Own("250 2.0.0 Ok", lambda: self._begin(None)),
            "NOOP": lambda _: Own("250 2.0.0 Ok"),
            "VRFY": lambda _: Own("252 2.0.0 Perhaps"),
            "HELP": lambda _: Own("214 2.0.0 There is none"),
            "QUIT": lambda _: Own("221 2.0.0 Bye", then="quit"),
        }

    def own(self, line: str) -> Own:
        """What a server does about this command line."""
        verb, _, argument = line.partition(" ")
        answer = self._verbs.get(verb.upper())
        if verb.upper() == "BDAT" and not self.offers("CHUNKING"):
            answer = None
        return answer(argument) if answer else Own("500 5.5.2 Command not recognized")

    def offers(self, keyword: str) -> bool:
        """Whether the last EHLO reply had this keyword."""
        return any(line.upper().split()[:1] == [keyword] for line in self._offered)

    def forget(self) -> None:
        """TLS begins: the server knows nothing of what was said before (RFC 3207 section 4.2)."""
        self._record.hello = self._username = self._transaction = None
        self._offered = []

    def _ehlo(self, argument: str) -> Own:
        keywords = self._keywords()
        reply = lines(250, [self._settings.hostname, *keywords])
        return self._hello(argument, reply, keywords)

    def _helo(self, argument: str) -> Own:
        return self._hello(argument, f"250 {self._settings.hostname}", [])

    def _hello(self, argument: str, reply: str, keywords: list[str]) -> Own:
        def greet() -> None:
            self._record.hello = argument
            self._offered = keywords
            self._transaction = None

        if len(argument.split()) != 1:
            return Own("501 5.5.4 One name is wanted")
        return Own(reply, greet)

    def _keywords(self) -> list[str]:
        settings = self._settings
        if self._record.tls and settings.tls_keywords is not None:
            return list(settings.tls_keywords)
        keywords = list(settings.keywords)
        if settings.starttls is not None and not self._record.tls:
            keywords.append("STARTTLS")
        elif self._mechanisms and not any(word.startswith("AUTH") for word in keywords):
            keywords.append(f"AUTH {' '.join(self._mechanisms)}")
        return keywords

    def _starttls(self, argument: str) -> Own:
        if argument:
            return Own("501 5.5.4 STARTTLS has no argument")
        if self._settings.starttls is None or self._record.tls:
            return Own("502 5.5.1 STARTTLS is not offered")
        return Own("220 2.0.0 Ready", then="handshake")

    def _auth(self, argument: str) -> Own:
        mechanism, _, initial = argument.partition(" ")
        mechanism = mechanism.upper()
        offered = {word for line in self._offered for word in line.upper().split()[1:]}
        if self._username is not None or not self.offers("AUTH"):
            return Own("503 5.5.1 AUTH is not possible now")
        if mechanism not in offered or mechanism not in self._mechanisms:
            return Own("504 5.5.4 Unknown mechanism")
        self._exchange = self._mechanisms[mechanism](self._record)
        challenge = next(self._exchange)
        if not initial:
            return _ask(challenge)
        # RFC 4954 section 4: an empty initial response is written "=".
        return self.respond("" if initial == "=" else initial)

    def respond(self, response: str) -> Own:
        """What a server does about this line, which answers its 334."""
        assert self._exchange is not None
        if response == "*":
            return Own("501 5.7.0 Given up")
        try:
            challenge = self._exchange.send(base64.b64decode(response, validate=True))
        except (binascii.Error, ValueError):
            return Own("501 5.5.2 Not what the mechanism asks for")
        except StopIteration as done:
            return self._verdict(done.value)
        return _ask(challenge)

    def _verdict(self, username: str | None) -> Own:
        def log_in() -> None:
            self._username = username

        return Own("535 5.7.8 Wrong" if username is None else "235 2.7.0 Welcome", log_in)

    def _plain(self, _: Transcript) -> Steps:
        # RFC 4616 section 2.
        _authzid, username, password = (yield b"").decode().split("\0")
        return self._judge("PLAIN", username, password)

    def _login(self, _: Transcript) -> Steps:
        username = (yield b"Username:").decode()
        password = (yield b"Password:").decode()
        return self._judge("LOGIN", username, password)

    def _judge(self, mechanism: str, username: str, password: str) -> str | None:
        good = (self._settings.users or {}).get(username) == password
        self._record.logins.append(Login(mechanism, username, password, good))
        return username if good else None

    def _mail(self, argument: str) -> Own:
        found = _MAIL.fullmatch(argument)
        sender, options = (found[1], (found[2] or "").split()) if found else ("", [])
        # RFC 9422 section 4: all of them count, whether they succeed or not.
        self._mails += 1
        if self._exceeds("MAILMAX", self._mails):
            return Own("421 4.7.0 Too many messages on this connection", then="close", on="4")
        return Own(
            self._sequence_error()
            or ("503 5.5.1 Nested MAIL" if self._transaction else None)
            or (None if found else "501 5.5.4 Syntax: MAIL FROM:<address>")
            or self._options_error(options)
            or "250 2.1.0 Ok",
            lambda: self._begin(Transaction(sender, options)),
        )

    def _rcpt(self, argument: str) -> Own:
        found = _RCPT.fullmatch(argument)
        recipient, options = (found[1], (found[2] or "").split()) if found else ("", [])

        def add() -> None:
            if self._transaction is not None:
                self._transaction.recipients[recipient] = options

        return Own(
            self._sequence_error()
            or (None if self._transaction else "503 5.5.1 MAIL first")
            or ("503 5.5.1 RCPT after BDAT" if self.transaction.chunks is not None else None)
            or (None if recipient else "501 5.5.4 Syntax: RCPT TO:<address>")
            or self._options_error(options)
            or self._limits_error(recipient)
            or "250 2.1.5 Ok",
            add,
        )

    def _data(self, argument: str) -> Own:
        # RFC 2033 section 4.2 wants 503 where RFC 5321 section 3.3 allows either.
        nobody = "503 5.5.1 Nobody" if self._settings.lmtp else "554 5.5.1 No valid recipients"
        transaction = self._transaction
        return Own(
            self._sequence_error()
            or (None if transaction else "503 5.5.1 MAIL first")
            or ("503 5.5.1 DATA after BDAT" if self.transaction.chunks is not None else None)
            or (None if transaction and transaction.recipients else nobody)
            or ("501 5.5.4 DATA has no argument" if argument else None)
            # RFC 3030 section 3.
            or ("503 5.5.1 DATA after BINARYMIME" if self.transaction.declares_binary else None)
            or "354 End data with <CR><LF>.<CR><LF>",
            then="message",
            on="3",
        )

    def chunk(self, line: str) -> Chunk | None:
        """The chunk that follows this line, if one does."""
        found = _BDAT.fullmatch(line)
        if found is None or not self.offers("CHUNKING"):
            return None
        return Chunk(int(found[1]), is_last=found[2] is not None)

    def take_chunk(self, chunk: Chunk, data: bytes) -> Sent | Own:
        """What a server does about a chunk that it has read; or the message that ends with it."""
        transaction = self.transaction
        discarded = f"551 5.0.0 Discarded {chunk.size} bytes after earlier error"
        refusal = (
            (discarded if self._discards else None)
            or self._sequence_error()
            or (None if self._transaction else "503 5.5.1 RCPT first")
            or (None if transaction.recipients else "554 5.5.1 No valid recipients")
        )
        if refusal is not None:
            if chunk.is_last:
                self._transaction = None
            return Own(refusal)
        transaction.chunks = (transaction.chunks or b"") + data
        if chunk.is_last:
            return self.received(transaction.chunks)
        return Own(f"250 2.0.0 Ok: {chunk.size} bytes")

    def refuse_chunk(self, chunk: Chunk) -> None:
        """A chunk was refused: those behind it, up to the last one, belong to nothing."""
        self._discards = not chunk.is_last

    def _begin(self, transaction: Transaction | None) -> None:
        self._transaction = transaction
        self._discards = False

    def _limit(self, name: str) -> int | None:
        """A limit that was announced (RFC 9422 section 3)."""
        for line in self._offered:
            keyword, *limits = line.upper().split()
            for limit in limits if keyword == "LIMITS" else ():
                if limit.startswith(f"{name}="):
                    return int(limit.partition("=")[2])
        return None

    def _exceeds(self, name: str, number: int) -> bool:
        limit = self._limit(name)
        return limit is not None and number > limit

    def _limits_error(self, recipient: str) -> str | None:
        self.transaction.asked += 1
        # RFC 9422 section 4.3 counts domains by session, not by transaction.
        domains = {*self._domains, recipient.rpartition("@")[2].lower()}
        if self._exceeds("RCPTMAX", self.transaction.asked):
            return "452 4.5.3 Too many recipients"
        if self._exceeds("RCPTDOMAINMAX", len(domains)):
            return "452 4.5.3 Too many domains"
        self._domains = domains
        return None

    def _sequence_error(self) -> str | None:
        if self._record.hello is None:
            return "503 5.5.1 EHLO first"
        if self._settings.require_auth and self._username is None:
            return "530 5.7.0 AUTH first"
        return None

    def _options_error(self, options: list[str]) -> str | None:
        for option in options:
            name, _, value = option.upper().partition("=")
            needed = "BINARYMIME" if value == "BINARYMIME" else _PARAMETERS.get(name, "?")
            if not self.offers(needed):
                return f"555 5.5.4 Unsupported option: {name}"
            if name == "SIZE" and not value.isdecimal():
                return "501 5.5.4 SIZE is a number"
            if name == "SIZE" and self._is_too_large(int(value)):
                return "552 5.3.4 Message size exceeds the limit"
        return None

    def _is_too_large(self, size: int) -> bool:
        # RFC 1870 section 4: no number, or zero, is no limit.
        limits = [line.split()[1:] for line in self._offered if line.upper().startswith("SIZE")]
        return any(0 < int(limit[0]) < size for limit in limits if limit)

    @property
    def transaction(self) -> Transaction:
        """The one that is under way; an empty one if there is none."""
        return self._transaction or Transaction()

    def received(self, data: bytes) -> Sent:
        """The end of a message has arrived."""
        transaction = self.transaction
        message = Sent(
            transaction.sender,
            list(transaction.recipients),
            data,
            transaction.options,
            transaction.recipients,
            tls=self._record.tls,
            username=self._username,
        )
        self._record.received.append(message)
        return message

    def end_of_data(self, message: Sent) -> list[tuple[str, Own]]:
        """The answers to the end of a message, each with its point in the script."""
        reply = "250 2.0.0 Ok: queued"
        if not message.recipients:
            reply = "554 5.5.1 No valid recipients"
        elif self._is_too_large(len(message.raw)):
            reply = "552 5.3.4 Message size exceeds the limit"
        if not self._settings.lmtp:
            return [(".", Own(reply, partial(self._accept, message, message.recipients)))]
        # RFC 2033 section 4.2: one reply for each recipient that was accepted.
        return [
            (f". <{recipient}>", Own(reply, partial(self._accept, message, [recipient])))
            for recipient in message.recipients
        ]

    def _accept(self, message: Sent, recipients: list[str]) -> None:
        message.accepted_for.extend(recipients)
        self._transaction = None


def _ask(challenge: bytes) -> Own:
    return Own(f"334 {base64.b64encode(challenge).decode()}", then="response", on="3")
