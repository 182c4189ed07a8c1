"""The data checks on a task: read leniently, give the checks what they ask for, show, repair into copies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stepladder import files
from stepladder.data.checks import CHECKS, CheckContext, CheckReport, Mark, Severity, build_context, run_checks
from stepladder.data.checks.context import Lengths
from stepladder.data.checks.repair import Change, fixed_name, repair_text, repairs_by_file
from stepladder.data.checks.rows import ReadRows, read_rows
from stepladder.data.checks.tokens import lengths_of, template_facts
from stepladder.data.documents import load_documents
from stepladder.domain.errors import DataError, ModelError, UsageError
from stepladder.domain.messages import Chunk, Message
from stepladder.domain.protocols import Decoding, Embedder, Engine, Progress, Prompt, SilentProgress
from stepladder.domain.task import Task
from stepladder.evaluation.facts import Haystack, find_facts, report_facts
from stepladder.models.catalog import is_remote
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.manifest import read_json
from stepladder.models.pull import list_models
from stepladder.models.tokenizer import Tokenizer
from stepladder.service import wiring
from stepladder.service.likeness import measure_likeness

SHOWN_ROWS = 5
SHOWN_REPAIRS = 10
ASKED_ROWS = 100
"""Rows whose facts the model is asked for; each costs nine answers."""
INVALID_ALL_THE_SAME = {"leak-prompt"}
"""Findings that a climb may accept and whose verdict is invalid for them all the same."""
DRAWS = 8
DRAW_TEMPERATURE = 0.8
ANSWER_TOKENS = 96
GOOD_ROWS = "50 to 100 good rows beat thousands of mediocre ones: repair before you add."


@dataclass(frozen=True)
class Fixed:
    """A corrected copy that was written, and every change in it."""

    path: Path
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Checked:
    """A finished check. Prints as its findings."""

    task: Task
    report: CheckReport
    fixed: tuple[Fixed, ...] = ()

    @property
    def blocked(self) -> bool:
        """Whether a finding stops a climb that `[data] accept` does not let pass."""
        return bool(self.report.blocking(self.task.settings.data.accept))

    def __str__(self) -> str:
        return "\n".join(report_lines(self))


def check(
    task: Task | Path | str,
    *,
    fix: bool = False,
    with_model: bool = False,
    device: str = "auto",
    embedder: Embedder | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Checked:
    """Run every data check on a task; nothing but corrected copies is written, and those only with `fix`.

    Args:
        with_model: Also ask the base model: loss outliers, foreign test rows, facts it does not know.
        embedder, engine: Instead of the starter embedder and the engine that task.toml names.
    Raises:
        DataError: task.toml, `[output]`, a prompt file or a document cannot be read.
        UsageError: `[data] accept` names a code that no check has.
    """
    task = task if isinstance(task, Task) else Task.load(task)
    check_accepted(task)
    if with_model and engine is None:
        engine = wiring.build_engine(task.settings.model.base, task, device=device)
    report = run_on(task, embedder or wiring.build_embedder(), engine=engine, ask=ASKED if with_model else (), progress=progress)
    checked = Checked(task, report)
    return replace(checked, fixed=write_fixed(task, report)) if fix else checked


def run_on(
    task: Task,
    embedder: Embedder,
    *,
    engine: Engine | None = None,
    ask: Collection[str] = (),
    progress: Progress | None = None,
) -> CheckReport:
    """The checks on a task's files as they are. `engine` counts tokens; what `ask` names of `ASKED` it is asked for, too."""
    read = read_rows(task)
    chunks = load_documents(task)
    context = build_context(task, read, chunks=chunks, prompts=_prompts(task, read), embedder=embedder)
    context = replace(context, lacking=_lacking(context, chunks))
    context = _with_tokens(context, engine)
    if engine is not None:
        for name in ask:
            context = ASKED[name](context, engine, progress or SilentProgress())
    return run_checks(context)


