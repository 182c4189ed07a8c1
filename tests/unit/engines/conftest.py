from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from stepladder.models.loading import LoadedModel, load
from tiny_model import build_tiny_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A second thread only waits for the first on a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load(str(tiny_folder), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def adapter_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that changes answers: both matrices random."""
    folder = tmp_path_factory.mktemp("adapters") / "one"
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        torch.manual_seed(1)
        get_peft_model(model, config).save_pretrained(folder)
    # As a finished fine-tune says it: nothing about how its matrices began.
    settings = folder / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"init_lora_weights": false', '"init_lora_weights": true'))
    return folder
