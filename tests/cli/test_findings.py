"""What is said of what was seen, where no server of the tests shows it."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from anysmtp import Extensions, Reply
from anysmtp.cli._certificate import Certificate
from anysmtp.cli._exit import Exit
from anysmtp.cli._findings import exit_code, findings
from anysmtp.cli._look import Attempt, Failure, Kind, Plan, Seen, Target

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)
LATER = datetime(2027, 11, 22, tzinfo=timezone.utc)
GOOD = Certificate("CN=x", ("x.test",), "CN=ca", NOW, LATER, "00")
NAMELESS = Certificate("CN=x", (), "CN=ca", NOW, LATER, "00")


def seen_with(*failures: Failure) -> Seen:
    """Attempts that verify and fail so, and a last one that does not verify, and goes well."""
    target = Target("x.test", 2525, "x.test", None, None, 10)
    attempts = [Attempt(Plan("implicit"), failure=failure) for failure in failures]
    offered = Extensions(Reply(250, ["x.test", "SIZE 1"]))
    last = Attempt(Plan("implicit", verify=False), greeting="220 x.test", under_tls=offered)
    return Seen(target, ["192.0.2.25"], attempts=[*attempts, last])


def refused(code: int) -> Seen:
    return seen_with(Failure("certificate", "what OpenSSL says", code))


# OpenSSL's numbers and, for what there is no plain word for, its text.
VERDICTS = {
    9: ("certificate_not_yet_valid", "valid from 2026-11-22 only"),
    10: ("certificate_expired", "expired on 2027-11-22"),
    18: ("certificate_untrusted", "what OpenSSL says"),
    19: ("certificate_untrusted", "what OpenSSL says"),
    20: ("certificate_untrusted", "what OpenSSL says"),
    21: ("certificate_untrusted", "what OpenSSL says"),
    23: ("certificate", "what OpenSSL says"),
    62: ("certificate_name", "is for x.test, and not for x.test"),
    64: ("certificate_name", "is for x.test, and not for x.test"),
}


@pytest.mark.parametrize("code", VERDICTS)
def test_each_verdict_of_openssl_has_its_words(code: int) -> None:
    [found] = findings(refused(code), GOOD, NOW)
    assert (found.code, found.severity) == (VERDICTS[code][0], "problem")
    assert VERDICTS[code][1] in found.text


@pytest.mark.parametrize("code", VERDICTS)
def test_a_certificate_that_cannot_be_read_has_words_too(code: int) -> None:
    [found] = findings(refused(code), None, NOW)
    assert found.severity == "problem"


def test_a_certificate_for_nobody_is_said_to_be_that() -> None:
    [found] = findings(refused(62), NAMELESS, NOW)
    assert "the certificate is for no name, and not for x.test" in found.text


@pytest.mark.parametrize(
    ("kind", "code"),
    [("refused", Exit.REFUSED), ("lost", Exit.UNREACHABLE), ("silent", Exit.UNREACHABLE)],
)
def test_without_a_conversation_the_end_decides(kind: Kind, code: Exit) -> None:
    seen = seen_with()
    seen.attempts = [Attempt(Plan("off"), failure=Failure(kind, "why"))]
    assert exit_code(seen, []) is code


def test_an_interrupted_probe_can_have_seen_nothing() -> None:
    target = Target("x.test", 2525, "x.test", None, None, 10)
    assert findings(Seen(target), None, NOW) == []
    assert exit_code(Seen(target), []) is Exit.UNREACHABLE
    assert exit_code(Seen(target, attempts=[Attempt(Plan("off"))]), []) is Exit.UNREACHABLE
