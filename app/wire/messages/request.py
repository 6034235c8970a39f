"""Check the request of POST /v1/messages, and read the members that have a chat equivalent.

`null` means absent.  Unknown members are no error, because every beta of the API adds some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.errors import RequestError
from app.types import JsonDict, JsonObject
from app.wire.chat.request import MOST_PIECES, model_name
from app.wire.members import NUMBER, read_member
from app.wire.messages.tools import check_tools, parse_choice

ROLES = ("user", "assistant", "system")
_SAMPLING = ("temperature", "top_p")
BILLING = "x-anthropic-billing-header:"  # changes with every request, and would void the prompt caches of servers
# A budget of thinking tokens, and the effort that stands for it: Anthropic's smallest budget is 1,024.
_BUDGETS = ((4_096, "low"), (16_384, "medium"))


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesRequest:
    """Hold one request to /v1/messages."""

    model: str  # trimmed; "" when absent
    turns: tuple[JsonObject, ...]  # the messages as they came
    system: str  # without the line for billing
    max_tokens: int | None  # None = to count tokens, which needs no limit
    tools: tuple[JsonObject, ...] = ()
    choice: JsonObject | None = None
    stop: tuple[str, ...] = ()
    sampling: JsonObject  # temperature and top_p: only what the client sent
    effort: str | None = None
    schema: JsonObject | None = None  # of the reply
    stream: bool = False
    thinks: bool = False  # the client asks for the blocks of thinking …
    shows_thinking: bool = False  # … and for their text
    user: str = ""  # `metadata.user_id`, which is never sent on


def parse(fields: JsonObject, *, counts: bool = False) -> MessagesRequest:
    """Return the request in a JSON document.  `counts`: the client only counts tokens.  Raise RequestError that names
    the wrong member."""
    limit = read_member(fields, "max_tokens", int)
    if limit is None and not counts:
        raise RequestError("`max_tokens` is required.", param="max_tokens")
    if limit is not None and limit < 1:
        raise RequestError("`max_tokens` must be at least 1.", param="max_tokens")
    thinking, output = read_member(fields, "thinking", dict) or {}, read_member(fields, "output_config", dict) or {}
    thinks = thinking.get("type") in ("enabled", "adaptive")
    metadata = read_member(fields, "metadata", dict) or {}
    user = metadata.get("user_id")
    return MessagesRequest(
        model=model_name(read_member(fields, "model", str) or ""),
        turns=_turns(fields),
        system=without_billing(fields.get("system")),
        max_tokens=limit,
        tools=check_tools(fields.get("tools")),
        choice=parse_choice(fields.get("tool_choice")),
        stop=_stop(read_member(fields, "stop_sequences", list) or []),
        sampling={name: value for name in _SAMPLING if (value := read_member(fields, name, NUMBER)) is not None},
        effort=_effort(thinking, output),
        schema=_schema(output.get("format") or fields.get("output_format")),
        stream=read_member(fields, "stream", bool) or False,
        thinks=thinks,
        shows_thinking=thinks and thinking.get("display") != "omitted",
        user=user if isinstance(user, str) else "",
    )


def without_billing(system: object) -> str:
    """Return the system prompt as one text, without the line that Claude Code writes for billing.  Raise RequestError
    when it is no text."""
    texts = [system] if isinstance(system, str) else [_text(block) for block in _blocks(system, "system")]
    if texts and texts[0].startswith(BILLING):
        _, _, texts[0] = texts[0].partition("\n")
    return "\n\n".join(text for text in texts if text)


def _text(block: JsonObject) -> str:
    text = block.get("text")
    return text if isinstance(text, str) else ""


def _turns(fields: JsonObject) -> tuple[JsonObject, ...]:
    turns = fields.get("messages")
    if not isinstance(turns, list) or not turns:
        raise RequestError("`messages` must be a non-empty array of objects.", param="messages")
    pieces = len(turns)
    for at, turn in enumerate(turns):
        where = f"messages[{at}]"
        if not isinstance(turn, Mapping):
            raise RequestError(f"`{where}` must be an object.", param=where)
        if turn.get("role") not in ROLES:
            raise RequestError(f"`{where}.role` must be one of {', '.join(ROLES)}.", param=f"{where}.role")
        if not isinstance(turn.get("content"), str):
            pieces += _check_blocks(turn.get("content"), f"{where}.content")
    if pieces > MOST_PIECES:
        raise RequestError(f"`messages` must not hold more than {MOST_PIECES} messages and blocks.", param="messages")
    return tuple(turns)


def _check_blocks(content: object, where: str) -> int:
    """Return the number of blocks of a message.  Raise RequestError for those that have no meaning."""
    blocks = _blocks(content, where)
    if content is None:
        raise RequestError(f"`{where}` must be a string or an array of blocks.", param=where)
    pieces = len(blocks)
    for at, block in enumerate(blocks):
        kind, place = block.get("type"), f"{where}[{at}]"
        for name in _NEEDED.get(kind, ()) if isinstance(kind, str) else ():
            if not isinstance(block.get(name), str):
                raise RequestError(f"`{place}.{name}` must be a string.", param=f"{place}.{name}")
        if kind in ("image", "document") and not isinstance(block.get("source"), Mapping):
            raise RequestError(f"`{place}.source` must be an object.", param=f"{place}.source")
        if kind in ("tool_result", "search_result"):
            pieces += _check_inner(block.get("content"), f"{place}.content")
        elif kind == "document" and block["source"].get("type") == "content":
            pieces += _check_inner(block["source"].get("content"), f"{place}.source.content")
    return pieces


def _check_inner(content: object, where: str) -> int:
    """Return the number of blocks inside a block, which may have no content."""
    return 0 if content is None or isinstance(content, str) else _check_blocks(content, where)


_NEEDED = {"text": ("text",), "tool_use": ("id", "name"), "tool_result": ("tool_use_id",)}


def _blocks(content: object, where: str) -> Sequence[JsonObject]:
    if content is None:
        return ()
    if not isinstance(content, list) or not all(isinstance(block, Mapping) for block in content):
        raise RequestError(f"`{where}` must be a string or an array of blocks.", param=where)
    return content


def _stop(words: list[object]) -> tuple[str, ...]:
    if not all(isinstance(word, str) for word in words):
        raise RequestError("`stop_sequences` must be an array of strings.", param="stop_sequences")
    return tuple(map(str, words))


def _effort(thinking: JsonObject, output: JsonObject) -> str | None:
    """Return the effort of reasoning that the client asks for; None = it asks for none."""
    if thinking.get("type") == "disabled":
        return "none"
    effort, budget = output.get("effort"), thinking.get("budget_tokens")
    if isinstance(effort, str) and effort:
        return effort
    if thinking.get("type") != "enabled" or not isinstance(budget, int):
        return None
    return next((effort for most, effort in _BUDGETS if budget < most), "high")


def _schema(form: object) -> JsonObject | None:
    """Return the schema of `output_config.format`; None when the reply is text."""
    schema = form.get("schema") if isinstance(form, Mapping) and form.get("type") == "json_schema" else None
    return schema if isinstance(schema, Mapping) else None


def chat_members(request: MessagesRequest) -> JsonDict:
    """Return the members of the chat body that do not depend on the server."""
    members = dict(request.sampling)
    if request.stop:
        members["stop"] = list(request.stop)
    return members
