"""A copy of a message tree that shares everything heavy with the original.

Serialising a message writes to it (a multipart's boundary is chosen while it is flattened), so
two threads that serialise one message can corrupt it, and so can a caller who changes it
meanwhile. A snapshot has each part's object and list of header fields for itself and shares the
values, which nobody changes in place: payloads are replaced, header objects are frozen. It
takes microseconds, so it can be taken on the event loop, and everything after it happens to a
copy that nobody else knows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from email.message import Message
from functools import lru_cache
from typing import Any, cast


def snapshot(message: Message) -> Message:
    """A copy of the tree: parts and lists of fields are its own, the values are shared.

    TypeError for a part that is no message; ValueError for parts that are nested deeper than
    Python's recursion goes.
    """
    try:
        return _copy(message)
    except RecursionError as error:
        raise ValueError("the parts of the message are nested too deeply") from error


def _copy(message: object) -> Message:
    if not isinstance(message, Message):
        kind = type(message).__name__
        raise TypeError(f"a message, and each part, is an email.message.Message, not {kind}")
    original = cast("Message", message)
    copied = _copy_of_one(original)
    set_fields(copied, original.raw_items())
    payload = payload_of(original)
    if isinstance(payload, list):
        parts = [_copy(part) for part in cast("list[object]", payload)]
        copied.set_payload(cast("Any", parts))
    return copied


def _copy_of_one(message: Message) -> Message:
    kind: Any = type(message)
    if not _is_copied_by_attributes(kind):
        return copy.copy(message)
    # What copy.copy does for these, in a third of the time.
    copied: Message = kind.__new__(kind)
    copied.__dict__.update(message.__dict__)
    return copied


@lru_cache(maxsize=256)
def _is_copied_by_attributes(kind: type[object]) -> bool:
    """Whether a class leaves copying to Python, and has its attributes in its ``__dict__``."""
    ways = ("__new__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__copy__")
    no_slots = not any("__slots__" in vars(base) for base in kind.__mro__)
    return no_slots and all(getattr(kind, way, None) is getattr(object, way, None) for way in ways)


def set_fields(message: Message, fields: Iterable[tuple[str, object]]) -> None:
    """Replace all header fields by raw items, which no policy changes (`Message.raw_items`).

    The email package has a public way to read them and none to write them but one by one.
    """
    message.__dict__["_headers"] = list(fields)


def payload_of(message: Message) -> object:
    """The payload as it is stored: a str, None, or the list of parts of a multipart.

    `Message.get_payload` decodes and encodes all of it when it holds octets above 127.
    """
    return message.__dict__["_payload"]
