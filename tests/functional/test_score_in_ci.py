"""Scoring in CI: the pytest fixture, and the GitHub Action, its own shell steps run here by bash with the real command line."""

from __future__ import annotations

import ensurepip
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from scored_climb import Scene, scored_climb

pytest_plugins = ("pytester",)

REPOSITORY = Path(__file__).resolve().parents[2]
ACTION = REPOSITORY / ".github" / "actions" / "stepladder-score" / "action.yml"
GUIDE = REPOSITORY / "docs" / "how-to" / "gate-in-ci.md"
PLUGIN = "stepladder.interfaces.pytest_plugin"


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scored_climb(tmp_path_factory.mktemp("ci") / "things") as scene:
        yield scene


@pytest.fixture
def scene(climbed: Scene) -> Scene:
    climbed.rate = 0.9
    return climbed


# pytest ---------------------------------------------------------------------------------------------------------------


def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, body: str) -> pytest.RunResult:
    """A test file of a user in a pytest of its own; the plugin is loaded as its entry point would load it."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # an installed entry point would load it twice
    pytester.makepyfile(body)
    return pytester.runpytest_subprocess("-p", PLUGIN, "-p", "no:cacheprovider")


def test_the_entry_point_names_the_plugin() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"stepladder": PLUGIN}
    assert callable(import_module(PLUGIN).Scoring().score)


def test_the_fixture_passes_fails_with_the_table_and_gives_the_rows(
    scene: Scene, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_pytest(
        pytester,
        monkeypatch,
        f"""
        RUN, FILE = {str(scene.run)!r}, {str(scene.test_rows())!r}

        def test_good_enough(stepladder):
            scored = stepladder.assert_reaches(RUN, FILE)
            assert scored.passed and scored.target == 0.6

        def test_too_much(stepladder):
            stepladder.assert_reaches(RUN, FILE, 0.99)

        def test_rows(stepladder):
            assert len(stepladder.score(RUN, FILE, target=0.99).rows) == 52
        """,
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*score*52 rows of tested.jsonl*", "*Failed.*", "*below the target of 99 %*"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")  # the reason is the table, not our code


def test_a_test_that_cannot_fail_is_refused(
    scene: Scene, tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(scene.run, tmp_path / "run")
    toml = run / "task" / "task.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("target = 0.6", ""), encoding="utf-8")
    result = run_pytest(
        pytester,
        monkeypatch,
        f"""
        def test_nothing_to_reach(stepladder):
            stepladder.assert_reaches({str(run)!r}, {str(scene.new_rows())!r}, rung="baseline")
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*UsageError: there is nothing to reach*"])


