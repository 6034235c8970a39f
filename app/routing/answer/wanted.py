"""Check an answer that a request wants as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from app.routing.answer.phrases import pattern_of, words_of
from app.routing.answer.reading import Answer, Question
from app.routing.answer.schema import Schema
from app.types import JsonObject

_ARRAYS = ("array", "list", "[", "数组", "列表", "配列", "массив", "tableau", "arreglo")
_SENTENCE = re.compile(r"[^.!?:;,\n。！？]+")
_JSON_ONLY = re.compile("json(?:のみ|だけ|만)|[只仅僅][^。\n]{0,20}json")


def format_fault(question: Question, answer: Answer) -> str | None:
    """Return `json` or `schema` when an answer does not have the format that the request wants."""
    if answer.calls:
        return None  # the text beside a call is a remark
    wanted = question.body.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema"):
        return _fault(question, wanted, answer.text)
    return "json" if _lacks_json(question, answer.text) else None


def parsed(text: str) -> Any:
    """Return the value of a JSON text.  Raise ValueError when it is none: NaN is no JSON, and no client reads a text
    that is nested a thousand times."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_json(text: str) -> bool:
    """Return True for a JSON text."""
    try:
        parsed(text)
    except ValueError:
        return False
    return True


def _fault(question: Question, wanted: JsonObject, text: str) -> str | None:
    try:
        value = parsed(text)
    except ValueError:
        return "json"
    schema = _schema_of(wanted)
    if wanted.get("type") == "json_object" and not schema and not isinstance(value, dict):
        return None if isinstance(value, list) and _speaks_of_array(question) else "schema"
    return None if Schema(schema).fits(value, len(text)) else "schema"


def _schema_of(wanted: JsonObject) -> object:
    """Return the schema in a `response_format`, where OpenAI or where llama.cpp expects it."""
    form = wanted.get("json_schema")
    return form.get("schema") if isinstance(form, Mapping) and "schema" in form else wanted.get("schema")


def _speaks_of_array(question: Question) -> bool:
    """Return True when a request speaks of an array: some servers allow every JSON value for `json_object`."""
    words = f"{question.system}\n{question.ask}".lower()
    return any(word in words for word in _ARRAYS)


def _lacks_json(question: Question, text: str) -> bool:
    """Return True when the request wants nothing but JSON, and the text has none.  Clients take off a fence."""
    asks = f"{question.system}\n{question.ask}".lower()
    if "json" not in asks or not _wants_json(asks):
        return False
    begin = text.strip()
    if begin.startswith("```"):
        begin = begin[3:].removeprefix("json").partition("```")[0].strip()
    return not is_json(begin) if begin.startswith(("{", "[")) else "{" not in text and not is_json(begin)


def _wants_json(asks: str) -> bool:
    """Return True for "reply with JSON only" as a clause of its own: "a function that returns only JSON" is another
    wish."""
    if _JSON_ONLY.search(asks):
        return True
    clauses = (words_of(clause) for clause in _SENTENCE.findall(asks) if "json" in clause)
    return any(pattern_of("reply").match(clause) and pattern_of("only").search(clause) for clause in clauses)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
