"""Check JSON values against JSON schemas.

Schemas and values are foreign.  A schema is never fetched.  Its patterns run in linear time.  A check that may take
long is left out.  A schema that no draft accepts is no fault of the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import jsonschema_rs

from app.types import JsonDict, JsonObject

_MOST_WORK = 50_000_000  # steps of the validator, of about 10 ns each: at most half a second
_MOST_DEPTH = 200  # of a schema
_MOST_NAMES = 16  # references to names, whose targets are not counted
_CHARS_OF_A_VALUE = 8  # of a JSON text: the value, its name and the marks around it
_PATTERNS = jsonschema_rs.RegexOptions(size_limit=1_000_000, dfa_size_limit=1_000_000)  # bytes
_DRAFTS = (jsonschema_rs.validator_for, jsonschema_rs.Draft7Validator, jsonschema_rs.Draft4Validator)
_DATA = frozenset(("const", "enum", "default", "example", "examples"))  # members that hold values, not schemas
# RFC 3339 wants a zone.  Pydantic reads times without one, and models write them.
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,12})?)?(?:[Zz]|[+-]\d\d:?\d\d)?"
_DATE = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_IS_TIME = re.compile(_TIME, re.ASCII)
_IS_DATE_TIME = re.compile(f"{_DATE}[Tt ]{_TIME}", re.ASCII)
_IS_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
_FORMATS = {
    "date-time": lambda text: _IS_DATE_TIME.fullmatch(text) is not None,
    "time": lambda text: _IS_TIME.fullmatch(text) is not None,
    "uri": lambda text: _IS_URI.fullmatch(text) is not None,
}


class Schema:
    """Hold a JSON schema that values are checked against."""

    def __init__(self, schema: object) -> None:
        """Compile a schema of any kind; one that cannot be used fits every value."""
        self._validator: jsonschema_rs.Validator | None = None
        self._steps = 0  # for one value
        self._work = 0  # of all checks
        if isinstance(schema, Mapping) and schema:
            try:
                usual = _usual(schema)
                self._steps = _Work(usual).steps()
                self._validator = _validator(usual)
            except (ValueError, RecursionError):  # nested too deeply, or text that UTF-8 cannot hold
                self._validator = None

    def fits(self, value: object, chars: int) -> bool:
        """Return False when a value, whose JSON text has so many characters, does not fit."""
        self._work += self._steps * (1 + chars // _CHARS_OF_A_VALUE)
        if self._validator is None or self._work > _MOST_WORK:
            return True
        try:
            return self._validator.is_valid(value)
        except ValueError:  # nested too deeply, or text that UTF-8 cannot hold
            return True


def _validator(schema: JsonDict) -> jsonschema_rs.Validator | None:
    """Return the validator of a schema, for the newest draft that accepts it; None when none does."""
    for draft in _DRAFTS:
        try:
            return draft(schema, formats=_FORMATS, validate_formats=True, pattern_options=_PATTERNS, offline=True)
        except ValueError:
            continue
    return None


def _usual(schema: JsonObject, depth: int = 0) -> JsonDict:
    """Return a schema without what the validator refuses although clients send it: patterns that need backtracking,
    `nullable` of OpenAPI, and names of unknown drafts."""
    if depth > _MOST_DEPTH:
        raise ValueError("nested too deeply")
    usual = {
        name: value if name in _DATA else _usual_part(value, depth + 1)
        for name, value in schema.items()
        if not _is_refused(name, value)
    }
    if usual.get("nullable") is not True:
        return usual
    return {"anyOf": [{name: value for name, value in usual.items() if name != "nullable"}, {"type": "null"}]}


def _usual_part(value: object, depth: int) -> object:
    if isinstance(value, list):
        return [_usual_part(entry, depth + 1) for entry in value]
    return _usual(value, depth) if isinstance(value, Mapping) else value


def _is_refused(name: str, value: object) -> bool:
    if not isinstance(value, str):
        return False
    return (name == "pattern" and not _is_linear(value)) or (name == "$schema" and "json-schema.org" not in value)


@lru_cache(maxsize=256)
def _is_linear(pattern: str) -> bool:
    """Return True for a pattern that needs no backtracking."""
    try:
        jsonschema_rs.validator_for({"pattern": pattern}, pattern_options=_PATTERNS, offline=True)
    except ValueError:
        return False
    return True


class _Work:
    """Count the steps of a schema for one value.

    The validator follows each `$ref` anew: a chain of definitions that each name the next one twice doubles its time
    with every link.  A definition that contains itself counts once, because the validator remembers its result.
    """

    def __init__(self, schema: JsonObject) -> None:
        self._root = schema
        self._steps: dict[str, int] = {}  # of the definitions, by their pointers
        self._names = 0  # references that are no pointers

    def steps(self) -> int:
        """Return the number of steps.  Raise ValueError when it cannot be counted."""
        return self._of(self._root)

    def _of(self, schema: object) -> int:
        if isinstance(schema, list):
            return sum(map(self._of, schema))
        if not isinstance(schema, Mapping):
            return 1
        steps = 1 + sum(map(self._of, schema.values()))
        for name in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(reference := schema.get(name), str):
                steps += self._behind(reference)
        return steps

    def _behind(self, reference: str) -> int:
        """Return the steps of the schema that a reference names."""
        if reference in self._steps:
            return self._steps[reference]
        self._steps[reference] = 1
        if reference.startswith("#/"):
            self._steps[reference] = self._of(_at(self._root, reference))
        elif reference != "#":
            self._names += 1
            if self._names > _MOST_NAMES:
                raise ValueError("too many references to names")
        return self._steps[reference]


def _at(root: JsonObject, pointer: str) -> object:
    """Return the part of a schema at a JSON pointer; None when there is none."""
    part: object = root
    for name in pointer[2:].split("/"):
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and name.isdecimal() and len(name) < 6:
            part = part[int(name)] if int(name) < len(part) else None
        else:
            part = part.get(name) if isinstance(part, Mapping) else None
    return part
