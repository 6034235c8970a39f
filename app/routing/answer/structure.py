"""Find the fault of an answer, by its structure alone.

The answer is read with its request: what the request asks for is no fault.  The checks need no model and no other
answer, and their time is linear in the length of the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from app import finish as finishes
from app.routing.answer.loops import has_loop
from app.routing.answer.phrases import pattern_of, words_of
from app.routing.answer.reading import Answer, Question, read_answer, read_question
from app.routing.answer.refusal import refuses, wants_refusal
from app.routing.answer.tools import call_fault
from app.routing.answer.wanted import format_fault

_LENGTH, _FILTERED = "max_output_tokens", "content_filter"  # as in app/finish.py
_LEAST_CHARS = 2  # of a token of prose, on average; digits and marks are tokens of their own
_SMALL_LIMIT = 128  # tokens
_SAMPLE_CHARS = 2_000
_FENCE = re.compile(r"(?m)^[ \t]*(?:```|~~~)")
_ONLY_FENCE = re.compile(r"\s*+(?:```|~~~)[\w+-]*+\s*+(?:```|~~~)?\s*+")
_SENTENCE_END = re.compile(r"[.!?:][\"')\]]?(?:\s|$)")
_PROSE_CHARS, _PROSE_WORDS = 200, 4
_IS_ITEM = re.compile(r"\s*(?:[-*•+>|#]|\d+[.)])")


@dataclass(frozen=True, slots=True)
class Exchange:
    """Hold a question, its answer, and the word by which the server ended the answer."""

    question: Question
    answer: Answer
    finish: str
    at_limit: bool  # the client's own limit of tokens ended the answer


def structure(request: object, answer: object, finish: object = None) -> str | None:
    """Return the name of an answer's fault: `json`, `schema`, `tool`, `empty`, `cut`, `refusal` or `loop`.  Return
    None when it has none.

    `request` is a chat body, or None.  `answer` is a text, or a message of the assistant.  `finish` is the server's
    finish reason.  Values of any other shape are read as far as possible, without an error."""
    exchange = _exchange(read_question(request), read_answer(answer), finishes.reason_of(finish).lower())
    for check in _CHECKS:
        if fault := check(exchange):
            return fault
    return None


# --- the checks --------------------------------------------------------------------------------


def _said_refusal(exchange: Exchange) -> str | None:
    """Find a refusal that the model or the server marks as one."""
    is_refusal = exchange.answer.refusal and not wants_refusal(exchange.question)
    return "refusal" if is_refusal or finishes.cut_of(exchange.finish) == _FILTERED else None


def _said_cut(exchange: Exchange) -> str | None:
    """Find an answer that the server cut off, or could not finish."""
    is_cut = finishes.cut_of(exchange.finish) == _LENGTH or finishes.is_failure(exchange.finish)
    return "cut" if is_cut and not exchange.at_limit else None


def _empty(exchange: Exchange) -> str | None:
    """Find an answer without anything to read."""
    answer, question = exchange.answer, exchange.question
    if answer.calls or answer.has_media or answer.refusal:
        return None
    is_empty = answer.is_blank or (_ONLY_FENCE.fullmatch(answer.text) is not None and not _asks(question, "marks"))
    return "empty" if is_empty and not _asks(question, "nothing") else None


def _call(exchange: Exchange) -> str | None:
    return None if exchange.at_limit else call_fault(exchange.question, exchange.answer, exchange.finish)


def _format(exchange: Exchange) -> str | None:
    return None if exchange.at_limit else format_fault(exchange.question, exchange.answer)


def _refusal(exchange: Exchange) -> str | None:
    return "refusal" if not exchange.answer.calls and refuses(exchange.question, exchange.answer.text) else None


def _loop(exchange: Exchange) -> str | None:
    return "loop" if has_loop(exchange.question, exchange.answer.text) else None


def _early_end(exchange: Exchange) -> str | None:
    """Find an answer that ends too early, when no server said how it ended."""
    if exchange.finish or exchange.answer.calls or exchange.question.body.get("stop"):
        return None
    return "cut" if ends_early(exchange.answer.text) else None


_CHECKS: tuple[Callable[[Exchange], str | None], ...] = (
    _said_refusal,
    _said_cut,
    _empty,
    _call,
    _refusal,
    _format,
    _loop,
    _early_end,
)


# --- ends ------------------------------------------------------------------------------------


def _exchange(question: Question, answer: Answer, finish: str) -> Exchange:
    is_long = finishes.cut_of(finish) == _LENGTH
    return Exchange(question, answer, finish, is_long and _reaches(answer, question.limit))


def _reaches(answer: Answer, limit: int | None) -> bool:
    """Return True when an answer may have as many tokens as the client's limit.  The count is an estimate, so a small
    limit counts as the cause: a server that is short of room stops anywhere."""
    if limit is None or limit <= _SMALL_LIMIT:
        return limit is not None
    arguments = sum(len(call.arguments) for call in answer.calls if isinstance(call.arguments, str))
    sample = answer.text[:_SAMPLE_CHARS]
    is_prose = sum(map(str.isalpha, sample)) * 2 > len(sample)
    chars = len(answer.text.encode()) + arguments + answer.reasoning_chars
    return chars / (_LEAST_CHARS if is_prose else 1) >= limit


def ends_early(text: str) -> bool:
    """Return True when a text ends inside of a code block, of JSON, or of a sentence of prose."""
    text = text.rstrip()
    if len(_FENCE.findall(text)) % 2:
        return True
    if text.startswith(("{", "[")):
        return _ends_inside_json(text)
    last = text[text.rfind("\n") + 1 :]
    is_prose = len(text) >= _PROSE_CHARS and len(_SENTENCE_END.findall(text)) >= 2 and len(last.split()) >= _PROSE_WORDS
    return is_prose and not _IS_ITEM.match(last) and (text[-1].islower() or text[-1] in ",;")


def _ends_inside_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) or error.msg.startswith("Unterminated")
    except (ValueError, RecursionError):
        return False
    return False


def _asks(question: Question, kind: str) -> bool:
    return pattern_of(kind).search(words_of(f"{question.system}\n{question.ask}")) is not None
