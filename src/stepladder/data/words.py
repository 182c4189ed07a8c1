"""Words of a text for counting. Scripts that put no spaces between words are counted in pairs of characters."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf"  # Tai Le, New Tai Lue, Tai Tham
    "\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"  # Han
)
_RUN = re.compile(f"([{_UNSPACED}]+)")
LAST_MARK = 0xFFFF


def words(text: str) -> list[str]:
    """Lower-case words in order; a run of an unspaced script gives its character bigrams (one character stays itself)."""
    found: list[str] = []
    for run in _pattern().findall(text.lower()):
        found += bigrams(run) if _RUN.fullmatch(run) else [run]
    return found


def pieces(word: str) -> list[str]:
    """What stands between two spaces, as it is; with unspaced script in it, the bigrams of that and the other parts.

    Parts without any letter or digit ("。") are left out then, as the punctuation they are.
    """
    parts = _RUN.split(word)
    if len(parts) == 1:
        return [word]
    found: list[str] = []
    for index, part in enumerate(parts):
        if index % 2:
            found += bigrams(part)
        elif any(sign.isalnum() for sign in part):
            found.append(part)
    return found


def bigrams(run: str) -> list[str]:
    """Neighbouring characters in pairs."""
    return [run[at : at + 2] for at in range(len(run) - 1)] or [run]


@cache
def _pattern() -> re.Pattern[str]:
    """A run of an unspaced script, or a word with the marks that stand on its letters: Python's own words stop at a mark."""
    marks = "".join(chr(code) for code in range(0x300, LAST_MARK) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"[{_UNSPACED}]+|(?:(?![{_UNSPACED}])[\w{marks}])+")
