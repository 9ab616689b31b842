"""Enhanced status codes in words."""

from __future__ import annotations

import pytest

from anysmtp import Reply


@pytest.mark.parametrize(
    ("code", "text", "meaning"),
    [
        (550, "5.1.1 no such user", "Bad destination mailbox address"),
        (452, "4.2.2 over quota", "Mailbox full"),
        (250, "2.1.10 odd", "Recipient address has null MX"),
        (550, "5.7.30 no", "REQUIRETLS support required"),
        (550, "5.7.199 no", "Security or policy"),
        (550, "5.07.001 no", "Delivery not authorized, message refused"),
        (550, "5.9.1 no", None),
        (550, "4.1.1 of another class", None),
        (550, "no", None),
    ],
)
def test_what_a_code_means(code: int, text: str, meaning: str | None) -> None:
    assert Reply(code, text).meaning == meaning
