"""Text to token ids and back, by the model's own `tokenizer.json`. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as Backend

from stepladder.domain.errors import ModelError
from stepladder.files import hash_file
from stepladder.models.chat_template import special_tokens
from stepladder.models.manifest import read_json


class Tokenizer:
    """A thin layer over `tokenizers`: nothing is added to a text, cut off it, or padded.

    `eos_ids` are every id that the model's config, generation config and tokenizer name as the end.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        special: dict[str, str] | None = None,
        eos_ids: Sequence[int] = (),
        sha256: str = "",
        model: str = "this model",
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        special = special or {}
        self.backend = backend
        self.model = model
        self.sha256 = sha256
        self.bos_id = self._id_of(special.get("bos_token"))
        self.eos_id = self._id_of(special.get("eos_token"))
        self.pad_id = self._id_of(special.get("pad_token"))
        named = [] if self.eos_id is None else [self.eos_id]
        self.eos_ids = tuple(dict.fromkeys([*eos_ids, *named]))

    @classmethod
    def from_folder(cls, folder: Path, *, model: str | None = None, sha256: str | None = None) -> Tokenizer:
        """The tokenizer of a model folder; `sha256` spares hashing the file when the manifest already says it.

        Raises:
            ModelError: There is no `tokenizer.json`, or it cannot be read.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{folder}: there is no tokenizer.json.", "Save the tokenizer with transformers' fast tokenizer.")
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the Rust library raises plain Exception for whatever is wrong with the file
            raise ModelError(f"{path}: the tokenizer cannot be read ({error}).", "Download the model again.") from error
        return cls(
            backend,
            special=special_tokens(folder),
            eos_ids=_configured_stops(folder),
            sha256=sha256 or hash_file(path),
            model=model or folder.name,
        )

    @property
    def vocabulary_size(self) -> int:
        """Entries, added tokens included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Tokens that steer the model (turn ends, headers), by text. Text from outside must never turn into one."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: id for id, token in added.items() if token.special}

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, in which control tokens count as such. For text the template wrote."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of `text` as it stands after other text: without the space some tokenizers put at a beginning."""
        if not self._begins_with_space:
            return self.encode(text)
        newline = self.encode("\n")
        ids = self.encode("\n" + text)
        return ids[len(newline) :] if ids[: len(newline)] == newline else self.encode(text)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of `text`, in which a control token's name is only letters and signs. For text from outside.

        Raises:
            ModelError: The tokenizer makes a control token of it all the same.
        """
        ids = list(self._plain_backend.encode(text, add_special_tokens=False).ids)
        made = set(ids) & set(self.control_tokens.values())
        if made:
            token = self.backend.id_to_token(min(made))
            raise ModelError(f"The tokenizer of {self.model} cannot write {token!r} as plain text.", "Remove it from the data.")
        return ids

    def decode(self, ids: Sequence[int], *, keep_control_tokens: bool = False) -> str:
        """The text of `ids`; control tokens are left out unless asked for."""
        return str(self.backend.decode(list(ids), skip_special_tokens=not keep_control_tokens))

    def count(self, text: str) -> int:
        return len(self.encode_plain(text)) if self.find_control_token(text) else len(self.encode(text))

    def find_control_token(self, text: str) -> str | None:
        """The first control token's name that stands in `text`, or None."""
        found = [token for token in self.control_tokens if token in text]
        return min(found, key=text.index) if found else None

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self.backend.token_to_id(token)

    @cached_property
    def _plain_backend(self) -> Backend:
        plain = Backend.from_str(self.backend.to_str())
        plain.encode_special_tokens = True  # in the library's words: encode special tokens as any other text
        return plain

    @cached_property
    def _begins_with_space(self) -> bool:
        newline = self.encode("\n")
        return self.encode("\nx")[len(newline) :] != self.encode("x")


def _configured_stops(folder: Path) -> list[int]:
    stops: list[int] = []
    for name in ("generation_config.json", "config.json"):
        eos = read_json(folder / name).get("eos_token_id")
        stops += [eos] if isinstance(eos, int) else [id for id in eos or () if isinstance(id, int)]
    return stops
