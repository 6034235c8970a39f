"""Find private text in a request: by deterministic detectors, and by the operator's own patterns.  Pure.

All patterns run in RE2.  Its time is linear in the length of the text for every pattern, so no pattern can stall a
worker.  A pattern finds candidates; a check of the candidate and the text around it decides which of them count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import re2

from app.routing.private import contacts, national_ids, numbers, secrets
from app.routing.private.candidate import BETWEEN_TEXTS, Candidate, Kind, Match, Pattern
from app.routing.private.texts import texts, unescaped
from app.types import SensitivityRules

Pause = Callable[[], None]

_MAX_PATTERN = 1000  # characters
_PAUSE_EVERY = 500  # candidates: less than 10 ms
_LINES = "(?m)"  # the texts of a request are joined by line ends: ^ and $ of a pattern are those of a line
_options = re2.Options()
_options.log_errors = False
_set_options = re2.Options()
_set_options.log_errors = False
_set_options.max_mem = 128 * 1024 * 1024  # bytes, for all patterns of a set; RE2's default of 8 MiB is for one pattern
MOST_BYTES = _set_options.max_mem // 4  # for the programs of the patterns: RE2 keeps the rest for matching
_INSTRUCTION_BYTES = 16  # sizeof(Prog::Inst)
TOO_MUCH = "need more memory together than RE2 may use; shorten or remove some"

_KINDS: tuple[Kind, ...] = (*secrets.KINDS, *numbers.KINDS, *contacts.KINDS)
DETECTORS = (
    "api_key", "private_key", "jwt", "connection_string", "authorization", "password", "credit_card", "iban", "us_ssn",
    "email", "phone",
)  # fmt: skip
# The detectors behind the name `recommended`: they hardly ever take harmless text for private.
RECOMMENDED = (
    "api_key", "private_key", "jwt", "connection_string", "authorization", "password", "credit_card", "iban", "us_ssn",
)  # fmt: skip
CHOICES = ("recommended", *DETECTORS, *national_ids.NAMES)


class PatternError(ValueError):
    """Report a pattern that RE2 refuses, or a detector that cannot be built.  The message gives the reason."""


def check_pattern(pattern: object) -> int:
    """Return the bytes that RE2 needs for an operator's pattern.  Raise PatternError when it cannot be used."""
    if not isinstance(pattern, str) or not pattern:
        raise PatternError("must be a regular expression in quotes")
    if len(pattern) > _MAX_PATTERN:
        raise PatternError(f"is longer than {_MAX_PATTERN} characters")
    try:
        compiled = re2.compile(pattern, _options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise PatternError(f"is not a pattern RE2 takes: {text}") from None
    if compiled.search(""):
        raise PatternError("matches the empty text: every request would be private")
    return int(compiled.programsize) * _INSTRUCTION_BYTES


def expand(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of single detectors, each once: `recommended` stands for a list of them."""
    singles = (single for name in names for single in (RECOMMENDED if name == "recommended" else (name,)))
    return tuple(dict.fromkeys(singles))


_Named = tuple[str, Kind, Pattern]  # name of the detector, kind, its exact pattern


class _Group:
    """Match the patterns of several kinds in one pass over a text.

    RE2 builds one automaton for all of them, state by state, as texts need it.  Counted repetitions would multiply the
    states (four times the time and memory, measured on source files of 4 kB).  So the pass uses loose patterns, which
    match wherever the exact ones do and a little more often.  Only the kinds that match are then searched one by one.
    """

    def __init__(self, kinds: Sequence[tuple[str, Kind]], max_count: int) -> None:
        """Compile the patterns.  The loose ones count repetitions up to `max_count` only."""
        self._kinds: list[_Named] = [(name, kind, re2.compile(kind.pattern, _options)) for name, kind in kinds]
        self._set = re2.Set.SearchSet(_set_options)
        for _, kind in kinds:
            self._set.Add(_loose(kind.pattern, max_count) if kind.check else kind.pattern)
        self._set.Compile()

    def candidates(self, raw: bytes) -> list[_Named]:
        """Return the kinds that may be in a text, with their names and patterns."""
        return [self._kinds[index] for index in self._set.Match(raw) or ()]


_COUNT = re.compile(r"\{(\d+)(?:,\d*)?\}")


def _loose(pattern: str, max_count: int) -> str:
    """Return a pattern that matches wherever the exact one does; its repetitions count up to `max_count` only."""

    def repeat(count: re.Match[str]) -> str:
        minimum = min(int(count[1]), max_count)
        return ("*", "+")[minimum] if minimum < 2 else f"{{{minimum},}}"

    return _COUNT.sub(repeat, pattern)


def _finds(kind: Kind, pattern: Pattern, raw: bytes, pause: Pause | None) -> bool:
    """Return True when a candidate of the kind counts."""
    for number, match in enumerate(_matches(kind, pattern, raw), 1):
        if kind.check is None or kind.check(_candidate(raw, match)):
            return True
        if pause and number % _PAUSE_EVERY == 0:
            pause()
    return False


def _matches(kind: Kind, pattern: Pattern, raw: bytes) -> Iterator[Match]:
    """Yield the matches.  Kinds with `overlaps` also get those that begin inside another match, so that digits before
    a card number cannot hide it."""
    match = pattern.search(raw)
    while match:
        yield match
        begin, end = match.span(1)
        match = pattern.search(raw, begin + 1 if kind.overlaps else max(end, begin + 1))


def _candidate(raw: bytes, match: Match) -> Candidate:
    spans = (match.span(group) for group in range(1, match.re.groups + 1))
    return Candidate(raw, tuple(span for span in spans if span[0] >= 0))


class Detectors:
    """Search requests with the detectors and patterns of a policy."""

    def __init__(self, rules: SensitivityRules) -> None:
        """Compile all patterns.

        Raise PatternError when the patterns need too much memory together, or when a detector needs a package that is
        not installed."""
        names = expand(rules.detect)
        kinds = [(name, kind) for name in names for kind in _kinds(name)]
        patterns = [(f"patterns[{index}]", pattern) for index, pattern in enumerate(rules.patterns)]
        self._order = {name: rank for rank, name in enumerate((*names, *dict(patterns)))}
        try:
            own = [(name, Kind(name, name, f"{_LINES}({pattern})")) for name, pattern in patterns]
            tokens = [named for named in kinds if named[1].token]
            others = [named for named in kinds if not named[1].token]
            self._groups = [_Group(group, count) for group, count in ((tokens, 3), (others, 12), (own, 0)) if group]
        except re2.error:
            raise PatternError(TOO_MUCH) from None

    def find(self, *documents: object, pause: Pause | None = None) -> str | None:
        """Return the name of the first detector, in the policy's order, that finds private text: `iban`, or
        `patterns[0]` for the operator's own.  Return None when none does.

        It reads every text and long number of the JSON documents, names of members included; their objects may be
        mappings or tuples of pairs.  The time is linear in the size of the texts.  After many candidates it calls
        `pause`, so that other requests can run."""
        if not self._groups:
            return None
        text = BETWEEN_TEXTS.join([part for document in documents for part in texts(document)])
        raw = text.encode("utf-8", "replace")
        normal = unescaped(text, raw)
        name = self._find(raw, pause)
        return self._find(normal.encode("utf-8", "replace"), pause) if name is None and normal != text else name

    def _find(self, raw: bytes, pause: Pause | None) -> str | None:
        matching = [named for group in self._groups for named in group.candidates(raw)]
        for name, kind, pattern in sorted(matching, key=self._rank) if matching else ():
            if _finds(kind, pattern, raw, pause):
                return name
        return None

    def _rank(self, named: _Named) -> int:
        return self._order[named[0]]


def check_detector(name: str) -> None:
    """Raise PatternError when a detector cannot be built."""
    _kinds(name)


def _kinds(name: str) -> tuple[Kind, ...]:
    if name in national_ids.NAMES:
        try:
            return (national_ids.kind(name),)
        except national_ids.NotInstalled as error:
            raise PatternError(str(error)) from None
    return tuple(kind for kind in _KINDS if kind.detector == name)
