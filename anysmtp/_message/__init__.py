"""Messages: from what the caller has to an envelope and to octets, without I/O."""

from __future__ import annotations

from ._addresses import domain_of, parse_address, parse_domain, parse_recipients, parse_sender
from ._binary import BinaryContent, raw_binary
from ._content import EmptyMessage, RawContent, message_id_of
from ._flow import Flow
from ._headers import recipients_of, sender_of
from ._lines import LongLine
from ._plain import Plain, read_plain
from ._prepare import Prepared, prepare
from ._serialise import estimate_size, needs_utf8, serialise, utf8_address_in, why_fixed
from ._snapshot import snapshot

__all__ = [
    "BinaryContent",
    "EmptyMessage",
    "Flow",
    "LongLine",
    "Plain",
    "Prepared",
    "RawContent",
    "domain_of",
    "estimate_size",
    "message_id_of",
    "needs_utf8",
    "parse_address",
    "parse_domain",
    "parse_recipients",
    "parse_sender",
    "prepare",
    "raw_binary",
    "read_plain",
    "recipients_of",
    "sender_of",
    "serialise",
    "snapshot",
    "utf8_address_in",
    "why_fixed",
]
