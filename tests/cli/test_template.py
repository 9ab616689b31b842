"""Templates: what a row can put into a message, and what it cannot."""

from __future__ import annotations

import sys
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import click
import pytest

from anysmtp.cli._letters import Letter
from anysmtp.cli._rows import Rows
from anysmtp.cli._template import Template

PAGE = "From: ann@x.test\nTo: {{name}} <{{email}}>\nSubject: Hello {{name}}\n\nDear {{name}}!\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def letters(page: str | bytes, rows: str | bytes, column: str = "email") -> list[Letter]:
    Path("page").write_bytes(page if isinstance(page, bytes) else page.encode())
    Path("rows.csv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    template = Template(Path("page"), Rows(Path("rows.csv")), column)
    made = list(template)
    assert len(made) == template.count()
    return made


def message(page: str | bytes, rows: str | bytes) -> EmailMessage:
    """The only one, as a reader has it."""
    [letter] = letters(page, rows)
    assert letter.problem == ""
    assert letter.message is not None
    read = message_from_bytes(letter.message.as_bytes(policy=policy.default), policy=policy.default)
    assert isinstance(read, EmailMessage)
    return read


def problem(page: str, rows: str) -> str:
    [letter] = letters(page, rows)
    assert letter.message is None
    return letter.problem


def test_a_row_fills_fields_and_text() -> None:
    made = message(PAGE, "email,name\nbjörn@x.test,Björn Ödegård\n".replace("björn@", "bjorn@"))
    assert made["To"] == "Björn Ödegård <bjorn@x.test>"
    assert made["Subject"] == "Hello Björn Ödegård"
    assert made.get_content() == "Dear Björn Ödegård!\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spreadsheets_separate_the_columns_as_they_like(separator: str) -> None:
    rows = separator.join(("name", "e-mail of them")) + "\r\n" + separator.join(("Bob", "b@x.test"))
    page = "To: {{ name }} <{{e-mail of them}}>\nFrom: ann@x.test\n\n"
    [letter] = letters(page, b"\xef\xbb\xbf" + rows.encode(), "e-mail of them")
    assert letter.recipients == ("b@x.test",)
    assert letter.name == "line 2, b@x.test"
    assert letter.message is not None
    assert letter.message["To"] == "Bob <b@x.test>"


@pytest.mark.parametrize(
    "value",
    [
        "a\nBcc: eve@x.test",
        "a\r\nBcc: eve@x.test",
        "a\rb",
        "a\x0bb",
        pytest.param(
            "a\x00b",
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11), reason="the csv module of 3.10 takes no NUL at all"
            ),
        ),
        "a\u2028b",
        "a\x85b",
    ],
)
@pytest.mark.parametrize("field", ["Subject: {{x}}", "To: {{x}} <b@x.test>", "X-Any: y{{x}}"])
def test_a_line_break_in_a_field_is_an_error_of_the_row(field: str, value: str) -> None:
    said = problem(f"From: ann@x.test\n{field}\n\n", f'email,x\nb@x.test,"{value}"\n')
    assert said == "a line break or another control character in x"


def test_a_line_break_in_the_recipient_is_an_error_of_the_row() -> None:
    said = problem(PAGE, 'email,name\n"b@x.test\nRCPT TO:<eve@x.test>",Bob\n')
    assert said == "a line break or another control character in email"


@pytest.mark.parametrize("value", ["=?utf-8?q?=0ABcc:_eve@x.test?=", "x =?us-ascii?B?Cg==?= y"])
@pytest.mark.parametrize("field", ["Subject: {{x}}", "To: {{x}} <b@x.test>"])
def test_an_encoded_word_in_a_field_is_an_error_of_the_row(field: str, value: str) -> None:
    said = problem(f"From: ann@x.test\n{field}\n\n", f"email,x\nb@x.test,{value}\n")
    assert said == "an encoded word, which would be taken for what it says, in x"


def test_a_line_break_in_the_text_is_text() -> None:
    made = message("From: ann@x.test\n\n{{x}}\n", 'email,x\nb@x.test,"one\ntwo"\n')
    assert made.get_content() == "one\ntwo\n"


@pytest.mark.parametrize(
    "name", ["Bob, eve@x.test", "<eve@x.test>", 'B"o\\b', "a (b) c", "=?x", "{{email}}"]
)
def test_a_name_stays_one(name: str) -> None:
    quoted = name.replace('"', '""')
    made = message(PAGE, f'email,name\nb@x.test,"{quoted}"\n')
    [address] = made["To"].addresses
    assert (address.addr_spec, address.display_name) == ("b@x.test", name)


