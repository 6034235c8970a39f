"""Tell whether a second opinion on an answer is worth its call: whether the two can be compared by a value.

Numbers, labels, choices, dates, JSON, tool calls and short texts can.  Long prose and long code cannot: two good ones
differ.
"""

from __future__ import annotations

from app.routing.answer.agreement import asked
from app.routing.answer.ask import Ask
from app.routing.answer.code import is_code
from app.routing.answer.value import Value, final_of
from app.types import JsonObject

_CLOSED = frozenset({"choice", "label", "yes_no", "number", "date", "json", "tools", "short"})
_SHORT_CHARS = 300  # of an answer, and of a question that no rule knows
_SHORT_CODE_CHARS = 200  # a command or a query
_FEW_TOKENS = 64  # `max_tokens`
_LIMITS = ("max_completion_tokens", "max_tokens")


def may_compare(question: str, request: JsonObject | None = None) -> bool:
    """Return True when the answers to a request are likely to be comparable.  It needs no answer, so a second opinion
    can be asked for at the same time."""
    ask = asked(question, request)
    if ask.wants in _CLOSED or _is_bounded(request) or (request is not None and request.get("tools")):
        return True
    return ask.wants == "" and len(ask.text) <= _SHORT_CHARS and ask.text.rstrip().endswith(("?", "？", "؟"))


def comparable(question: str, answer: object, request: JsonObject | None = None) -> bool:
    """Return True when an answer can be compared with another one to the same question."""
    ask = asked(question, request)
    final = final_of(ask, answer)
    reply, own = final.answer, final.statement
    if reply.calls:
        return True
    if reply.is_blank or reply.has_media or reply.refusal:
        return False
    if is_code(reply.text, ask.wants):
        return len(reply.text) <= _SHORT_CODE_CHARS
    if own.document is not None or len(reply.text) <= _SHORT_CHARS:
        return True
    return (own.is_stated and len(own.text) <= _SHORT_CHARS and ask.wants != "long") or _has_value(ask, final.value)


def _has_value(ask: Ask, value: Value) -> bool:
    """Return True when a long answer to a question with a short answer ends in one."""
    return ask.wants in _CLOSED and bool(value.option or value.label or value.verdict or value.number or value.moment)


def _is_bounded(request: JsonObject | None) -> bool:
    """Return True when the client wants a few tokens only."""
    limits = [request.get(name) for name in _LIMITS] if request is not None else []
    return any(isinstance(limit, int) and 0 < limit <= _FEW_TOKENS for limit in limits)
