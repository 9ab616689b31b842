"""The grammar of SMTP as regexes, for `fullmatch`, with where reality differs.

Each pattern stands under the ABNF that it comes from. Where real mail needs more than the RFC
grants, the pattern is the wider one and says so: what is only unusual is for the server to
refuse. Nothing here lets a control character through. Quantifiers are bounded or over
disjoint sets, so that no input takes more than linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable


class Rule:
    """A pattern that is compiled when it is needed: most mail needs few of these."""

    __slots__ = ("fullmatch", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.fullmatch: Callable[[str], re.Match[str] | None] = self._first

    def _first(self, text: str) -> re.Match[str] | None:
        self.fullmatch = re.compile(self.pattern).fullmatch
        return self.fullmatch(text)


# RFC 5234 appendix B.1: CTL = %x00-1F / %x7F. No command line has one, but for its CRLF.
CONTROLS = re.compile(r"[\x00-\x1f\x7f]")

# RFC 6531 section 3.3 adds UTF8-non-ascii to atext, qtextSMTP, sub-domain and esmtp-value.
# Lone surrogates have no UTF-8.
_NON_ASCII = r"\x80-\ud7ff\ue000-\U0010ffff"

# RFC 5321 section 4.1.2:
#     esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
#     esmtp-param   = esmtp-keyword ["=" esmtp-value]
#     esmtp-value   = 1*(%d33-60 / %d62-126)      ; no "=", SP or control
ESMTP_KEYWORD = Rule(r"[A-Za-z0-9][A-Za-z0-9-]*")
ESMTP_PARAMETER = Rule(rf"{ESMTP_KEYWORD.pattern}(?:=[\x21-\x3c\x3e-\x7e{_NON_ASCII}]+)?")

# RFC 5321 section 4.1.2, with the lengths of RFC 1035 section 2.3.4:
#     Domain     = sub-domain *("." sub-domain)
#     sub-domain = Let-dig [Ldh-str]
_LDH_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
DOMAIN = Rule(rf"(?=.{{1,255}}\Z){_LDH_LABEL}(?:\.{_LDH_LABEL})*")

# RFC 5321 section 4.1.3:
#     address-literal = "[" ( IPv4-address-literal / IPv6-address-literal / ... ) "]"
# The third kind, General-address-literal, is left out: no tag but IPv6 was ever registered.
# An IPv6 address is eight groups, the last two of which may be written as IPv4; or fewer:
#     IPv6-comp   = [IPv6-hex *5(":" IPv6-hex)] "::" [IPv6-hex *5(":" IPv6-hex)]
#                 ; The "::" represents at least 2 16-bit groups of zeros.  No more than 6 groups
#                 ; in addition to the "::" may be present.
#     IPv6v4-comp = [IPv6-hex *3(":" IPv6-hex)] "::" [IPv6-hex *3(":" IPv6-hex) ":"] IPv4...
#                 ; ...  No more than 4 groups in addition to the "::" and IPv4... may be present.
# So there is a pattern for each number of groups in front of the "::".
_SNUM = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_SNUM}(?:\.{_SNUM}){{3}}"
_GROUP = r"[0-9A-Fa-f]{1,4}"
_IN_FRONT = tuple(":".join([_GROUP] * count) for count in range(7))
_IPV6 = "|".join(
    (
        rf"(?:{_GROUP}:){{7}}{_GROUP}",
        rf"(?:{_GROUP}:){{6}}{_IPV4}",
        *(rf"{_IN_FRONT[n]}::(?:{_GROUP}(?::{_GROUP}){{0,{5 - n}}})?" for n in range(6)),
        rf"{_IN_FRONT[6]}::",
        *(rf"{_IN_FRONT[n]}::(?:{_GROUP}:){{0,{4 - n}}}{_IPV4}" for n in range(5)),
    )
)
ADDRESS_LITERAL = Rule(rf"\[(?:{_IPV4}|(?i:IPv6):(?:{_IPV6}))\]")

# RFC 5321 section 4.1.1.1: the argument of EHLO is a Domain or an address-literal. No leniency:
# Exim answers 501 to an underscore there, and hangs up after three of them.
LOCAL_HOSTNAME = Rule(rf"{DOMAIN.pattern}|{ADDRESS_LITERAL.pattern}")

# RFC 5321 section 4.1.2:
#     Local-part    = Dot-string / Quoted-string
#     Dot-string    = Atom *("." Atom)
#     Quoted-string = DQUOTE *(qtextSMTP / quoted-pairSMTP) DQUOTE
# Reality: dots stand anywhere in a Dot-string. Japanese carriers gave out a..b@ and a.@ for
# years, and these mailboxes live on.
_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_ATOMS = rf".{_ATEXT}"
STRICT_DOT_STRING = Rule(rf"[{_ATEXT}{_NON_ASCII}]+(?:\.[{_ATEXT}{_NON_ASCII}]+)*")
DOT_STRING = Rule(rf"[{_ATOMS}{_NON_ASCII}]+")
QUOTED_STRING = Rule(rf'"(?:[\x20\x21\x23-\x5b\x5d-\x7e{_NON_ASCII}]|\\[\x20-\x7e])*"')

# The domain of an address. Reality: labels have underscores, and hyphens at their ends; DNS does
# not mind. Non-ASCII labels are for IDNA to judge, in whose eyes three more characters are dots.
MAIL_DOMAIN = Rule(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
IDN_DOMAIN = Rule(rf"[A-Za-z0-9_{_NON_ASCII}-]+(?:\.[A-Za-z0-9_{_NON_ASCII}-]+)*")

# What nearly every address is. It saves the others' way through comments, names and lengths.
PLAIN_ADDRESS = Rule(rf"(?=.{{3,254}}\Z)[{_ATOMS}]{{1,64}}@{MAIL_DOMAIN.pattern}")

# RFC 5321 section 4.1.1.3 grants a recipient without a domain to Postmaster alone. Reality: mail on
# the same machine or network goes to root and www-data, and the server completes the
# address. Names of accounts and aliases need no more than this; no dot, so that a host name
# in the wrong argument is not taken for one, and no encoded word looks like one.
ACCOUNT = Rule(r"[A-Za-z0-9_][A-Za-z0-9_-]*")

# RFC 5321 section 4.5.3.1, in octets. A path is 256 with its angle brackets.
MAX_LOCAL_PART = 64
MAX_ADDRESS = 254

# RFC 5322 section 3.6.8: ftext = %d33-57 / %d59-126
FIELD_NAME = Rule(r"[!-9;-~]+")
