"""How much of JSON Schema answers can be held to: JSON Schema's own test suite, draft 2020-12, keyword by keyword.

The suite comes in the source archive of the package `jsonschema`:

    pip download --no-deps --no-binary jsonschema jsonschema==4.26.0
    .venv/bin/python benchmarks/schema_suite.py jsonschema-4.26.0.tar.gz

Every schema is compiled as an answer's would be, with the starter model's tokenizer, and every value of its tests is written in
the project's one form of JSON and followed token by token. Figures go to benchmarks/results/json-schema.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from stepladder.domain.errors import DataError, EngineError, StepladderError
from stepladder.domain.output import dump_json
from stepladder.domain.protocols import Grammar
from stepladder.files import write_text

if TYPE_CHECKING:
    from stepladder.engines.transformers.grammar import GrammarCompiler

RESULT = Path(__file__).resolve().parent / "results" / "json-schema.json"
DRAFT = ("tests", "draft2020-12")
COUNTS = ("schemas", "refused", "valid", "valid_written", "invalid", "invalid_written")
NOT_OF_A_KEYWORD = {"boolean_schema", "infinite-loop-detection"}


def read_suite(archive: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Cases by the keyword they are about: a schema, and values with whether they are valid. Optional ones are left out.

    Raises:
        DataError: The file is no such archive.
    """
    try:
        with tarfile.open(archive) as files:
            found = False
            for member in files:
                path = PurePosixPath(member.name)
                if path.suffix == ".json" and path.parts[-3:-1] == DRAFT and (content := files.extractfile(member)) is not None:
                    found = True
                    for case in json.load(content):
                        yield path.stem, case
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DataError(archive, None, f"no source archive with the suite: {error}.", "Get it with the command above.") from error
    if not found:
        raise DataError(archive, None, f"holds no folder {'/'.join(DRAFT)}.", "Get the source archive of `jsonschema`.")


def measure(archive: Path, compiler: GrammarCompiler, encode: Any) -> list[dict[str, Any]]:
    """Counts by keyword.

    Args:
        encode: Text to token ids, nothing added.
    """
    counts: dict[str, dict[str, int]] = {}
    for keyword, case in read_suite(archive):
        own = counts.setdefault(keyword, dict.fromkeys(COUNTS, 0))
        own["schemas"] += 1
        grammar = Grammar("json_schema", json.dumps(case["schema"]))
        try:
            compiler.start(grammar)
        except EngineError:
            own["refused"] += 1
            continue
        for test in case["tests"]:
            kind = "valid" if test["valid"] else "invalid"
            own[kind] += 1
            row = compiler.start(grammar)
            own[f"{kind}_written"] += row.writes(encode(dump_json(test["data"], case["schema"])))
    return [{"keyword": keyword, **own} for keyword, own in sorted(counts.items())]


def schema_table(content: Mapping[str, Any]) -> str:
    """One line a keyword that is held or partly held, one for all parts that are always refused, then totals and provenance."""
    entries = content["keywords"]
    held = [one for one in entries if one["refused"] < one["schemas"]]
    refused = [one for one in entries if one["refused"] == one["schemas"]]
    headers = ["part of the suite", "schemas held", "valid values that can be written", "invalid values that can be written"]
    lines = ["| " + " | ".join(headers) + " |", "|:--|--:|--:|--:|"]
    lines += [f"| {_name(one['keyword'])} | {_cells(one)} |" for one in held]
    total = {name: sum(one[name] for one in entries) for name in COUNTS}
    lines.append(f"| all | {_cells(total)} |")
    names = ", ".join(_name(one["keyword"]) for one in refused)
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return "\n\n".join(["\n".join(lines), f"Always refused, by name: {names}.", f"Suite: {content['suite']}; {versions}."])


def _cells(entry: Mapping[str, Any]) -> str:
    held = entry["schemas"] - entry["refused"]
    return (
        f"{held} of {entry['schemas']} | {entry['valid_written']} of {entry['valid']} | "
        f"{entry['invalid_written']} of {entry['invalid']}"
    )


def _name(keyword: str) -> str:
    return keyword.replace("_", " ").replace("-", " ") if keyword in NOT_OF_A_KEYWORD else f"`{keyword}`"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="source archive with the suite")
    parser.add_argument("--results", type=Path, default=RESULT, help="where the figures go")
    options = parser.parse_args(arguments)
    from importlib.metadata import version

    from tokenizers import Tokenizer

    from stepladder.engines.transformers.grammar import GrammarCompiler
    from stepladder.models.pull import pull_manifest

    try:
        text = (pull_manifest("smollm2-135m-instruct").folder / "tokenizer.json").read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_str(text)
        compiler = GrammarCompiler(text, tokenizer.get_vocab_size(), [2])
        found = measure(options.archive, compiler, lambda words: tokenizer.encode(words, add_special_tokens=False).ids)
    except StepladderError as error:
        print(error, file=sys.stderr)
        return 3
    versions = {name: version(name) for name in ("stepladder", "llguidance")}
    content = {"suite": options.archive.name, "versions": versions, "keywords": found}
    write_text(options.results, json.dumps(content, indent=1) + "\n")
    print(schema_table(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
