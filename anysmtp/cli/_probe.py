"""``anysmtp probe``: what a mail server offers, and what is wrong with it.

`_look` does the looking, `_findings` the judging; here it is asked for and shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from ipaddress import ip_address
from pathlib import Path

import click

from .. import Extensions
from ._certificate import Certificate, read_certificate
from ._exit import Exit
from ._findings import Finding, exit_code, findings
from ._look import Attempt, Mode, Seen, Target, look
from ._loop import run
from ._screen import Screen, dialogue_shown, print_json
from ._server import tls_context

_TARGET = re.compile(
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<name>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?"
)


def _host_and_port(
    context: click.Context, parameter: click.Parameter, text: str
) -> tuple[str, int | None]:
    if ":" in text and _is_address(text):
        return text, None
    found = _TARGET.fullmatch(text)
    port = None if found is None or found["port"] is None else int(found["port"])
    if found is None or port not in (None, *range(1, 65536)):
        # It is not repeated: a URL can have a password in it.
        raise click.BadParameter(
            "HOST or HOST:PORT and no URL, for IPv6 [ADDRESS]:PORT", context, parameter
        )
    return found["literal"] or found["name"], port


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


@click.command()
@click.argument("server", metavar="HOST[:PORT]", callback=_host_and_port)
@click.option(
    "--tls",
    type=click.Choice(["implicit", "starttls", "off"]),
    help="How TLS should begin here; without it, as the port has it.",
)
@click.option("--name", metavar="NAME", help="What the certificate has to be for, if not HOST.")
@click.option(
    "--cafile",
    type=click.Path(path_type=Path),
    help="The certificate authorities to trust, in PEM, instead of the system's.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="For each step.",
)
@click.option("--json", "as_json", is_flag=True, help="The result for machines.")
@click.option("-v", "--verbose", is_flag=True, help="Show the dialogue.")
@click.pass_context
def probe(
    context: click.Context,
    server: tuple[str, int | None],
    tls: Mode | None,
    name: str | None,
    cafile: Path | None,
    timeout: float,
    as_json: bool,
    verbose: bool,
) -> int:
    """Show what a mail server offers, and what is wrong with it.

    Without a port it is 587, or 465 with --tls implicit. Nothing is sent, and nobody logs in.
    """
    host, port = server
    # Each connection has a context of its own; here it is found out whether there can be one.
    tls_context(cafile)
    target = Target(
        host,
        port or (465 if tls == "implicit" else 587),
        (name or host).partition("%")[0].rstrip("."),
        tls,
        None if cafile is None else str(cafile),
        timeout,
    )
    report = _Report(Seen(target), as_json)

    async def work() -> None:
        await look(report.seen)

    with dialogue_shown(report.screen, verbose):
        run(work, backend=context.obj, last_words=report.interrupted)
    return report.show()


class _Report:
    """What was seen and found, for people or for machines."""

    def __init__(self, seen: Seen, as_json: bool) -> None:
        self.seen = seen
        self.screen = Screen()
        self._as_json = as_json

    def interrupted(self) -> Exit:
        """The last words after Ctrl-C: what was seen until then."""
        code = self.show(Exit.INTERRUPTED)
        self.screen.complain("interrupted")
        return code

    def show(self, code: Exit | None = None) -> Exit:
        """Print it, and return the exit code, which follows from it unless it is given."""
        now = datetime.now(timezone.utc)
        best = self.seen.best
        der = None if best is None else best.certificate
        certificate = None if der is None else read_certificate(der)
        found = findings(self.seen, certificate, now)
        code = exit_code(self.seen, found) if code is None else code
        if self._as_json:
            print_json(_as_value(self.seen, best, certificate, found, now, code))
        else:
            self._show(best, certificate, found, now)
        return code

    def _show(
        self,
        best: Attempt | None,
        certificate: Certificate | None,
        found: list[Finding],
        now: datetime,
    ) -> None:
        target = self.seen.target
        self.screen.say(f"{target.host}, port {target.port}", "bold")
        for name, value in _rows(self.seen, best, certificate, now):
            self.screen.say(f"  {name:14} {value}")
        self.screen.say()
        for finding in found:
            is_problem = finding.severity == "problem"
            mark = "WRONG" if is_problem else "note "
            self.screen.say(f"  {mark}  {finding.text}", "bold red" if is_problem else "yellow")
        if not any(finding.severity == "problem" for finding in found):
            self.screen.say("  Nothing is wrong.", "green")


def _rows(
    seen: Seen, best: Attempt | None, certificate: Certificate | None, now: datetime
) -> Iterator[tuple[str, str]]:
    """What there is to see, as names and values."""
    if seen.addresses:
        yield "address", ", ".join(seen.addresses)
    if best is None:
        return
    if best.greeting is not None:
        yield "greeting", best.greeting.replace("\r\n", " / ")
    if best.in_clear is not None:
        yield "in clear", _keywords(best.in_clear)
    if best.tls is not None:
        yield "TLS", f"{best.tls.version}, {best.tls.cipher}, {best.tls.bits} bits"
    if certificate is not None:
        yield from _certificate_rows(certificate, now)
    if best.under_tls is not None:
        yield "under TLS", _keywords(best.under_tls)
    if (offered := _offered(best)) is not None:
        yield "logins", ", ".join(offered.auth) or "none"
        yield "limits", ", ".join(_limits(offered)) or "none declared"
    for step in (*seen.steps, *best.steps):
        trips = f"{step.round_trips} round trip{'s' * (step.round_trips != 1)}"
        time = f"{step.seconds * 1000:8.1f} ms"
        yield step.name, f"{time}  {trips}" if step.round_trips else time


def _certificate_rows(certificate: Certificate, now: datetime) -> Iterator[tuple[str, str]]:
    yield "certificate", certificate.subject or "without a subject"
    yield "names", ", ".join(certificate.names) or "none"
    yield "issuer", certificate.issuer
    days = certificate.days_left(now)
    left = f"{days} days left" if days >= 0 else "expired"
    yield "valid", f"{certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}, {left}"


def _keywords(extensions: Extensions) -> str:
    offered = (f"{keyword} {given}".strip() for keyword, given in extensions.items())
    return ", ".join(offered) or "no extensions"


def _offered(best: Attempt) -> Extensions | None:
    """What counts for a client that encrypts where it can."""
    return best.in_clear if best.under_tls is None else best.under_tls


def _limits(offered: Extensions) -> Iterator[str]:
    if offered.size is not None:
        yield f"messages of {offered.size} octets"
    yield from (f"{name} {value}" for name, value in _declared_limits(offered).items())


def _declared_limits(offered: Extensions) -> dict[str, str]:
    """The parameters of LIMITS (RFC 9422), such as ``RCPTMAX=100``."""
    pairs = (word.partition("=") for word in offered.get("LIMITS", "").split())
    return {name.upper(): value for name, _, value in pairs}


def _as_value(
    seen: Seen,
    best: Attempt | None,
    certificate: Certificate | None,
    found: list[Finding],
    now: datetime,
    code: Exit,
) -> Mapping[str, object]:
    target = seen.target
    offered = None if best is None else _offered(best)
    steps = [*seen.steps, *(best.steps if best is not None else ())]
    return {
        "exit_code": code,
        "host": target.host,
        "port": target.port,
        "addresses": seen.addresses,
        "mode": None if best is None else best.plan.mode,
        "greeting": None if best is None else best.greeting,
        "in_clear": _keywords_value(None if best is None else best.in_clear),
        "under_tls": _keywords_value(None if best is None else best.under_tls),
        "tls": None
        if best is None or best.tls is None
        else {"version": best.tls.version, "cipher": best.tls.cipher, "bits": best.tls.bits},
        "certificate": None
        if best is None or certificate is None
        else _certificate_value(certificate, best, now),
        "logins": [] if offered is None else list(offered.auth),
        "size": None if offered is None else offered.size,
        "limits": {} if offered is None else _declared_limits(offered),
        "steps": [
            {
                "name": step.name,
                "seconds": round(step.seconds, 6),
                "round_trips": step.round_trips,
            }
            for step in steps
        ],
        "findings": [
            {"code": one.code, "severity": one.severity, "text": one.text} for one in found
        ],
    }


def _keywords_value(extensions: Extensions | None) -> Mapping[str, str] | None:
    return None if extensions is None else dict(extensions)


def _certificate_value(
    certificate: Certificate, best: Attempt, now: datetime
) -> Mapping[str, object]:
    return {
        "subject": certificate.subject,
        "names": list(certificate.names),
        "issuer": certificate.issuer,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "days_left": certificate.days_left(now),
        "sha256": certificate.sha256,
        "is_accepted": best.plan.verify,
    }
