"""Is the data English? Told by script and by common words; enough for a warning, no more."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.data.words import words

_COMMON = {
    "English": "the and of is to with for that this are you my not have it on was we be from your please",
    "German": "und der das nicht ist ich mit ein eine für auf den dem sich auch wir sie bitte mein wurde haben von zu",
    "French": "le les des est et une pas pour dans que je vous nous sur avec mon ce qui du il votre merci",
    "Spanish": "el los las es una por para que con no mi del se está como pero muy su gracias y",
    "Italian": "il gli che di è una per non con sono del mi della anche ho questo le grazie dei",
    "Portuguese": "os é uma para que não com por meu minha do da em está se mas muito obrigado você",
    "Dutch": "het een niet van ik dat en met voor zijn op mijn aan ook wij u deze graag naar",
    "Polish": "nie jest się na że do mój to jak proszę mam czy jestem po dla od ale przez",
    "Swedish": "och det är inte jag en ett som på för med har min till av om kan tack",
    "Turkish": "ve bir bu için çok ne ile değil benim var mı da olarak lütfen daha gibi",
}
COMMON_WORDS = {language: frozenset(said.split()) for language, said in _COMMON.items()}
FEWEST_WORDS = 5
"""Common words a language must be met with before it counts as evidence."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """`share` of the texts (0 to 1) that are not English, and by what that was told."""

    share: float
    told_by: str


def foreign_evidence(texts: Sequence[str]) -> Evidence:
    """How much of `texts` is in other languages than English; texts without a letter are left out."""
    scripts = [script for script in map(_script, texts) if script]
    if not scripts:
        return Evidence(0.0, "")
    latin = [text for text in texts if _script(text) == "LATIN"]
    language, met = _latin_language(latin)
    counts = Counter(script for script in scripts if script != "LATIN")
    foreign = sum(counts.values()) + (len(latin) if language != "English" else 0)
    reasons = [f"{script.title()} script" for script, _ in counts.most_common(2)]
    if latin and language != "English":
        reasons.append(f"{language} words such as {', '.join(met)}")
    return Evidence(foreign / len(scripts), " and ".join(reasons))


def _script(text: str) -> str:
    """The script of most letters, by the first word of their Unicode names ("LATIN", "ARABIC", "CJK"); "" without letters."""
    counts = Counter("LATIN" if sign.isascii() else _script_of(sign) for sign in text if sign.isalpha())
    return counts.most_common(1)[0][0] if counts else ""


def _script_of(sign: str) -> str:
    return unicodedata.name(sign, "UNKNOWN").split()[0].split("-")[0]


def _latin_language(texts: Sequence[str]) -> tuple[str, list[str]]:
    """The language whose common words are met most, and some of them; English when there is too little to tell by."""
    counts = Counter(word for text in texts for word in words(text))
    totals = {language: sum(counts[word] for word in known) for language, known in COMMON_WORDS.items()}
    best = max(totals, key=lambda language: totals[language])
    if totals[best] < FEWEST_WORDS or totals[best] <= totals["English"]:
        return "English", []
    return best, sorted((word for word in COMMON_WORDS[best] if counts[word]), key=lambda word: -counts[word])[:3]
