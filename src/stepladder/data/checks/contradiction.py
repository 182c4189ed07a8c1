"""The same question with different answers: what no system can learn, and what it caps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.data.checks.answers import another_wording, comparable
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Severity

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
    """The ceiling from questions that occur more than once."""
    repeated = minority = 0
    for group in _questions(context):
        repeated += len(group)
        minority += len(group) - max(Counter(_answers(context, group)).values())
    total = len(context.rows)
    rate = 1 - minority / total if total else 1.0
    return LabelCeiling(rate, total, repeated, minority, 1 - minority / repeated if repeated >= ENOUGH_REPEATS else None)


def find(context: CheckContext) -> list[Finding]:
    against: list[Mark] = []
    wordings: list[Mark] = []
    for group in _questions(context):
        answers = _answers(context, group)
        if len(set(answers)) == 1:
            continue
        free = _is_free_text(context)
        for place, answer in zip(group, answers, strict=True):
            row = context.rows[place]
            others = [context.rows[other] for other, said in zip(group, answers, strict=True) if said != answer]
            mark = row.mark(
                f"answers {quote(row.reference)}; {others[0].file}:{others[0].line} answers {quote(others[0].reference)}"
            )
            agreeing = free and all(another_wording(row.reference, other.reference) for other in others)
            (wordings if agreeing else against).append(mark)
    ceiling = label_ceiling(context)
    return [
        *finding(
            "contradiction",
            Severity.WARN,
            against,
            f"{{rows}} ask what another row asks and are answered otherwise. {ceiling.sentence}",
            "Decide which answer is right, or add to the input what makes them differ.",
        ),
        *finding(
            "contradiction",
            Severity.NOTE,
            wordings,
            "{rows} ask what another row asks and are answered in other words. A grader that compares texts will mark "
            "one of them down.",
            "Nothing, if both answers are right.",
        ),
    ]


def _questions(context: CheckContext) -> list[list[int]]:
    """Places of rows that ask the same, two and more; pairs that are alike are joined step by step."""
    parent = list(range(len(context.rows)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for group in context.same_input:
        for place in group[1:]:
            parent[root(place)] = root(group[0])
    for one, other in context.variant_rows:
        parent[root(other)] = root(one)
    groups: dict[int, list[int]] = defaultdict(list)
    for place in range(len(context.rows)):
        groups[root(place)].append(place)
    return [group for group in groups.values() if len(group) > 1]


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
    "Rows with the same input (case, punctuation, fillers and misspellings aside) and different answers. They give the "
    "label ceiling: "
    "the best score any system can reach on these rows. For free text, other words for the same are only noted.",
    find,
)
