"""Finds private text in a request: deterministic detectors, and the operator's own patterns.  Pure.

All patterns run in RE2, whose time is linear in the text whatever the pattern: none can stall a worker.  A pattern
finds candidates; a check of the candidate and its surroundings tells those that count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import re2

from app.routing.private import contacts, national_ids, numbers, secrets
from app.routing.private.candidate import BETWEEN_TEXTS, Candidate, Kind
from app.routing.private.texts import plain, texts
from app.types import SensitivityRules

_MAX_PATTERN = 1000  # characters
_TURN_EVERY = 500  # candidates, less than 10 ms
_LINES = "(?m)"  # the texts of a request are joined by line ends: ^ and $ of a pattern are those of a line
_options = re2.Options()
_options.log_errors = False
_together = re2.Options()
_together.log_errors = False
_together.max_mem = 128 * 1024 * 1024  # bytes, for all patterns at once; RE2's default of 8 MiB is for one
MOST_BYTES = _together.max_mem // 4  # of them for programs: RE2 keeps the rest for matching
_INSTRUCTION_BYTES = 16  # sizeof(Prog::Inst)
TOO_MUCH = "need more memory together than RE2 may use; shorten or remove some"

_KINDS: tuple[Kind, ...] = (*secrets.KINDS, *numbers.KINDS, *contacts.KINDS)
DETECTORS = (
    "api_key", "private_key", "jwt", "connection_string", "authorization", "password", "credit_card", "iban", "us_ssn",
    "email", "phone",
)  # fmt: skip
# What `recommended` stands for: those that hardly ever take harmless text for private.
RECOMMENDED = (
    "api_key", "private_key", "jwt", "connection_string", "authorization", "password", "credit_card", "iban", "us_ssn",
)  # fmt: skip
CHOICES = ("recommended", *DETECTORS, *national_ids.NAMES)


class PatternError(ValueError):
    """A pattern that RE2 does not take, or a detector that cannot be built; the message says why."""


def check_pattern(pattern: object) -> int:
    """Return the bytes of its program in RE2.  Raises PatternError when an operator's pattern cannot be used."""
    if not isinstance(pattern, str) or not pattern:
        raise PatternError("must be a regular expression in quotes")
    if len(pattern) > _MAX_PATTERN:
        raise PatternError(f"is longer than {_MAX_PATTERN} characters")
    try:
        compiled = re2.compile(pattern, _options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise PatternError(f"is not a pattern RE2 takes: {text}") from None
    if compiled.search(""):
        raise PatternError("matches the empty text: every request would be private")
    return int(compiled.programsize) * _INSTRUCTION_BYTES


def expand(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of single detectors: `recommended` is a list of them, and each counts once."""
    every = (single for name in names for single in (RECOMMENDED if name == "recommended" else (name,)))
    return tuple(dict.fromkeys(every))


class _Group:
    """Some kinds whose patterns are matched in one pass.

    RE2 makes one automaton of all of them, state by state, as texts need it.  Counted repetitions would multiply the
    states (four times the time and memory, measured on source files of 4 kB).  So the pass uses loose patterns, which
    match wherever the exact ones do and a little more often; then the kinds that may be there are looked at one by one.
    """

    def __init__(self, kinds: Sequence[tuple[str, Kind]], most: int) -> None:
        """`most`: how far a loose pattern counts."""
        self._kinds = [(name, kind, re2.compile(kind.pattern, _options)) for name, kind in kinds]
        self._any = re2.Set.SearchSet(_together)
        for _, kind in kinds:
            self._any.Add(_loose(kind.pattern, most) if kind.check else kind.pattern)
        self._any.Compile()

    def candidates(self, raw: bytes) -> list[tuple[str, Kind, Any]]:
        """Return the kinds that may be in a text, with their names and patterns."""
        return [self._kinds[index] for index in self._any.Match(raw) or ()]


_COUNT = re.compile(r"\{(\d+)(?:,\d*)?\}")


def _loose(pattern: str, most: int) -> str:
    """Return a pattern that matches wherever the exact one does, with repetitions that count up to `most` only."""

    def repeat(count: re.Match[str]) -> str:
        fewest = min(int(count[1]), most)
        return ("*", "+")[fewest] if fewest < 2 else f"{{{fewest},}}"

    return _COUNT.sub(repeat, pattern)


def _finds(kind: Kind, pattern: Any, raw: bytes, turn: Callable[[], None] | None) -> bool:
    """Return True when a candidate of the kind counts."""
    for number, found in enumerate(_matches(kind, pattern, raw), 1):
        if kind.check is None or kind.check(_candidate(raw, found)):
            return True
        if turn and number % _TURN_EVERY == 0:
            turn()
    return False


def _matches(kind: Kind, pattern: Any, raw: bytes) -> Iterator[Any]:
    """Yield the matches; for kinds that say so also those that begin inside another: a number before a card's must not
    hide it."""
    found = pattern.search(raw)
    while found:
        yield found
        begin, end = found.span(1)
        found = pattern.search(raw, begin + 1 if kind.overlaps else max(end, begin + 1))


def _candidate(raw: bytes, found: Any) -> Candidate:
    spans = (found.span(group) for group in range(1, found.re.groups + 1))
    return Candidate(raw, tuple(span for span in spans if span[0] >= 0))


class Detectors:
    """The detectors a policy asks for."""

    def __init__(self, rules: SensitivityRules) -> None:
        """Raise PatternError when the patterns, each of which may be fine, are too much together, or when a detector
        needs a package that is not installed."""
        names = expand(rules.detect)
        kinds = [(name, kind) for name in names for kind in _kinds(name)]
        patterns = [(f"patterns[{index}]", pattern) for index, pattern in enumerate(rules.patterns)]
        self._order = {name: place for place, name in enumerate((*names, *dict(patterns)))}
        try:
            own = [(name, Kind(name, name, f"{_LINES}({pattern})")) for name, pattern in patterns]
            keys = [each for each in kinds if each[1].token]
            others = [each for each in kinds if not each[1].token]
            self._groups = [_Group(group, most) for group, most in ((keys, 3), (others, 12), (own, 0)) if group]
        except re2.error:
            raise PatternError(TOO_MUCH) from None

    def find(self, *documents: Any, turn: Callable[[], None] | None = None) -> str | None:
        """Return the name of the first detector, in the policy's order, that finds something in any text or number of
        the request, names of members included: `iban`, or `patterns[0]` of the operator's own.  None when there is
        nothing.  It is linear in the size of the texts, and calls `turn` between many candidates.  Objects may be
        mappings or tuples of pairs."""
        if not self._groups:
            return None
        text = BETWEEN_TEXTS.join([part for document in documents for part in texts(document)])
        raw = text.encode("utf-8", "replace")
        unescaped = plain(text, raw)
        found = self._find(raw, turn)
        return self._find(unescaped.encode("utf-8", "replace"), turn) if found is None and unescaped != text else found

    def _find(self, raw: bytes, turn: Callable[[], None] | None) -> str | None:
        possible = [each for group in self._groups for each in group.candidates(raw)]
        for name, kind, pattern in sorted(possible, key=self._place) if possible else ():
            if _finds(kind, pattern, raw, turn):
                return name
        return None

    def _place(self, possible: tuple[str, Kind, Any]) -> int:
        return self._order[possible[0]]


def check_detector(name: str) -> None:
    """Raise PatternError when a detector cannot be used."""
    _kinds(name)


def _kinds(name: str) -> tuple[Kind, ...]:
    if name in national_ids.NAMES:
        try:
            return (national_ids.kind(name),)
        except national_ids.NotInstalled as error:
            raise PatternError(str(error)) from None
    return tuple(kind for kind in _KINDS if kind.detector == name)
