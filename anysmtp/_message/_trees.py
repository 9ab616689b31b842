"""What the email package writes of a field that it has parsed.

Of one with addresses that is the text of the parse tree, as long as there is none in it but tokens
whose text is that of what they consist of. Nearly all fields hold mailboxes like ``a@x.example`` or
``Name <a@x.example>``, whose tree always has the same shape: this is looked for first, and any
other is walked.

A field that is too long for one line is broken between addresses where each of them fits on one;
and so is one of words.
"""

from __future__ import annotations

from collections.abc import Iterable
from email import _header_value_parser as tokens
from typing import Any

# Encoded words are the email package's own business: how it writes them differs from one Python to
# the next.
_TOKEN_LISTS = frozenset(
    kind
    for kind in vars(tokens).values()
    if isinstance(kind, type)
    and issubclass(kind, tokens.TokenList)
    and kind.__str__ is tokens.TokenList.__str__
    and kind is not tokens.EncodedWord
)
_TERMINALS = frozenset((tokens.Terminal, tokens.ValueTerminal, tokens.WhiteSpaceTerminal))
_FRAME = (tokens.Address, tokens.Mailbox)
_BLANK = (tokens.CFWSList, tokens.WhiteSpaceTerminal)
_DOTTED = (tokens.DotAtomText, tokens.ValueTerminal, tokens.DotAtomText)


class _Unusual(Exception):
    """A tree of another shape."""


def text_of_tree(tree: Any) -> str | None:
    """The text as it is written; None where that is not known."""
    try:
        return "".join(_text_of_all(tree))
    except (_Unusual, ValueError, TypeError):
        return _text_of_any(tree)


def _text_of_any(tree: Any) -> str | None:
    found: list[str] = []
    try:
        return "".join(found) if _collect(tree, found) else None
    except RecursionError:
        # Comments in comments: whoever writes the message says so.
        return None


def folded_tree(name: str, tree: Any, text: str, length: int) -> list[str] | None:
    """The lines of a field that does not fit on one of so many characters; ``text`` is that of its
    tree.

    It is broken between addresses or words. None where one of them does not fit on a line either,
    where there is no white space to break at or a comma would start a line, since the package parts
    and encodes there, and where it is not known how the package writes it.
    """
    pieces = _pieces(tree, text)
    if pieces is None:
        return None
    if len(text) < length:
        return [f"{name}:", f" {text}"]
    lines, line = list[str](), f"{name}: "
    for piece in pieces:
        if len(line) + len(piece) <= length:
            line += piece
        elif piece == "," and line[-1] not in " \t" and not tree.as_ew_allowed:
            # It is not parted from its address; in a list without one it may be encoded.
            line += piece
        elif len(piece) >= length or piece == ",":
            return None
        elif line[-1] in " \t":
            lines.append(line[:-1])
            line = line[-1] + piece
        elif piece[0] in " \t":
            lines.append(line)
            line = piece
        else:
            return None
    return [*lines, line]


def _pieces(tree: Any, text: str) -> list[str] | None:
    """What a field is put together from, none of which is parted where it fits on a line."""
    if tree.__class__ is tokens.UnstructuredTokenList:
        is_plain = {*map(type, tree)} <= _TERMINALS and "".join(map(str, tree)) == text
        return [*tree] if is_plain else None
    addresses = text.split(",")
    if tree.__class__ is not tokens.AddressList or len(tree) != 2 * len(addresses) - 1:
        # There may be a comma in an address, or nothing between two.
        return None
    if {*map(type, tree[::2])} != {tokens.Address} or {*tree[1::2]} != {","} or "" in addresses:
        return None
    return [piece for address in addresses for piece in (address, ",")][:-1]


def _text_of_all(tree: Any) -> list[str]:
    """The pieces of a field of mailboxes.

    _Unusual or ValueError for any other; or something among them that is no str.
    """
    if tree.__class__ is not tokens.AddressList:
        raise _Unusual
    found: list[str] = []
    for token in tree:
        if token.__class__ in _TERMINALS:
            found.append(token)
        else:
            found += _text_of_one(token)
    return found


def _text_of_one(address: Any) -> list[str]:
    """The pieces of one mailbox."""
    (mailbox,) = address
    (inner,) = mailbox
    if (address.__class__, mailbox.__class__) != _FRAME:
        raise _Unusual
    has_brackets = inner.__class__ is tokens.NameAddr
    if not has_brackets:
        return _text_of_address(inner)
    name, angle = inner
    opening, address, closing = angle
    return [*_text_of_name(name), opening, *_text_of_address(address), closing]


def _text_of_name(name: Any) -> list[str]:
    """The words of a display name, none of which has quotes."""
    found: list[str] = []
    for atom in name:
        if atom.__class__ is not tokens.Atom:
            raise _Unusual
        for token in atom:
            if token.__class__ is tokens.CFWSList:
                (token,) = token
            if token.__class__ not in _TERMINALS:
                raise _Unusual
            found.append(token)
    return found


def _text_of_address(address: Any) -> list[str]:
    """The pieces of a local part and a domain that consist of atoms and dots."""
    local, at, domain = address
    ((*white, local_text),) = local
    ((domain_text,),) = domain
    # There are terminals alone in these two, which stand in a DotAtom, and that in a part of an
    # address: all of them are written as what they consist of.
    if (local_text.__class__, at.__class__, domain_text.__class__) != _DOTTED:
        raise _Unusual
    if white:
        # In front of any address but the first.
        ((blank,),) = white
        if (white[0].__class__, blank.__class__) != _BLANK:
            raise _Unusual
        return [blank, *local_text, at, *domain_text]
    return [*local_text, at, *domain_text]


def _collect(branch: Iterable[Any], found: list[str]) -> bool:
    """Append the text of a tree, as `str` puts it together, in a third of the time."""
    for token in branch:
        kind = token.__class__
        if kind in _TERMINALS:
            found.append(token)
        elif kind in _TOKEN_LISTS:
            if not _collect(token, found):
                return False
        elif kind is tokens.EncodedWord:
            return False
        else:
            found.append(str(token))
    return True