def test_pytest_starts_without_anything_of_ours(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_pytest(
        pytester,
        monkeypatch,
        """
        import sys

        def test_nothing_is_loaded(stepladder):
            heavy = {"torch", "numpy", "scipy", "pydantic", "rich", "typer"} & set(sys.modules)
            ours = {name for name in sys.modules if name.startswith("stepladder")}
            assert heavy == set()
            assert ours == {"stepladder", "stepladder.interfaces", "stepladder.interfaces.pytest_plugin"}
        """,
    )
    result.assert_outcomes(passed=1)


# GitHub Action --------------------------------------------------------------------------------------------------------


@dataclass
class Ran:
    """What a composite action left behind on a runner."""

    code: int
    said: str
    outputs: dict[str, str]
    summary: str
    workspace: Path


def action() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    return found


def wheel(folder: Path) -> Path:
    """A package that pip can install without a network."""
    path = folder / "stepladder-9.9.9-py3-none-any.whl"
    meta = "stepladder-9.9.9.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("stepladder_was_installed.py", "")
        archive.writestr(f"{meta}/METADATA", "Metadata-Version: 2.1\nName: stepladder\nVersion: 9.9.9\n")
        archive.writestr(f"{meta}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{meta}/RECORD", "")
    return path


def run_action(workspace: Path, **inputs: str) -> Ran:
    """Every `run:` step of the action in order, as a runner does: bash -e -o pipefail, inputs filled into `env`."""
    workspace.mkdir(exist_ok=True)
    tools = workspace / "bin"
    tools.mkdir()
    for name, line in (("python", ""), ("stepladder", "-m stepladder.interfaces.cli.main")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {line} "$@"\n', encoding="utf-8")
        (tools / name).chmod(0o755)
    has_pip = any(distributions(name="pip"))  # a search for the module would turn setuptools' distutils off, see models/wheels.py
    bundled = [] if has_pip else map(str, (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(tools), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([*bundled, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep),
        "GITHUB_OUTPUT": str(workspace / "output"),
        "GITHUB_STEP_SUMMARY": str(workspace / "summary"),
        "PIP_TARGET": str(workspace / "site"),
        "PIP_NO_INDEX": "1",
    }
    values = {name: str(one.get("default", "")) for name, one in action()["inputs"].items()}
    values |= {"package": str(wheel(workspace)), **{name.replace("_", "-"): value for name, value in inputs.items()}}
    code, said = 0, ""
    for step in action()["runs"]["steps"]:
        if "run" not in step or code:
            continue
        filled = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda one: values[one[1]], text) for name, text in step["env"].items()
        }
        script = workspace / "step.sh"
        script.write_text(step["run"], encoding="utf-8")
        line = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
        done = subprocess.run(
            line, cwd=workspace, env={**environment, **filled}, capture_output=True, text=True, check=False, timeout=240
        )
        code, said = done.returncode, said + done.stdout + done.stderr
    output = workspace / "output"
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    summary = workspace / "summary"
    shown = summary.read_text(encoding="utf-8") if summary.exists() else ""
    return Ran(code, said, dict(line.split("=", 1) for line in lines), shown, workspace)


def test_the_action_is_a_composite_one_whose_inputs_and_outputs_are_described() -> None:
    found = action()
    assert found["runs"]["using"] == "composite"
    assert all(one["description"] for part in ("inputs", "outputs") for one in found[part].values())
    steps = found["runs"]["steps"]
    assert [step["uses"] for step in steps if "uses" in step] == ["actions/setup-python@v5", "actions/upload-artifact@v4"]
    assert all(step["shell"] == "bash" for step in steps if "run" in step)
    used = set(re.findall(r"inputs\.([\w-]+)", ACTION.read_text(encoding="utf-8")))
    assert used == set(found["inputs"])


def test_no_input_is_written_into_a_script() -> None:
    assert all("${{" not in step["run"] for step in action()["runs"]["steps"] if "run" in step)


def test_the_action_installs_scores_and_leaves_report_and_junit(scene: Scene, tmp_path: Path) -> None:
    ran = run_action(tmp_path / "work", run=str(scene.task), file=str(scene.test_rows()), against=str(scene.run))
    assert ran.code == 0, ran.said
    assert (ran.workspace / "site" / "stepladder_was_installed.py").exists()
    assert ran.outputs["passed"] == "true"
    assert 0.6 < float(ran.outputs["score"]) <= 1
    results = ran.workspace / "stepladder-score"
    assert ElementTree.parse(results / "junit.xml").getroot().get("tests") == "52"
    assert (results / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "Passed." in ran.summary
    assert "Passed." in ran.said


def test_the_action_fails_with_the_commands_code_and_still_leaves_everything(scene: Scene, tmp_path: Path) -> None:
    results = "results of $(touch hacked)"
    ran = run_action(
        tmp_path / "work", run=str(scene.run), file=str(scene.test_rows()), target="0.99", results=results, rung="prompt"
    )
    assert ran.code == 1, ran.said
    assert ran.outputs["passed"] == "false"
    assert "below the target of 99 %" in ran.summary
    assert json.loads((ran.workspace / results / "score.json").read_text(encoding="utf-8"))["target"] == 0.99
    assert not (ran.workspace / "hacked").exists()


def test_the_action_passes_on_what_goes_wrong(scene: Scene, tmp_path: Path) -> None:
    ran = run_action(tmp_path / "work", run=str(scene.run), file="nowhere.jsonl")
    assert ran.code == 3
    assert "nowhere.jsonl" in ran.said


def test_the_workflow_shown_in_the_guide_gives_the_action_only_inputs_it_has() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    steps = [step for block in blocks for job in yaml.safe_load(block)["jobs"].values() for step in job["steps"]]
    ours = [step for step in steps if "stepladder-score" in step.get("uses", "")]
    assert ours
    for step in ours:
        needed = {name for name, one in action()["inputs"].items() if one.get("required")}
        assert needed <= set(step["with"]) <= set(action()["inputs"])
