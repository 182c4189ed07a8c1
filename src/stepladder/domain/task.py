"""`task.toml`: every setting, read once, described where it is declared (help, docs and errors reuse the descriptions)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stepladder.domain.errors import DataError
from stepladder.domain.grader_settings import OpenAIGraderSettings
from stepladder.domain.hosted import HostedSettings
from stepladder.domain.settings import Settings as Settings
from stepladder.domain.settings import read_settings
from stepladder.domain.text_file import read_text
from stepladder.domain.toml_lines import line_of

FactsChange = Literal["never", "yearly", "monthly", "weekly", "daily"]


class DataSettings(Settings):
    """`[data]`: where the examples are."""

    examples: str | None = Field(None, description="File (or `datasets` folder) of examples, split by Stepladder.")
    train: str | None = Field(None, description="Your own training file, instead of `examples`.")
    validation: str | None = Field(None, description="Your own validation file (optional beside `train` and `test`).")
    test: str | None = Field(None, description="Your own test file (with `train`).")
    documents: str | None = Field(None, description="Folder of .md, .txt, .html and .pdf files, for retrieval.")
    input: str | None = Field(None, description="Column, or key of the rows, that holds the input.")
    reference: str | None = Field(None, description="Column, or key of the rows, that holds the expected output.")
    id: str | None = Field(None, description="Column, or key of the rows, that holds the row's id.")
    recorded: str | None = Field(
        None,
        description="Answers of your present system: a column or key of the rows, or a JSONL file of id and answer.",
    )
    accept: tuple[str, ...] = Field(
        (), description="Codes of blocking findings of `check` to climb in spite of, such as `secret`."
    )

    @model_validator(mode="after")
    def _one_way(self) -> DataSettings:
        if (self.examples is None) == (self.train is None):
            raise ValueError("give either `examples` or `train` with `test`")
        if (self.train is None) != (self.test is None):
            raise ValueError("`train` and `test` come together")
        if self.validation is not None and self.train is None:
            raise ValueError("`validation` needs `train` and `test`")
        return self


class OutputSettings(Settings):
    """`[output]`: the shape of an answer; free text when empty."""

    json_schema: str | None = Field(None, alias="schema", description="File of a JSON Schema the answer must follow.")
    labels: tuple[str, ...] = Field((), description="The closed list of allowed answers.")
    regex: str | None = Field(None, description="A regular expression the whole answer must match.")
    style: bool = Field(False, description="The task is about tone or style: the fact check does not apply.")

    @model_validator(mode="after")
    def _one_shape(self) -> OutputSettings:
        if sum((self.json_schema is not None, bool(self.labels), self.regex is not None)) > 1:
            raise ValueError("give one of `schema`, `labels` and `regex`")
        if len(set(self.labels)) != len(self.labels) or any(not label.strip() for label in self.labels):
            raise ValueError("`labels` must be different and not empty")
        return self


class LabelsGrader(Settings):
    """Right when the answer is the reference label, letter case and outer space aside."""

    type: Literal["labels"] = "labels"


class JsonFieldsGrader(Settings):
    """F1 over the fields' values; reported beside the share that parses and the share that is valid."""

    type: Literal["json_fields"] = "json_fields"


class ToolCallsGrader(Settings):
    """F1 over the tools called and the values of their arguments; a reference without calls wants its text and no call."""

    type: Literal["tool_calls"] = "tool_calls"
    ordered: bool = Field(False, description="The calls must come in the reference's order.")


class NormalisedMatchGrader(Settings):
    """Right when both texts are equal after SQuAD normalisation (case, articles, punctuation, space)."""

    type: Literal["normalised_match"] = "normalised_match"
    exact: bool = Field(False, description="Compare as written, outer white space aside.")


class TokenF1Grader(Settings):
    """F1 over normalised words, as in SQuAD; over character bigrams where a script puts no spaces between words."""

    type: Literal["token_f1"] = "token_f1"


class ChrfGrader(Settings):
    """chrF (character n-gram F-score) by sacrebleu, divided by 100. A proxy for quality, not quality."""

    type: Literal["chrf"] = "chrf"


class RegexGrader(Settings):
    """Right when the pattern matches the whole answer."""

    type: Literal["regex"] = "regex"
    name: str | None = Field(None, min_length=1, description="Name in the report; by default the type.")
    pattern: str = Field(description="Pattern the whole answer must match.")


class NumericGrader(Settings):
    """Right when the first number of the answer lies within a tolerance of the reference's."""

    type: Literal["numeric"] = "numeric"
    absolute: float = Field(0.0, ge=0, description="Largest absolute difference that still counts as right.")
    relative: float = Field(0.0, ge=0, description="Largest difference as a share of the reference.")


