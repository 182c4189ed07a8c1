"""Single texts: encodings, checksums, secrets, languages; and rows that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planted import Folder, bundled_folder, context_of, lines_of, plant, report_of
from stepladder.data.checks import run_checks
from stepladder.data.checks.invisible import clean
from stepladder.data.checks.language import language_of
from stepladder.data.checks.leftover import without_wrapping
from stepladder.data.checks.length import outliers
from stepladder.data.checks.markup import unescape
from stepladder.data.checks.mojibake import repair_text
from stepladder.data.checks.personal_data import is_card, is_iban, kinds
from stepladder.data.checks.secret import secrets
from stepladder.domain.task import Task

LATIN = st.lists(st.from_regex(r"[a-cxyzéüñöçßàèôÄÖÜ]{1,6}[,.!?’”…]?", fullmatch=True), max_size=8).map(" ".join)


@given(LATIN)
def test_a_text_read_as_windows_1252_is_read_right_again(text: str) -> None:
    wrong = text.encode("utf-8").decode("cp1252", errors="surrogateescape")
    try:
        wrong.encode("utf-8")
    except UnicodeEncodeError:
        wrong = text.encode("utf-8").decode("latin-1")
    assert repair_text(wrong) == text


@given(LATIN)
def test_a_text_that_was_read_right_stays_as_it_is(text: str) -> None:
    assert repair_text(text) == text


@given(st.lists(st.integers(0, 9), min_size=15, max_size=15), st.integers(1, 14), st.integers(1, 9))
def test_a_card_number_with_one_wrong_digit_is_none(middle: list[int], place: int, change: int) -> None:
    digits = [4, *middle[1:]]
    doubled = [sum(divmod(2 * digit, 10)) if place % 2 == 0 else digit for place, digit in enumerate(reversed(digits))]
    number = [*digits, -sum(doubled) % 10]
    assert is_card("".join(map(str, number))) or len(set(number)) == 1
    number[place] = (number[place] + change) % 10
    assert not is_card("".join(map(str, number)))


@pytest.mark.parametrize(
    "account", ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "FR1420041010050500013M02606", "NO9386011117947"]
)
def test_account_numbers_of_the_registrys_examples_are_known(account: str) -> None:
    assert is_iban(account)
    wrong = account[:-1] + ("1" if account[-1] != "1" else "2")
    assert not is_iban(wrong)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to a.b+c@mail.example.co.uk now", ["an e-mail address"]),
        ("server 93.184.216.34 is down", ["an IP address"]),
        ("version 1.2.3.4 at 10.0.0.7", []),
        ("at 192.0.2.44, 198.51.100.7 and 203.0.113.255, set aside for examples", []),
        ("at 127.0.0.1, 169.254.3.4, 172.20.1.1, 192.168.1.1, 100.64.1.1, 224.0.0.1 and 255.255.255.255", []),
        ("at 192.0.3.44 and 203.0.114.1", ["an IP address"]),
        ("order 4711-0815, 2024-03-01, 12:30, 1,234.50 EUR", []),
        ("tracking number 7730042918 and customer 51822", []),
        ("amex 378282246310005", ["a payment card"]),
        ("seen 4/12 378282246310005", ["a payment card"]),
        ("on 12 4111 1111-1111 1111 24", ["a payment card"]),
        ("4111 1111 1111 1112 7", []),
        ("call +49 30 5551 20844", ["a phone number"]),
        ("call +44 20 7946 0958, set aside for fiction", []),
        ("PF-20231 and item 0800-2", []),
        ("appelez le 06 12 34 56 78 demain", ["a phone number"]),
        ("rufen Sie 030 / 901820 22 an", ["a phone number"]),
        ("ziehung 04 06 12 34 56 78 und 06 12 34 56 78 90", []),
        ("on 06.12.2023 10:22, 06 12 2023, 03.04.05 and 01 / 02 / 2024", []),
        ("order 06-12-34-56-78, parts 030 / 45 and 12 / 345678901", []),
        ("06 12 34 5678 EUR, 0.612 345 and 1 030 / 901 820.22 EUR", []),
    ],
)
def test_personal_data_by_kind(text: str, found: list[str]) -> None:
    assert list(kinds(text)) == found


@pytest.mark.parametrize(
    "text",
    [
        "key AKIAIOSFODNN7EXAMPLE",
        "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
        "sk-ant-api03-abcDEF123456ghiJKL",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "api_key=9f8e7d6c5b4a",
        "my password is Tr0ub4dor&3x",
        "Authorization: Bearer abcdefghijklmnopqrstuvwxyz012345",
        "hf_abcdefghijklmnopqrstuvwxyzABCDEF",
        '{"password": "S3cret!x9Q"}',
        "'api_key': 'a8f5f167f44f4964e6c998dee827110c'",
        '{\\"client_secret\\": \\"a8f5f167f44f4964\\"}',
        "'token' => 'Zx81-kQ77p'",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "DB_PASSWORD=Tr0ub4dor&3",
        "export STRIPE_API_KEY=abc123def456ghi",
        "OPENAI_API_KEY: sk-abcdefghijklmnopqrstuvwx1",
        "x-api-key: 8f14e45fceea167a5a36dedd4bea2543",
        "Passwort: Xy7!kkLm9",
        "password: hunter2",
        "the key sk-AbCdEfGhIjKlMnOpQrSt4uVw",
        "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",
        "sk-proj-ab_cdEF-0123456789abcdefGHIJ-x",
    ],
)
def test_secrets_by_their_shape(text: str) -> None:
    assert secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "the password is wrong",
        "password: forgotten",
        "a token of thanks",
        "sk-ating is fun",
        "the pin is in the door",
        "secret: none",
        "see https://hotel.example/sk-bratislava-old-town-apartments",
        "the sk-learn-based-classification-pipeline",
        "sk-Bratislava-Old-Town-Apartments-2024-with-pool",
        "sk-donaudampfschifffahrtsgesellschaft2024",
        '{"type": "object", "properties": {"password": {"type": "string"}, "api_key": {"type": "string", "minLength": 32}}}',
        '{"username": "string", "password": "string", "pin": "6-digit number"}',
        'api_key = "your-api-key"',
        "API_KEY=YOUR_API_KEY_1",
        "token: <token>",
        "password: ********",
        "DB_PASSWORD=${DB_PASSWORD_2}",
        "DB_PASSWORD=%PASS1%",
        'password = os.environ["DB_PASS1"]',
        "token = process.env.TOKEN_V2",
        "const token = req.headers.auth1",
        "token = tokenizer2.encode(text)",
        "api_key: Optional[str] = None",
        "token: {{ item.token1 }}",
        "max_token: 4096.5",
        "password: 2024-01-31",
        "password_hint: Tr0ub4dor&3",
        "LED_PIN = GPIO17_A",
        "Password: At least 8 characters and 1 sign",
        "Secret key: use-2-eggs",
        "The secret: 3/4 cups of sugar",
        "token: https://example.com/v2/Tokens",
    ],
)
def test_words_about_secrets_are_none(text: str) -> None:
    assert not secrets(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is the parcel that I ordered?", "English"),
        ("Wo ist das Paket, das ich bestellt habe?", "German"),
        ("Où est le colis que j'ai commandé ?", "French"),
        ("¿Dónde está el paquete que pedí?", "Spanish"),
        ("Где моя посылка?", "in Cyrillic script"),
        ("荷物はどこですか", "in Japanese script"),
        ("SKU 4711 XL", ""),
        ("", ""),
    ],
)
def test_languages_by_script_and_small_words(text: str, language: str) -> None:
    assert language_of(text) == language


@given(st.text(max_size=60))
def test_repairs_are_done_after_one_pass(text: str) -> None:
    for rewrite in (repair_text, clean):
        once = rewrite(text)
        assert rewrite(once) == once


def test_what_wraps_an_answer_is_taken_off_and_nothing_else() -> None:
    assert without_wrapping('Sure, here is the JSON:\n```json\n{"a": 1}\n```') == '{"a": 1}'
    assert without_wrapping("```\nyes\n```") == "yes"
    assert without_wrapping("at the pier") == "at the pier"
    assert unescape("a\\nb \\u00e9") == "a\nb é"


def test_lengths_far_off_are_found_and_a_broad_spread_is_none() -> None:
    lengths = np.random.default_rng(1).lognormal(4, 0.5, 300)
    assert outliers(lengths) == []
    assert outliers(np.append(lengths, 9_000.0)) == [300]


def test_every_broken_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    folder = bundled_folder(tmp_path, "handbook")
    folder.write()
    path = tmp_path / "examples.jsonl"
    lines = path.read_bytes().splitlines()
    faults = [
        b"{not json",
        b"[1, 2]",
        b'{"question": "a"}',
        b'{"prompt": "caf\xe9", "completion": "b"}',
        b'{"prompt": "a\x00", "completion": "b"}',
    ]
    faults += [lines[3], b'{"messages": [{"role": "robot", "content": "a"}]}', b'{"prompt": 3, "completion": "b"}']
    path.write_bytes(b"\n".join([*lines, *faults]) + b"\n")
    report = run_checks(context_of(Task.load(tmp_path)))
    assert lines_of(report, "broken-row") == {("examples.jsonl", line) for line in range(151, 159)}
    assert report.rows == 150
    assert {one.code for one in report.blocking()} == {"broken-row"}


def test_a_byte_order_mark_is_named_and_the_rows_behind_it_are_read(tmp_path: Path) -> None:
    bundled_folder(tmp_path, "handbook").write()
    path = tmp_path / "examples.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    report = run_checks(context_of(Task.load(tmp_path)))
    assert lines_of(report, "broken-row") == {("examples.jsonl", 1)}
    assert "byte order mark" in report.blocking()[0].rows[0].seen
    assert report.rows == 150


def chats(count: int = 30) -> list[dict[str, object]]:
    words = "tea rain ships bread glass winter clocks paint maps owls salt doors rope ink wool".split()
    return [
        {
            "messages": [
                {"role": "system", "content": "Answer in a word."},
                {
                    "role": "user",
                    "content": f"What goes with {words[n % 15]} number {n * 7} at the {words[(n * 4 + 3) % 15]} fair?",
                },
                {"role": "assistant", "content": words[(n * 2 + 1) % 15]},
            ]
        }
        for n in range(count)
    ]


@pytest.fixture
def talk(tmp_path: Path) -> Folder:
    return Folder(
        tmp_path, {"examples": chats()}, 'name = "t"\ninstruction = "Answer in a word."\n[data]\nexamples = "examples.jsonl"\n'
    )  # type: ignore[arg-type]


def test_plain_conversations_are_in_order(talk: Folder) -> None:
    report = report_of(talk)
    assert not lines_of(report, "turns", "system-drift", "nothing-to-learn")


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("turns", lambda row, n: row["messages"].insert(2, {"role": "user", "content": "And?"})),
        ("turns", lambda row, n: row["messages"].insert(1, {"role": "assistant", "content": "Hello."})),
        ("turns", lambda row, n: row["messages"].insert(2, {"role": "system", "content": "Be brief."})),
        ("turns", lambda row, n: row["messages"].insert(2, {"role": "tool", "content": "7", "tool_call_id": "x"})),
        ("turns", lambda row, n: row["messages"].insert(1, {"role": "user", "content": ""})),
        ("system-drift", lambda row, n: row["messages"].pop(0)),
        ("system-drift", lambda row, n: row["messages"][0].update(content=f"Answer in a sentence {n}.")),
        ("nothing-to-learn", lambda row, n: row["messages"][-1].update(weight=0)),
    ],
)
def test_turns_out_of_order_are_found(talk: Folder, code: str, change: object) -> None:
    planted = plant(talk, change, every=7, count=5)  # type: ignore[arg-type]
    assert planted <= lines_of(report_of(talk), code)


def test_tool_calls_that_do_not_fit_are_found(talk: Folder) -> None:
    def call(name: str, arguments: str) -> dict[str, object]:
        calls = [{"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}]
        return {"role": "assistant", "content": None, "tool_calls": calls}

    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    for row, made in zip(talk.rows["examples"], [call("look", "{}"), call("see", "{}"), call("look", "{a")], strict=False):
        row["tools"] = tools
        row["messages"][2:2] = [made, {"role": "tool", "content": json.dumps(7), "tool_call_id": "c1"}]
    assert lines_of(report_of(talk), "turns") == {("examples.jsonl", 2), ("examples.jsonl", 3)}
