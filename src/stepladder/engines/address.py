"""Where a hosted or served model is found, by its name in task.toml. Knows no SDK, so that names can be read at once."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from stepladder.domain.errors import EngineError, UsageError

Api = Literal["openai", "anthropic"]

OPENAI_URL = "https://api.openai.com/v1"
ANTHROPIC_URL = "https://api.anthropic.com"
OWN_KEY = "STEPLADDER_API_KEY"
PLACEHOLDER = "none"
"""Stands for a key where none is needed."""
_PROVIDERS: dict[str, tuple[Api, str, str, str]] = {
    "openai": ("openai", OPENAI_URL, "OPENAI_BASE_URL", "OPENAI_API_KEY"),
    "anthropic": ("anthropic", ANTHROPIC_URL, "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
}


@dataclass(frozen=True, slots=True)
class Address:
    """A server, its model, and the name of the environment variable that holds its key.

    `provider` is "openai" or "anthropic" for a model named by provider, empty for one named by URL.
    """

    url: str
    model: str
    key_variable: str = OWN_KEY
    provider: str = ""

    @property
    def name(self) -> str:
        """As `[model] base` would spell it."""
        return f"{self.provider}:{self.model}" if self.provider else f"{self.public_url} {self.model}"

    @property
    def public_url(self) -> str:
        """The URL without what may be secret in it: for messages and records."""
        return _public(self.url)

    @property
    def moved(self) -> bool:
        """Whether a provider's name leads to another server than the provider's own, as the environment may say."""
        return bool(self.provider) and self.url != _PROVIDERS[self.provider][1]

    @property
    def identity_name(self) -> str:
        """What its answers are known by: `name`, behind the server's URL where a provider's name alone does not tell it."""
        return f"{self.public_url} {self.name}" if self.moved else self.name

    @property
    def api(self) -> Api:
        """Which protocol is spoken there."""
        return "anthropic" if self.provider == "anthropic" else "openai"

    @property
    def hosted(self) -> bool:
        """Whether the data leaves this machine."""
        return not _is_loopback(urlsplit(self.url).hostname or "")

    def api_key(self) -> str:
        """The key from the environment; a placeholder for a server on this machine, which needs none.

        Raises:
            EngineError: The server is elsewhere and the variable is not set, or holds what is no key.
        """
        key = read_key(self.key_variable)
        if not key and self.hosted:
            raise EngineError(f"{self.name} needs an API key.", f"Set the environment variable {self.key_variable}.")
        return key or PLACEHOLDER


def read_key(variable: str) -> str:
    """The key in an environment variable, without the line's end that a file may have left on it; empty where there is none.

    Raises:
        EngineError: No HTTP header can hold it.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise EngineError(f"{variable} holds a character that no API key has.", "Copy the key into it again.")
    return key


def parse_model(name: str) -> Address | None:
    """`openai:NAME`, `anthropic:NAME` or `URL NAME` as an address; None for anything else (a folder, a starter name, …).

    `OPENAI_BASE_URL` and `ANTHROPIC_BASE_URL` move the two providers elsewhere, as they do for their own SDKs.

    Raises:
        UsageError: It begins like one of them, but is not complete.
    """
    for provider, (_, url, url_variable, key_variable) in _PROVIDERS.items():
        if name.startswith(f"{provider}:"):
            model = name.removeprefix(f"{provider}:").strip()
            if not model:
                raise UsageError(f"'{provider}:' lacks the model's name.", f"Write {provider}:NAME.")
            return Address(_checked_url(os.environ.get(url_variable) or url, url_variable), model, key_variable, provider)
    if not name.startswith(("http://", "https://")):
        return None
    url, _, model = name.partition(" ")
    if not model.strip() or not urlsplit(url).hostname:
        raise UsageError(f"{_bare(url)!r} is not a server and a model.", "Write the URL, a space, and the model's name.")
    return Address(_checked_url(url, "The server's URL"), model.strip())


def moved_models(names: Iterable[str]) -> dict[str, str]:
    """Of the models named by a provider, those that are asked elsewhere, with what they are known by there."""
    found = {name: parse_model(name) for name in names}
    return {name: address.identity_name for name, address in found.items() if address is not None and address.moved}


def _checked_url(url: str, where: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise UsageError(f"{where} holds a password.", f"Put the key into {OWN_KEY} instead.")
    if parts.query or parts.fragment:  # the calls' paths would follow it, and be part of it
        raise UsageError(f"{where} goes on after its path, with '?' or '#'.", "Leave that away: a call could not carry it.")
    return url.rstrip("/")


def _bare(url: str) -> str:
    """A URL without a password, for messages."""
    return url.rpartition("@")[2]


def _public(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=_bare(parts.netloc), query="", fragment="").geturl()


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
