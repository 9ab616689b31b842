"""An EHLO reply as a typed, frozen mapping.

RFC 5321 section 4.1.1.1::

    ehlo-line    = ehlo-keyword *( SP ehlo-param )
    ehlo-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")

Where reality differs: keywords come in any case; ``AUTH=LOGIN`` stands for ``AUTH LOGIN`` (old
Exchange, Postfix with broken_sasl_auth_clients); a keyword comes twice; a line is empty
(smtp-sink) or no keyword at all. None of that stops a mail: what was passed over is kept in
`Extensions.oddities`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from .._reply import Reply

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:[ =\t]+(.*))?", re.DOTALL)
# RFC 1870 section 6: size-value ::= 1*20DIGIT
_SIZE = re.compile(r"[0-9]{1,20}")
# RFC 9422 section 4: limit = name "=" value; the values that are registered are counts, not zero.
_LIMIT = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=0*([1-9][0-9]{0,9})")


class Extensions(Mapping[str, str]):
    """What the server offers: EHLO keywords, in any case, with their parameters.

    ``extensions["SIZE"]`` is ``"1000000"``; the attributes say what a keyword means.
    """

    __slots__ = (
        "_keywords",
        "auth",
        "binary_mime",
        "chunking",
        "dsn",
        "eight_bit_mime",
        "enhanced_status_codes",
        "limits",
        "oddities",
        "pipelining",
        "require_tls",
        "size",
        "smtputf8",
        "starttls",
        "takes_size",
    )

    size: int | None
    """The largest message that the server takes, in octets; None: it does not say (RFC 1870).

    ``SIZE 0`` and ``SIZE`` alone declare no limit."""
    takes_size: bool
    """MAIL may say how large its message is (RFC 1870)."""
    auth: tuple[str, ...]
    """The SASL mechanisms, in the server's order and in upper case (RFC 4954)."""
    pipelining: bool
    """Commands may be sent in groups (RFC 2920)."""
    binary_mime: bool
    """Messages may have octets that are in no lines, with BDAT (BINARYMIME, RFC 3030)."""
    chunking: bool
    """Messages may travel in chunks of a known size (BDAT, RFC 3030)."""
    dsn: bool
    """Reports of delivery may be asked for (RFC 3461)."""
    enhanced_status_codes: bool
    """Replies have status codes such as 5.1.1 (RFC 2034)."""
    require_tls: bool
    """Messages may ask for TLS on their whole way (REQUIRETLS, RFC 8689)."""
    limits: Mapping[str, int]
    """The limits that the server declares (RFC 9422), as ``{"RCPTMAX": 100}``.

    ``RCPTMAX``, recipients in a transaction; ``RCPTDOMAINMAX``, domains of recipients in a
    session; ``MAILMAX``, transactions in a session. What is no number above 0 is left out."""
    eight_bit_mime: bool
    """Messages may have octets above 127 (8BITMIME, RFC 6152)."""
    smtputf8: bool
    """Addresses and header fields may be UTF-8 (RFC 6531)."""
    starttls: bool
    """The connection can be encrypted now (RFC 3207)."""
    oddities: tuple[str, ...]
    """What was strange about the reply: lines that were passed over, keywords that came twice."""

    def __init__(self, reply: Reply | None = None) -> None:
        """Read the reply to EHLO; None, or the reply to HELO, offers nothing."""
        self._keywords: dict[str, str] = {}
        oddities: list[str] = []
        for line in reply.lines[1:] if reply is not None else ():
            if not (found := _LINE.fullmatch(line.rstrip())):
                oddities.append(f"not a keyword: {line!r}")
                continue
            keyword, parameters = found[1].upper(), found[2] or ""
            if keyword in self._keywords:
                oddities.append(f"keyword twice: {line!r}")
                parameters = _merged(self._keywords[keyword], parameters)
            self._keywords[keyword] = parameters
        self.oddities = tuple(oddities)
        number = self.get("SIZE", "")
        self.takes_size = "SIZE" in self
        self.size = int(number) or None if _SIZE.fullmatch(number) else None
        self.auth = tuple(self.get("AUTH", "").upper().split())
        self.pipelining = "PIPELINING" in self
        self.binary_mime = "BINARYMIME" in self
        self.chunking = "CHUNKING" in self
        self.dsn = "DSN" in self
        self.enhanced_status_codes = "ENHANCEDSTATUSCODES" in self
        self.require_tls = "REQUIRETLS" in self
        self.eight_bit_mime = "8BITMIME" in self
        self.smtputf8 = "SMTPUTF8" in self
        self.starttls = "STARTTLS" in self
        limits = (_LIMIT.fullmatch(parameter) for parameter in self.get("LIMITS", "").split())
        self.limits = MappingProxyType(
            {limit[1].upper(): int(limit[2]) for limit in limits if limit}
        )

    def __getitem__(self, keyword: str) -> str:
        return self._keywords[keyword.upper()]

    def __contains__(self, keyword: object) -> bool:
        return isinstance(keyword, str) and keyword.upper() in self._keywords

    def __iter__(self) -> Iterator[str]:
        return iter(self._keywords)

    def __len__(self) -> int:
        return len(self._keywords)

    def __repr__(self) -> str:
        return f"<Extensions {', '.join(self._keywords) or 'none'}>"


def _merged(first: str, second: str) -> str:
    """The parameters of a keyword that came twice: each once, in the order of coming."""
    return " ".join(dict.fromkeys(f"{first} {second}".split()))
