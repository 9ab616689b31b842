"""What ``anysmtp probe`` sees of a server.

Theory of operation. Each attempt is one connection, by one plan: how TLS begins on it, and whether
the certificate is verified. An attempt that fails in a way that another plan answers is followed by
that plan, as `_NEXT` has it: a server that says nothing may be waiting for TLS; a certificate that
is not accepted is looked at on a connection that does not verify. No plan is tried twice, and
nothing is ever sent on these connections but EHLO, STARTTLS, NOOP and QUIT.

What was seen is written down as it comes, so that there is something to show whenever it ends.

The stream under `SMTPConnection` is a `Tap`, which counts round trips. The TLS objects are watched
by ``SSLContext.sslobject_class``, because STARTTLS puts TLS on the stream out of our sight.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

import anyio
from anyio import to_thread
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from .. import (
    Extensions,
    SMTPConnection,
    SMTPException,
    SMTPHeloError,
    SMTPTimeoutError,
    SMTPTLSError,
    create_tls_context,
)
from ._tap import Step, Stopwatch, Tap

Mode: TypeAlias = Literal["implicit", "starttls", "off"]
Kind: TypeAlias = Literal[
    "unknown name",
    "unreachable",
    "silent",
    "refused",
    "not TLS",
    "certificate",
    "handshake",
    "STARTTLS refused",
    "lost",
]

_STREAM_ERRORS = (OSError, anyio.EndOfStream, anyio.BrokenResourceError)


@dataclass(frozen=True, slots=True)
class Target:
    """Which server, and what is expected of it."""

    host: str
    port: int
    name: str
    """The name that its certificate has to be for."""
    tls: Mode | None
    """None: as its port has it."""
    cafile: str | None
    timeout: float
    """Seconds for each step."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one attempt goes about it."""

    mode: Mode
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """What ended an attempt before its time."""

    kind: Kind
    text: str
    verify_code: int = 0
    """OpenSSL's number for what is wrong with a certificate."""


@dataclass(frozen=True, slots=True)
class TLS:
    """How the connection was encrypted."""

    version: str
    cipher: str
    bits: int


@dataclass(slots=True)
class Attempt:
    """One connection, and what was seen on it."""

    plan: Plan
    steps: list[Step] = field(default_factory=list[Step])
    greeting: str | None = None
    in_clear: Extensions | None = None
    """What was offered without TLS."""
    under_tls: Extensions | None = None
    tls: TLS | None = None
    certificate: bytes | None = None
    """In DER."""
    failure: Failure | None = None


@dataclass(slots=True)
class Seen:
    """All that was seen."""

    target: Target
    addresses: list[str] = field(default_factory=list[str])
    dead: dict[str, str] = field(default_factory=dict[str, str])
    """The addresses that no connection came about to, and why."""
    steps: list[Step] = field(default_factory=list[Step])
    """What came before any connection."""
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    failure: Failure | None = None
    """Why there was no attempt."""

    @property
    def best(self) -> Attempt | None:
        """The last attempt on which the server spoke, else the last."""
        spoken = [attempt for attempt in self.attempts if attempt.greeting is not None]
        return next(reversed(spoken or self.attempts), None)


# What an attempt that failed is followed by.
_NEXT: Mapping[tuple[Mode, Kind], Plan] = {
    ("starttls", "silent"): Plan("implicit"),
    ("off", "silent"): Plan("implicit"),
    ("implicit", "not TLS"): Plan("starttls"),
    ("implicit", "certificate"): Plan("implicit", verify=False),
    ("starttls", "certificate"): Plan("starttls", verify=False),
    ("starttls", "handshake"): Plan("off"),
}


async def look(seen: Seen) -> None:
    """Look at the target, and write down what is seen."""
    target = seen.target
    start = time.perf_counter()
    try:
        with anyio.fail_after(target.timeout):
            found = await anyio.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        seen.failure = Failure("unknown name", _reason(error) or "nobody answered")
        return
    seen.addresses.extend(dict.fromkeys(str(address[0]) for *_, address in found))
    seen.steps.append(Step("look-up", time.perf_counter() - start, 0))
    plan: Plan | None = Plan(target.tls or ("implicit" if target.port == 465 else "starttls"))
    while plan is not None and plan not in [attempt.plan for attempt in seen.attempts]:
        attempt = Attempt(plan)
        seen.attempts.append(attempt)
        await _attempt(seen, attempt)
        failure = attempt.failure
        plan = None if failure is None else _NEXT.get((plan.mode, failure.kind))


async def _attempt(seen: Seen, attempt: Attempt) -> None:
    raw = await _connect(seen, attempt)
    if raw is None:
        return
    tap = Tap(raw)
    try:
        await _converse(seen.target, attempt, tap)
    except (SMTPException, *_STREAM_ERRORS) as error:
        attempt.failure = _failure(error, tap)
    finally:
        await anyio.aclose_forcefully(raw)


