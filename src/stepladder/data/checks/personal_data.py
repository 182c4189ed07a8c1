"""Personal data: what a tuned model may say to a stranger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Severity

_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,4}\.[a-zA-Z]{2,24}\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
_PHONE = re.compile(
    r"(?<![\w.+/#-])(?:\+|00)\d{1,3}[ .\-/]?(?:\(0?\d{1,4}\)[ .\-/]?)?\d{1,4}(?:[ .\-/]?\d{2,5}){1,4}(?![\w/-])"
    r"|(?<![\w.+/#-])\(\d{3,5}\)[ .-]?\d{3,4}[ .-]?\d{3,4}(?![\w/-])"
    r"|(?<![\w.+/#-])[2-9]\d{2}[.-]\d{3}[.-]\d{4}(?![\w/-])"
    r"|(?<![\w.+/#-])0\d{2,4}[ \-/]\d{3,4}[ \-]?\d{3,5}(?![\w/-])"
    r"|(?<![\w.+/#-])0\d{9,10}(?![\w/-])"
    r"|(?<![\w.+/#-])(?<!\d )0[1-9](?P<gap>[ .])\d\d(?:(?P=gap)\d\d){3}(?![\w/-]|[ .,]\d)"  # 06 12 34 56 78
    r"|(?<![\w.+/#-])(?<!\d )0[1-9]\d{1,3} / \d{3,8}(?:[ -]\d{1,5}){0,2}(?![\w/-]|[ .,]\d)"  # 030 / 901820 22
)
# Set aside for examples and fiction, so nobody's: RFC 2606 (names), Ofcom's numbers for drama, 555-01XX in North America.
_NO_MAIL = re.compile(r"(?:\.(?:example|test|invalid|localhost)|(?:@|\.)example\.(?:com|net|org))$", re.IGNORECASE)
_NO_PHONE = re.compile(
    r"(?:44|0)(?:1632960|7700900|8081570|9098790|3069990|2079460|1(?:13|14|15|16|17|18|21|31|41|51|61)4960|1914980|2890180"
    r"|2920180)\d{3}|1?[2-9]\d{2}55501\d{2}"
)
_SOCIAL = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_ADDRESS = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.])")

# Lengths of an IBAN by country: ISO 13616 registry, the countries of SEPA and the largest others.
IBAN_LENGTHS = {
    "AD": 24,
    "AE": 23,
    "AL": 28,
    "AT": 20,
    "BA": 20,
    "BE": 16,
    "BG": 22,
    "BR": 29,
    "CH": 21,
    "CY": 28,
    "CZ": 24,
    "DE": 22,
    "DK": 18,
    "EE": 20,
    "ES": 24,
    "FI": 18,
    "FR": 27,
    "GB": 22,
    "GI": 23,
    "GR": 27,
    "HR": 21,
    "HU": 28,
    "IE": 22,
    "IL": 23,
    "IS": 26,
    "IT": 27,
    "LI": 21,
    "LT": 20,
    "LU": 20,
    "LV": 21,
    "MC": 27,
    "MT": 31,
    "NL": 18,
    "NO": 15,
    "PL": 28,
    "PT": 25,
    "RO": 24,
    "RS": 22,
    "SA": 24,
    "SE": 24,
    "SI": 19,
    "SK": 24,
    "SM": 27,
    "TR": 26,
    "UA": 29,
}


def find(context: CheckContext) -> list[Finding]:
    marks = []
    for row in context.rows:
        found = dict.fromkeys(f"{kind} in the {field.part}" for field in row.fields for kind in kinds(field.text))
        if found:
            marks.append(row.mark(", ".join(found)))
    return finding(
        "personal-data",
        Severity.WARN,
        marks,
        "{rows} hold what looks like personal data. A tuned model can repeat it to anyone, rare strings most of all.",
        "Replace it by made-up values of the same form before training.",
    )


def kinds(text: str) -> Iterator[str]:
    """Kinds of personal data in a text; what has a checksum must pass it."""
    if "@" in text and any(not _NO_MAIL.search(match.group()) for match in _MAIL.finditer(text)):
        yield "an e-mail address"
    if not any(letter.isdigit() for letter in text):
        return
    accounts = [match.group() for match in _IBAN.finditer(text)]
    if any(is_iban(account) for account in accounts):
        yield "a bank account (IBAN)"
    if any(is_card(number) for match in _CARD.finditer(text) for number in _runs(match.group())):
        yield "a payment card"
    if any(_is_phone(match.group()) for match in _PHONE.finditer(text)):
        yield "a phone number"
    if _SOCIAL.search(text):
        yield "a social security number"
    if any(_is_public(match.group()) for match in _ADDRESS.finditer(text)):
        yield "an IP address"


def _runs(number: str) -> Iterator[str]:
    """A number and its parts between spaces and dashes: another number may stand right before a card's."""
    groups = re.split("[ -]", number)
    for start in range(len(groups)):
        for end in range(start + 1, len(groups) + 1):
            yield "".join(groups[start:end])


def _is_phone(number: str) -> bool:
    """Whether it is as long as phone numbers are, no card, and not set aside for fiction."""
    digits = "".join(filter(str.isdigit, number.replace("(0)", "")))
    return 9 <= len(digits) <= 15 and not is_card(number) and not _NO_PHONE.fullmatch(digits.removeprefix("00"))


def is_iban(text: str) -> bool:
    """Whether a text is an International Bank Account Number: length of its country, remainder 1 by 97 (ISO 7064)."""
    plain = text.replace(" ", "")
    if IBAN_LENGTHS.get(plain[:2]) != len(plain):
        return False
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


def is_card(text: str) -> bool:
    """Whether a text is a payment card number: an issuer's first digits and length, and Luhn's checksum (ISO/IEC 7812)."""
    digits = [int(letter) for letter in text if letter.isdigit()]
    number = "".join(map(str, digits))
    issued = re.fullmatch(
        r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}",
        number,
    )
    if not issued or len(set(number)) == 1:
        return False
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_public(address: str) -> bool:
    """Whether it may be somebody's: neither private nor set aside (RFC 5737 for examples), nor for many at once."""
    parts = tuple(map(int, address.split(".")))
    if not 3 < parts[0] < 224:  # 1.2.3.4 is a version more often than a machine
        return False
    return IPv4Address(bytes(parts)).is_global


CHECK = Check(
    "personal-data",
    "E-mail addresses, phone numbers, bank accounts (IBAN, checksum), payment cards (Luhn checksum), US social security "
    "numbers and public IP addresses in any text; not those set aside for examples and fiction (`.example`, 555-01XX, "
    "192.0.2.0/24).",
    find,
)
