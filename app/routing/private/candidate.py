"""Define a candidate: the part of a text that a pattern matched, with the text around it.

A check reads at most a few hundred bytes around the candidate, so the work is linear in the size of a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import re2

BORDER = "\x1e"  # a line of its own between two texts (ASCII's record separator)
BETWEEN_TEXTS = f"\n{BORDER}\n"
_AROUND_BYTES = 160
_MAX_BYTES = 400  # of a value: the rest of a longer one does not change the verdict
_LINE_BYTES = 1024
_ENCODED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-="
_ENCODED_LINE = 56  # characters: PEM breaks lines at 64, MIME at 76
_ENCODED_RUN = 16  # characters before a candidate
_RUN = re.compile(r"[A-Za-z0-9+/_-]*")
_WORD = re.compile(r"[A-Za-z0-9]*")
# `00000010: 4865 6c6c …` of xxd, `00000010  48 65 …` of hexdump, `0000020 060510 …` of od.
_DUMP = re.compile(r"(?:0x)?[0-9A-Fa-f]{5,15}0:?\s+(?:[0-9A-Fa-f]{1,8}\s+){3}")

Span = tuple[int, int]
_options = re2.Options()
_options.log_errors = False


class Pattern(Protocol):
    """Describe a compiled pattern of RE2, whose package has no types."""

    @property
    def groups(self) -> int: ...

    def search(self, text: str | bytes, begin: int = ...) -> Match | None: ...

    def match(self, text: str | bytes) -> Match | None: ...

    def fullmatch(self, text: str | bytes) -> Match | None: ...


class Match(Protocol):
    """Describe a match of RE2."""

    @property
    def re(self) -> Pattern: ...

    def span(self, group: int) -> Span: ...


def linear(pattern: str) -> Pattern:
    """Compile a pattern in RE2, whose time is linear where Python's `re` would backtrack."""
    compiled: Pattern = re2.compile(pattern, _options)
    return compiled


def tail(pattern: re.Pattern[str], text: str) -> str:
    """Return the match of a pattern of single characters at the end of a text, in linear time."""
    match = pattern.match(text[::-1])
    return match[0][::-1] if match else ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Hold the match of a pattern's first group in `raw`, and of the groups inside it."""

    raw: bytes
    spans: tuple[Span, ...]  # of the groups that matched; never empty

    @property
    def text(self) -> str:
        return self._text(self.spans[0])

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the texts of the inner groups; the whole text when there is none."""
        return tuple(self._text(span) for span in self.spans[1:]) or (self.text,)

    @property
    def before(self) -> str:
        """Return the characters before it in the same text: other texts must not influence the verdict."""
        begin = self.spans[0][0]
        return self.raw[max(0, begin - _AROUND_BYTES) : begin].decode("utf-8", "ignore").rpartition(BORDER)[2]

    @property
    def after(self) -> str:
        """Return the characters after it in the same text."""
        end = self.spans[0][1]
        return self.raw[end : end + _AROUND_BYTES].decode("utf-8", "ignore").partition(BORDER)[0]

    def _text(self, span: Span) -> str:
        return self.raw[span[0] : min(span[1], span[0] + _MAX_BYTES)].decode("utf-8", "replace")

    @property
    def neighbours(self) -> tuple[str, str]:
        """Return the words to the left and to the right, of letters and digits; "" where no blank is between."""
        left, right = self.before.rstrip(" \t,"), self.after.lstrip(" \t")
        gaps = (len(self.before) - len(left), len(self.after) - len(right))
        match = _WORD.match(right)
        words = (tail(_WORD, left), match[0] if match else "")
        return words[0] if 0 < gaps[0] < 4 else "", words[1] if 0 < gaps[1] < 4 else ""

    def in_encoded_text(self) -> bool:
        """Return True for a piece of base64: in a longer run, or in a block of lines of equal length."""
        if len(tail(_RUN, self.before)) >= _ENCODED_RUN:
            return True
        begin, end = self.spans[0]
        begin = self.raw.rfind(b"\n", max(0, begin - _LINE_BYTES), begin) + 1
        end = self.raw.find(b"\n", end, end + _LINE_BYTES)
        line = self.raw[begin : end if end >= 0 else len(self.raw)].rstrip(b"\r")
        if not _ENCODED_LINE <= len(line) <= _LINE_BYTES or line.translate(None, _ENCODED):
            return False
        breaks = 2 if self.raw[begin - 2 : begin] == b"\r\n" else 1
        above = self.raw[max(0, begin - breaks - len(line)) : max(0, begin - breaks)]
        below = self.raw[end + 1 : end + 1 + len(line)] if end >= 0 else b""
        return any(len(other) == len(line) and not other.translate(None, _ENCODED) for other in (above, below))

    def in_dump(self) -> bool:
        """Return True in a line of a hexadecimal or octal dump."""
        begin = self.spans[0][0]
        begin = self.raw.rfind(b"\n", max(0, begin - _AROUND_BYTES), begin) + 1
        return _DUMP.match(self.raw[begin : begin + _AROUND_BYTES].decode("utf-8", "ignore").lstrip()) is not None


Check = Callable[[Candidate], bool]


@dataclass(frozen=True, slots=True)
class Kind:
    """Describe one kind of private text.  The first group of the pattern is the candidate that `check` judges."""

    detector: str  # the name in the policy
    name: str
    pattern: str  # in RE2's syntax
    check: Check | None = None  # None: the pattern alone is enough
    overlaps: bool = False  # a candidate may begin inside another one that failed; their length is bounded
    token: bool = False  # the pattern needs at least 15 characters of those that keys and addresses consist of
