"""Rendering against transformers' own, and what a template may not do."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Message, ToolCall
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.template_trial import try_out

# Templates in the manners of several model families, written for these tests: each uses another part of the environment.
BRACKETS = """{{ bos_token }}{% for message in messages %}
    {% if message['role'] == 'user' %}
[ASK] {{ message['content'] | trim }} [/ASK]
    {%- elif message['role'] == 'assistant' %}
 {{ message['content'] }}{{ eos_token }}
    {%- else %}
{{ raise_exception('only user and assistant speak here') }}
    {%- endif %}
{% endfor %}"""

TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' }}
    {%- for tool in tools %}{{ tool | tojson }}
{% endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\n<call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LOOPS = """{% set ns = namespace(count=0) %}{% for message in messages %}
{% if message.role == 'tool' %}{% continue %}{% endif %}
{% set ns.count = ns.count + 1 %}
{{ ns.count }}:{{ message.role }}:{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}
{% endgeneration %}{% else %}{{ message.content }}{% endif %}

{% if ns.count == 6 %}{% break %}{% endif %}
{% endfor %}
{{ messages[0] | tojson(indent=2) }}{{ dict(a=1)['a'] }}{{ documents is none }}{{ tools is none }}"""

TEMPLATES = {"brackets": BRACKETS, "tools": TOOLS, "loops": LOOPS}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Ümlaut <b>", "parameters": {"type": "object"}}}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
conversations = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=texts), min_size=1, max_size=7
)


def theirs(text, messages, tools, add_generation_prompt):
    """The same rendering by transformers; None when its template refuses."""
    try:
        rendered, _ = render_jinja_template(
            [[message.as_chat() for message in messages]],
            tools=tools or None,
            chat_template=text,
            add_generation_prompt=add_generation_prompt,
            **SPECIAL,
        )
    except Exception:
        return None
    return rendered[0]


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=conversations, prompt=st.booleans(), tools=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_text_is_transformers_own_to_the_character(name, messages, prompt, tools):
    template = ChatTemplate(TEMPLATES[name], special=SPECIAL)
    offered = [TOOL] if tools and template.renders_tools() else []
    try:
        ours = template.render(messages, offered, add_generation_prompt=prompt)
    except ModelError:
        ours = None
    assert ours == theirs(TEMPLATES[name], messages, offered, prompt)


@given(messages=conversations, prompt=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_tiny_models_text_is_its_tokenizers_own(transformers_tokenizer, tiny_template, messages, prompt):
    chat = [message.as_chat() for message in messages]
    assert tiny_template.render(messages, add_generation_prompt=prompt) == transformers_tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=prompt
    )


def test_arguments_of_a_tool_call_reach_the_template_as_an_object():
    call = Message("assistant", "", tool_calls=(ToolCall("c1", "look_up", '{"place":"Köln",  "n": 1.0}'),))
    text = ChatTemplate(TOOLS).render([Message("user", "?"), call], [TOOL], add_generation_prompt=False)
    assert '<call>look_up {"place": "Köln", "n": 1.0}</call>' in text


def test_a_template_that_shows_tools_is_told_from_one_that_drops_them(tiny_template):
    assert ChatTemplate(TOOLS).renders_tools()
    assert ChatTemplate(TOOLS).renders_tool_calls()
    assert not tiny_template.renders_tools()
    assert not tiny_template.renders_tool_calls()


@pytest.mark.parametrize(
    ("messages", "tools", "what"),
    [
        ([Message("user", "?")], [TOOL], "the tools on offer"),
        ([Message("user", "?"), Message("assistant", "", tool_calls=(ToolCall("c", "look_up", "{}"),))], [], "tool calls"),
    ],
)
def test_dropped_tools_are_refused_naming_the_model(tiny_template, messages, tools, what):
    with pytest.raises(ModelError, match=rf"chat template of tiny drops {what}"):
        tiny_template.render(messages, tools, add_generation_prompt=True)


def test_a_refusing_template_says_why_and_whose_it_is():
    with pytest.raises(ModelError, match="of mine refuses this conversation: only user and assistant speak here"):
        ChatTemplate(BRACKETS, special=SPECIAL, model="mine").render([Message("system", "x")], add_generation_prompt=True)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_model_without_template_is_refused(text):
    with pytest.raises(ModelError, match="has no chat template"):
        ChatTemplate(text)


def test_a_broken_template_is_refused_when_it_is_read():
    with pytest.raises(ModelError, match="chat template of mine is broken"):
        ChatTemplate("{% for %}", model="mine")


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ lipsum.__globals__['os'].system('touch CANARY') }}",
        "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
        "{{ self._TemplateReference__context }}{{ self.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ ('%s' | format('x')).__class__.__base__ }}{{ x.__class__() }}",
        "{{ raise_exception.__globals__['json'].codecs.open('CANARY', 'w') }}",
        "{{ strftime_now.__globals__ }}{{ strftime_now.__globals__['Path']('CANARY').touch() }}",
        "{% include '/etc/hostname' %}",
        "{% import 'os' as os %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
        "{{ namespace(__init__=1) }}",
        "{{ dict.mro() }}{{ dict.__subclasses__() }}",
    ],
)
def test_a_template_cannot_reach_out_of_its_sandbox(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    messages = [Message("user", "hi")]
    try:
        text = ChatTemplate(attack).render(messages, add_generation_prompt=False)
    except ModelError:
        text = ""
    assert "object at" not in text
    assert "{'" not in text
    assert "<class" not in text
    assert messages == [Message("user", "hi")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("attack", "did"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "still at work after 2 s"),
        ("{{ ('a' * 10**10) | length }}", "MemoryError"),
        ("{{ 'a' * 2000000 }}", "it wrote 2000000 characters"),
    ],
    ids=["endless", "memory", "output"],
)
def test_a_template_that_overworks_is_stopped_before_it_is_used(attack, did, tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").write_text(attack, encoding="utf-8")
    with pytest.raises(ModelError, match=f"chat template of mine is not safe to use: .*{did}"):
        try_out(folder, model="mine", timeout_seconds=2.0)


def test_an_ordinary_or_a_choosy_or_a_missing_template_passes_the_trial(tiny_folder, tmp_path):
    try_out(tiny_folder, model="tiny")
    (tmp_path / "chat_template.jinja").write_text(BRACKETS, encoding="utf-8")
    try_out(tmp_path, model="choosy")
    (tmp_path / "chat_template.jinja").unlink()
    try_out(tmp_path, model="none")


def test_a_template_may_stand_in_the_tokenizers_settings(tmp_path):
    settings_ = {"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D{{ eos_token }}"}]}
    settings_["eos_token"] = {"content": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings_), encoding="utf-8")
    assert ChatTemplate.from_folder(tmp_path).render([Message("user", "x")], add_generation_prompt=False) == "D</s>"
