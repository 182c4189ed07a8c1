"""The same question with different answers: what no system can learn, and what it caps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.data.checks.answers import another_wording, comparable
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Severity
from stepladder.data.checks.variants import same_meaning

ENOUGH_REPEATS = 20  # rows; fewer say nothing about the others


@dataclass(frozen=True, slots=True)
class LabelCeiling:
    """How well the best possible system could agree with these references.

    rate: No system can be right on a larger share of these rows, since some questions carry several answers; at most 1.
    repeated: Rows whose question occurs more than once. `minority` of them disagree with the commonest answer to their question.
    if_alike: The ceiling if all questions were answered as inconsistently as the repeated ones; None with too few of those.
    """

    rate: float
    rows: int
    repeated: int
    minority: int
    if_alike: float | None

    @property
    def sentence(self) -> str:
        if not self.repeated:
            return (
                "Label ceiling: unknown; no question occurs twice. Label 20 rows a second time to learn how well answers agree."
            )
        told = f"Label ceiling: {self.repeated:,} rows ask a question that occurs more than once, {self.minority:,} of them "
        told += f"contradict the commonest answer: no system can be right on more than {self.rate:.1%} of these rows"
        if self.if_alike is None:
            return told + "."
        return told + f", nor on more than about {self.if_alike:.0%} if the other answers are as inconsistent."


def label_ceiling(context: CheckContext) -> LabelCeiling:
    """The ceiling from questions that occur more than once, the same but for case and punctuation.

    Almost the same words may ask something else, so they do not lower it.
    """
    repeated = minority = 0
    for group in context.same_input:
        repeated += len(group)
        minority += len(group) - max(Counter(_answers(context, group)).values())
    total = len(context.rows)
    rate = 1 - minority / total if total else 1.0
    return LabelCeiling(rate, total, repeated, minority, 1 - minority / repeated if repeated >= ENOUGH_REPEATS else None)


def find(context: CheckContext) -> list[Finding]:
    against: dict[int, Mark] = {}
    wordings: dict[int, Mark] = {}
    for group in context.same_input:
        answers = dict(zip(group, _answers(context, group), strict=True))
        for place, answer in answers.items():
            others = [other for other, said in answers.items() if said != answer]
            if others:
                (wordings if _in_other_words(context, place, others) else against)[place] = _mark(context, place, others)
    perhaps = _among_variants(context)
    ceiling = label_ceiling(context)
    return [
        *finding(
            "contradiction",
            Severity.WARN,
            against.values(),
            f"{{rows}} ask what another row asks and are answered otherwise. {ceiling.sentence}",
            "Decide which answer is right, or add to the input what makes them differ.",
        ),
        *finding(
            "contradiction",
            Severity.WARN,
            [mark for place, mark in sorted(perhaps.items()) if place not in against],
            "{rows} ask almost in the words of another row and may contradict it. They do not lower the label ceiling.",
            "Read both: where they ask the same, decide which answer is right.",
        ),
        *finding(
            "contradiction",
            Severity.NOTE,
            wordings.values(),
            "{rows} ask what another row asks and are answered in other words. A grader that compares texts will mark "
            "one of them down.",
            "Nothing, if both answers are right.",
        ),
    ]


def _among_variants(context: CheckContext) -> dict[int, Mark]:
    """Marks of rows that a row in almost the same words answers otherwise, pair by pair: what is like both need not be alike."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(context.plain_inputs):
        rows_of[text].append(place)
    marks: dict[int, Mark] = {}
    for pair in context.variant_rows:
        texts = [context.plain_inputs[place] for place in pair]
        if not same_meaning(*texts):
            continue
        here, there = (rows_of[text] for text in texts)
        answers = dict(zip([*here, *there], _answers(context, [*here, *there]), strict=True))
        for own, theirs in ((here, there), (there, here)):
            for place in own:
                others = [other for other in theirs if answers[other] != answers[place]]
                if others and not _in_other_words(context, place, others):
                    marks.setdefault(place, _mark(context, place, others))
    return marks


def _mark(context: CheckContext, place: int, others: Sequence[int]) -> Mark:
    row, other = context.rows[place], context.rows[others[0]]
    return row.mark(f"answers {quote(row.reference)}; {other.file}:{other.line} answers {quote(other.reference)}")


def _in_other_words(context: CheckContext, place: int, others: Sequence[int]) -> bool:
    """Whether a free text may say the same as all those others."""
    own = context.rows[place].reference
    return _is_free_text(context) and all(another_wording(own, context.rows[other].reference) for other in others)


def _answers(context: CheckContext, group: Sequence[int]) -> list[object]:
    """Comparable answers; where the inputs are not quite the same, values copied from them do not count."""
    plain = [comparable(context.rows[place].reference, context.plain_inputs[place], copies=True) for place in group]
    if len({context.plain_inputs[place] for place in group}) == 1 or context.task.settings.output.labels:
        return plain
    common = Counter(plain)
    return [
        answer if common[answer] > 1 else comparable(context.rows[place].reference, context.plain_inputs[place], copies=False)
        for place, answer in zip(group, plain, strict=True)
    ]


def _is_free_text(context: CheckContext) -> bool:
    output = context.task.settings.output
    return not output.labels and output.json_schema is None and output.regex is None


CHECK = Check(
    "contradiction",
    "Rows with the same input (case and punctuation aside) and different answers. They give the label ceiling: the best score "
    "any system can reach on these rows. Where fillers or a misspelling are all that tells two inputs apart, different answers "
    "may contradict, and lower no ceiling. For free text, other words for the same are only noted.",
    find,
)
