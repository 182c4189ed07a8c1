"""Scored rows as JUnit XML, which CI systems show: one test case a row."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from stepladder.domain.verdict import Interval
from stepladder.service.score import Scored, ScoredRow

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(scored: Scored) -> str:
    """One test case a row: failed when its score is 0, in error when it is ungraded. The aggregate stands in the properties.

    Whether the gate is open is the property `passed`, not the number of failed rows.
    """
    rows = scored.rows
    counts = {
        "name": f"{scored.task}/{scored.rung}",
        "tests": len(rows),
        "failures": sum(row.score == 0 for row in rows),
        "errors": sum(row.score is None for row in rows),
        "time": _seconds(sum(row.latency_seconds for row in rows)),
    }
    root = _element(None, "testsuites", **counts)
    suite = _element(root, "testsuite", **counts, skipped=0)
    listed = _element(suite, "properties")
    for name, value in _properties(scored).items():
        _element(listed, "property", name=name, value=value)
    for row in rows:
        _case(suite, scored, row)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, scored: Scored, row: ScoredRow) -> None:
    case = _element(suite, "testcase", classname=f"{scored.task}.{scored.rung}", name=row.id, time=_seconds(row.latency_seconds))
    if row.score is None:
        _element(case, "error", _said(row), message=row.ungraded, type="ungraded")
    elif row.score == 0:
        why = "cut at the token limit" if row.cut else f"{scored.grader} scores 0"
        _element(case, "failure", _said(row), message=why, type=scored.grader)


def _said(row: ScoredRow) -> str:
    return f"Input:\n{row.input}\n\nExpected:\n{row.reference}\n\nAnswer:\n{row.answer}"


def _properties(scored: Scored) -> dict[str, object]:
    found: dict[str, object] = {
        "run": scored.run,
        "rung": scored.rung,
        "grader": scored.grader,
        "file": scored.file,
        "passed": str(scored.passed).lower(),
    }
    if scored.interval is not None:
        found |= _interval("score", scored.interval)
    if scored.target is not None:
        found["target"] = f"{scored.target:g}"
    if scored.probability_target is not None:
        found["probability_target"] = _rate(scored.probability_target)
    if scored.against is not None:
        comparison = scored.against.comparison
        found |= {
            "against": f"{scored.against.run} {scored.against.rung}",
            **_interval("recorded", comparison.recorded),
            **_interval("difference", comparison.difference),
            "probability_worse": _rate(comparison.probability_worse),
        }
    return {**found, **{f"metric/{name}": _rate(value) for name, value in scored.metrics.items()}}


def _interval(name: str, interval: Interval) -> dict[str, str]:
    return {name: _rate(interval.value), f"{name}_low": _rate(interval.low), f"{name}_high": _rate(interval.high)}


def _rate(rate: float) -> str:
    return f"{rate:.4f}"


def _element(parent: ElementTree.Element | None, tag: str, text: str = "", /, **attributes: object) -> ElementTree.Element:
    """An element whose texts any XML parser takes: characters that XML forbids are written as \\x1b or \\ud800."""
    clean = {name: _clean(str(value)) for name, value in attributes.items()}
    element = ElementTree.Element(tag, clean) if parent is None else ElementTree.SubElement(parent, tag, clean)
    element.text = _clean(text) or None
    return element


def _clean(text: str) -> str:
    return _NOT_XML.sub(lambda sign: f"\\x{ord(sign[0]):02x}" if ord(sign[0]) < 256 else f"\\u{ord(sign[0]):04x}", text)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
