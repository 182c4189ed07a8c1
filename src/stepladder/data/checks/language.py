"""Rows in another language than the rest."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from stepladder.data.checks.answers import leaves, parse_answer
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Severity

MAJORITY = 0.75
HABIT = 0.25
FEWEST_LETTERS = 4
SCRIPT_SHARE = 0.5

# Commonest small words of languages in Latin script; a word that two of them share says nothing.
_SMALL_WORDS = {
    "English": "the of and to in is you that it for on are with as this be at have from or had by not but what all "
    "were we when your "
    "can there an which their if will would how my me our where why does did could should has been please i am they he "
    "she them do was "
    "its his her about who than then some any i'm i've don't isn't can't it's",
    "German": "der die das und ist ich nicht ein eine zu mit auf für von dem den im sie es auch wie wir mein meine "
    "haben hat kann wo "
    "was bitte noch aber wenn oder sind bei nach wird werden ihr mich mir kein keine einen einem einer zum zur über "
    "warum wurde habe "
    "bin sich nur als wann dass ihre ihren möchte",
    "French": "le la les des et est je ne pas une un dans pour que qui sur avec vous nous mon ma mes ce cette il elle "
    "au aux du se "
    "plus être avez où comment pourquoi quel quelle votre vos sont ai ont peux puis été mais ou leur j'ai c'est n'est",
    "Spanish": "el los las una por con para que está es no se lo mi mis su sus pero como cómo más qué dónde cuándo "
    "puedo tengo quiero "
    "del al muy también ha he hay este esta ser son fue desde hasta sin sobre cuál yo",
    "Italian": "il lo gli che di è non per con una sono mi ho ha del della dei delle nel nella dove come quando perché "
    "anche più mio "
    "mia vorrei posso questo questa al alla dal dalla suo sua ma se si cosa",
    "Portuguese": "o os as um uma não com para que é por meu minha está onde como quando posso quero do da dos das no "
    "na nos nas mais "
    "também foi são ao à seu sua eu você isso este esta mas qual porque tenho",
    "Dutch": "de het een en van ik niet is op te dat die in met voor zijn er aan mijn wat waar hoe kan ook maar om bij "
    "naar heb heeft "
    "wordt worden deze dit of als nog geen uit jullie wanneer waarom",
    "Polish": "nie na się że do jest to jak czy moje mój gdzie kiedy dlaczego proszę mam ale od po przez dla są być może co ze z",
    "Swedish": "och att det är en ett på jag inte för med som av till har kan min mitt var hur när varför från om den de vi ni",
    "Turkish": "bir ve bu için ne nasıl nerede ben değil mi çok daha olan ile var yok kadar gibi ama neden benim",
}
_LANGUAGES_OF: dict[str, list[str]] = {}
for _language, _words in _SMALL_WORDS.items():
    for _word in set(_words.split()):
        _LANGUAGES_OF.setdefault(_word, []).append(_language)
_SURE = {word: languages[0] for word, languages in _LANGUAGES_OF.items() if len(languages) == 1}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def find(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    for part in ("input", "reference"):
        texts = [_prose(" ".join(field.text for field in row.fields if field.part == part)) for row in context.rows]
        spoken = [language_of(text) for text in texts]
        common = _common(spoken) or _common(_spoken_in_rows(context))
        others = [place for place, language in enumerate(spoken) if language and language != common]
        if not common or len(others) > HABIT * len(context.rows):
            continue
        for place in others:
            what = "answer" if part == "reference" else "input"
            marks.append(context.rows[place].mark(f"the {what} is {spoken[place]}: {quote(texts[place])}"))
    return finding(
        "language",
        Severity.WARN,
        marks,
        "{rows} are in another language than the rest.",
        "Translate them, or add enough rows in that language if users write in it.",
    )


def _common(spoken: Sequence[str]) -> str:
    """The language of three of four texts, if at least half of them show one."""
    known = Counter(language for language in spoken if language)
    if known.total() < 0.5 * len(spoken) or not known:
        return ""
    language, count = known.most_common(1)[0]
    return language if count >= MAJORITY * known.total() else ""


def _spoken_in_rows(context: CheckContext) -> list[str]:
    """Languages of whole rows, for parts that say too little: codes, names, lists."""
    return [language_of(f"{_prose(row.input_text)} {_prose(row.reference)}") for row in context.rows]


def _prose(text: str) -> str:
    value = parse_answer(text.strip())
    return text if value is None else " ".join(item for _, item in leaves(value) if isinstance(item, str))


def language_of(text: str) -> str:
    """A script other than Latin by name, else the language whose small words stand out; "" when that cannot be said."""
    letters = [letter for letter in text if letter.isalpha()]
    if len(letters) < FEWEST_LETTERS:
        return ""
    script, count = Counter(map(_script, letters)).most_common(1)[0]
    if script != "LATIN":
        return f"in {script.title()} script" if count >= SCRIPT_SHARE * len(letters) else ""
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    votes = Counter(_SURE[word] for word in words if word in _SURE)
    if not votes:
        return ""
    (first, most), *rest = votes.most_common(2)
    second = rest[0][1] if rest else 0
    enough = most >= 3 or (most >= 2 and len(words) <= 12)
    return first if enough and most >= 2 * second + 1 and most >= 0.12 * len(words) else ""


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    if letter < "\u0250":
        return "LATIN"
    name = unicodedata.name(letter, "LATIN").split()[0]
    return "HAN" if name == "CJK" else "JAPANESE" if name in ("HIRAGANA", "KATAKANA") else name


CHECK = Check(
    "language",
    "Inputs or answers in another script, or by their small words in another of ten languages in Latin script, than "
    "three of four rows.",
    find,
)