def test_an_address_stays_one() -> None:
    page = "From: ann@x.test\nTo: <{{who}}>, dan@x.test\n\n"
    assert problem(page, 'email,who\nb@x.test,"b@x.test, eve@x.test"\n').startswith("not an addres")
    assert problem(page, "email,who\nb@x.test,b@x.test>\n").startswith("not an address")


def test_what_is_missing_in_a_row_is_an_error_of_it() -> None:
    made = letters(PAGE, "email,name\nb@x.test\n\n ,Bob\n")
    assert [letter.problem for letter in made] == [
        "there is nothing in name",
        "there is no address in email",
    ]
    assert [letter.name for letter in made] == ["line 2, b@x.test", "line 4"]


def test_rows_with_one_recipient_are_told_apart() -> None:
    made = letters(PAGE, "email,name\nb@x.test,1\nb@x.test,2\n")
    assert [letter.key for letter in made] == ["b@x.test", "b@x.test (2)"]


def test_only_what_the_message_has_of_a_row_makes_it_another() -> None:
    first = letters(PAGE, "email,name,x\nb@x.test,Bob,1\n")
    assert letters(PAGE, "x,email,name\n2,b@x.test,Bob\n")[0].digest == first[0].digest
    assert letters(PAGE, "email,name,x\nb@x.test,Rob,1\n")[0].digest != first[0].digest
    assert letters(PAGE + "!", "email,name,x\nb@x.test,Bob,1\n")[0].digest != first[0].digest


PARTS = """\
From: =?utf-8?q?J=C3=B6rg?= <joerg@x.test>
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= {{name}}
Date: Sun, 22 Nov 2020 12:00:00 +0000
Message-ID: <draft@x.test>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="b"

--b
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Gr=FC=DFe {{name}}
--b
Content-Type: text/html; charset=utf-8
Content-ID: <page>
Content-Disposition: inline

<b>{{name}}</b>
--b
Content-Type: text/plain
Content-Disposition: attachment; filename="{{name}}.txt"

{{name}}
--b
Content-Type: text/plain

the same for all
--b--
"""


def test_each_part_is_filled_as_it_needs() -> None:
    made = message(PARTS, "email,name\nb@x.test,<Bob & Co>\n")
    plain, page, attached, same = made.iter_parts()
    assert isinstance(plain, EmailMessage)
    assert isinstance(page, EmailMessage)
    assert made["From"] == "Jörg <joerg@x.test>"
    assert made["Subject"] == "Grüße <Bob & Co>"
    assert plain.get_content() == "Grüße <Bob & Co>\n"
    assert page.get_content() == "<b>&lt;Bob &amp; Co&gt;</b>\n"
    assert (page["Content-ID"], page.get_content_disposition()) == ("<page>", "inline")
    assert attached.get_payload() == "{{name}}"
    assert same.get_payload() == "the same for all"


def test_date_and_message_id_are_not_those_of_the_template() -> None:
    [letter] = letters(PARTS, "email,name\nb@x.test,Bob\n")
    assert letter.message is not None
    assert (letter.message["Date"], letter.message["Message-ID"]) == (None, None)


@pytest.mark.parametrize(
    ("page", "rows", "said"),
    [
        ("{{nam}}", "email\n", "no column for {{nam}} of page in rows.csv, which has email"),
        (
            "{{email}}",
            "mail\n",
            "no column 'email' with the recipients in rows.csv, which has mail",
        ),
        ("", "", "the first row of rows.csv has the names"),
        ("", "email,email\n", "each another one, and not 'email, email'"),
        ("", b"email\n\xff\n", "rows.csv cannot be read as CSV in UTF-8"),
        ("", 'email\n"open\n', "rows.csv cannot be read as CSV in UTF-8"),
        (b"From: a@x.test\n\n\xff", "email\n", "page is not in UTF-8"),
        (b"Subject: \xff\n\n", "email\n", "page is not in UTF-8"),
        ("Content-Type: text/plain; charset=none\n\nx", "email\n", "page is not in UTF-8"),
    ],
)
def test_what_is_wrong_with_all_of_it_is_said_at_once(
    page: str | bytes, rows: str | bytes, said: str
) -> None:
    page = "Subject: x\n\n" + page if isinstance(page, str) and ":" not in page else page
    with pytest.raises(click.UsageError) as caught:
        letters(page, rows)
    assert said in caught.value.message


def test_files_that_are_not_there_are_wrong_use() -> None:
    with pytest.raises(click.UsageError, match=r"rows\.csv"):
        Rows(Path("rows.csv"))
    Path("rows.csv").write_text("email\n")
    with pytest.raises(click.UsageError, match="page: No such file"):
        Template(Path("page"), Rows(Path("rows.csv")), "email")