class StyleGrader(Settings):
    """How probably the answer was written in the references' style, by a small model that learned to tell the training
    references from the base model's untuned answers to the same inputs; it is fitted once a climb, before any rung is scored.

    0 where a number or name of the input is lost that the reference keeps, or the answer is shorter than half of the reference
    or longer than twice. Ungraded when references and untuned answers cannot be told apart (cross-validated AUC below 0.8).
    The report adds how well references can be told from the rung's answers (`style_auc`; 50 % = not at all) with its p.
    """

    type: Literal["style"] = "style"


GraderSettings = Annotated[
    LabelsGrader
    | JsonFieldsGrader
    | ToolCallsGrader
    | NormalisedMatchGrader
    | TokenF1Grader
    | ChrfGrader
    | RegexGrader
    | NumericGrader
    | StyleGrader
    | OpenAIGraderSettings,
    Field(discriminator="type"),
]


class PromptSettings(Settings):
    """`[[prompts]]`: one of your own prompts, tried first, verbatim, always reported."""

    file: str = Field(
        description="Text file. With `{input}` in it, it becomes the user turn; without, the system turn before the input."
    )
    name: str | None = Field(None, description="Name in the report; by default the file's.")


class PriceSettings(Settings):
    """`[model.prices."NAME"]`: what a compared model charges, NAME as in `compare`."""

    usd_per_million_prompt_tokens: float = Field(ge=0, description="Price of its input.")
    usd_per_million_completion_tokens: float = Field(ge=0, description="Price of its output.")


class ModelSettings(Settings):
    """`[model]`: what answers."""

    base: str = Field(
        "smollm2-135m-instruct",
        description="Starter name, Hugging Face id, folder, GGUF file, `openai:NAME`, `anthropic:NAME`, or `URL NAME` of an "
        "OpenAI-shaped server.",
    )
    compare: tuple[str, ...] = Field((), description="Larger prompted models, put into the same table.")
    same_weights: tuple[str, ...] = Field(
        (),
        description="Models of `compare` that run the base's own weights elsewhere; one that reads its prompts otherwise is "
        "marked not comparable.",
    )
    revision: str | None = Field(None, description="Commit of a Hugging Face repository; recorded when left out.")
    concurrency: int = Field(8, ge=1, le=256, description="Most calls at once to one served model; fewer while it answers 429.")
    timeout_seconds: float = Field(120, gt=0, description="Longest wait for one answer of a served model.")
    thinking_tokens: int = Field(
        0, ge=0, description="Tokens a served model may think for: what each of its answers may take beyond the rungs' limit."
    )
    prices: dict[str, PriceSettings] = Field(
        default_factory=dict,
        description="What compared models charge, a table each; a hosted one is refused without, unless `[budget] usd = inf`.",
    )

    @model_validator(mode="after")
    def _same_weights_are_compared(self) -> ModelSettings:
        for name in self.same_weights:
            if name not in self.compare:
                raise ValueError(f"`same_weights` names '{name}', which `compare` does not; they must be spelled alike")
        return self

    @model_validator(mode="after")
    def _prices_of_compared_models(self) -> ModelSettings:
        for name in self.prices:
            if name == self.base:
                raise ValueError(f"the prices of the base '{name}' stand in `[use]`")
            if name not in self.compare:
                raise ValueError(f"`prices` names '{name}', which `compare` does not; they must be spelled alike")
        return self


class UseSettings(Settings):
    """`[use]`: how the winner will be used; drives cost, break-even, warnings and refusals."""

    model_config = ConfigDict(allow_inf_nan=False)

    calls_per_month: float | None = Field(None, gt=0, description="Expected calls a month (1,000 when nothing is said).")
    calls_total: float | None = Field(None, gt=0, description="Calls in all, for a one-off job.")
    horizon_months: float = Field(12, gt=0, description="Months over which costs are added up.")
    facts_change: FactsChange = Field("never", description="How often the facts behind the answers change.")
    data_may_leave: bool = Field(False, description="Whether hosted engines may see the data.")
    other_tasks: bool = Field(False, description="Whether the tuned model must keep its general abilities: then a gate.")
    probes: str | None = Field(
        None, description="Your own retention probes (JSONL), asked beside the built-in ones before and after tuning."
    )
    max_latency_seconds: float | None = Field(None, gt=0, description="Slowest acceptable answer (95th percentile).")
    machine_usd_per_hour: float | None = Field(None, ge=0, description="Price of this machine; without it, seconds.")
    label_usd_each: float | None = Field(
        None, ge=0, description="Price of one more labelled example; paid again whenever the facts change."
    )
    usd_per_million_prompt_tokens: float | None = Field(
        None, ge=0, description="Price of a hosted base's input; it is refused without, unless `[budget] usd = inf`."
    )
    usd_per_million_completion_tokens: float | None = Field(None, ge=0, description="Price of a hosted base's output.")

    @model_validator(mode="after")
    def _one_volume(self) -> UseSettings:
        if self.calls_per_month is not None and self.calls_total is not None:
            raise ValueError("give `calls_per_month` or, for a one-off job, `calls_total`")
        return self

    @model_validator(mode="after")
    def _both_prices(self) -> UseSettings:
        if (self.usd_per_million_prompt_tokens is None) != (self.usd_per_million_completion_tokens is None):
            raise ValueError("`usd_per_million_prompt_tokens` and `usd_per_million_completion_tokens` come together")
        return self

    @property
    def calls(self) -> float:
        """Calls over the horizon."""
        if self.calls_total is not None:
            return self.calls_total
        return (self.calls_per_month or 1_000.0) * self.horizon_months

    @property
    def retrainings(self) -> float:
        """Trainings over the horizon that changing facts force, beyond the first."""
        per_year = {"never": 0, "yearly": 1, "monthly": 12, "weekly": 52, "daily": 365}[self.facts_change]
        return 0.0 if self.calls_total is not None else per_year * self.horizon_months / 12


