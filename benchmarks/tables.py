"""Markdown tables of the real climbs and of training speed, written into marked regions of README.md and docs/log.md.

A region lies between `<!-- table:NAME -->` and `<!-- /table:NAME -->`. In the README: `demo` (the bundled demo), `bundled` (what
won on each bundled task), `real` (public data side by side), `training`, `generation` and `climb` (speed beside others),
`serving` (the server under load). In the log: `real:TASK` (one task, all its rungs), `curve` (trials of learning curves),
`curve-lora` (those of the fine-tune). In the page on data checks: `checks`; in the one on answering: `json-schema`. With
`--check` nothing is written; exit code 1 means a region is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from climb.table import climb_table
from generation.table import generation_table
from schema_suite import schema_table
from serving.table import serving_table
from stepladder.data.bundled import NAMES
from stepladder.domain.errors import DataError, StepladderError
from stepladder.files import write_text
from training.table import load_training, training_table

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path("benchmarks/results/real")
TRAINING = Path("benchmarks/results/training.json")
README = Path("README.md")
LOG = Path("docs/log.md")
DATA_CHECKS = Path("docs/explanation/data-checks.md")
ANSWERING = Path("docs/explanation/answering.md")
GENERATION = Path("benchmarks/results/generation.json")
MEASURED = {
    name: Path(f"benchmarks/results/{name}.json") for name in ("checks", "curve", "curve-lora", "json-schema", "climb", "service")
}

TAIL_HEADERS = ("cut answers", "prompt + answer tokens", "s per 1,000 calls", "s once", "remark")
DEMO = "tickets"  # the bundled task that `make demo` climbs

Result = Mapping[str, Any]


def load_results(folder: Path) -> list[Result]:
    """The stored climbs, by task name.

    Raises:
        DataError: A file is not JSON.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise DataError(path, None, f"not JSON: {error}.", "Run benchmarks/real/run.py for this task again.") from error
    return results


def overview(results: Sequence[Result]) -> str:
    """One column a task, one row a rung; then every verdict, and where the figures come from."""
    headers = ["rung", *(f"{result['name']} ({result['grader']})" for result in results)]
    names = list(dict.fromkeys(rung["name"] for result in results for rung in result["rungs"]))
    rungs = [{rung["name"]: rung for rung in result["rungs"]} for result in results]
    rows = []
    for name in names:
        cells = [_overview_cell(column.get(name), result) for column, result in zip(rungs, results, strict=True)]
        rows.append([f"`{_one_line(name)}`", *cells])
    verdicts = [f"- **{result['name']}**: {_one_line(result['verdict']['sentence'])}" for result in results]
    legend = "Test score [95 % interval]; *validation score* where a rung was no contender; **bold**: the verdict's rung."
    sources = "\n".join(f"{result['name']}: {provenance(result)}" + "  " for result in results).rstrip()
    return "\n\n".join([_table(headers, rows), legend, "\n".join(verdicts), sources])


def task_table(result: Result) -> str:
    """All rungs of one climb with scores, further metrics, tokens and time; then the verdict and where the figures come from."""
    metrics = sorted({name.partition("/")[2] for rung in result["rungs"] for name in rung["metrics"]})
    headers = ["rung", "validation", "test", *metrics, *TAIL_HEADERS]
    rows = [_rung_row(rung, metrics) for rung in result["rungs"]]
    verdict = result["verdict"]
    splits = ", ".join(f"{name} {size}" for name, size in result["split_sizes"].items())
    goal = "best value" if result["target"] is None else f"target {result['target']:g}"
    lines = [
        f"**{verdict['outcome']}** ({verdict['confidence']}): {_one_line(verdict['sentence'])}",
        f"Rows: {splits} ({result['regime']}). Grader {result['grader']}; {goal}, minimum gain {result['minimum_gain']:g}.",
        *_changed_line(result),
        *(_retrieval_line(rung) for rung in result["rungs"] if "retrieval" in rung),
        provenance(result),
    ]
    return "\n\n".join([_table(headers, rows, right_from=1, right_to=-1), *lines])


