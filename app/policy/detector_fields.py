"""Define the fields of `sensitivity`: patterns and detectors."""

from __future__ import annotations

from marshmallow import ValidationError

from app.fields import CheckedField
from app.fields.values import MOST_PROBLEMS, nearest
from app.redaction import excerpt
from app.routing.detect import CHOICES, DETECTORS, MOST_BYTES, TOO_MUCH, PatternError, check_detector, check_pattern

_DETECTORS = f"recommended, {', '.join(DETECTORS)}, or a national id such as id_de"


class Patterns(CheckedField[tuple[str, ...]]):
    """Accept regular expressions in RE2's syntax.  RE2 needs linear time, so that no pattern can stall a worker."""

    def check(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise ValidationError("must be a list of patterns")
        problems: dict[int, list[str]] = {}
        size = 0
        for index, pattern in enumerate(value):
            try:
                size += check_pattern(pattern)
            except PatternError as error:
                problems[index] = [
                    f"{excerpt(str(error), most=200)}; correct it (the syntax: github.com/google/re2/wiki/Syntax)"
                ]
            if size > MOST_BYTES:
                raise ValidationError(TOO_MUCH)
            if len(problems) > MOST_PROBLEMS:
                break  # compiling takes time, and a message prints no more lines
        if problems:
            raise ValidationError(problems)
        return tuple(value)


class DetectorNames(CheckedField[tuple[str, ...]]):
    """Accept the word `recommended`, or a list of detectors that may contain it."""

    def check(self, value: object) -> tuple[str, ...]:
        if value == "recommended":
            return ("recommended",)
        if not isinstance(value, list):
            raise ValidationError(f"must be `recommended`, or a list with any of {_DETECTORS}")
        problems = {index: [problem] for index, name in enumerate(value) if (problem := self._problem(name))}
        if problems:
            raise ValidationError(problems)
        return tuple(value)

    def _problem(self, name: object) -> str | None:
        if name not in CHOICES:
            return f"{name!r:.60} is not one of {_DETECTORS}{nearest(str(name), CHOICES)}"
        try:
            check_detector(str(name))
        except PatternError as error:
            return str(error)
        return None
