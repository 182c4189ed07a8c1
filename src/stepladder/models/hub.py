"""Fetch a Hugging Face repository, pinned to a commit. Needs the `train` extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from stepladder.domain.errors import ModelError

# Everything a model needs and nothing that can run: no pickles, no Python files, no folders of other formats.
_WANTED = ["*.safetensors", "*.json", "*.jinja"]
_UNWANTED = ["*/*", "consolidated*"]
_TIMEOUT_SECONDS = 20


def download(repository: str, revision: str | None) -> tuple[Path, str]:
    """The local folder of `repository` in Hugging Face's own cache, and the commit it is.

    Raises:
        ModelError: The hub cannot be reached, the repository or revision does not exist or is not open to this user, or
            it has no safetensors weights.
    """
    with _explained(repository, revision):
        info = huggingface_hub.HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT_SECONDS)
    commit = info.sha or ""
    if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or ()):
        raise ModelError(
            f"'{repository}' has no safetensors weights (pickles can run code and are never fetched).",
            "Take another revision, or a repository with safetensors.",
        )
    with _explained(repository, revision):
        folder = huggingface_hub.snapshot_download(repository, revision=commit, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    return Path(folder), commit


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Whatever the hub's client raises inside, as a `ModelError` that tells "not there" from "not reached"."""
    try:
        yield
    except Exception as error:  # which exceptions a failed connection raises depends on the client's version
        status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
        if status in (401, 403, 404):
            at = f" at revision '{revision}'" if revision else ""
            raise ModelError(
                f"Hugging Face has no model '{repository}'{at} that you may read (HTTP {status}).",
                "Check the name, accept the model's licence there, or set HF_TOKEN.",
            ) from error
        raise ModelError(
            f"'{repository}' could not be fetched: the Hugging Face hub cannot be reached ({type(error).__name__}).",
            "Give the folder of a downloaded copy, or the starter model smollm2-135m-instruct.",
        ) from error
