"""Messages that are signed on their way out: DKIM, S/MIME, PGP.

A signer is a function from the octets of a message to those of the signed one. It is called with
exactly what would be sent, after everything that changes a message, in a worker thread; also once
more where the message has to be written in 7bit. What it returns is what is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, cast

from ._envelope import Content
from ._message import BinaryContent, RawContent, raw_binary

Signer: TypeAlias = Callable[[bytes], bytes]
"""Takes a message in CRLF lines, returns it signed. It is called in a worker thread."""

Signers: TypeAlias = Signer | Iterable[Signer]


def signers_of(given: object) -> tuple[Signer, ...]:
    """The ``sign`` option: one signer, or several, each of which signs what the last one made.

    TypeError for what cannot be called.
    """
    if callable(given):
        return (cast("Signer", given),)
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        raise TypeError(f"sign is a function of the message, or several, not {given!r}")
    several = tuple(cast("Iterable[object]", given))
    for signer in several:
        if not callable(signer):
            raise TypeError(f"each of sign is a function of the message, not {signer!r}")
    return cast("tuple[Signer, ...]", several)


def signed(content: Content, signers: Iterable[Signer]) -> RawContent | BinaryContent:
    """The message that the signers make of this one."""
    message = b"".join(content.chunks())
    for sign in signers:
        message = _signed(message, sign)
    return raw_binary(message) if isinstance(content, BinaryContent) else RawContent(message)


def _signed(message: bytes, sign: Signer) -> bytes:
    found: object = sign(message)
    if not isinstance(found, bytes):
        raise TypeError(f"a signer returns the signed message in bytes, not {found!r}")
    return found
