"""Texts to unit vectors, from the files alone."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from stepladder.domain.errors import ModelError
from stepladder.models.embedder import StaticEmbedder, load_embedder
from tiny_model import build_tiny_tokenizer


@pytest.fixture
def embedder_folder(tmp_path):
    table = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float16)
    save_file({"embedding.weight": table}, tmp_path / "model.safetensors")
    build_tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_vector_is_the_mean_of_the_token_vectors_at_length_1(embedder_folder):
    embedder = StaticEmbedder.from_folder(embedder_folder, name="tiny")
    table = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float16).astype(np.float64)
    texts = ["The parcel", "", "a", "refund " * 50]
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 16)
    tokenizer = build_tiny_tokenizer()
    for text, vector in zip(texts, vectors, strict=True):
        ids = tokenizer.encode(text).ids
        mean = table[ids].mean(axis=0) if ids else np.zeros(16)
        expected = mean / (np.linalg.norm(mean) or 1.0)
        assert vector == pytest.approx(expected, abs=1e-6)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1, 1])


def test_a_texts_vector_does_not_depend_on_its_neighbours(embedder_folder):
    embedder = StaticEmbedder.from_folder(embedder_folder, name="tiny")
    texts = [f"order {number} {'late ' * (number % 7)}" for number in range(1100)]
    together = embedder.embed(texts)
    assert all(np.array_equal(embedder.embed([texts[place]])[0], together[place]) for place in (0, 511, 512, 1099))
    assert embedder.embed([]).shape == (0, 16)


def test_a_table_too_small_for_its_tokenizer_and_missing_files_are_refused(embedder_folder, tmp_path):
    with pytest.raises(ModelError, match="the embedder cannot be read"):
        StaticEmbedder.from_folder(tmp_path / "nothing", name="tiny")
    save_file({"embedding.weight": np.zeros((10, 16), np.float16)}, embedder_folder / "model.safetensors")
    with pytest.raises(ModelError, match="does not fit its tokenizer"):
        StaticEmbedder.from_folder(embedder_folder, name="tiny")


def test_without_the_wheel_the_command_that_gets_it_is_given(own_cache, tmp_path, monkeypatch):
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=r"pip download --no-deps .*--platform manylinux2014_x86_64 .*wordllama==0\.4\.0\.post1"):
        load_embedder()


@pytest.mark.starter
def test_the_starter_embedder_knows_what_is_alike():
    embedder = load_embedder()
    assert (embedder.name, embedder.dimensions) == ("wordllama", 256)
    texts = ["I would like my money back", "Please refund my order", "The cat sleeps on the sofa", "A kitten naps on a couch"]
    alike = embedder.embed(texts) @ embedder.embed(texts).T
    assert alike[0, 1] > 2 * max(alike[0, 2], alike[0, 3])
    assert alike[2, 3] > 2 * max(alike[2, 0], alike[2, 1])
    assert load_embedder() is embedder
