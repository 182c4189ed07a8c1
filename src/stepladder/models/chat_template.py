"""From messages to the exact text a model was trained on, by the model's own template, in a sandbox. Knows no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Message, ToolCall
from stepladder.files import hash_text
from stepladder.models.manifest import read_json, read_template

PROBE = "zqxprobe"  # a text no template writes by itself
PROBE_PLACE = "zqxplace"
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": PROBE,
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "Where."}}, "required": []},
    },
}
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplate:
    """A model's chat template. Rendering gives the same text, to the character, as transformers' `apply_chat_template`.

    `special` are the tokens a template may name (`bos_token`, `eos_token`, ...); `model` stands in error messages.
    """

    def __init__(self, text: str, *, special: Mapping[str, str] | None = None, model: str = "this model") -> None:
        self.text = text
        self.special = dict(special or {})
        self.model = model
        self.sha256 = hash_text(text)
        if not text.strip():
            raise ModelError(
                f"{model} has no chat template.", "Use an instruct model, or add a chat_template.jinja to its folder."
            )
        try:
            self._compiled = _environment().from_string(text)
        except jinja2.TemplateError as error:
            raise ModelError(f"The chat template of {model} is broken: {error}.", "Correct its chat_template.jinja.") from error

    @classmethod
    def from_folder(cls, folder: Path, *, model: str | None = None) -> ChatTemplate:
        """The template of a model folder, with the special tokens its tokenizer names.

        Raises:
            ModelError: There is none, or it is broken.
        """
        return cls(read_template(folder), special=special_tokens(folder), model=model or folder.name)

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, add_generation_prompt: bool) -> str:
        """The conversation as text; with `add_generation_prompt`, up to where the model's turn begins.

        Raises:
            ModelError: The template drops tools or tool calls that were given, or refuses the conversation.
        """
        self.refuse_dropped_tools(messages, tools)
        chat = [_as_template_message(message) for message in messages]
        return self._render(chat, [dict(tool) for tool in tools], add_generation_prompt)

    def refuse_dropped_tools(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> None:
        """Raise a `ModelError` naming the model when it would never see tools or tool calls that are in the data."""
        uses_tools = bool(tools) or any(message.tool_calls or message.role == "tool" for message in messages)
        if tools and not self.renders_tools():
            raise self._drops("the tools on offer")
        if uses_tools and any(message.tool_calls for message in messages) and not self.renders_tool_calls():
            raise self._drops("tool calls")

    def renders_tools(self) -> bool:
        """Whether a tool on offer leaves a trace in the prompt."""
        return self._tool_traces[0]

    def renders_tool_calls(self) -> bool:
        """Whether an assistant's tool call leaves a trace in the prompt, with what it says."""
        return self._tool_traces[1]

    @cached_property
    def _tool_traces(self) -> tuple[bool, bool]:
        ask = Message("user", "Where?")
        call = Message("assistant", "", tool_calls=(ToolCall("call00001", PROBE, json.dumps({"place": PROBE_PLACE})),))
        shows_calls = all(self._shows([ask, call], tools, PROBE, PROBE_PLACE) for tools in ([PROBE_TOOL], []))
        return self._shows([ask], [PROBE_TOOL], PROBE), shows_calls

    def _shows(self, messages: Sequence[Message], tools: list[dict[str, Any]], *words: str) -> bool:
        try:
            text = self._render([_as_template_message(message) for message in messages], tools, False)
        except ModelError:
            return False
        return all(word in text for word in words)

    def _render(self, chat: list[dict[str, Any]], tools: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        try:
            return self._compiled.render(
                messages=chat,
                tools=tools or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise ModelError(
                f"The chat template of {self.model} refuses this conversation: {error}.",
                "Check the order and the roles of the turns.",
            ) from error

    @cached_property
    def turn_end(self) -> str:
        """What the template writes after an assistant's content, up to the end of the conversation."""
        text = self.render([Message("user", "Where?"), Message("assistant", PROBE)], add_generation_prompt=False)
        if PROBE not in text:
            raise ModelError(f"The chat template of {self.model} drops the assistant's turn.", "Use another model.")
        return text[text.rindex(PROBE) + len(PROBE) :]

    def _drops(self, what: str) -> ModelError:
        return ModelError(
            f"The chat template of {self.model} drops {what}: the model would never see them.",
            "Choose a model that was trained with tools, or remove them from the data.",
        )


def special_tokens(folder: Path) -> dict[str, str]:
    """The named special tokens of a model folder's tokenizer, as transformers hands them to a template."""
    settings = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    named = {name: settings.get(name) for name in _SPECIAL_NAMES}
    texts = {name: value["content"] if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _as_template_message(message: Message) -> dict[str, Any]:
    """A message as templates expect it: OpenAI's shape, but arguments of a tool call as an object where they are one."""
    chat = message.as_chat()
    for call in chat.get("tool_calls", ()):
        call["function"]["arguments"] = as_object(call["function"]["arguments"])
    return chat


def as_object(arguments: str) -> Any:
    """A call's arguments as a template gets them: an object where they are one, else the text."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    return value if isinstance(value, dict) else arguments


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote in some templates; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own way of declaring it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _MakeDict:
    """`dict(...)` in a template, without the class itself and what hangs on it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)` in a template; a name with a leading underscore could shadow Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no named `self`: `namespace(self=...)` is allowed
        this, attributes = args[0], dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(this, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"the name {name!r} of a namespace begins with an underscore")


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment of transformers' `chat_template_utils`, read there setting by setting."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _MakeDict()
    environment.globals["namespace"] = _Namespace
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own filter escapes HTML, which no model was trained on
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
