"""Personal data and secrets, made up anew for every row: no literal key stands in this file, and no number is anybody's."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Callable
from random import Random

from planted_copy import Kind, in_prompt
from planted_texts import EVERY

LETTERS = string.ascii_letters + string.digits


def _signs(chance: Random, count: int, alphabet: str = LETTERS) -> str:
    return "".join(chance.choice(alphabet) for _ in range(count))


def luhn(digits: str) -> str:
    """`digits` with the check digit of Luhn (ISO/IEC 7812-1, annex B)."""
    total = sum(sum(divmod(int(digit) * (2 if place % 2 == 0 else 1), 10)) for place, digit in enumerate(reversed(digits)))
    return digits + str(-total % 10)


def iban(country: str, account: str) -> str:
    """An account with its two check digits (ISO 13616: remainder 1 by 97)."""
    moved = "".join(str(int(sign, 36)) for sign in f"{account}{country}00")
    return f"{country}{98 - int(moved) % 97:02d}{account}"


def email(chance: Random) -> str:
    first, last = chance.choice(("mira", "jonas", "a.okoro", "lena")), chance.choice(("holt", "ferreira", "brandt", "quist"))
    return (
        f"{first}.{last}{chance.randrange(99)}@{chance.choice(('posthuis.nl', 'brightmail.com', 'uni-north.ac.uk', 'firma.de'))}"
    )


def phone(chance: Random) -> str:
    digits = _signs(chance, 10, string.digits)
    return chance.choice(
        (
            f"+44 7{digits[:3]} {digits[3:9]}",
            f"+49 30 {digits[:3]} {digits[3:7]}",
            f"(0{chance.randrange(20, 99)}) {digits[:4]} {digits[4:8]}",
            f"+1-{chance.randrange(212, 989)}-{chance.randrange(212, 989)}-{digits[:4]}",
            f"07{digits[:3]} {digits[3:9]}",
        )
    )


def bank_account(chance: Random) -> str:
    country, account = chance.choice(
        (
            ("DE", _signs(chance, 18, string.digits)),
            ("GB", _signs(chance, 4, string.ascii_uppercase) + _signs(chance, 14, string.digits)),
            ("NL", _signs(chance, 4, string.ascii_uppercase) + _signs(chance, 10, string.digits)),
            ("ES", _signs(chance, 20, string.digits)),
        )
    )
    number = iban(country, account)
    spaced = " ".join(number[start : start + 4] for start in range(0, len(number), 4))
    return chance.choice((number, spaced))


def card(chance: Random) -> str:
    start, length = chance.choice((("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16)))
    number = luhn(start + _signs(chance, length - 1 - len(start), string.digits))
    spaced = " ".join(number[at : at + 4] for at in range(0, len(number), 4)) if length == 16 else number
    return chance.choice((number, spaced, spaced.replace(" ", "-")))


def social_security(chance: Random) -> str:
    return f"{chance.randrange(101, 665)}-{chance.randrange(10, 99)}-{chance.randrange(1001, 9999)}"


def address(chance: Random) -> str:
    parts = (chance.choice((8, 23, 81, 93, 146, 185, 212)), *(chance.randrange(1, 255) for _ in range(3)))
    return ".".join(map(str, parts))


def token(chance: Random) -> str:
    """A signed web token: two JSON objects and a signature, URL-safe base64."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": _signs(chance, 8), "iat": 1_700_000_000})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join((*encoded, _signs(chance, 43)))


def private_key(chance: Random) -> str:
    kind = chance.choice(("RSA ", "EC ", "OPENSSH ", ""))
    lines = "\n".join(_signs(chance, 64) for _ in range(4))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


def api_key(chance: Random) -> str:
    upper = string.ascii_uppercase + string.digits
    return chance.choice(
        (
            "AKIA" + _signs(chance, 16, upper),
            "ghp_" + _signs(chance, 36),
            "github_pat_" + _signs(chance, 22) + "_" + _signs(chance, 59),
            "sk-proj-" + _signs(chance, 48),
            "sk-ant-api03-" + _signs(chance, 93) + "AA",
            "AIza" + _signs(chance, 35),
            "xoxb-" + _signs(chance, 12, string.digits) + "-" + _signs(chance, 12, string.digits) + "-" + _signs(chance, 24),
            "sk_live_" + _signs(chance, 24),
            "hf_" + _signs(chance, 34, string.ascii_letters),
        )
    )


def password(chance: Random) -> str:
    value = _signs(chance, 8) + chance.choice("!#%?") + _signs(chance, 3, string.digits)
    return chance.choice(("password: {}", "Password = {}", "api_key={}", "passwd: {}", "secret_key: {}", "pwd={}")).format(value)


def in_address(chance: Random) -> str:
    scheme, host = chance.choice(
        (("postgres", "db.firma.de:5432/shop"), ("https", "files.firma.de/export"), ("redis", "cache.firma.de"))
    )
    return f"{scheme}://deploy:{_signs(chance, 14)}@{host}"


def _kind(name: str, code: str, make: Callable[[Random], str], *, exact: bool = True) -> Kind:
    def say(text: str, chance: Random) -> str:
        return f"{text} {make(chance)}" if chance.random() < 0.5 else f"{make(chance)} - {text}"

    return Kind(name, frozenset({code}), in_prompt(say), EVERY, exact)


KINDS = (
    _kind("e-mail address", "personal-data", email),
    _kind("phone number", "personal-data", phone, exact=False),
    _kind("bank account", "personal-data", bank_account),
    _kind("payment card", "personal-data", card),
    _kind("social security number", "personal-data", social_security),
    _kind("public IP address", "personal-data", address),
    _kind("API key", "secret", api_key),
    _kind("private key", "secret", private_key),
    _kind("web token", "secret", token),
    _kind("password after its name", "secret", password, exact=False),
    _kind("password in an address", "secret", in_address),
)
