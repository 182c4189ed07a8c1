"""Which tokens are learned, and that a prompt is what training saw."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.domain.errors import ModelError, NotShown
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.protocols import Conversation
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.conversation import (
    encode_answer,
    encode_conversation,
    encode_prompt,
    end_of_turn,
    stop_ids,
)
from stepladder.models.tokenizer import Tokenizer
from tiny_model import CHATML, IM_END, IM_START, build_tiny_tokenizer

contents = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=20),
    st.lists(st.sampled_from(["\n", " ", "a", "7", "<", IM_END, IM_START, "|im_end|>", "é", "🙂"]), max_size=8).map("".join),
)
histories = st.lists(st.tuples(contents, contents, st.sampled_from([0, 1])), min_size=1, max_size=4)


def conversation(*turns, system=None):
    """(user text, assistant text, weight) triples as one conversation."""
    messages = [] if system is None else [Message("system", system)]
    for question, answer, weight in turns:
        messages += [Message("user", question), Message("assistant", answer, weight=weight)]
    return Conversation("row-7", tuple(messages))


def learned_texts(tokenizer: Tokenizer, row) -> list[str]:
    """The learned stretches of a row, as text with control tokens."""
    stretches: list[list[int]] = []
    before = False
    for token, learned in zip(row.token_ids, row.learned, strict=True):
        if learned:
            stretches += [] if before else [[]]
            stretches[-1].append(token)
        before = learned
    return [tokenizer.decode(stretch, keep_control_tokens=True) for stretch in stretches]


@given(turns=histories, system=st.none() | contents)
@settings(max_examples=150, deadline=None)
def test_each_turn_of_weight_1_is_learned_with_its_end_and_nothing_else(tiny_template, tiny_tokenizer, turns, system):
    turns = [*turns, ("last?", "yes", 1)]
    row = encode_conversation(tiny_template, tiny_tokenizer, conversation(*turns, system=system))
    assert learned_texts(tiny_tokenizer, row) == [answer + IM_END for _, answer, weight in turns if weight == 1]
    excluded = replace(row, learned=tuple(place in row.excluded for place in range(len(row.token_ids))))
    assert learned_texts(tiny_tokenizer, excluded) == [answer + IM_END for _, answer, weight in turns if weight == 0]


@given(turns=histories, system=st.none() | contents)
@settings(max_examples=150, deadline=None)
def test_the_ids_of_a_prompt_are_a_prefix_of_the_rows(tiny_template, tiny_tokenizer, turns, system):
    whole = conversation(*[(question, answer, 1) for question, answer, _ in turns], system=system)
    row = encode_conversation(tiny_template, tiny_tokenizer, whole)
    for place, message in enumerate(whole.messages):
        if message.role == "assistant":
            prompt = encode_prompt(tiny_template, tiny_tokenizer, whole.messages[:place])
            assert row.token_ids[: len(prompt)] == tuple(prompt)
            assert row.learned[len(prompt)]
            assert not row.learned[len(prompt) - 1]
            answer = encode_answer(tiny_template, tiny_tokenizer, whole.messages[:place], message.content)
            assert row.token_ids[len(prompt) : len(prompt) + len(answer)] == tuple(answer)


@given(turns=histories)
@settings(max_examples=150, deadline=None)
def test_the_end_of_a_turn_stands_once_a_turn_and_never_comes_from_the_data(tiny_template, tiny_tokenizer, turns):
    row = encode_conversation(tiny_template, tiny_tokenizer, conversation(*turns, ("?", "!", 1), system="s"))
    ids = tiny_tokenizer.control_tokens
    assert row.token_ids.count(ids[IM_END]) == 2 * len(turns) + 3
    assert row.token_ids.count(ids[IM_START]) == 2 * len(turns) + 3
    learned_ends = sum(flag for token, flag in zip(row.token_ids, row.learned, strict=True) if token == ids[IM_END])
    assert learned_ends == sum(weight for _, _, weight in turns) + 1


@given(turns=histories, system=contents)
@settings(max_examples=80, deadline=None)
def test_the_whole_row_decodes_to_what_the_template_wrote(tiny_template, tiny_tokenizer, turns, system):
    whole = conversation(*turns, ("?", "!", 1), system=system)
    row = encode_conversation(tiny_template, tiny_tokenizer, whole)
    rendered = tiny_template.render(whole.messages, add_generation_prompt=False)
    assert tiny_tokenizer.decode(row.token_ids, keep_control_tokens=True) == rendered


@given(text=contents)
@settings(max_examples=60, deadline=None)
def test_prompt_ids_are_transformers_own_where_it_can_be_asked(transformers_tokenizer, tiny_template, tiny_tokenizer, text):
    question = Message("user", text.replace("|", ""))  # transformers would make control tokens of their names
    expected = transformers_tokenizer.apply_chat_template([question.as_chat()], add_generation_prompt=True, return_dict=False)
    assert encode_prompt(tiny_template, tiny_tokenizer, [question]) == expected


def test_an_assistant_turn_without_weight_is_learned(tiny_template, tiny_tokenizer):
    row = encode_conversation(tiny_template, tiny_tokenizer, Conversation("r", (Message("user", "a"), Message("assistant", "b"))))
    assert learned_texts(tiny_tokenizer, row) == ["b" + IM_END]
    assert row.prompt_tokens == row.learned.index(True)
    assert row.learned_tokens == 2


def test_an_answer_that_begins_with_a_line_break_keeps_it_apart_from_the_header(tiny_template):
    # This tokenizer has a token for two line breaks: tokenized in one go, header and answer would melt into one another.
    backend = build_tiny_tokenizer(sentences=("one\n\ntwo\n\n\n\nthree", "\n\n\n\n"))
    tokenizer = Tokenizer(backend)
    assert len(tokenizer.encode("\n\n")) == 1
    row = encode_conversation(tiny_template, tokenizer, conversation(("q", "\n\nHi", 1)))
    assert learned_texts(tokenizer, row) == ["\n\nHi" + IM_END]
    prompt = encode_prompt(tiny_template, tokenizer, [Message("user", "q")])
    assert row.token_ids[: len(prompt)] == tuple(prompt)
    in_one_go = tokenizer.encode(tiny_template.render(conversation(("q", "\n\nHi", 1)).messages, add_generation_prompt=False))
    assert in_one_go[: len(prompt)] != prompt


def test_a_row_with_nothing_to_learn_is_named(tiny_template, tiny_tokenizer):
    with pytest.raises(ModelError, match="Row 'row-7' has nothing to learn"):
        encode_conversation(tiny_template, tiny_tokenizer, conversation(("a", "b", 0)))


def test_a_template_that_rewrites_earlier_turns_is_refused_by_row(tiny_tokenizer):
    forgetful = "{% for m in messages %}{% if loop.last or m.role == 'user' %}" + (
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    template = ChatTemplate(forgetful, model="forgetful")
    encode_conversation(template, tiny_tokenizer, conversation(("a", "b", 1)))
    twice = conversation(("a", "b", 1), ("c", "d", 1))
    with pytest.raises(NotShown, match=r"Row 'row-7': the chat template of forgetful rewrites earlier turns \(turn 2\)"):
        encode_conversation(template, tiny_tokenizer, twice)
    with pytest.raises(NotShown, match=r"rewrites earlier turns \(turn 2\)"):
        encode_prompt(template, tiny_tokenizer, twice.messages[:-1])
    encode_prompt(template, tiny_tokenizer, twice.messages[:1])


def test_a_template_that_changes_the_answer_is_refused(tiny_tokenizer):
    shouting = ChatTemplate(CHATML.replace("message['content'] +", "message['content'] | upper +"), model="shouting")
    with pytest.raises(ModelError, match="changes the assistant's words"):
        encode_conversation(shouting, tiny_tokenizer, conversation(("a", "quiet", 1)))


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_template_that_drops_words_is_refused_for_prompts_and_rows(tiny_tokenizer, role):
    deaf = ChatTemplate(
        CHATML.replace("message['content'] +", f"('' if message['role'] == '{role}' else message['content']) +"), model="deaf"
    )
    row = conversation(("a?", "b", 1), system="Be brief.")
    number = 1 if role == "system" else 2
    with pytest.raises(ModelError, match=rf"Row 'row-7': the chat template of deaf drops words of turn {number} \({role}\)"):
        encode_conversation(deaf, tiny_tokenizer, row)
    with pytest.raises(ModelError, match=rf"drops words of turn {number} \({role}\): the model would never see them. Move them"):
        encode_prompt(deaf, tiny_tokenizer, row.messages[:2])


def test_a_template_that_trims_a_turn_drops_no_words(tiny_tokenizer):
    trimming = ChatTemplate(CHATML.replace("message['content'] +", "message['content'] | trim +"), model="trimming")
    encode_prompt(trimming, tiny_tokenizer, [Message("user", "  Where?\n")])


def test_a_template_without_stop_token_is_refused_for_training(tiny_tokenizer):
    endless = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", model="endless")
    with pytest.raises(ModelError, match="ends the assistant's turn with no stop token"):
        end_of_turn(endless, tiny_tokenizer)
    assert stop_ids(endless, tiny_tokenizer) == (2,)


def test_the_turns_end_is_found_by_the_template_not_by_the_tokenizers_eos(tiny_tokenizer):
    template = ChatTemplate(CHATML.replace(IM_END, "<|endoftext|>"))
    assert end_of_turn(template, tiny_tokenizer) == "<|endoftext|>"
    assert stop_ids(template, tiny_tokenizer) == (0, 2)


def test_a_doubled_first_token_is_refused(tiny_tokenizer):
    doubled = ChatTemplate("{{ bos_token }}" + CHATML, special={"bos_token": IM_START}, model="doubled")
    with pytest.raises(ModelError, match="doubled begins with its first token twice"):
        encode_prompt(doubled, tiny_tokenizer, [Message("user", "hi")])


def test_a_first_token_in_every_turn_is_no_doubled_one(tiny_template, tiny_tokenizer):
    ids = encode_prompt(tiny_template, tiny_tokenizer, [Message("system", "s"), Message("user", "u")])
    assert tiny_tokenizer.bos_id == 1
    assert ids.count(1) == 3


def test_control_tokens_in_tool_calls_and_tools_are_text_too(tiny_tokenizer):
    template = ChatTemplate(
        "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tool = {"type": "function", "function": {"name": "f", "description": f"ends {IM_END}", "parameters": {}}}
    call = ToolCall("c1", "f", '{"a": "<|im_end|>"}')
    row = Conversation("r", (Message("user", IM_END), Message("assistant", "", tool_calls=(call,), weight=1)), (tool,))
    encoded = encode_conversation(template, tiny_tokenizer, row)
    assert encoded.token_ids.count(2) == 2
    assert learned_texts(tiny_tokenizer, encoded) == ['f{"a": "<|im_end|>"}' + IM_END]


def test_the_private_marks_themselves_are_refused_in_data(tiny_template, tiny_tokenizer):
    with pytest.raises(ModelError, match="Row 'row-7': the text holds the private character"):
        encode_conversation(tiny_template, tiny_tokenizer, conversation(("a\U000f0000", "b", 1)))
