"""SASLprep by the examples of RFC 4013, and the trace profile of RFC 4505."""

from __future__ import annotations

import pytest

from anysmtp.sasl import _stringprep as stringprep


@pytest.mark.parametrize(
    ("given", "prepared"),
    [
        # RFC 4013 section 3.
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        # Section 2.1: spaces become the one that everybody can type.
        ("a\u00a0b\u3000c", "a b c"),
        ("\u00ad", ""),
        ("pässwo\u0308rd", "pässwörd"),
        # RFC 3454 section 6: Hebrew and Arabic are fine by themselves.
        ("\u05d0\u05d1", "\u05d0\u05d1"),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
    ],
)
def test_saslprep_makes_them_the_same_octets(given: str, prepared: str) -> None:
    assert stringprep.saslprep("password", given) == prepared


@pytest.mark.parametrize(
    "given",
    ["\u0627\u0031", "\u0627a\u0627", "a\u0627"],
)
def test_saslprep_prohibits_directions_that_mix(given: str) -> None:
    with pytest.raises(ValueError, match=r"^password mixes directions of writing"):
        stringprep.saslprep("password", given)


@pytest.mark.parametrize("given", ["x\u0080", "\ue000", "\ufdd0", "\ufffd", "\u2ff0"])
@pytest.mark.parametrize("also", ["\U000e0001", "\U0001f511"])
def test_saslprep_prohibits_what_cannot_be_typed_twice_alike(given: str, also: str) -> None:
    for prohibited in (given, also):
        with pytest.raises(
            ValueError, match=r"^password has a character that stringprep"
        ) as caught:
            stringprep.saslprep("password", f"tanst{prohibited}aaf")
        assert "tanst" not in str(caught.value)


def test_a_trace_may_have_what_is_unassigned_and_keeps_what_it_has() -> None:
    for given in ("\U0001f511", "a\u00a0b", "I\u00adX", ""):
        assert stringprep.trace(given) == given


@pytest.mark.parametrize("given", ["x\u0080", "\ue000", "\ufdd0", "\ufffd", "\U000e0001"])
def test_a_trace_is_text(given: str) -> None:
    with pytest.raises(ValueError, match=r"^trace has a character"):
        stringprep.trace(given)