class BudgetSettings(Settings):
    """`[budget]`: what one climb may use."""

    minutes: float = Field(30, gt=0, description="Wall-clock minutes; `plan` says what is dropped to fit.")
    usd: float = Field(
        5,
        ge=0,
        description="Money for all hosted models of one climb together, kills and restarts included; `inf` for no limit. "
        "Each `predict` may spend as much.",
    )


TokensPerPass = Annotated[
    int | None,
    Field(
        ge=1,
        description="Tokens computed at once; fewer take less memory, the adapter is the same but for rounding. "
        "By default what a share of the memory holds.",
    ),
]


class LoraSettings(Settings):
    """`[rungs.lora]`: the fine-tune; everything has a default from the model and the number of rows."""

    rank: int | None = Field(None, ge=1, le=512, description="Rank of the adapter; by default 8 below 100 rows, else 16.")
    alpha: float | None = Field(None, gt=0, description="Scale of the adapter; by default twice the rank.")
    learning_rate: float | None = Field(None, gt=0, description="Peak AdamW rate; by default from the model's width.")
    search_learning_rate: bool = Field(
        False,
        description="Try a third of the rate, the rate and three times it in short runs, and take the best by held-out loss.",
    )
    epochs: int | None = Field(None, ge=1, description="Most passes over the rows; by default 10, 6 or 4 by size.")
    batch_size: int | None = Field(None, ge=1, description="Examples an optimizer step; by default 4, 8 or 16.")
    max_tokens: int | None = Field(None, ge=8, description="Longest training row; longer is an error, never cut.")
    tokens_per_pass: TokensPerPass = None
    prompt_loss_weight: float = Field(
        0.0, ge=0, le=1, description="How much a token of the prompt counts beside one of the answer; 0 learns answers only."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each learned token's target that is spread evenly over the vocabulary."
    )
    rank_stabilised: bool = Field(
        False, description="Scale the adapter by alpha / √rank instead of alpha / rank (rsLoRA); alpha is then 16 by default."
    )
    target_modules: tuple[str, ...] = Field(
        (), description='Names of the linear layers to adapt, as `["q_proj", "v_proj"]`; by default all but the head.'
    )


class DpoSettings(Settings):
    """`[rungs.dpo]`: preference tuning, which starts from the fine-tune's adapter and keeps its shape."""

    beta: float = Field(0.1, gt=0, description="How closely the adapter stays to the one it starts from; larger is closer.")
    learning_rate: float | None = Field(
        None, gt=0, description="Peak AdamW rate; by default a hundredth of the fine-tune's preset, at least 5e-6."
    )
    epochs: int | None = Field(None, ge=1, description="Most passes over the pairs; by default 10, 6 or 4 by size.")
    batch_size: int | None = Field(None, ge=1, description="Pairs an optimizer step; by default 4, 8 or 16.")
    tokens_per_pass: TokensPerPass = None


class RungsSettings(Settings):
    """`[rungs]`: settings of single rungs, and which to leave out."""

    lora: LoraSettings = Field(default_factory=LoraSettings, description="Settings of the fine-tune.")
    dpo: DpoSettings = Field(default_factory=DpoSettings, description="Settings of preference tuning.")
    hosted: HostedSettings = Field(default_factory=HostedSettings, description="A fine-tune at an endpoint.")
    skip: tuple[str, ...] = Field((), description="Rungs not to climb.")
    include: tuple[str, ...] = Field(
        (), description="Rungs to climb that would be left out: `qlora`, which waits until 16-bit weights do not fit."
    )
    learning_curve: tuple[str, ...] | None = Field(
        None,
        description="Rungs that are also fitted to parts of the training rows, to forecast what twice as many would bring; by "
        "default `classifier` and `nearest` where no call is charged. `lora` trains nine times more; `[]` is for none.",
    )