def bundled_table(results: Sequence[Result]) -> str:
    """What won where: one row a bundled task, in their own order; then every verdict, and where the figures come from."""
    headers = ["task", "graded by", "plain prompt", "best untuned", "best tuned", "the verdict's rung", "verdict"]
    rows = []
    for result in sorted(results, key=lambda result: NAMES.index(result["name"])):
        verdict = result["verdict"]
        roles = [_role_cell(result, role, tuned=tuned) for role, tuned in (("best untuned", False), ("tuned champion", True))]
        winner = f"`{_one_line(verdict['rung'])}`" if verdict["rung"] is not None else "–"
        said = f"{verdict['outcome']} ({verdict['confidence']})"
        rows.append([f"`{result['name']}`", result["grader"], _test_cell(result, "prompt"), *roles, winner, said])
    legend = "Test score [95 % interval]; the plain prompt is the best wording found for the bare model."
    verdicts = "\n".join(f"- **{result['name']}**: {_one_line(result['verdict']['sentence'])}" for result in results)
    sources = "\n".join(f"{result['name']}: {provenance(result)}" + "  " for result in results).rstrip()
    return "\n\n".join([_table(headers, rows, right_from=2, right_to=-2), legend, verdicts, sources])


def demo_table(result: Result) -> str:
    """The verdict of the bundled demo in a few columns: the README's picture."""
    headers = ["rung", "validation (chooses)", "test (confirms)", "tokens a call", "s per 1,000 calls", "remark"]
    rows = [[*(_rung_row(rung, ())[index] for index in (0, 1, 2, 4, 5, 7))] for rung in result["rungs"]]
    verdict = result["verdict"]
    said = f"> **{verdict['outcome']}** ({verdict['confidence']}): {_one_line(verdict['sentence'])}"
    return "\n\n".join([said, _table(headers, rows, right_from=1, right_to=-1), provenance(result)])


