"""A place in a text that a pattern matched, with what stands around it.

A check looks at a few hundred bytes around the candidate at most: the work of a text grows with its size only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import re2

BORDER = "\x1e"  # a line of its own between two texts (ASCII's record separator)
BETWEEN_TEXTS = f"\n{BORDER}\n"
_AROUND_BYTES = 160
_LONGEST_BYTES = 400  # of a value: the rest of a longer one says nothing new
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


def linear(pattern: str) -> Any:
    """Return a pattern in RE2: for those that Python's `re` would go through again and again."""
    return re2.compile(pattern, _options)


def tail(pattern: re.Pattern[str], text: str) -> str:
    """Return what a pattern of single characters matches at the end of a text, in linear time."""
    found = pattern.match(text[::-1])
    return found[0][::-1] if found else ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the first group of a pattern matched in `raw`, and the groups inside it."""

    raw: bytes
    spans: tuple[Span, ...]  # of the groups that took part; never empty

    @property
    def text(self) -> str:
        return self._text(self.spans[0])

    @property
    def parts(self) -> tuple[str, ...]:
        """The texts of the inner groups; the whole when there is none."""
        return tuple(self._text(span) for span in self.spans[1:]) or (self.text,)

    @property
    def before(self) -> str:
        """Return what stands before it in the same text: others must not hide it."""
        begin = self.spans[0][0]
        return self.raw[max(0, begin - _AROUND_BYTES) : begin].decode("utf-8", "ignore").rpartition(BORDER)[2]

    @property
    def after(self) -> str:
        """Return what stands behind it in the same text."""
        end = self.spans[0][1]
        return self.raw[end : end + _AROUND_BYTES].decode("utf-8", "ignore").partition(BORDER)[0]

    def _text(self, span: Span) -> str:
        return self.raw[span[0] : min(span[1], span[0] + _LONGEST_BYTES)].decode("utf-8", "replace")

    @property
    def neighbours(self) -> tuple[str, str]:
        """The words to the left and to the right, of letters and digits, with a blank or two between."""
        left, right = self.before.rstrip(" \t,"), self.after.lstrip(" \t")
        gaps = (len(self.before) - len(left), len(self.after) - len(right))
        found = _WORD.match(right)
        words = (tail(_WORD, left), found[0] if found else "")
        return words[0] if 0 < gaps[0] < 4 else "", words[1] if 0 < gaps[1] < 4 else ""

    def in_encoded_text(self) -> bool:
        """Return True for a piece of base64: of a longer run, or of a block of lines of one length."""
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
        return any(len(near) == len(line) and not near.translate(None, _ENCODED) for near in (above, below))

    def in_dump(self) -> bool:
        """Return True when the line is one of a hexadecimal or octal dump."""
        begin = self.spans[0][0]
        begin = self.raw.rfind(b"\n", max(0, begin - _AROUND_BYTES), begin) + 1
        return _DUMP.match(self.raw[begin : begin + _AROUND_BYTES].decode("utf-8", "ignore").lstrip()) is not None


Check = Callable[[Candidate], bool]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of private text.  The first group of the pattern is the candidate that `check` judges."""

    detector: str  # the name in the policy
    name: str
    pattern: str  # in RE2's syntax
    check: Check | None = None  # None: the shape alone is enough
    overlaps: bool = False  # a candidate may begin inside another one that failed; their length is bounded
    token: bool = False  # a run of at least 15 characters that stand in keys and addresses
