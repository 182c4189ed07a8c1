"""Who is measured, and with which settings. Needs nothing but Python.

Every rival runs twice: with the defaults its documentation gives, and with the best settings that a search on this machine finds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

OURS = "stepladder"
RANK, ALPHA, LEARNING_RATE = 16, 32, 1e-4
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
MEMORY_LIMIT_BYTES = 20 * 2**30
STILL_FASTER = 0.95  # of the seconds a row of the best smaller micro-batch


@dataclass(frozen=True, slots=True)
class Setting:
    """Of a rival's trainer. `autocast` is its `bf16=True` over weights that are bf16 already."""

    checkpointing: bool = True
    autocast: bool = True
    attention: str = "sdpa"
    padding_free: bool = False
    by_length: bool = False
    compiled: bool = False
    micro_batch: int = 1

    def words(self) -> str:
        """For a reader, who knows that weights are bf16 and adapters fp32."""
        parts = [
            "gradient checkpointing" if self.checkpointing else "no checkpointing",
            "bf16 autocast" if self.autocast else "no autocast",
            self.attention,
            "rows of a micro-batch packed without padding" if self.padding_free else "padded",
            *(["rows of similar length together"] if self.by_length else []),
            *(["layers compiled"] if self.compiled else []),
            f"micro-batch {self.micro_batch}",
        ]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class System:
    """One column of the comparison. `environment` names the packages it runs with; `tuned` = its settings are searched."""

    name: str
    environment: str
    tuned: bool
    start: Setting = Setting()


SYSTEMS = {
    system.name: system
    for system in (
        System(OURS, "main", tuned=False),
        System("trl-defaults", "trl", tuned=False),
        System("trl-tuned", "trl", tuned=True, start=Setting(checkpointing=False, by_length=True)),
        System("unsloth-defaults", "unsloth", tuned=False),
        System("unsloth-best", "unsloth", tuned=True, start=Setting(checkpointing=False, by_length=True)),
    )
}


def arithmetic_variants(setting: Setting) -> list[Setting]:
    """The first round of a search: how products are computed."""
    return [
        replace(setting, autocast=False),
        replace(setting, attention="eager"),
        replace(setting, autocast=False, attention="eager"),
    ]


def further_variants(system: System, setting: Setting, lengths: list[int]) -> list[Setting]:
    """The second round, upon the winner of the first.

    Packing spares nothing where all rows are equally long. Unsloth switches it off on a CPU, and compiles layers when asked.
    """
    if system.environment == "unsloth":
        return [replace(setting, compiled=True)]
    return [replace(setting, padding_free=True)] if len(set(lengths)) > 1 else []


def search_ends_by(
    peaks: dict[int, int], seconds: dict[int, float], *, spent: float, took: float, limit: int, allowed: float
) -> str:
    """Why a search tries no larger micro-batch: "memory", "time", or "" while it goes on.

    Args:
        peaks, seconds: Bytes, and seconds a row, of each size tried; sizes grow.
        spent, took: Seconds of all trials, and of the last one. allowed: Of all, three times that while larger is still faster.
    """
    newest = max(peaks)
    if 2 * peaks[newest] > limit:
        return "memory"
    others = [pace for size, pace in seconds.items() if size != newest]
    if not others:  # one size says nothing of the next
        return ""
    patience = 3 * allowed if seconds[newest] < STILL_FASTER * min(others) else allowed
    return "time" if spent + 3 * took > patience else ""


def largest_fitting(peaks: dict[int, int], *, limit: int = MEMORY_LIMIT_BYTES) -> int:
    """The largest micro-batch that stays below `limit`, from peaks in bytes at two sizes or more (a line through the last two).

    Memory of a micro-batch grows in proportion to its rows; one that has not been tried is taken on trust only with a tenth
    to spare.
    """
    tried = sorted(peaks)
    fitting = [size for size in tried if peaks[size] <= limit]
    if len(tried) >= 2:
        low, high = tried[-2:]
        slope = max(0.0, (peaks[high] - peaks[low]) / (high - low))
        larger = (size for size in MICRO_BATCHES if size > high)
        fitting += [size for size in larger if peaks[high] + slope * (size - high) <= 0.9 * limit]
    return max(fitting, default=1)