def provenance(result: Result) -> str:
    """Model, commit, versions, machine, date and length of a climb in one line."""
    machine, model = result["machine"], result["model"]
    commit = machine["commit"] + (" with local changes" if machine["dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{model['name']} ({model['dtype'] or 'hosted'}), commit {commit}, {machine['date']}, "
        f"{result['seconds'] / 60:.0f} min on {machine['cores']} cores of {machine['cpu']}; {versions}."
    )


def load_measured(path: Path) -> Result | None:
    """A stored measurement; None where there is none yet.

    Raises:
        DataError: The file is not JSON.
    """
    if not path.is_file():
        return None
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(path, None, f"not JSON: {error}.", "Run the script that writes it again.") from error
    return result


def checks_table(result: Result) -> str:
    """Recall per kind of planted fault, and what was said about the clean sets."""
    found = [
        [
            _one_line(row["kind"]),
            " ".join(f"`{code}`" for code in row["codes"]),
            f"{row['found']} of {row['planted']}",
            f"{row['found'] / row['planted']:.0%}",
            "–" if row["bound"] is None else f"{row['bound']:.0%}",
        ]
        for row in result["recall"]
    ]
    clean = [
        [f"{row['set']} ({row['rows']} rows)", *(_codes(row[severity]) for severity in ("block", "warn", "note"))]
        for row in result["precision"]
    ]
    reasons = [f"No bound for *{row['kind']}*: {row['why_no_bound']}." for row in result["recall"] if row["why_no_bound"]]
    return "\n\n".join(
        [
            _table(["planted", "code", "found", "recall", "at least"], found, right_from=2),
            *reasons,
            _table(["clean set", "block", "warn (rows)", "note (rows)"], clean, right_from=4),
            where_it_ran(result["machine"]) + _measured_again(result.get("again")),
        ]
    )


def _measured_again(again: Mapping[str, Any] | None) -> str:
    if again is None:
        return ""
    return f" Measured again, with the clean sets: {', '.join(again['kinds'])}. {where_it_ran(again['machine'])}"


def curve_table(result: Result) -> str:
    """How often the 80 % intervals of learning curves held the score at twice the rows."""
    rows = [
        [
            f"`{row['rung']}`",
            row["set"],
            f"{row['rows']} → {2 * row['rows']}",
            f"{row['held']} of {row['trials']}",
            f"{row['mean_width']:.3f}",
            f"{row['mean_gain']:+.3f}",
            f"{row['mean_forecast_gain']:+.3f}",
            f"{row['of_these_gained_the_minimum']} of {row['said_unlikely_to_help']}",
        ]
        for row in result["trials"]
    ]
    headers = ["rung", "set", "rows", "held", "width", "gain", "forecast", 'wrong of "unlikely"']
    held = "; ".join(f"`{rung}` {share:.0%}" for rung, share in result["held"].items())
    return "\n\n".join([_table(headers, rows, right_from=2), f"Held in all: {held}.", where_it_ran(result["machine"])])


def lora_curves_table(result: Result) -> str:
    """Mean score of the draws at each size, and the forecast for twice the rows."""
    rows = []
    for curve in result["curves"]:
        sizes: dict[int, list[float]] = {}
        for point in sorted(curve["points"], key=lambda point: point["rows"]):
            sizes.setdefault(point["rows"], []).append(point["score"])
        seen = ", ".join(f"{size}: {sum(scores) / len(scores):.2f}" for size, scores in sizes.items())
        twice = curve["doubling"]
        forecast = ["–"] * 3
        if twice is not None:
            forecast = [*(_interval(twice[what]) for what in ("score", "gain")), f"{twice['probability_minimum']:.0%}"]
        rows.append(
            [curve["set"], f"{curve['rows']}", f"{curve['scored_rows']}", seen, *forecast, f"{curve['seconds'] / 60:.0f}"]
        )
    headers = ["set", "rows", "scored on", "score by rows learned", "at twice the rows [80 %]", "gain [80 %]", "P(enough)", "min"]
    again = (
        f" Forecasts made again from these points at commit {result['forecast_commit']}." if "forecast_commit" in result else ""
    )
    return "\n\n".join([_table(headers, rows), where_it_ran(result["machine"]) + again])


def where_it_ran(machine: Mapping[str, Any]) -> str:
    """Commit, date, processor and versions of a measurement without a model."""
    commit = machine["commit"] + (" with local changes" if machine["dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"Commit {commit}, {machine['date']}, {machine['cores']} cores of {machine['cpu']}; {versions}."


def _codes(found: Mapping[str, int]) -> str:
    return ", ".join(f"`{code}` ({rows})" if rows else f"`{code}`" for code, rows in found.items()) or "–"


def replace_region(text: str, name: str, content: str, *, where: Path) -> str:
    """`text` with `content` between the two markers of the region.

    Raises:
        DataError: A marker is missing, stands twice, or the end stands before the start.
    """
    start, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise DataError(where, None, f"the table has no place of its own here: `{start}`, then `{end}`.", "Add each marker once.")
    before, inside = text.split(end)[0].split(start)
    after = text.partition(end)[2]
    if not content and not inside.strip():
        return text
    body = f"\n\n{content}\n\n" if content else "\n"
    return f"{before}{start}{body}{end}{after}"


def region_names(text: str) -> list[str]:
    """Names of the regions of this script that a text has markers for."""
    names = r"demo|bundled|training|generation|climb|serving|checks|json-schema|curve(?:-lora)?|real(?::[^ ]+)?"
    return list(dict.fromkeys(re.findall(rf"<!-- /?table:({names}) -->", text)))


def fill(text: str, wanted: Mapping[str, str], *, where: Path) -> str:
    """`text` with every wanted region filled and every other region of this script emptied."""
    for name in dict.fromkeys([*wanted, *region_names(text)]):
        text = replace_region(text, name, wanted.get(name, ""), where=where)
    return text


def update(repository: Path, *, check: bool) -> list[Path]:
    """Bring README and log up to date (with `check`: only look). Returns the files that were out of date."""
    results = load_results(repository / RESULTS)
    demo = next((result for result in results if result["name"] == DEMO), None)
    bundled = [result for result in results if result["name"] in NAMES]
    public = [result for result in results if result["name"] not in NAMES]
    trained = load_training(repository / TRAINING)
    answered = load_measured(repository / GENERATION)
    speed = training_table(trained) if trained is not None else ""
    wanted = {
        README: {
            **({"real": overview(public)} if public else {}),
            **({"demo": demo_table(demo)} if demo else {}),
            **({"bundled": bundled_table(bundled)} if bundled else {}),
            **({"training": speed} if speed else {}),
            **({"generation": generation_table(answered)} if answered is not None else {}),
        },
        LOG: {f"real:{result['name']}": task_table(result) for result in results},
    }
    if (served := load_measured(repository / MEASURED["service"])) is not None:
        wanted[README] |= {"serving": serving_table(served)}
    if (checks := load_measured(repository / MEASURED["checks"])) is not None:
        wanted[DATA_CHECKS] = {"checks": checks_table(checks)}
    if (climbed := load_measured(repository / MEASURED["climb"])) is not None and (speeds := climb_table(climbed)):
        wanted[README] |= {"climb": speeds}
    if (schemas := load_measured(repository / MEASURED["json-schema"])) is not None:
        wanted[ANSWERING] = {"json-schema": schema_table(schemas)}
    if (curve := load_measured(repository / MEASURED["curve"])) is not None:
        wanted[LOG] |= {"curve": curve_table(curve)}
    if (curves := load_measured(repository / MEASURED["curve-lora"])) is not None:
        wanted[LOG] |= {"curve-lora": lora_curves_table(curves)}
    stale = []
    for name, regions in wanted.items():
        path = repository / name
        if not path.is_file():
            if regions:
                raise DataError(path, None, "there is no such file for the tables.", "Create it with the markers in it.")
            continue
        old = path.read_text(encoding="utf-8")
        new = fill(old, regions, where=path)
        if new != old:
            stale.append(name)
            if not check:
                write_text(path, new)
    return stale


def _overview_cell(rung: Mapping[str, Any] | None, result: Result) -> str:
    if rung is None:
        return "–"
    if rung["test"] is not None:
        cell = _interval(rung["test"])
        return f"**{cell}**" if rung["name"] == result["verdict"]["rung"] else cell
    return f"*{rung['validation']['value']:.2f}*" if rung["validation"] is not None else rung["status"]


def _rung_row(rung: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    cost = rung["cost"]
    ran = rung["status"] == "ran"
    remarks = [rung["role"], "" if ran else rung["status"], rung["reason"]]
    return [
        f"`{_one_line(rung['name'])}`",
        *(_interval(rung[split]) if rung[split] is not None else "–" for split in ("validation", "test")),
        *(_metric(rung["metrics"], metric) for metric in metrics),
        f"{rung['cut_share']:.0%}" if ran and "cut_share" in rung else "–",
        f"{cost['prompt_tokens_per_call']:.0f} + {cost['completion_tokens_per_call']:.0f}" if ran else "–",
        f"{1000 * cost['seconds_per_call']:.0f}" if ran else "–",
        f"{cost['seconds_once']:.0f}" if ran else "–",
        _one_line("; ".join(remark for remark in remarks if remark)),
    ]


def _changed_line(result: Result) -> Iterator[str]:
    """How many test rows the step up fixed and broke: the step that `service/record.py` shows row by row."""
    tested = [rung for rung in result["rungs"] if rung["test"] is not None]
    best = max((rung for rung in tested if not rung["tuned"]), key=lambda rung: rung["test"]["value"], default=None)
    tuned = next((rung for rung in tested if rung["tuned"]), None)
    first = next((rung for rung in tested if "zero-shot" in rung["role"].split(", ")), None)
    before, after = (best, tuned) if tuned is not None else (first, best)
    if before is not None and after is not None and before is not after:
        names = (_one_line(rung["name"]) for rung in (after, before))
        counts = _verdicts_counts(result["verdict"], before["name"], after["name"]) or (result["fixed"], result["broken"])
        yield "Test rows that `{}` fixed and broke against `{}`: {} and {}.".format(*names, *counts)


def _verdicts_counts(verdict: Mapping[str, Any], before: str, after: str) -> tuple[str, str] | None:
    """Rows fixed and broken as the verdict counts them, over all seeds, where its sentence names this very step.

    Climbs recorded by earlier versions counted those of the first seed beside it.
    """
    said = rf"more than {re.escape(before)} \((\d+) rows fixed, (\d+) broken\)"
    found = re.search(said, verdict["sentence"]) if verdict["rung"] == after else None
    return (found[1], found[2]) if found else None


def _role_cell(result: Result, role: str, *, tuned: bool) -> str:
    """Rung and test score of the contender of this role; without one, why its rungs had no score."""
    for rung in result["rungs"]:
        if role in rung["role"].split(", "):
            return f"`{_one_line(rung['name'])}` {_test_cell(result, rung['name'])}"
    statuses = [rung["status"] for rung in result["rungs"] if rung["tuned"] is tuned and rung["status"] != "not applicable"]
    return ", ".join(dict.fromkeys(statuses)) or "–"


def _test_cell(result: Result, name: str) -> str:
    tests = [rung["test"] for rung in result["rungs"] if rung["name"] == name and rung["test"] is not None]
    return _interval(tests[0]) if tests else "–"


def _retrieval_line(rung: Mapping[str, Any]) -> str:
    """Recall of the gold passage, and the scores with it handed over and with no passage, on validation rows that have one."""
    found, name = rung["retrieval"], f"`{_one_line(rung['name'])}`"
    if isinstance(found["recall"], str):
        return f"{name}: recall {found['recall']}."
    recalls = ", ".join(f"recall@{count} {share:.2f}" for count, share in found["recall"].items())
    scores = {"as retrieved": found["retrieved"], "gold passages alone": found["oracle_context"]}
    said = ", ".join(f"{what} {score:.2f}" for what, score in scores.items() if score is not None)
    book = "" if found["closed_book"] is None else f"; `prompt` without documents, on all rows, {found['closed_book']:.2f}"
    return f"{name}, on the {found['gold_rows']} validation rows with a gold passage: {recalls}; score {said}{book}."


def _metric(metrics: Mapping[str, float], name: str) -> str:
    """A metric on the test split; in italics on validation where the rung did not answer the test."""
    if f"test/{name}" in metrics:
        return f"{metrics[f'test/{name}']:.2f}"
    return f"*{metrics[f'validation/{name}']:.2f}*" if f"validation/{name}" in metrics else "–"


def _interval(interval: Mapping[str, Any]) -> str:
    return f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right_from: int = 1, right_to: int | None = None) -> str:
    right = range(len(headers))[right_from:right_to]
    rule = ["--:" if index in right else ":--" for index in range(len(headers))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headers, rule, *rows])


def _one_line(text: str) -> str:
    """Text that can neither break a table nor forge a marker."""
    return " ".join(text.split()).replace("|", "\\|").replace("<!--", "&lt;!--")


def main(arguments: Sequence[str] | None = None, *, repository: Path = REPOSITORY) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a table is out of date")
    options = parser.parse_args(arguments)
    try:
        stale = update(repository, check=options.check)
    except StepladderError as error:
        print(error, file=sys.stderr)
        return 3
    for path in stale:
        print(f"{path}: {'out of date; run benchmarks/tables.py' if options.check else 'tables written'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
