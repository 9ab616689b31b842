from __future__ import annotations

from email import _header_value_parser as tokens
from email import policy
from email.message import EmailMessage

import pytest

from anysmtp._message import _head, _plain, read_plain
from anysmtp._message._content import CHUNK
from anysmtp._message._head import breaks_as_usual, folded_object, style_of
from anysmtp._message._trees import folded_tree, text_of_tree


def tree_of(value: str, name: str = "To") -> object:
    found: object = policy.default.header_factory(name, value).__dict__["_parse_tree"]
    return found


@pytest.mark.parametrize(
    "value",
    [
        # What nearly all fields hold
        *("a@x.example", "a.b@x", "Ann <a@x.example>", "A B  C <a@x.example>"),
        *("a\t<b@x>", "a<b@x>"),
        # What else there is
        *("", "abc", "(c)", ".", "<>", "<a>", '"a"', "a@b@c", "@x", "[1]", "a b", "g:;"),
        *(" a@x", "<a@x>", "(c) a@x", "a@x (c)", " <a@x>", "<a@x> (c)", "<(c) a@x>"),
        *('"a"@x', "a@[127.0.0.1]", "a @ x", "<@a:b@x>", "a b@x", '"a b" <a@x>', '"a" b <a@x>'),
        *("a (c) <b@x>", "(c) a <b@x>", "a.b <c@x>", "a@x, b@x", "g: a@x, B <b@x>;", "a@x;"),
        *("a@x,(c)b@x", "a@x, (c) b@x", "a@x,(c)B <b@x>"),
    ],
)
def test_the_text_of_a_tree_is_what_the_package_has_for_it(value: str) -> None:
    tree = tree_of(value)
    assert text_of_tree(tree) == str(tree)


def test_the_text_of_a_tree_without_addresses() -> None:
    assert text_of_tree(tree_of("some words", "Subject")) == "some words"


@pytest.mark.parametrize(
    "value",
    ["=?utf-8?q?a?=@x", "=?utf-8?q?a?= <a@x>", "a@x, =?utf-8?q?a?= <b@x>"],
)
def test_encoded_words_are_the_packages_own_business(value: str) -> None:
    assert text_of_tree(tree_of(value)) is None


# More than one line takes, and what stands where a line ends.
FIELDS = [
    ("To", "a@x.example, B C <b.c@x.example>, d@x.example (e), <f@x.example>, g: h@x;, j@x"),
    ("To", "a@x.example,b@x.example,c@x.example,d@x.example"),
    ("To", "aaaaaaa@x.example , bbbbbbbb@x.example , ccccc@x.example"),
    ("To", ", ".join(f"a{'b' * number}@x.example" for number in range(12))),
    ("To", "gggg:;, hhhhh:;, iii:;"),
    ("Subject", "some words  with  two blanks\tand tabs, and long-ones-as-this-one"),
    ("Subject", " ".join("x" * number for number in range(1, 15))),
    ("References", " ".join(f"<{number}{'y' * number}@x.example>" for number in range(9))),
]
OTHERS = [
    *(("To", '"Doe, J" <j@x.example>, k@x.example'), ("To", "a@x.example,, b@x.example")),
    *(("To", "a@x.example, "), ("Subject", "a =?utf-8?q?b_c?= d"), ("Date", "x" * 50)),
    ("Content-Type", "text/plain; charset=utf-8; format=flowed; delsp=yes"),
]


@pytest.mark.parametrize(("name", "value"), [*FIELDS, *OTHERS])
def test_a_field_on_several_lines_is_what_the_package_makes_of_it(name: str, value: str) -> None:
    header = policy.default.header_factory(name, value)
    written = 0
    for length in range(len(name) + 3, len(name) + len(value) + 2):
        lines = folded_tree(name, tree_of(value, name), value, length)
        if lines is not None:
            written += 1
            style = policy.SMTP.clone(max_line_length=length)
            assert "".join(f"{line}\r\n" for line in lines) == header.fold(policy=style), length
    assert bool(written) == ((name, value) in FIELDS)


def test_where_the_package_breaks_fields_otherwise_it_does_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value = policy.default.header_factory("Subject", "word " * 20)
    as_usual, otherwise = (
        style_of(policy.default.clone(max_line_length=length), utf8=False) for length in (71, 72)
    )
    assert folded_object("Subject", value, str(value), as_usual) is not None

    def samples(_: int) -> list[tuple[str, str]]:
        return [("Subject", "x" * 80)]

    monkeypatch.setattr(_head, "_samples", samples)
    assert folded_object("Subject", value, str(value), otherwise) is None


@pytest.mark.parametrize("utf8", [False, True])
@pytest.mark.parametrize("length", [*range(1, 200), 996, 997, 998, 999, 10_000])
def test_lines_of_any_usual_length_are_written_here(length: int, utf8: bool) -> None:
    assert breaks_as_usual(length, utf8=utf8) == (55 <= length <= 998)


def test_policies_that_are_alike_are_looked_at_once() -> None:
    breaks_as_usual.cache_clear()
    for _ in range(3):
        message = EmailMessage(policy.SMTP.clone(max_line_length=70))
        message["Subject"] = "word " * 20
        message.set_content("x")
        assert read_plain(message) is not None
    assert breaks_as_usual.cache_info().misses == 1


@pytest.mark.parametrize("length", [1, 2, 4])
def test_lines_too_short_for_a_sample_are_the_packages_own_business(length: int) -> None:
    message = EmailMessage(policy.SMTP.clone(max_line_length=length))
    message["X"] = "abc"
    message.set_content("x")
    assert read_plain(message) is None


def test_comments_in_comments_are_left_to_whoever_says_what_is_wrong() -> None:
    comment = tokens.Comment([])
    for _ in range(5_000):
        comment = tokens.Comment([comment])
    assert text_of_tree(tokens.AddressList([comment])) is None


def test_what_is_too_long_to_be_plain_is_not_folded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[str] = []

    def fold(name: str, *_: object) -> str:
        folded.append(name)
        return "x"

    monkeypatch.setattr(_plain, "folded_object", fold)
    message = EmailMessage(policy.SMTP)
    for number in range(10):
        message[f"X-{number}"] = "word " * 6_000
    message.set_content("x")
    assert read_plain(message) is None
    assert len(folded) == CHUNK // 30_000
