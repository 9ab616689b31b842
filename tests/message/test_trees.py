from __future__ import annotations

from email import policy

import pytest

from anysmtp._message._trees import text_of_tree


def tree_of(value: str) -> object:
    found: object = policy.default.header_factory("To", value).__dict__["_parse_tree"]
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
    ],
)
def test_the_text_of_a_tree_is_what_the_package_has_for_it(value: str) -> None:
    tree = tree_of(value)
    assert text_of_tree(tree) == str(tree)


@pytest.mark.parametrize(
    "value",
    ["=?utf-8?q?a?=@x", "=?utf-8?q?a?= <a@x>", "a@x, =?utf-8?q?a?= <b@x>"],
)
def test_encoded_words_are_the_packages_own_business(value: str) -> None:
    assert text_of_tree(tree_of(value)) is None
