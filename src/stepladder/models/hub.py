"""Fetch a Hugging Face repository, pinned to a commit. Needs the `train` extra."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from stepladder.domain.errors import ModelError

# Everything a model needs and nothing that can run: no pickles, no Python files.
_WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja")
_UNWANTED = ("*/*", "*.py", "*.bin", "*.pt", "*.pth", "consolidated*")


def download(repository: str, revision: str | None) -> tuple[Path, str]:
    """The local folder of `repository` in Hugging Face's own cache, and the commit it is.

    Raises:
        ModelError: The hub cannot be reached, or the repository or revision does not exist or is not open to this user.
    """
    try:
        commit = huggingface_hub.HfApi().model_info(repository, revision=revision, timeout=20).sha or ""
        folder = huggingface_hub.snapshot_download(
            repository, revision=commit, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED)
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403, 404):
            at = f" at revision '{revision}'" if revision else ""
            raise ModelError(
                f"Hugging Face has no model '{repository}'{at} that you may read (HTTP {status}).",
                "Check the name, accept the model's licence there, or set HF_TOKEN.",
            ) from error
        raise _unreachable(repository, error) from error
    except Exception as error:  # whatever the hub's HTTP client of the day raises when it cannot connect
        raise _unreachable(repository, error) from error
    return Path(folder), commit


def _unreachable(repository: str, error: Exception) -> ModelError:
    return ModelError(
        f"'{repository}' could not be fetched: the Hugging Face hub cannot be reached ({type(error).__name__}).",
        "Give the folder of a downloaded copy, or the starter model smollm2-135m-instruct.",
    )