class TaskSettings(Settings):
    """The whole of `task.toml`."""

    name: str = Field(min_length=1, description="Short name of the task.")
    instruction: str = Field(min_length=1, description="What is wanted, as you would tell a colleague.")
    target: float | None = Field(None, gt=0, le=1, description="Good enough; leave out to ask for the best value.")
    minimum_gain: float = Field(0.03, gt=0, lt=1, description="A difference smaller than this is not worth paying for.")
    data: DataSettings = Field(description="Where the examples are.")
    output: OutputSettings = Field(default_factory=OutputSettings, description="The shape of an answer.")
    graders: tuple[GraderSettings, ...] = Field((), description="The first decides, the rest are reported.")
    prompts: tuple[PromptSettings, ...] = Field((), description="Your own prompts.")
    model: ModelSettings = Field(default_factory=ModelSettings, description="What answers.")
    use: UseSettings = Field(default_factory=UseSettings, description="How the winner will be used.")
    budget: BudgetSettings = Field(default_factory=BudgetSettings, description="What one climb may use.")
    rungs: RungsSettings = Field(default_factory=RungsSettings, description="Settings of single rungs.")

    @field_validator("prompts")
    @classmethod
    def _named_apart(cls, value: tuple[PromptSettings, ...]) -> tuple[PromptSettings, ...]:
        names = [prompt.name or prompt.file for prompt in value]
        if len(set(names)) != len(names):
            raise ValueError("two prompts have one name; give each a `name` of its own")
        return value

    @field_validator("graders")
    @classmethod
    def _graders_named_apart(cls, value: tuple[GraderSettings, ...]) -> tuple[GraderSettings, ...]:
        names = [getattr(grader, "name", None) or grader.type for grader in value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two graders are called '{twice}'; give each a `name` of its own, or leave one out")
        return value

    @field_validator("name", "instruction")
    @classmethod
    def _strip(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("nothing but white space")
        return value.strip()

    def use_of(self, model: str) -> UseSettings:
        """`[use]` with the prices of one model: the base's stand there, a compared model's in `[model.prices]`."""
        if model == self.model.base:
            return self.use
        prices = self.model.prices.get(model)
        keys = PriceSettings.model_fields
        return self.use.model_copy(update={key: None if prices is None else getattr(prices, key) for key in keys})

    def decided_graders(self) -> tuple[GraderSettings, ...]:
        """The graders in force: the user's, else one by output shape (references that are tool calls: see `build_graders`)."""
        if self.graders:
            return self.graders
        if self.output.json_schema is not None:
            return (JsonFieldsGrader(),)
        if self.output.labels:
            return (LabelsGrader(),)
        if self.output.regex is not None:
            return (NormalisedMatchGrader(exact=True),)
        return (ChrfGrader(),)


class Task(BaseModel):
    """A task folder: its settings, and where it lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    settings: TaskSettings

    @classmethod
    def load(cls, folder: Path | str) -> Task:
        """Read `task.toml` of a task folder.

        Raises:
            DataError: The folder or file is missing, is not TOML, or a key or value is wrong (named, with what to do).
        """
        folder = Path(folder)
        path = folder if folder.suffix == ".toml" else folder / "task.toml"
        if not path.is_file():
            raise DataError(path, None, "there is no task.toml.", "A task is a folder with a task.toml; see the tutorial.")
        settings = read_settings(path, TaskSettings)
        task = cls(folder=path.parent, settings=settings)
        if settings.output.json_schema is not None:
            task.output_schema  # noqa: B018 - read now, so that a broken schema is found before any work
        return task

    def path(self, name: str) -> Path:
        """A file named in `task.toml`, relative to the task folder."""
        return self.folder / name

    def fault(self, location: Sequence[int | str], problem: str, hint: str) -> DataError:
        """What is said of a setting that only shows its fault in use, with its line in `task.toml`."""
        path = self.path("task.toml")
        try:
            line = line_of(read_text(path), location)
        except (OSError, DataError, tomllib.TOMLDecodeError):  # the file has gone or changed since it was read
            line = None
        return DataError(path, line, problem, hint)

    @cached_property
    def output_schema(self) -> dict[str, Any] | None:
        """The output's JSON Schema, keys in the file's order; None without one."""
        if self.settings.output.json_schema is None:
            return None
        path = self.path(self.settings.output.json_schema)
        try:
            schema = json.loads(read_text(path))
        except OSError as error:
            raise DataError(path, None, "the schema cannot be read.", "Check `[output] schema`.") from error
        except ValueError as error:
            raise DataError(path, None, f"the schema is not JSON: {error}.", "Correct the file.") from error
        if not isinstance(schema, dict):
            raise DataError(path, None, "a schema is a JSON object.", "Correct the file.")
        return schema
