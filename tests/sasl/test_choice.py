"""Which mechanism a login uses, and what a mechanism of one's own has to have."""

from __future__ import annotations

import pytest

from anysmtp.sasl import Exchange, Login, Mechanism, Plain, choose, from_password


class Silent(Exchange):
    """Waits for the server, and gives up."""

    def step(self, challenge: bytes) -> bytes | None:
        return None


class Token(Mechanism):
    name = "TOKEN"
    needs_encryption = False

    def start(self) -> Exchange:
        return Silent()


PLAIN, LOGIN, TOKEN = Plain("tim", "secret"), Login("tim", "secret"), Token()


def test_a_password_is_good_for_plain_and_then_login() -> None:
    assert from_password("tim", "secret") == (PLAIN, LOGIN)


@pytest.mark.parametrize(
    ("mechanisms", "offered", "chosen"),
    [
        ([PLAIN, LOGIN], ("LOGIN", "PLAIN"), [PLAIN, LOGIN]),
        ([LOGIN, PLAIN], ("LOGIN", "PLAIN"), [LOGIN, PLAIN]),
        ([PLAIN, LOGIN], ("CRAM-MD5", "LOGIN"), [LOGIN]),
        ([TOKEN, PLAIN], ("PLAIN", "TOKEN"), [TOKEN, PLAIN]),
        ([PLAIN], ("CRAM-MD5",), []),
        ([PLAIN], (), []),
        ([], ("PLAIN",), []),
    ],
)
def test_the_callers_preference_decides_among_what_is_offered(
    mechanisms: list[Mechanism], offered: tuple[str, ...], chosen: list[Mechanism]
) -> None:
    assert choose(mechanisms, offered) == chosen


def test_an_exchange_need_not_speak_first_nor_check_the_end() -> None:
    exchange = TOKEN.start()
    assert exchange.initial_response() is None
    assert exchange.step(b"") is None
    exchange.finish()


def test_a_mechanism_of_ones_own_shows_nothing_either() -> None:
    assert repr(TOKEN) == "<Token ***>"
