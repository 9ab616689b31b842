"""One address in, one `Mailbox` out; several for a list of recipients or a header field.

There is one grammar of addresses here for what callers write and for what header fields hold,
RFC 5322 section 3.4 with the parts of its obsolete syntax that are still seen: names without
quotes, empty list elements, source routes. Display names, comments and groups are skipped and
never decoded, so nothing that an encoded word hides becomes an address. What is ambiguous is
refused: ``a@x <b@x>``, ``a b@x``, ``a@x; b@x``. The email package's parsers are lenient in
different ways from one Python to the next, and drop what they do not understand without a
word; an envelope needs an error instead.

What is left, ``local@domain``, is checked against RFC 5321, whose command lines it goes into.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from email.headerregistry import Address
from functools import lru_cache

from .._envelope import AddressLike, Mailbox, Recipient, Recipients
from .._grammar import (
    ACCOUNT,
    ADDRESS_LITERAL,
    CONTROLS,
    DOT_STRING,
    IDN_DOMAIN,
    MAIL_DOMAIN,
    MAX_ADDRESS,
    MAX_LOCAL_PART,
    PLAIN_ADDRESS,
    QUOTED_STRING,
    STRICT_DOT_STRING,
)

# What stands in front of nearly every address in angle brackets, if anything does.
_PLAIN_NAME = re.compile(r'[^\x00-\x1f\x7f"(),:;<>@\\]*')
# The rough shape of one mailbox; its parts are checked by their own patterns afterwards.
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_WORD = r'[^ "(),:;<>@\[\]\\]+'
_PHRASE = rf'(?:[^"(),:;<>@\\]|{_QUOTED})*'
_HOST = rf"(?:\[[^ @\[\]\\]*\]|{_WORD})"
# RFC 5321 appendix C: a source route is to be ignored.
_ROUTE = rf"(?:@{_HOST}(?: *, *@{_HOST})* *: *)?"
_ADDRESS = rf"{_ROUTE}(?P<local>{_QUOTED}|{_WORD})(?: *@ *(?P<domain>{_HOST}))?"
_MAILBOX = rf"(?:(?P<angle>{_PHRASE}< *)| *){_ADDRESS}(?(angle) *> *| *)"

_ONE = re.compile(_MAILBOX)
# One element of a list, which may be empty (RFC 5322 section 4.4), and may open or close a group.
_ELEMENT = re.compile(rf"(?P<group>{_PHRASE}:)?(?:{_MAILBOX}| *)(?P<end>[,;]|\Z)")
# RFC 5322 section 3.2.2: comments nest, and quotes have no meaning inside them.
_OUTSIDE_COMMENT = re.compile(rf"{_QUOTED}|\\.|[()]")
_NEEDS_PAIR = re.compile(r'["\\]')
_PAIR = re.compile(r"\\(.)")
_INSIDE_COMMENT = re.compile(r"\\.|[()]")
# Recipients that are kept in case they come again: as many as each server takes in one transaction
# (RFC 5321 section 4.5.3.1.8).
_FEW = 100


def parse_address(given: AddressLike) -> Mailbox:
    """One address: ``"a@x.example"``, ``"Name <a@x.example>"`` or an Address.

    ValueError for anything that is not exactly one address, TypeError for other types.
    """
    text = _text_of(given)
    plain = _plain(text)
    if plain is not None:
        return Mailbox(text, plain, plain)
    found = _ONE.fullmatch(_visible(text))
    if found is None:
        hint = " (several go into a list)" if "," in text or ";" in text else ""
        hint = hint if text else ": an empty string is nobody's"
        raise ValueError(f"{text!r} is not one address{hint}")
    return _mailbox(found, text)


def write_address(local: str, domain: str = "") -> str:
    """An address from its parts as they mean themselves, which `parse_address` takes apart again.

    RFC 5321 section 4.1.2: a local part that is no Dot-string is quoted, and `"` and `\\` in it
    are. Nothing is checked here.
    """
    if not STRICT_DOT_STRING.fullmatch(local):
        local = '"' + _NEEDS_PAIR.sub(r"\\\g<0>", local) + '"'
    return f"{local}@{domain}" if domain else local


def local_part_of(mailbox: Mailbox) -> str:
    """The local part as it means itself: without quotes, and quoted pairs as what they stand for.

    RFC 5321 section 4.1.2: `"a"@x` and `a@x` are one mailbox.
    """
    local = mailbox.utf8.rpartition("@")[0] or mailbox.utf8
    return _PAIR.sub(r"\1", local[1:-1]) if local.startswith('"') else local


def parse_sender(given: AddressLike) -> Mailbox | None:
    """One address, or None for the null reverse-path, given as ``""`` or ``"<>"``."""
    text = given
    if not isinstance(text, str):
        text = _text_of(given, hint_for_none=' ("" is the null reverse-path)')
    return None if text in ("", "<>") else _parse_again(text)


def parse_recipients(given: Recipients) -> tuple[Mailbox, ...]:
    """One or several addresses, each mailbox once: the first way in which it was given counts.

    ValueError if there are none.
    """
    if isinstance(given, (str, Address, Recipient)):
        return (_parse_recipient(given),)
    # An iterable that is no list is looked for the long way.
    if not (isinstance(given, (list, tuple)) or _is_several(given)):
        raise TypeError(f"recipients are one address or several, not {given!r}")
    several = tuple(given)
    if len(several) <= _FEW and {*map(type, several)} == {str}:
        return _parse_several_again(several)
    return unique([_parse_recipient(each) for each in several])


@lru_cache(maxsize=8)
def _parse_several_again(given: tuple[str, ...]) -> tuple[Mailbox, ...]:
    """Several messages go to the same recipients, and all of these to each."""
    return unique([_parse_again(each) for each in given])


def _is_several(given: object) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, (bytes, bytearray, dict))


def _parse_recipient(given: AddressLike | Recipient) -> Mailbox:
    if isinstance(given, str):
        return _parse_again(given)
    if not isinstance(given, Recipient):
        return parse_address(given)
    return replace(parse_address(given.address), parameters=given.parameters())


def unique(mailboxes: Iterable[Mailbox]) -> tuple[Mailbox, ...]:
    """Each mailbox once, in order; ValueError if there are none.

    Two are the same if their domains are, in any case and with A-labels or U-labels, and their
    local parts are to the letter: only the receiving host may see more in those (RFC 5321
    section 2.3.11).
    """
    given = tuple(mailboxes)
    if not given:
        raise ValueError("no recipients")
    if len(given) == 1:
        return given
    # Mostly they differ in more than that.
    forms = {mailbox.ascii.lower() for mailbox in given if mailbox.ascii is not None}
    if len(forms) == len(given):
        return given
    found: dict[tuple[str, str | None], Mailbox] = {}
    for mailbox in given:
        found.setdefault((local_part_of(mailbox), domain_of(mailbox)), mailbox)
    return tuple(found.values())


def parse_list(text: str) -> list[Mailbox]:
    """The mailboxes in the value of an address field, those of groups included."""
    plain: list[Mailbox] = []
    for element in text.split(","):
        address = _plain(element.strip(" "))
        if address is None:
            return [_mailbox(found) for found in _mailboxes(text)]
        plain.append(Mailbox(address, address, address))
    return plain


def to_a_labels(text: str) -> str:
    """The value of an address field with its domains in A-labels, and nothing else changed."""
    pieces: list[str] = []
    start = 0
    for found in _mailboxes(text):
        if found["domain"] and not found["domain"].isascii():
            pieces += text[start : found.start("domain")], _domains(found["domain"])[1]
            start = found.end("domain")
    return "".join((*pieces, text[start:]))


def domain_of(mailbox: Mailbox) -> str | None:
    """The domain in A-labels and lower case; None if the address has none."""
    _, at, domain = (mailbox.ascii or mailbox.utf8).rpartition("@")
    if not at:
        return None
    return (domain if domain.isascii() else _domains(domain)[1]).lower()


def parse_domain(given: str) -> str:
    """A domain that stands alone, in A-labels and lower case. ValueError for what is none."""
    if not isinstance(given, str):
        raise TypeError(f"a domain is a str, not {type(given).__name__}")
    if ADDRESS_LITERAL.fullmatch(given):
        raise ValueError(f"{given!r} is an address, not a domain")
    return _domains(given)[1].lower()


@lru_cache(maxsize=256)
def _parse_again(text: str) -> Mailbox:
    """The same senders come again and again, and many recipients."""
    return parse_address(text)


def _plain(text: str) -> str | None:
    """The address in ``a@x.example`` and ``Name <a@x.example>``, where nothing needs a parser."""
    if not text.endswith(">"):
        return text if PLAIN_ADDRESS.fullmatch(text) else None
    name, opened, address = text[:-1].rpartition("<")
    is_plain = opened and PLAIN_ADDRESS.fullmatch(address) and _PLAIN_NAME.fullmatch(name)
    return address if is_plain else None


def _mailboxes(text: str) -> Iterator[re.Match[str]]:
    """Where the mailboxes are in the value of an address field."""
    text = _visible(text)
    position, in_group, end = 0, False, ","
    while end:
        found = _ELEMENT.match(text, position)
        if found is None or (in_group and found["group"]):
            raise ValueError(f"malformed address in {text[position : position + 80].strip()!r}")
        in_group = in_group or found["group"] is not None
        if found["end"] == ";" and not in_group:
            raise ValueError(f"commas separate addresses, not semicolons: {found[0].strip()!r}")
        in_group = in_group and found["end"] != ";"
        if found["local"]:
            yield found
        position, end = found.end(), found["end"]


def _mailbox(found: re.Match[str], text: str | None = None) -> Mailbox:
    """Check the parts of an address that was found; it was given as text, or as it stands."""
    local, domain = found["local"], found["domain"]
    given = text or (f"{local}@{domain}" if domain else local)
    if not (DOT_STRING.fullmatch(local) or QUOTED_STRING.fullmatch(local)):
        raise ValueError(f"malformed local part in {given!r}")
    if len(local.encode()) > MAX_LOCAL_PART:
        raise ValueError(f"local part of more than {MAX_LOCAL_PART} octets in {given!r}")
    if not domain:
        if not ACCOUNT.fullmatch(local):
            raise ValueError(f"no domain in {given!r}")
        return Mailbox(given, local, local)
    try:
        utf8, ascii = (f"{local}@{form}" for form in _domains(domain))
    except ValueError as error:
        raise ValueError(f"malformed domain in {given!r}: {error}") from error
    if max(len(utf8.encode()), len(ascii.encode())) > MAX_ADDRESS:
        raise ValueError(f"more than {MAX_ADDRESS} octets in {given!r}")
    return Mailbox(given, utf8, ascii if local.isascii() else None)


def _domains(domain: str) -> tuple[str, str]:
    """A domain in U-labels, where it has any, and in A-labels."""
    if MAIL_DOMAIN.fullmatch(domain) or ADDRESS_LITERAL.fullmatch(domain):
        return domain, domain
    if domain.isascii() or len(domain) > MAX_ADDRESS or not IDN_DOMAIN.fullmatch(domain):
        raise ValueError(f"{domain!r} is not a domain")
    # anyio depends on idna and turns host names into A-labels with this very call: an address and
    # the host that its mail goes to are read the same way. RFC 6531 section 3.3 has U-labels in
    # SMTPUTF8 commands, which upper case and full-width letters are not: hence there and back.
    import idna

    encoded = idna.encode(domain, uts46=True).decode("ascii")
    if not MAIL_DOMAIN.fullmatch(encoded):
        raise ValueError(f"{domain!r} is not a domain")
    return idna.decode(encoded), encoded


def _text_of(given: object, *, hint_for_none: str = "") -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, Address):
        # Without a user name it is no address, but for the null one.
        return write_address(given.username, given.domain) if given.username else given.addr_spec
    hint = hint_for_none if given is None else ""
    raise TypeError(f"an address is a str or an email.headerregistry.Address, not {given!r}{hint}")


def _visible(text: str) -> str:
    """Text with blanks for its comments; ValueError for control characters."""
    if found := CONTROLS.search(text):
        raise ValueError(f"control character {found[0]!r} in {text!r}")
    return _without_comments(text) if "(" in text else text


def _without_comments(text: str) -> str:
    kept: list[str] = []
    depth = start = position = 0
    while found := (_INSIDE_COMMENT if depth else _OUTSIDE_COMMENT).search(text, position):
        position = found.end()
        if found[0] == "(":
            depth += 1
            if depth == 1:
                kept.append(text[start : found.start()])
                start = found.start()
        elif found[0] == ")":
            depth -= 1
            if depth == 0:
                kept.append(" " * (position - start))
                start = position
            elif depth < 0:
                break
    if depth:
        raise ValueError(f"unbalanced parenthesis in {text!r}")
    return "".join((*kept, text[start:]))
