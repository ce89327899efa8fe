"""The nearest of some known words, as messages about recipes name it."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'tokens'?`, or the known words where none is near."""
    words = list(known)
    close = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    close = close or [one for one in words if one.lower() == word.lower()]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f" (known: {', '.join(words)})" if 0 < len(words) <= 12 else ""
