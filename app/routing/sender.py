"""Tell who sends a request: the program, whether it declares tools, and what it is for.  Pure.

signatures.txt holds the shapes by which programs are known; `purpose` judges the prompts of all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from app.routing.memo import Memo
from app.routing.purpose import acts, describes_agent, fills_gap, is_background, speaks_of_conversation
from app.routing.reading import parts_of
from app.routing.signatures import OTHER, SIGNATURES, Signature, begins, even
from app.types import JsonObject, Lane

CLIENTS = (*(signature.name for signature in SIGNATURES.clients), OTHER.name)
HEADERS = ("user-agent", "originator", "x-app", "x-title", "http-referer")  # that tell the program

_HEAD_CHARS = 600
_SYSTEM_CHARS = 1_500
_MOST_SYSTEM_MESSAGES = 4
_MOST_TOOLS = 200
_MOST_CALLS = 20


@dataclass(frozen=True, slots=True)
class Sender:
    """Hold who sends a request."""

    client: str  # a name of signatures.txt, or `other`
    tools: bool  # it declares tools
    purpose: Lane
    signature: Signature
    completes_code: bool = False  # a gap in a program is to be filled


NO_SENDER = Sender("other", False, Lane.INTERACTIVE, OTHER)


def sender_of(chat: JsonObject, headers: Mapping[str, str]) -> Sender:
    """Return who sends a request.  `headers` holds the request headers of HEADERS, with names in lower case."""
    messages = [message for message in _list(chat.get("messages")) if isinstance(message, Mapping)]
    system = _system(messages)
    asks = [message for message in messages if message.get("role") == "user"]
    first = _text_of(asks[0]) if asks else ""
    signature = _by_headers(headers) or _by_texts(f"{system}\0{first[:_HEAD_CHARS]}")
    names = [name for tool in _tools(chat) if (name := _tool_name(tool))]
    names += [name for name in _list(chat.get("hosted_tools")) if isinstance(name, str)]
    if signature is not OTHER and _asks_by_itself(signature, system, asks, has_tools=bool(names)):
        return Sender(signature.name, bool(names), Lane.BACKGROUND, signature)
    if _is_own_prompt(signature, system):
        return Sender(signature.name, bool(names), Lane.AGENT, signature)
    tools = [name for name in names if name not in SIGNATURES.hosted_tools] or _called(messages)
    is_at_work = bool(tools and acts("\n".join(tools))) or bool(system and describes_agent(system))
    completes_code = not is_at_work and fills_gap(system, first)
    # The system prompt of an agent may speak of titles and conversations too.
    if completes_code or is_background("" if is_at_work else system, first) or _asks_behind(asks):
        return Sender(signature.name, bool(names), Lane.BACKGROUND, signature, completes_code)
    purpose = Lane.AGENT if is_at_work or signature.is_harness else Lane.INTERACTIVE
    return Sender(signature.name, bool(names), purpose, signature)


def _asks_behind(asks: Sequence[Mapping[str, object]]) -> bool:
    """Return True when the latest message of many is a prompt of a program about those before it."""
    return len(asks) > 1 and speaks_of_conversation(_text_of(asks[-1]))


def _by_headers(headers: Mapping[str, str]) -> Signature | None:
    """Return the signature that the headers match, if any."""
    return _by_values("\0".join(headers.get(name, "") for name in HEADERS)) if headers else None


@Memo
def _by_values(values: str) -> Signature | None:
    named = dict(zip(HEADERS, values.lower().split("\0"), strict=False))
    for signature in SIGNATURES.clients:
        if any(_has_word(named.get(name, ""), part) for name, part in signature.headers):
            return signature
    return None


def _has_word(value: str, part: str) -> bool:
    """Return True when a word of the value begins with `part`: `pi/` is not in `api/1.0`."""
    at = value.find(part)
    return at == 0 or (at > 0 and not value[at - 1].isalnum())


_SYSTEM = [(part, one) for one in SIGNATURES.clients for part in one.system]
_SYSTEM += [(part, one) for one in SIGNATURES.clients for part in (*one.background, *one.compaction)]
_ASK = [(part, one) for one in SIGNATURES.clients for part in one.ask]
_OWN = [(part, one) for one in SIGNATURES.clients for part in (*one.background, *one.compaction)]
_OWN_BEGINNINGS = tuple(part for part, _ in _OWN)


@Memo
def _by_texts(texts: str) -> Signature:
    """Return the signature that the system prompts or the first message of the user match, which a zero divides."""
    system, _, first = texts.partition("\0")
    system, first = _even(system), even(first)
    if system:
        for part, signature in _SYSTEM:
            if part in system:
                return signature
    for part, signature in _ASK:
        if part in first:
            return signature
    if first.startswith(_OWN_BEGINNINGS):
        return next(signature for part, signature in _OWN if first.startswith(part))
    return OTHER


_even = Memo(lambda system: even(system)[:_HEAD_CHARS])


def _asks_by_itself(
    signature: Signature, system: str, asks: Sequence[Mapping[str, object]], *, has_tools: bool
) -> bool:
    """Return True for a prompt that a known program sends by itself."""
    if signature.background and any(part in _even(system) for part in signature.background):
        return True
    for text in parts_of(asks[-1].get("content")) if asks else ():
        if begins(text, signature.background) or (not has_tools and signature.kind_of(text) == "compaction"):
            return True
    return False


def _is_own_prompt(signature: Signature, system: str) -> bool:
    """Return True for the system prompt by which a harness works."""
    return signature.is_harness and any(part in _even(system) for part in signature.system)


def _tools(chat: JsonObject) -> Iterator[Mapping[str, object]]:
    for tool in [*_list(chat.get("tools")), *_list(chat.get("functions"))][:_MOST_TOOLS]:
        if isinstance(tool, Mapping):
            yield tool


def _tool_name(tool: Mapping[str, object]) -> str:
    """Return the name of a tool or of a call, or the type of a tool that a server has built in."""
    function = tool.get("function")
    name = (function if isinstance(function, Mapping) else tool).get("name") or tool.get("type")
    return name if isinstance(name, str) else ""


def _called(messages: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the names of the first tools that were called: an agent may send its last request without tools."""
    calls = (call for message in messages if "tool_calls" in message for call in _list(message["tool_calls"]))
    return [_tool_name(call) for call in islice(calls, _MOST_CALLS) if isinstance(call, Mapping)]


def _system(messages: Sequence[Mapping[str, object]]) -> str:
    """Return the beginnings of the first system prompts."""
    prompts = (message for message in messages if message.get("role") in ("system", "developer"))
    texts = (_text_of(message)[:_SYSTEM_CHARS] for message in islice(prompts, _MOST_SYSTEM_MESSAGES))
    return "\n".join(text for text in texts if text)[:_SYSTEM_CHARS]


def _text_of(message: Mapping[str, object]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else "\n".join(parts_of(content))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
