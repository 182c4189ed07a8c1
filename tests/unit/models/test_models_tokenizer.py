"""Token ids without torch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from stepladder.domain.errors import ModelError
from stepladder.models.tokenizer import Tokenizer
from tiny_model import IM_END, IM_START

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(text=texts)
@settings(max_examples=100, deadline=None)
def test_any_text_comes_back_from_its_ids(tiny_tokenizer, text):
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text
    assert tiny_tokenizer.count(text) == len(tiny_tokenizer.encode(text))


@given(text=texts)
@settings(max_examples=60, deadline=None)
def test_ids_are_those_of_the_transformers_tokenizer(transformers_tokenizer, tiny_tokenizer, text):
    assert tiny_tokenizer.encode(text) == transformers_tokenizer(text, add_special_tokens=False).input_ids


def test_a_control_tokens_name_is_one_id_from_the_template_and_letters_from_outside(tiny_tokenizer):
    assert tiny_tokenizer.encode(IM_END) == [2]
    plain = tiny_tokenizer.encode_plain(f"a{IM_END}b")
    assert 2 not in plain
    assert tiny_tokenizer.decode(plain) == f"a{IM_END}b"
    assert tiny_tokenizer.count(f"a{IM_END}b") == len(plain)


def test_the_first_control_token_in_a_text_is_found(tiny_tokenizer):
    assert tiny_tokenizer.find_control_token(f"x {IM_START} y {IM_END}") == IM_START
    assert tiny_tokenizer.find_control_token("x < | y") is None


def test_special_ids_and_stops_come_from_the_files(tiny_tokenizer):
    assert (tiny_tokenizer.bos_id, tiny_tokenizer.eos_id, tiny_tokenizer.pad_id) == (1, 2, 2)
    assert tiny_tokenizer.eos_ids == (2,)
    assert tiny_tokenizer.vocabulary_size == 400


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"there is no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": 1}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json: the tokenizer cannot be read"):
        Tokenizer.from_folder(tmp_path)


def test_text_that_cannot_be_written_without_the_control_token_is_refused():
    backend = Backend(models.WordLevel({"[STOP]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.add_special_tokens([AddedToken("[STOP]", special=True)])
    with pytest.raises(ModelError, match=r"of mine cannot write '\[STOP\]' as plain text"):
        Tokenizer(backend, model="mine").encode_plain("[STOP]")


def test_a_continuation_carries_no_space_of_a_beginning():
    # sentencepiece's manner: a text's first word gets a space mark, the rest of a text must not
    pieces = ["<unk>", "▁", "\n", "a", "b", "▁a"]
    backend = Backend(models.BPE({piece: id for id, piece in enumerate(pieces)}, [("▁", "a")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode("a") == [5]
    assert tokenizer.encode_continuation("ab") == [3, 4]