async def _connect(seen: Seen, attempt: Attempt) -> ByteStream | None:
    """To the first address that answers: one after the other, so that each dead one is seen."""
    target = seen.target
    for address in [*seen.addresses]:
        start = time.perf_counter()
        try:
            with anyio.fail_after(target.timeout):
                stream = await anyio.connect_tcp(address, target.port)
        except OSError as error:
            seen.dead[address] = _reason(error) or f"no answer in {target.timeout:g} s"
            seen.addresses.remove(address)
            continue
        attempt.steps.append(Step("connect", time.perf_counter() - start, 1))
        return stream
    attempt.failure = Failure("unreachable", next(iter(seen.dead.values()), "no address"))
    return None


async def _converse(target: Target, attempt: Attempt, tap: Tap) -> None:
    watch = Stopwatch(attempt.steps, tap)
    stream: ByteStream = tap
    if attempt.plan.mode == "implicit":
        stream = await _encrypt(target, attempt, tap, watch)
    top = Tap(stream, lambda: watch.mark("greeting"))
    conn = SMTPConnection(top, target.name, timeout=target.timeout)
    try:
        await _say_hello(conn)
    finally:
        attempt.greeting = top.greeting
    watch.mark("EHLO")
    if attempt.plan.mode == "implicit":
        attempt.under_tls = conn.extensions
    else:
        attempt.in_clear = conn.extensions
    if attempt.plan.mode == "starttls" and conn.extensions.starttls:
        await conn.starttls(await _context(target, attempt, watch))
        watch.mark("EHLO")
        attempt.under_tls = conn.extensions
    await conn.command("NOOP")
    watch.mark("NOOP")
    await conn.quit()
    watch.mark("QUIT")


async def _encrypt(target: Target, attempt: Attempt, tap: Tap, watch: Stopwatch) -> ByteStream:
    context = await _context(target, attempt, watch)
    with anyio.fail_after(target.timeout):
        return await TLSStream.wrap(
            tap, hostname=target.name, ssl_context=context, standard_compatible=False
        )


async def _say_hello(conn: SMTPConnection) -> None:
    try:
        await conn.ehlo()
    except SMTPHeloError as error:
        if error.connection_closed:
            raise
        await conn.helo()


async def _context(target: Target, attempt: Attempt, watch: Stopwatch) -> ssl.SSLContext:
    """What TLS is begun with; its objects tell what they come to."""
    make = partial(create_tls_context, validate_certs=attempt.plan.verify, cafile=target.cafile)
    context = await to_thread.run_sync(make)
    watch.skip()

    class Watched(ssl.SSLObject):
        has_begun = False

        def do_handshake(self) -> None:
            if attempt.plan.mode == "starttls" and not self.has_begun:
                watch.mark("STARTTLS")
            self.has_begun = True
            super().do_handshake()
            cipher, _, bits = self.cipher() or ("", "", 0)
            attempt.tls = TLS(self.version() or "", cipher, bits)
            attempt.certificate = self.getpeercert(binary_form=True)
            watch.mark("TLS handshake")

    context.sslobject_class = Watched
    return context


def _failure(error: Exception, tap: Tap) -> Failure:
    """What an exception says about the server; the most specific comes first."""
    reply = error.reply if isinstance(error, SMTPException) else None
    # A handshake that is begun here, and not by the library, fails with errors of other kinds.
    in_handshake = isinstance(error, SMTPTLSError) or not isinstance(error, SMTPException)
    cause = error.__cause__ if isinstance(error, SMTPException) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Failure("certificate", cause.verify_message, cause.verify_code)
    if in_handshake and reply is not None:
        return Failure("STARTTLS refused", str(reply))
    if in_handshake and tap.head[:3].isdigit() and tap.greeting is None:
        return Failure("not TLS", tap.head.decode("utf-8", "replace").strip())
    if in_handshake:
        why = cause if isinstance(cause, _STREAM_ERRORS) else error
        return Failure("handshake", _reason(why) or "no answer")
    if reply is not None:
        return Failure("refused", str(reply))
    if isinstance(error, SMTPTimeoutError) and not tap.head:
        return Failure("silent", str(error))
    return Failure("lost", str(error))


def _reason(error: BaseException) -> str:
    """What the operating system says, where anyio has wrapped it."""
    cause = error.__cause__
    inner = next(iter(getattr(cause, "exceptions", ())), cause)
    said = inner if isinstance(inner, OSError) else error
    if isinstance(said, OSError) and not isinstance(said, (ssl.SSLError, socket.gaierror)):
        # asyncio writes a text of its own into them.
        return os.strerror(said.errno) if said.errno else str(said)
    return getattr(said, "strerror", None) or str(said)
