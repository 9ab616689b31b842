"""What is wrong with a server, in plain words, from what was seen of it.

A problem is what keeps clients away, or sends what they say in clear; a note is what somebody who
looks at a server wants to know. Each has a code, for machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ._certificate import Certificate
from ._exit import Exit
from ._look import Attempt, Failure, Seen, Target

# Fewer days than this, and whoever renews the certificate should have done so: automatic renewal
# happens with a third of the validity left, which is 30 days of 90, or 15 of 47.
EXPIRES_SOON = 14

# The ports that have one rule (RFC 8314 section 3, RFC 5321 section 4.5.4.2).
_STARTTLS_PORTS = (25, 587)
_SUBMISSION_PORTS = (465, 587)
# Mechanisms that give the password to whoever listens.
_PLAIN = ("PLAIN", "LOGIN")

# OpenSSL's X509_V_ERR_*, by what they mean to a person.
_NOT_YET_VALID, _EXPIRED = 9, 10
_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_CHAIN = 18, 19, 20, 21
_OTHER_NAME = (62, 64)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    code: str
    severity: Literal["problem", "note"]
    text: str


def exit_code(seen: Seen, found: list[Finding]) -> Exit:
    """What one number says of what was seen."""
    best = seen.best
    if best is None or (best.in_clear is None and best.under_tls is None):
        refused = best is not None and best.failure is not None and best.failure.kind == "refused"
        return Exit.REFUSED if refused else Exit.UNREACHABLE
    return Exit.TROUBLE if any(one.severity == "problem" for one in found) else Exit.OK


def findings(seen: Seen, certificate: Certificate | None, now: datetime) -> list[Finding]:
    """All that was found."""
    return [
        *_about_the_way(seen),
        *_about_tls(seen),
        *_about_the_certificate(seen, certificate, now),
        *_about_what_is_offered(seen),
    ]


def _problem(code: str, text: str) -> Finding:
    return Finding(code, "problem", text)


def _note(code: str, text: str) -> Finding:
    return Finding(code, "note", text)


def _about_the_way(seen: Seen) -> Iterator[Finding]:
    target = seen.target
    if seen.failure is not None:
        yield _problem("unknown_name", f"the name {target.host} leads nowhere: {seen.failure.text}")
    for address, why in seen.dead.items():
        text = f"no connection to {address}, port {target.port}: {why}"
        if seen.addresses:
            yield _note("address_dead", f"{text}; another address works")
        else:
            yield _problem(
                "unreachable", f"{text}; nothing listens there, or a firewall forbids it"
            )
    for attempt in seen.attempts[-1:]:
        if (failure := attempt.failure) is not None and failure.kind in _ENDS:
            code, text = _ENDS[failure.kind]
            yield _problem(code, f"{text}: {failure.text}")


_ENDS: Mapping[str, tuple[str, str]] = {
    "refused": ("refused", "the server does not want to talk"),
    "lost": ("lost", "the connection came to an early end"),
}


def _about_tls(seen: Seen) -> Iterator[Finding]:
    failures = {attempt.plan.mode: attempt.failure for attempt in seen.attempts}
    kinds = {mode: failure.kind for mode, failure in failures.items() if failure is not None}
    silent = "silent" in (kinds.get("starttls"), kinds.get("off"))
    encrypts = any(a.plan.mode == "implicit" and a.tls is not None for a in seen.attempts)
    if silent and encrypts:
        yield _tls_at_once(seen.target)
    elif silent:
        text = "it can be connected to, but says nothing, and does not answer to TLS either"
        yield _problem("silent", text)
    if kinds.get("implicit") == "not TLS":
        yield _problem(
            "wrong_tls_mode",
            f"port {seen.target.port} does not begin with TLS, the server speaks in clear there: "
            "this is a port for STARTTLS, smtp+starttls:// or --tls starttls, and not for smtps:// "
            "or --tls implicit",
        )
    for attempt in seen.attempts:
        failure = attempt.failure
        if failure is not None and failure.kind == "STARTTLS refused":
            yield _problem("starttls_refused", f"STARTTLS is offered, and refused: {failure.text}")
        elif failure is not None and failure.kind == "handshake" and not silent:
            yield _problem("tls_handshake", f"the TLS handshake fails: {failure.text}")


def _tls_at_once(target: Target) -> Finding:
    text = (
        f"port {target.port} begins with TLS, the server says nothing in clear there: this is a "
        "port for smtps:// or --tls implicit, and not for STARTTLS"
    )
    if target.tls is None and target.port not in _STARTTLS_PORTS:
        return _note("tls_at_once", text)
    return _problem("wrong_tls_mode", text)


def _about_the_certificate(
    seen: Seen, certificate: Certificate | None, now: datetime
) -> Iterator[Finding]:
    failed = [
        attempt.failure
        for attempt in seen.attempts
        if attempt.failure is not None and attempt.failure.kind == "certificate"
    ]
    has_expired = certificate is not None and certificate.not_after < now
    for failure in failed:
        yield _verdict(failure, seen.target, certificate)
    # OpenSSL tells the first fault that it finds, and the dates are the last that it looks at.
    if certificate is not None and has_expired and failed[:1] and failed[0].verify_code != _EXPIRED:
        yield _expired(certificate)
    if certificate is not None and 0 <= certificate.days_left(now) < EXPIRES_SOON:
        left = certificate.days_left(now)
        yield _note("certificate_expires_soon", f"the certificate expires in {left} days")


def _verdict(failure: Failure, target: Target, certificate: Certificate | None) -> Finding:
    """Why a certificate was not accepted."""
    code = failure.verify_code
    if code == _EXPIRED and certificate is not None:
        return _expired(certificate)
    if code == _NOT_YET_VALID and certificate is not None:
        since = f"{certificate.not_before:%Y-%m-%d}"
        return _problem("certificate_not_yet_valid", f"the certificate is valid from {since} only")
    if code in _OTHER_NAME:
        names = ", ".join(certificate.names) if certificate is not None else ""
        return _problem(
            "certificate_name",
            f"the certificate is for {names or 'no name'}, and not for {target.name}: connect by a "
            "name that it has, or give the server one for this name",
        )
    if code in (_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_CHAIN):
        return _problem(
            "certificate_untrusted",
            f"the certificate is of an authority that is not trusted here ({failure.text}): "
            "--cafile trusts another; or the server does not send the certificates in between",
        )
    return _problem("certificate", f"the certificate is not accepted: {failure.text}")


def _expired(certificate: Certificate) -> Finding:
    day = f"{certificate.not_after:%Y-%m-%d}"
    return _problem("certificate_expired", f"the certificate expired on {day}")


def _about_what_is_offered(seen: Seen) -> Iterator[Finding]:
    best = seen.best
    if best is None:
        return
    in_clear, under_tls = best.in_clear, best.under_tls
    if in_clear is not None and not in_clear.starttls and seen.target.tls != "off":
        yield _problem(
            "no_starttls", "STARTTLS is not offered: whatever is said on this port is said in clear"
        )
    if in_clear is not None and (plain := [name for name in _PLAIN if name in in_clear.auth]):
        yield _note(
            "login_in_clear",
            f"a login is offered before TLS ({', '.join(plain)}): a client that does not insist on "
            "TLS shows the password to everybody on the way",
        )
    if seen.target.port in _SUBMISSION_PORTS and under_tls is not None and not under_tls.auth:
        yield _note("no_login", "no login is offered, although this port is for submission")
    yield from _oddities(best)


def _oddities(attempt: Attempt) -> Iterator[Finding]:
    offers = [offer for offer in (attempt.in_clear, attempt.under_tls) if offer is not None]
    for oddity in dict.fromkeys(oddity for offer in offers for oddity in offer.oddities):
        yield _note("odd_ehlo", f"the reply to EHLO is odd: {oddity}")
