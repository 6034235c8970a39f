"""Distinguish random keys from placeholders, identifiers, words and paths."""

from __future__ import annotations

import re
from itertools import pairwise

# Markers of at least five letters, or separated from the text around them: random keys do not contain them.
_MARKERS = re.compile(
    r"example|placeholder|change[_-]?me|redacted|replace|insert|dummy|sample[_-]|x{5}|\*{4}|\.{3}$"
    r"|(?:^|[^a-z0-9])(?:your|fake|mock|todo|here)(?:[^a-z0-9]|$)|your[_-]?(?:api|key|token|secret|own|access|pass|client)",
    re.IGNORECASE,
)
# The 140 most frequent pairs of letters in the words of Python's standard library, code and comments: 81 % of all pairs
# there, 21 % of the pairs in random letters.
_WORD_PAIRS_TEXT = """
er in te re on ti es at en ed st or nt co de le se ar al io ra ng me it ta li et ec ri an ce tr ro ne ct di nd ns ac
ma si ic pe pa la is ex as ve lo pr na ge ca un ss el to th ch ea rs nc am ou fi il om ut mp ts he id po em rt ap ur
ad pl im no od ll ol su ig ul ty so ep rr ie va ai ot ha op ck ab ni cl sp ke ee oc da mo mi bl ia pt tt ag fo vi ba
ho os us ow lt gr rm do hi ci be qu ue lu sc ir ev ef um up pp ly iv
"""
_WORD_PAIRS = frozenset(_WORD_PAIRS_TEXT.split())
_CHUNK = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")  # the words of an identifier
_HEX = re.compile(r"[0-9a-fA-F-]*")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_NEXT = {*pairwise("abcdefghijklmnopqrstuvwxyz"), *pairwise("0123456789"), *zip("990ff", "0aa01", strict=True)}
_DIGEST_LENGTHS = (32, 40, 56, 64, 96, 128)  # MD5, SHA-1, SHA-2 in hexadecimal


def is_placeholder(value: str) -> bool:
    """Return True for `xxxx…`, `EXAMPLE`, `your-key`, `1234567890abcdef`, and for a part that is repeated."""
    characters = "".join(char for char in value.lower() if char.isalnum())
    if len(set(characters)) <= min(6, len(characters) // 3) or _MARKERS.search(value):
        return True
    if any(characters[period:] == characters[:-period] for period in range(1, min(9, len(characters) // 2 + 1))):
        return True
    in_order = sum(pair in _NEXT for pair in pairwise(characters))
    return len(characters) > 15 and in_order > 0.92 * (len(characters) - 1)


def is_wordy(value: str) -> bool:
    """Return True for identifiers, paths and words with hyphens.  It is wrong for one in a thousand random keys of 20
    characters, and for fewer of longer ones."""
    if _HEX.fullmatch(value) and any(char.isdigit() for char in value):
        return False
    if sum((a.isalpha() and b.isdigit()) or (a.isdigit() and b.isalpha()) for a, b in pairwise(value)) > 4:
        return False
    pairs = [a + b for a, b in pairwise(value.lower()) if a.isalpha() and b.isalpha()]
    chunks = _CHUNK.findall(value)
    if len(pairs) < 6 or sum(map(len, chunks)) < 3 * len(chunks):
        return False
    return sum(pair in _WORD_PAIRS for pair in pairs) >= 0.5 * len(pairs)


def is_random(value: str) -> bool:
    """Return True for a value that no person would choose as a name."""
    kinds = (any(map(str.isdigit, value)), any(map(str.isupper, value)), any(map(str.islower, value)))
    return sum(kinds) >= 2 and not is_placeholder(value) and not is_wordy(value)


def is_mixed(value: str) -> bool:
    """Return True for a random value of digits and letters of both cases."""
    classes = (str.isdigit, str.isupper, str.islower)
    return all(any(map(is_class, value)) for is_class in classes) and is_random(value)


def is_scrambled(value: str) -> bool:
    """Return True for letters whose case changes more often than in a name."""
    chunks = _CHUNK.findall(value)
    return value.isalpha() and len(value) >= 8 and len(value) < 3.2 * len(chunks) and not is_wordy(value)


def is_digest_or_id(value: str) -> bool:
    """Return True for a UUID and for hexadecimal of the length of a hash: they are random, but seldom secret."""
    digits = value.removeprefix("0x")
    return bool(_UUID.fullmatch(value)) or (len(digits) in _DIGEST_LENGTHS and bool(_HEX.fullmatch(digits)))
