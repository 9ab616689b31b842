"""Messages that are signed on their way out: DKIM, S/MIME, PGP.

A signer is a function from the octets of a message to those of the signed one. It is called with
exactly what would be sent, after everything that changes a message, in a worker thread; also once
more where the message has to be written in 7bit. What it returns is what is sent, held to the same
rules as any raw message.

A key in the wrong place, or a letter that a signer returns in another type, are in no error: what
was given is named by its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, cast

from ._message import BinaryContent, RawContent
from ._sources import in_memory

Signer: TypeAlias = Callable[[bytes], bytes]
"""Takes a message in CRLF lines, returns it signed.

It is called in a worker thread, for several messages at once: in several threads at the same time,
where several tasks send. One that a cancelled send has left behind may still run."""

Signers: TypeAlias = Signer | Iterable[Signer]


def signers_of(given: object) -> tuple[Signer, ...]:
    """The ``sign`` option: one signer, or several, each of which signs what the last one made.

    TypeError for what cannot be called.
    """
    if callable(given):
        return (cast("Signer", given),)
    kind = type(given).__name__
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"sign is a function of the message, or several, not {kind}")
    several = tuple(cast("Iterable[object]", given))
    for signer in several:
        if not callable(signer):
            kind = type(signer).__name__
            raise TypeError(f"each of sign is a function of the message, not {kind}")
    return cast("tuple[Signer, ...]", several)


def signed(
    pieces: Iterable[bytes], signers: Iterable[Signer], *, binary: bool, allow_long_lines: bool
) -> RawContent | BinaryContent:
    """The message that the signers make of the one in these pieces, as it is sent.

    TypeError for what is no bytes, ValueError for lines that are too long.
    """
    message = b"".join(pieces)
    for sign in signers:
        message = _signed(message, sign)
    return in_memory(message, binary, allow_long_lines)


def _signed(message: bytes, sign: Signer) -> bytes:
    found: object = sign(message)
    if not isinstance(found, bytes):
        kind = type(found).__name__
        raise TypeError(f"a signer returns the signed message in bytes, not {kind}")
    return found
