"""The command `review`: which of two answers is better, asked blind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from stepladder.interfaces.cli.dialogue import Dialogue, open_dialogue
from stepladder.interfaces.cli.labelling import shown_input
from stepladder.service.review import Choice, Pair, Reviewing, open_review
from stepladder.service.show import review_line
from stepladder.storage.records import to_json

CHOICES = {"a": "a", "b": "b", "t": "tie", "s": "skip"}
HINT = "a or b is better · t tie · s skip · q stop"


def review(run: Path, *, against: str, rows: int, as_json: bool) -> None:
    """Ask until every pair has a choice, then say whose answers were preferred."""
    work = open_review(run, against=against, rows=rows)
    if work.next_pair() is not None:
        with open_dialogue("review", "Run it in a terminal.") as dialogue:
            _hold(work, dialogue)
    if work.next_pair() is not None:
        done, total = len(work.choices), len(work.answers)
        if as_json:
            print(json.dumps({"finished": False, "judged": done, "rows": total}))
        else:
            print(f"{done} judged; nothing is uncovered before the end. Run the same command again to continue.")
        return
    finished = work.finish()
    if as_json:
        print(json.dumps({"finished": True, **to_json(finished)}, ensure_ascii=False))
        return
    print(review_line(finished))
    print(f"Report: {work.run.report_path}")


def _hold(work: Reviewing, dialogue: Dialogue) -> None:
    dialogue.say("Two answers to each test row, in random order. Say which you would rather send.", "bold")
    while (pair := work.next_pair()) is not None:
        _show(dialogue, pair)
        pressed = dialogue.key(*CHOICES, "q")
        if pressed == "q":
            return
        work.choose(pair, cast(Choice, CHOICES[pressed]))


def _show(dialogue: Dialogue, pair: Pair) -> None:
    dialogue.rule(f"{pair.number} of {pair.total}")
    dialogue.say(shown_input(pair.input))
    for name, answer in (("A", pair.a), ("B", pair.b)):
        dialogue.say()
        dialogue.say(f"{name}:", "bold")
        dialogue.say(answer or "(empty)")
    dialogue.say()
    dialogue.say(HINT, "dim")
