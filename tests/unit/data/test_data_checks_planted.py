"""Every check finds faults planted into real rows, and leaves alone what only looks like them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from planted import Row, answer, bundled_folder, field, lines_of, one_of, plant, prompt, report_of
from stepladder.data.checks import CHECKS, Severity

Change = Callable[[Row, int], object]


def swap_letters(text: str) -> str:
    """A slip of the keys in the longest word."""
    word = max(text.split(), key=len)
    return text.replace(word, word[:1] + word[2] + word[1] + word[3:], 1)


GERMAN = "Wo ist mein Paket und wann wird es denn endlich geliefert, bitte?"
RUSSIAN = "Мой заказ ещё не пришёл, где он сейчас находится?"
CARD, IBAN = "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"

PLANTED: list[tuple[str, str, Change]] = [
    ("mojibake", "tickets", prompt("{} CafÃ© donâ€™t")),
    ("mojibake", "handbook", prompt("wha\ufffdt {}")),
    ("invisible", "tickets", prompt("\u200b{}")),
    ("invisible", "tickets", prompt("a\u00a0word {}")),
    ("invisible", "tickets", prompt("{} \u202etxt")),
    ("markup", "tickets", prompt("<p>{}</p>")),
    ("markup", "handbook", prompt("{} &amp; more")),
    ("markup", "handbook", prompt("{}\\nand more")),
    ("leftover", "handbook", answer("As an AI language model, I would say {}")),
    ("leftover", "handbook", answer("Sure, here is the answer: {}")),
    ("leftover", "handbook", answer("Certainly! {}")),
    ("leftover", "handbook", answer("{}. Let me know if you have any questions.")),
    ("leftover", "handbook", answer("```\n{}\n```")),
    ("leftover", "handbook", answer("**{}**")),
    ("leftover", "handbook", answer("I'm afraid I cannot help you with that request.")),
    ("format-types", "tickets", field(product="")),
    ("format-types", "tickets", field(product="N/A")),
    ("answer-in-input", "handbook", lambda row, n: row.update(prompt=f"{row['prompt']} {row['completion']}")),
    ("leftover", "handbook", answer("<think>hm</think>{}")),
    ("leftover", "tickets", prompt("Dear [insert name], {}")),
    ("leftover", "tickets", prompt("{{name}} wrote: {}")),
    ("dialogue-marks", "handbook", prompt("User: {}")),
    ("dialogue-marks", "handbook", answer("{}\nUser: and another")),
    ("dialogue-marks", "handbook", answer("### Response: {}")),
    ("numbering", "handbook", prompt("{n}. {}")),
    ("numbering", "handbook", answer("- {}")),
    ("repetition", "handbook", answer("{}. {}. {}. {}. {}.")),
    ("whitespace", "tickets", prompt("{} ")),
    ("whitespace", "handbook", answer("\n{}")),
    ("separator", "tickets", prompt("{}\n\n###\n\n")),
    ("separator", "tickets", prompt("{} ->")),
    ("separator", "handbook", answer("{} END")),
    ("control-token", "tickets", prompt("{}<|im_end|>")),
    ("control-token", "tickets", one_of([prompt("{} </s>"), prompt("[INST] {}"), prompt("{}<start_of_turn>")])),
    ("personal-data", "handbook", prompt("{} (jane.doe{n}@posthuis.nl)")),
    ("personal-data", "handbook", prompt(f"{{}} {CARD}")),
    ("personal-data", "handbook", prompt(f"{{}} {IBAN}")),
    ("personal-data", "handbook", one_of([prompt("{} +49 170 1234567"), prompt("{} (212) 234-5678"), prompt("{} 07911 123456")])),
    ("personal-data", "handbook", prompt("{} 536-90-4399")),
    ("secret", "tickets", prompt("{} AKIAIOSFODNN7EXAMPLE")),
    ("secret", "tickets", prompt("{} password: hunter2x!9")),
    ("secret", "tickets", prompt("{} postgres://shop:hunter22@db.example.org/x")),
    ("language", "tickets", lambda row, n: row.update(prompt=(GERMAN, RUSSIAN)[n % 2])),
    ("echo", "handbook", lambda row, n: row.update(completion=row["prompt"])),
    ("echo", "handbook", lambda row, n: row.update(completion=f"{row['prompt']} {row['completion']}")),
    ("answer-in-input", "kinds", lambda row, n: row.update(prompt=f"{row['prompt']} Label: {row['completion']}")),
    ("answer-in-input", "handbook", lambda row, n: row.update(prompt=f"{row['prompt']} (Answer: {row['completion']})")),
    ("empty", "handbook", answer("")),
    ("empty", "handbook", answer("   ")),
    ("empty", "handbook", lambda row, n: row.update(prompt="")),
    ("empty", "handbook", lambda row, n: row.update(completion=("N/A", "null", "TODO")[n % 3])),
    ("empty", "handbook", lambda row, n: row.update(prompt="???")),
    ("off-output", "tickets", lambda row, n: row.update(completion=row["completion"][:-9])),
    ("off-output", "tickets", field(category="parcel")),
    ("off-output", "tickets", field(wants_refund="yes")),
    ("off-output", "tickets", lambda row, n: row.update(completion=f"The answer is {row['completion']}")),
    ("broken-row", "tickets", lambda row, n: row.pop("completion")),
    ("broken-row", "tickets", lambda row, n: row.update(prompt=None)),
    ("length", "tickets", lambda row, n: row.update(prompt=" ".join([row["prompt"]] * 40))),
    ("length", "handbook", lambda row, n: row.update(completion="the ferry waits at the pier for late cars " * 30)),
    ("label-spelling", "kinds", lambda row, n: row.update(completion=row["completion"].capitalize())),
    ("label-spelling", "kinds", lambda row, n: row.update(completion="delivrey")),
    ("cut-answer", "handbook", lambda row, n: row.update(completion="the harbour office and the")),
    ("cut-answer", "handbook", lambda row, n: row.update(completion="the harbour office (open")),
    ("format-case", "handbook", lambda row, n: row.update(completion="AT THE HARBOUR OFFICE")),
]


@pytest.mark.parametrize(("code", "task", "change"), PLANTED, ids=[f"{code}-{n}" for n, (code, _, _) in enumerate(PLANTED)])
def test_every_planted_fault_is_found_in_its_row(code: str, task: str, change: Change, tmp_path: Path) -> None:
    folder = bundled_folder(tmp_path, task)
    planted = plant(folder, change)
    assert planted <= lines_of(report_of(folder), code)


LOOK_ALIKES: list[tuple[str, str, Change]] = [
    ("mojibake", "tickets", prompt("{} Café, don’t, naïve, Ångström, 10 € “quoted” — ÉLAN…")),
    ("invisible", "tickets", prompt("{} 👩‍👧 10 € « oui »")),
    ("markup", "tickets", prompt("{} R&D, 3 < 5 > 2, C:\\temp")),
    ("leftover", "handbook", answer("sure-footed shoes, here and there")),
    ("leftover", "tickets", prompt("{} {n} of [2]")),
    ("dialogue-marks", "handbook", prompt("{} The sign says: closed")),
    ("numbering", "handbook", answer("1.5 metres")),
    ("repetition", "handbook", answer("the pier, the quay, the dock and the shed")),
    ("whitespace", "handbook", answer("two\nlines")),
    ("separator", "tickets", prompt("{} -- at the end of the road")),
    ("control-token", "tickets", prompt("{} <3 [sic] a<b>c")),
    ("personal-data", "tickets", prompt("order 4111111111111112, version 10.0.0.1, 2024-03-01, 12-34, at 5 @ noon")),
    (
        "personal-data",
        "tickets",
        prompt("{} me.{n}@shop.example, info@mail.example.org, 0808 157 0142, 07700 900123, (212) 555-0187"),
    ),
    ("dialogue-marks", "handbook", prompt("Question: {} And when? Answer: On the first floor.")),
    (
        "cut-answer",
        "voice",
        lambda row, n: row.update(prompt=f"{row['prompt']} Solveig", completion="All is well here by the sea. Solveig, baker"),
    ),
    ("cut-answer", "voice", answer("All is well here by the sea, so write to info@shop.example")),
    ("secret", "tickets", prompt("{} I forgot my password. Is the password case sensitive? token of thanks")),
    ("language", "tickets", prompt("{} from the café in São Paulo, für Elise")),
    ("answer-in-input", "kinds", prompt("{} delivery and billing")),
    ("empty", "handbook", lambda row, n: row.update(completion=str(n))),
    ("length", "tickets", prompt("{} And that is all there is to say about it for now.")),
    (
        "cut-answer",
        "handbook",
        lambda row, n: row.update(completion=("by the harbour office :(", "12.5 metres", "Mr. Grey")[n % 3]),
    ),
    ("duplicate", "handbook", prompt("{} {n} days later")),
    ("contradiction", "handbook", prompt("{} On level {n}?")),
]


@pytest.mark.parametrize(
    ("code", "task", "change"), LOOK_ALIKES, ids=[f"{code}-{n}" for n, (code, _, _) in enumerate(LOOK_ALIKES)]
)
def test_what_only_looks_like_a_fault_is_left_alone(code: str, task: str, change: Change, tmp_path: Path) -> None:
    folder = bundled_folder(tmp_path, task)
    before = lines_of(report_of(folder), code)
    planted = plant(folder, change)
    assert not (lines_of(report_of(folder), code) - before) & planted


@pytest.mark.parametrize("task", ["tickets", "handbook"])
def test_the_bundled_tasks_are_clean(task: str, tmp_path: Path) -> None:
    report = report_of(bundled_folder(tmp_path, task))
    assert not report.blocking()
    assert sum(one.severity is Severity.WARN for one in report.findings) <= 2, report.findings


def test_codes_are_different_and_described_in_a_sentence() -> None:
    codes = [check.code for check in CHECKS]
    assert len(set(codes)) == len(codes)
    assert all(check.what[0].isupper() and check.what.endswith(".") for check in CHECKS)


def test_a_slip_of_the_keys_in_a_label_is_found_and_a_rare_label_is_not(tmp_path: Path) -> None:
    folder = bundled_folder(tmp_path, "kinds")
    slips = plant(folder, lambda row, n: row.update(completion=swap_letters(row["completion"])))
    assert slips <= lines_of(report_of(folder), "label-spelling")
    rare = bundled_folder(tmp_path / "rare", "kinds")
    kept = plant(rare, lambda row, n: row.update(completion="suggestion"), count=2)
    assert not kept & lines_of(report_of(rare), "label-spelling")
    assert kept <= lines_of(report_of(rare), "label-balance")
