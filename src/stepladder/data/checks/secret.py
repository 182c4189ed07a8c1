"""Keys and passwords."""

from __future__ import annotations

import math
import re
from collections import Counter

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Severity

SHAPES = (
    ("an AWS key", re.compile(r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,255}\b|\bgithub_pat_[A-Za-z0-9_]{22,255}\b")),
    ("a GitLab token", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
    ("an Anthropic key", re.compile(r"\bsk-ant-[A-Za-z0-9_-]{16,}")),
    ("a Google key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}(?![\w-])")),
    ("a Slack token", re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/T\w+/B\w+/\w{16,}")),
    ("a Stripe key", re.compile(r"\b(?:sk|rk|pk)_(?:live|test)_[0-9A-Za-z]{16,}")),
    ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("an npm token", re.compile(r"\bnpm_[A-Za-z0-9]{36}\b")),
    ("a PyPI token", re.compile(r"\bpypi-[A-Za-z0-9_-]{50,}")),
    ("a SendGrid key", re.compile(r"\bSG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}")),
    ("a Twilio key", re.compile(r"\b(?:SK|AC)[0-9a-f]{32}\b")),
    ("a Telegram token", re.compile(r"\b\d{8,10}:AA[A-Za-z0-9_-]{32,}")),
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")),
    ("a JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    ("a password in an address", re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,60}:[^\s:/@]{3,80}@[\w.-]+")),
    ("a bearer token", re.compile(r"\bBearer\s+[A-Za-z0-9._~+/-]{20,}=*")),
)
_BARE_KEY = re.compile(r"\bsk-(?!ant-)(?=[A-Za-z0-9_-]{20})(?P<parts>[A-Za-z0-9_-]+)")
KEY_PART = 16  # letters and digits without a dash between them; the words of a web address are mostly shorter
_ASSIGNED = re.compile(
    r"(?<![^\W_])(?:password|passwort|passwd|passphrase|pwd|secret(?:[_ -]?key)?|api[_ -]?key|access[_ -]?(?:key|token)"
    r"|auth[_ -]?token|client[_ -]?secret|token|(?<!_)pin)\b"  # DB_PASSWORD too, but not password_hint
    r"(?P<sign>(?:\\?['\"`])?\s*(?:=>|:=|[:=]|\bis\b(?:\s*:)?)\s*)(?:\\?['\"`])?(?P<value>[^\s'\"`,;<>\\]{4,80})",
    re.IGNORECASE,
)
_STANDS_FOR_ONE = re.compile(
    r"\$\{?\w+\}?|%\w+%|[{\[].*|\w+(?:\.\w+)*[(\[].*"  # a variable, a template's gap, a call
    r"|(?:process\.env|req|request|config|settings|self|os|env|args)\.[\w.]+|https?://.*"
    r"|[\d.:/_+-]+|(?:your|change|replace|insert|enter|x{3})[\w-]*",
    re.IGNORECASE,
)
"""What stands where a password would: a name of it, a number, an invitation to put one."""
_PLAIN_WORDS = re.compile(r"(?:[a-z]+|\d{1,2})(?:[-/_.](?:[a-z]+|\d{1,2}))+", re.IGNORECASE)  # 6-digit, v-2-final
WORDLIKE_BITS = 2.5  # bits a character; a value below is a word, not a key


def find(context: CheckContext) -> list[Finding]:
    marks = []
    for row in context.rows:
        found = dict.fromkeys(f"{kind} in the {field.part}" for field in row.fields for kind in secrets(field.text))
        if found:
            marks.append(row.mark(", ".join(found)))
    return finding(
        "secret",
        Severity.BLOCK,
        marks,
        "{rows} hold what looks like a key or a password. A model trained on it can give it away.",
        "Take it out, and change it wherever it is in use.",
    )


def secrets(text: str) -> list[str]:
    """Kinds of secrets in a text, by the shape of known keys, or by a value after a word such as "password"."""
    found = [kind for kind, shape in SHAPES if shape.search(text)]
    if any(_is_bare_key(match["parts"]) for match in _BARE_KEY.finditer(text)):
        found.append("a key of the form sk-…")
    assigned = (_is_secret(match["value"].rstrip(".?!)"), match["sign"]) for match in _ASSIGNED.finditer(text))
    return found or (["a password or key"] if any(assigned) else [])


def _is_bare_key(parts: str) -> bool:
    """Whether a long part of it mixes letters and digits as no word does: in both cases, or changing between them."""
    long = (part for part in re.split("[_-]", parts) if len(part) >= KEY_PART)
    return any(re.search(r"\d[A-Za-z]+\d", part) or (re.search(r"\d", part) and _mixes_case(part)) for part in long)


def _mixes_case(text: str) -> bool:
    return not (text.islower() or text.isupper())


def _is_secret(value: str, sign: str) -> bool:
    """A value of letters mixed with digits or signs, as no word is, and nothing that only stands for one."""
    if _STANDS_FOR_ONE.fullmatch(value) or _PLAIN_WORDS.fullmatch(value):
        return False
    kinds = sum((any(map(str.islower, value)), any(map(str.isupper, value)), any(map(str.isdigit, value)), not value.isalnum()))
    if len(value) < 6 or kinds < 2 or not (any(map(str.isdigit, value)) or kinds >= 3):
        return False
    return "is" not in sign.casefold() or (kinds >= 3 and _bits(value) >= WORDLIKE_BITS)


def _bits(text: str) -> float:
    """Entropy of the characters, bits each (Shannon, 1948)."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


CHECK = Check(
    "secret",
    "API keys by their shape (AWS, GitHub, OpenAI, Anthropic, Google, Slack, Stripe, Hugging Face and others), private "
    "keys, web tokens, "
    'passwords in addresses, and values after "password:", "api_key=" and the like.',
    find,
)
