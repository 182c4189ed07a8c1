"""Every technique, in the order of climbing. A new one is one new file and one line here."""

from __future__ import annotations

from stepladder.domain.errors import UsageError
from stepladder.domain.protocols import Technique
from stepladder.techniques.baseline import Baseline
from stepladder.techniques.classifier import Classifier
from stepladder.techniques.constrained import Constrained
from stepladder.techniques.dpo import Dpo
from stepladder.techniques.few_shot import FewShot
from stepladder.techniques.hosted import Hosted
from stepladder.techniques.lora import Lora
from stepladder.techniques.lora_constrained import LoraConstrained
from stepladder.techniques.lora_nearest import LoraNearest
from stepladder.techniques.lora_rag import LoraRag
from stepladder.techniques.nearest import Nearest
from stepladder.techniques.prompt import ZeroShotPrompt
from stepladder.techniques.qlora import Qlora
from stepladder.techniques.rag import Rag
from stepladder.techniques.recorded import Recorded

LADDER: tuple[Technique, ...] = (
    Baseline(),
    Recorded(),
    Classifier(),
    ZeroShotPrompt(),
    Constrained(),
    FewShot(),
    Nearest(),
    Rag(),
    Lora(),
    LoraConstrained(),
    LoraNearest(),
    LoraRag(),
    Qlora(),
    Dpo(),
    Hosted(),
)


def technique(name: str) -> Technique:
    """The technique of that name.

    Raises:
        UsageError: There is none; the message lists all.
    """
    for one in LADDER:
        if one.name == name:
            return one
    raise UsageError(f"there is no rung '{name}'.", f"Choose among {', '.join(one.name for one in LADDER)}.")
