"""Structured personal data by its form and its check digits: card, IBAN, phone, e-mail, IP address, URL, US SSN.

Tuned on the train part of presidio-research's synthetic set. Nothing here knows names, addresses, dates of birth or
licence numbers: those need a model, which is one more function of this form in `cluster.pii.DETECTORS`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """`text[start:end]` (characters) is personal data of `kind`."""

    start: int
    end: int
    kind: str


# Generic top-level domains, and the country codes that stand at the end of a bare host name (ISO 3166).
_GENERIC = "com|org|net|edu|gov|mil|int|info|biz|io|dev|app|shop|online|site|xyz|club|tech|store|cloud|ai|co|me|tv"
_COUNTRY = (
    "ac|ad|ae|af|ag|al|am|ar|at|au|az|ba|bd|be|bg|bh|bo|br|by|bz|ca|cc|ch|cl|cn|cr|cu|cy|cz|de|dk|do|dz|ec|ee|eg|es|eu|"
    "fi|fr|ge|gh|gr|gt|hk|hn|hr|hu|id|ie|il|in|ir|is|it|jo|jp|ke|kg|kr|kw|kz|lb|li|lk|lt|lu|lv|ly|ma|md|mk|mt|mx|my|ng|"
    "ni|nl|no|np|nz|pa|pe|ph|pk|pl|pt|py|qa|ro|rs|ru|sa|se|sg|si|sk|su|sv|th|tn|tr|tt|tw|tz|ua|ug|uk|us|uy|uz|ve|vn|za"
)
_EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,63}")
_URL = re.compile(r"(?:https?|ftp)://[^\s<>\"']+|\bwww\.[^\s<>\"']+", re.IGNORECASE)
_HOST = re.compile(rf"(?<![\w.@/-])(?:[a-z0-9][a-z0-9-]*\.)+(?:{_GENERIC}|{_COUNTRY})\b(?![\w@-]|\.\w)", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)")
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9a-f]{0,4})(?![\w:])", re.IGNORECASE
)
_IBAN = re.compile(r"(?<![^\W_])[a-z]{2}\d{2}(?:[ -]?[a-z0-9]{4}){2,7}(?:[ -]?[a-z0-9]{1,3})?(?![^\W_])", re.IGNORECASE)
_CARD = re.compile(r"(?<![\w+.-])\d(?:[ -]?\d){11,18}(?![\w]|-\d)")
_ISSUER = re.compile(r"4|5|6|3[0-9]|2131|1800|2[2-7]|0604")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w]|-\d)")
_SSN_NAMED = re.compile(r"(?:\bssn\b|social\s+security)\D{0,30}$", re.IGNORECASE)
_PHONE = re.compile(
    r"(?<![\w+./:@-])(?:\+ ?|00)?(?:\(\+?\d{1,5}\)|\d)(?:[ .-]?(?:\(0?\d{1,4}\)|\d)){5,16}"
    r"(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?![\w]|[.:/-]\d)",
    re.IGNORECASE,
)
_NO_PHONE = re.compile(
    r"(?:19|20)\d\d[-.](?:0?[1-9]|1[0-2])[-.](?:[0-2]?\d|3[01])|(?:[0-2]?\d|3[01])[-.][01]?\d[-.](?:19|20)\d\d"  # dates
    r"|(?:\d{4,5}-\d{3}|\d{5}-\d{4}|\d{5} \d{2}|\d{2} \d{5}"  # postcodes of Portugal, Brazil, US, or beside a house
    r"|\d{3}-\d{2}-\d{4})$"  # a social security number that was never given out
)
_STREET_AFTER = re.compile(r",? +[^\W\d_a-z]\w")


def luhn(digits: str) -> bool:
    """Whether the digits pass the check of ISO/IEC 7812."""
    values = [int(digit) for digit in reversed(digits)]
    doubled = [value * 2 - 9 * (value > 4) for value in values[1::2]]
    return (sum(values[::2]) + sum(doubled)) % 10 == 0


def mod97(iban: str) -> bool:
    """Whether an IBAN without spaces passes the check of ISO 13616 (the number modulo 97 is 1)."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def email(text: str) -> Iterator[Span]:
    """E-mail addresses."""
    for match in _EMAIL.finditer(text):
        yield Span(match.start(), match.end(), "email")


def url(text: str) -> Iterator[Span]:
    """Web addresses, and host names that end in a known top-level domain."""
    for match in _URL.finditer(text):
        yield Span(match.start(), match.start() + len(match.group().rstrip(".,;:!?)]}")), "url")
    for match in _HOST.finditer(text):
        yield Span(match.start(), match.end(), "url")


def ip(text: str) -> Iterator[Span]:
    """IP addresses, version 4 and 6, that are addresses (no part above 255)."""
    for match in (*_IPV4.finditer(text), *_IPV6.finditer(text)):
        try:
            ipaddress.ip_address(match.group())
        except ValueError:
            continue
        if len(match.group()) > 3:  # "::" and "::1" stand in code, and name nobody
            yield Span(match.start(), match.end(), "ip")


def iban(text: str) -> Iterator[Span]:
    """International bank account numbers of 15 to 34 characters whose check digits are right."""
    for match in _IBAN.finditer(text):
        found = match.group()
        # A word may follow after a space and look like a last group: then the shorter number is tried.
        for end in (len(found), *(cut.start() for cut in reversed(list(re.finditer(" ", found))))):
            plain = re.sub(r"[ -]", "", found[:end])
            if plain.isascii() and 15 <= len(plain) <= 34 and mod97(plain):
                yield Span(match.start(), match.start() + end, "iban")
                break


def card(text: str) -> Iterator[Span]:
    """Payment cards: 12 to 19 digits of a known issuer with the right check digit, in any grouping."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _ISSUER.match(digits) and luhn(digits):
            yield Span(match.start(), match.end(), "card")


def ssn(text: str) -> Iterator[Span]:
    """US social security numbers that can have been given out; with spaces only where the text says what it is."""
    for match in _SSN.finditer(text):
        if match.group(1) == "-" or _SSN_NAMED.search(text[max(0, match.start() - 60) : match.start()]):
            yield Span(match.start(), match.end(), "ssn")


def phone(text: str) -> Iterator[Span]:
    """Telephone numbers of 7 to 15 digits as people write them; dates, postcodes and house numbers are none."""
    for match in _PHONE.finditer(text):
        found = match.group()
        number = re.split(r"\s?(?:x|ext)", found, flags=re.IGNORECASE)[0]
        count = sum(character.isdigit() for character in number)
        international = number.startswith(("+", "00"))
        if not 7 <= count <= (15 if international or "(" in number else 12) or _NO_PHONE.match(number):
            continue
        plain = number.isdigit() and not international
        if plain and count not in (10, 11):  # a bare run of other lengths is an order, an account, an amount
            continue
        if not international and "(" not in number and " " in number and _STREET_AFTER.match(text, match.end()):
            continue  # "370 3911 Fourth Avenue"
        if "." in number and re.fullmatch(r"\d{1,3}(?:\.\d{3})+|\d+\.\d+", number):
            continue  # 1.234.567 and 3.1415926
        yield Span(match.start(), match.end(), "phone")
