"""Take keys out of texts that other programs or people wrote, before they are shown or logged."""

from __future__ import annotations

import string
from collections.abc import Sequence

import re2

MOST_SAID = 500  # characters of another program's error text that are passed on
_WORD_CHARS = f"{string.ascii_letters}{string.digits}_-./+=~"
_BYTES = re2.Options()
_BYTES.encoding = re2.Options.Encoding.LATIN1  # each byte is a character, so text that is no UTF-8 is searched too
_KEY_SHAPES = re2.compile(
    rb"(?i)\b(?:sk|pk|rk|ghp|gho|xox[abprs]|hf|gsk|AIza|AKIA)[-_]?[A-Za-z0-9_\-]{8,}"
    rb"|(bearer )[^\s\"',]{8,}"
    rb"|\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-.]+",
    _BYTES,
)
_LONG_WORD = re2.compile(rb"[\w/.-]{28,}", _BYTES)
_RANDOM_WORD = re2.compile(  # letters and digits mixed
    rb"[\w-]*(?:[A-Za-z][\w-]*[0-9]|[0-9][\w-]*[A-Za-z])[\w-]*", _BYTES
)


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Return `text` without our own keys (`secrets`) and without anything shaped like a key.

    The time is linear in the text: backends quote what clients wrote, and RE2 does not backtrack.
    """
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[redacted]")
    raw = text.encode("utf-8", "surrogatepass")
    raw = _KEY_SHAPES.sub(rb"\1[redacted]", raw)
    raw = _LONG_WORD.sub(lambda match: b"[redacted]" if _RANDOM_WORD.fullmatch(match[0]) else match[0], raw)
    return str(raw, "utf-8", "surrogatepass")


def excerpt(text: str, secrets: Sequence[str] = (), most: int = MOST_SAID) -> str:
    """Return the first `most` characters of the redacted text.  Only the beginning of a long text is read, and a word
    that is cut there is left out: it could be half a key."""
    cut = len(text) > 8 * most  # redacting makes a text shorter
    whole = redact(text[: 8 * most].rstrip(_WORD_CHARS) if cut else text, secrets)
    return whole[: most - 1] + "…" if cut or len(whole) > most else whole
