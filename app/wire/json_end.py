"""Find the end of a JSON object that arrives in pieces."""

from __future__ import annotations

import re

_OUTSIDE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')


class JsonEnd:
    """Follow brackets and strings, so that the text is parsed only after its end.  The work is linear in the
    text."""

    def __init__(self) -> None:
        self.ended = False  # the outermost bracket is closed by `}`, and only white space follows
        self._is_closed = False  # the outermost bracket is closed
        self._depth = 0
        self._in_string = False
        self._escaped = False  # the last character was a backslash in a string

    def feed(self, piece: str) -> None:
        at = 0
        while at < len(piece):
            if self._is_closed:
                self.ended = self.ended and not piece[at:].strip()
                return
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            match = (_IN_STRING if self._in_string else _OUTSIDE).search(piece, at)
            if match is None:
                return
            self._read(match.group())
            at = match.end()

    def _read(self, mark: str) -> None:
        if mark == "\\":
            self._escaped = True
        elif mark == '"':
            self._in_string = not self._in_string
        elif mark in "{[":
            self._depth += 1
        else:
            self._depth -= 1
            self._is_closed = self._depth <= 0
            self.ended = self._is_closed and mark == "}"
