"""Masking of e-mail addresses and telephone numbers, counted.

What is masked is what cannot easily be anything else: an address with a domain, and a number in one of the
written forms of a telephone number (+country code, or three groups with the area code), so that the numbers
of arithmetic stay. Names and postal addresses are not looked for.
"""

import re
from collections import Counter
from typing import Any

EMAIL, PHONE = "[email]", "[phone]"

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])")
_PHONE = re.compile(
    r"(?<![\w.+/=-])(?:"
    r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # +49 30 901820, +1 (555) 010-9999
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}"  # (555) 010-9999
    r"|\d{3}([.-])\d{3}\1\d{4}"  # 555-010-9999
    r")(?![\w/=]|[.-]\d)"
)
_SHORTEST, _LONGEST = 8, 15  # digits of an international number (E.164 has at most 15)
_LET_BE = {"id", "source", "role"}


def masked_text(text: str, counts: Counter[str]) -> str:
    """The text with marks in place of addresses and numbers, which are counted."""
    if "@" in text:
        text, found = _EMAIL.subn(EMAIL, text)
        counts["e-mail addresses"] += found
    return _PHONE.sub(lambda match: _masked_number(match[0], counts), text)


def masked(value: Any, counts: Counter[str]) -> Any:
    """A row, or a part of one, with all of its texts masked; ids, sources and roles are let be."""
    if isinstance(value, str):
        return masked_text(value, counts)
    if isinstance(value, list):
        return [masked(one, counts) for one in value]
    if isinstance(value, dict):
        return {key: one if key in _LET_BE else masked(one, counts) for key, one in value.items()}
    return value


def _masked_number(found: str, counts: Counter[str]) -> str:
    digits = sum(character.isdigit() for character in found)
    if not _SHORTEST <= digits <= _LONGEST:
        return found
    counts["telephone numbers"] += 1
    return PHONE