def check_accepted(task: Task) -> None:
    """Make sure that `[data] accept` names codes that exist.

    Raises:
        UsageError: One does not.
    """
    codes = [one.code for one in CHECKS]
    unknown = [code for code in task.settings.data.accept if code not in codes]
    if unknown:
        raise UsageError(f"`[data] accept` names '{unknown[0]}', which no check has.", f"Codes are: {', '.join(codes)}.")


def refuse_blocked(checked: Checked) -> None:
    """Stop a climb on data that blocks.

    Raises:
        DataError: Names the findings and their first row.
    """
    blocking = checked.report.blocking(checked.task.settings.data.accept)
    if not blocking:
        return
    first = next((mark for one in blocking for mark in one.rows), None)
    where = checked.task.path(first.file) if first else checked.task.folder / "task.toml"
    said = "; ".join(f"{one.code}: {one.evidence}" for one in blocking)
    codes = dict.fromkeys(one.code for one in blocking)
    hint = "`stepladder check` shows every row and `--fix` repairs what it can"
    if INVALID_ALL_THE_SAME.isdisjoint(codes):
        hint += "; or set `[data] accept = [{}]`".format(", ".join(f'"{code}"' for code in codes))
    raise DataError(where, (first.line or None) if first else None, said, f"{hint}.")


# What the checks ask for ----------------------------------------------------------------------------------------------


def _prompts(task: Task, read: ReadRows) -> dict[str, str]:
    """Texts that calls will hold whatever the input: the instruction and the user's own prompts."""
    texts = {"the instruction": read.shared_instruction or task.settings.instruction}
    for prompt in task.settings.prompts:
        try:
            texts[prompt.file] = task.path(prompt.file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            problem = f"the prompt cannot be read: {error}."
            raise DataError(task.path(prompt.file), None, problem, "Check `[[prompts]] file`.") from error
    return texts


def _lacking(context: CheckContext, chunks: Sequence[Chunk]) -> dict[str, tuple[str, ...]]:
    """Facts in the references that nothing in the task holds, by row id."""
    examples = [row.example for row in context.rows]
    found = find_facts(examples, examples, context.clusters, context.task)
    documents = Haystack("\n".join(chunk.text for chunk in chunks))
    shared = Haystack(context.shared_instruction or "")
    left = {id: tuple(span for span in spans if span not in documents and span not in shared) for id, spans in found.items()}
    return {id: spans for id, spans in left.items() if spans}


def _with_tokens(context: CheckContext, engine: Engine | None) -> CheckContext:
    """Template facts where tokenizer and template lie on this machine; else lengths, where an engine can count."""
    task = context.task
    folder = None if is_remote(task.settings.model.base) else _model_folder(task.settings.model.base)
    if engine is not None and engine.identity.engine != "transformers":
        folder = None
    if folder is not None:
        try:
            template, tokenizer = ChatTemplate.from_folder(folder), Tokenizer.from_folder(folder)
        except ModelError:
            return context  # the climb says it when it loads the model; here those checks are "not run"
        instruction = context.shared_instruction or task.settings.instruction
        facts = template_facts(context.rows, instruction, template, tokenizer)
        return replace(context, template=facts, lengths=lengths_of(facts, _context_tokens(folder)))
    if engine is not None and "count" in engine.can and engine.identity.context_tokens:
        return replace(context, lengths=_count(context, engine))
    return context


def _model_folder(name: str) -> Path | None:
    """The folder of a model that is on this machine already; a check fetches nothing."""
    if (Path(name) / "tokenizer.json").is_file():
        return Path(name)
    return next((manifest.folder for manifest in list_models() if manifest.name == name), None)


def _context_tokens(folder: Path) -> int:
    config = read_json(folder / "config.json")
    return int({**config, **config.get("text_config", {})}.get("max_position_embeddings") or 0)


def _count(context: CheckContext, engine: Engine) -> Lengths:
    prompts = _row_prompts(context)
    answers = engine.count_text_tokens([row.reference for row in context.rows])
    counted = zip(context.rows, engine.count_tokens(prompts), answers, strict=True)
    return Lengths(engine.identity.context_tokens, {row.id: (prompt, answer) for row, prompt, answer in counted})


def _row_prompts(context: CheckContext) -> list[Prompt]:
    instruction = Message("system", context.shared_instruction or context.task.settings.instruction)
    prompts = []
    for row in context.rows:
        own = row.example.input.messages
        prompts.append(Prompt(row.id, own if own[0].role == "system" else (instruction, *own), row.example.input.tools))
    return prompts


def _rows_that_fit(context: CheckContext, engine: Engine) -> set[str]:
    """Rows the model can be asked about; the others are `too-long`, which is a finding of its own."""
    lengths = context.lengths
    if lengths is None and "count" in engine.can:
        lengths = _count(context, engine)
    if lengths is None or not lengths.context_tokens:
        return {row.id for row in context.rows}
    room = lengths.context_tokens
    return {id for id, (prompt, answer) in lengths.tokens.items() if prompt + max(answer, ANSWER_TOKENS) < room}


def _ask_for_losses(context: CheckContext, engine: Engine, progress: Progress) -> CheckContext:
    if "score" not in engine.can:
        return context
    fitting = _rows_that_fit(context, engine)
    prompts = [prompt for prompt in _row_prompts(context) if prompt.id in fitting]
    progress.start("scoring the answers")
    scores = engine.score(prompts, [[row.reference] for row in context.rows if row.id in fitting])
    progress.finish()
    return replace(context, losses={prompt.id: own[0] for prompt, own in zip(prompts, scores, strict=True)})


def _ask_for_likeness(context: CheckContext, engine: Engine, progress: Progress) -> CheckContext:
    if "score" not in engine.can:
        return context
    return replace(context, likeness=measure_likeness(context, engine, progress))


def _ask_for_facts(context: CheckContext, engine: Engine, progress: Progress) -> CheckContext:
    wanted = _rows_that_fit(context, engine).intersection(context.lacking or {})
    asked = [prompt for prompt in _row_prompts(context) if prompt.id in wanted][:ASKED_ROWS]
    draws: dict[str, list[str]] = {prompt.id: [] for prompt in asked}
    if asked and is_remote(context.task.settings.model.base):
        progress.note(
            f"{engine.identity.name} is asked for facts: {len(asked) * (1 + DRAWS):,} answers, which its provider may bill."
        )
    progress.start("asking for facts", 1 + DRAWS)
    for draw in range(1 + DRAWS if asked else 0):
        decoding = Decoding(ANSWER_TOKENS, temperature=DRAW_TEMPERATURE if draw else 0.0, seed=draw)
        for prompt, answer in zip(asked, engine.generate(asked, decoding), strict=True):
            draws[prompt.id].append(answer.text)
        progress.advance()
    progress.finish()
    lacking = {id: spans for id, spans in (context.lacking or {}).items() if id in draws}
    return replace(context, unknown=report_facts(lacking, draws, len(context.rows)).facts)


ASKED: Mapping[str, Callable[[CheckContext, Engine, Progress], CheckContext]] = {
    "losses": _ask_for_losses,
    "likeness": _ask_for_likeness,
    "facts": _ask_for_facts,
}
"""What the base model can be asked for."""


# What is shown --------------------------------------------------------------------------------------------------------


def report_lines(checked: Checked) -> list[str]:
    """The findings as plain lines, gravest first."""
    report = checked.report
    accepted = checked.task.settings.data.accept
    lines = [f"{report.rows:,} rows, {len(CHECKS) - len(report.not_run)} checks: {_counts(report)}."]
    for one in report.findings:
        let_pass = " (accepted)" if one.severity is Severity.BLOCK and one.code in accepted else ""
        lines += ["", f"{one.severity.value}  {one.code}{let_pass}: {one.evidence}"]
        lines += [f"  {_where(mark)}  {mark.seen}".rstrip() for mark in one.rows[:SHOWN_ROWS]]
        if len(one.rows) > SHOWN_ROWS:
            lines.append(f"  and {len(one.rows) - SHOWN_ROWS:,} more (--json lists all)")
        lines.append(f"  → {one.fix}" + (f" `--fix` can do {len(one.repairs):,} changes." if one.repairs else ""))
    lines += ["", report.ceiling.sentence]
    if report.repair_first:
        lines += [GOOD_ROWS, "Repair first:"]
        lines += [f"  {row.file}:{row.line}  {', '.join(row.codes)}" for row in report.repair_first[:SHOWN_REPAIRS]]
        if len(report.repair_first) > SHOWN_REPAIRS:
            lines.append(f"  and {len(report.repair_first) - SHOWN_REPAIRS:,} more")
    if report.not_run:
        lines += ["", "Not run:", *(f"  {one.code}: {one.needs}" for one in report.not_run)]
    if report.in_part:
        lines += ["", "Run in part:", *(f"  {one.code}: {one.needs}" for one in report.in_part)]
    for copy in checked.fixed:
        lines += ["", f"{copy.path} written, {len(copy.changes):,} changes (the original is as it was; check the copy again):"]
        lines += [f"  line {change.line}: {change.what} ({change.code})" for change in copy.changes]
    return lines


def _where(mark: Mark) -> str:
    return f"{mark.file}:{mark.line}" if mark.line else mark.file  # 0 is the file as a whole


def brief_lines(report: CheckReport) -> list[str]:
    """The findings in a line each, for a climb and its report; notes are left to `stepladder check`."""
    shown = [one for one in report.findings if one.severity is not Severity.NOTE]
    return [f"Data check {one.severity.value} {one.code}: {one.evidence}" for one in shown]


def _counts(report: CheckReport) -> str:
    counts = {severity: sum(one.severity is severity for one in report.findings) for severity in Severity}
    words = {Severity.BLOCK: "block", Severity.WARN: "warn", Severity.NOTE: "to note"}
    return ", ".join(f"{count} {words[severity]}" for severity, count in counts.items())


def to_json(checked: Checked) -> dict[str, Any]:
    """Everything, every row, as `--json` prints it and a run folder keeps it."""
    report = checked.report
    return {
        "task": checked.task.settings.name,
        "rows": report.rows,
        "blocked": checked.blocked,
        "accepted": list(checked.task.settings.data.accept),
        "findings": [
            {
                "code": one.code,
                "severity": one.severity.value,
                "evidence": one.evidence,
                "fix": one.fix,
                "repairs": len(one.repairs),
                "rows": [asdict(mark) for mark in one.rows],
            }
            for one in report.findings
        ],
        "not_run": [asdict(one) for one in report.not_run],
        "in_part": [asdict(one) for one in report.in_part],
        "label_ceiling": {**asdict(report.ceiling), "sentence": report.ceiling.sentence},
        "advice": GOOD_ROWS,
        "repair_first": [asdict(row) for row in report.repair_first],
        "fixed": [{"path": str(copy.path), "changes": [asdict(change) for change in copy.changes]} for copy in checked.fixed],
    }


def write_fixed(task: Task, report: CheckReport) -> tuple[Fixed, ...]:
    """Corrected copies beside the files that can be repaired; an older copy is replaced."""
    copies = []
    for name, repairs in repairs_by_file(report.findings).items():
        path = task.path(name)
        text, changes = repair_text(path, repairs)
        if changes:
            files.write_bytes(fixed_name(path), text.encode("utf-8", errors="surrogateescape"))
            copies.append(Fixed(fixed_name(path), tuple(changes)))
    return tuple(copies)
