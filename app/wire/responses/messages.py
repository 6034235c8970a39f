"""Write Responses items as chat messages.

Chat servers need a strict order: one assistant message for the whole reply of a turn, and directly after it one tool
message for each of its calls.  Clients send items in other orders, so the items are grouped into turns first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from app.errors import RequestError
from app.types import Dialect, JsonDict, JsonObject
from app.wire.chat.system_messages import BETWEEN, system_message
from app.wire.reasoning import unseal_reasoning
from app.wire.responses import custom
from app.wire.responses.request import item_type
from app.wire.responses.tools import Toolbox

Part = JsonDict  # a chat content part
Message = JsonDict

_NO_RESULT = "(no result)"
_ATTACHED = "(attached to the next message)"


def to_messages(
    instructions: str | None, items: Iterable[JsonObject], toolbox: Toolbox, dialect: Dialect
) -> list[Message]:
    """Return the chat history for a list of items.  Raise RequestError for content that has no chat form."""
    history = _History(toolbox, dialect)
    if instructions:
        history.add({"type": "message", "role": "system", "content": instructions})
    for item in items:
        history.add(item)
    return history.messages()


# --- turns ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Turn:
    """Collect one reply of the model, and the results of its calls."""

    has_message: bool = True  # False: there are results alone, without a call
    contents: list[list[Part]] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Message] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)
    open_calls: dict[str, int] = field(default_factory=dict)  # id -> calls without a result; servers repeat ids
    attached: list[Part] = field(default_factory=list)  # images in results: a tool message cannot hold them

    def messages(self, dialect: Dialect) -> list[Message]:
        messages: list[Message] = []
        if self.has_message:
            message: Message = {"role": "assistant", "content": _joined(self.contents)}
            if self.reasoning and dialect.reasoning_field:
                message[dialect.reasoning_field] = BETWEEN.join(self.reasoning)
            if self.calls:
                message["tool_calls"] = self.calls
            messages.append(message)
        messages += self.results
        messages += [_result(call_id, _NO_RESULT) for call_id, count in self.open_calls.items() for _ in range(count)]
        if self.attached:
            messages.append({"role": "user", "content": self.attached})
        return messages


class _History:
    """Hold turns and other messages in order.  Each item type has a method with its name; other types have no
    meaning in chat, and are skipped."""

    def __init__(self, toolbox: Toolbox, dialect: Dialect) -> None:
        self._toolbox = toolbox
        self._dialect = dialect
        self._system: list[Message] = []  # joined at the beginning, because many chat templates allow no other position
        self._entries: list[_Turn | Message] = []
        self._open: _Turn | None = None  # the turn that the next assistant item belongs to
        self._open_turns: dict[str, list[_Turn]] = {}  # call id -> turns that wait for its result

    def messages(self) -> list[Message]:
        messages = [system_message(self._system)] if self._system else []
        for entry in self._entries:
            messages += entry.messages(self._dialect) if isinstance(entry, _Turn) else [entry]
        return messages

    def add(self, item: JsonObject) -> None:
        if add := self._ADDERS.get(item_type(item)):
            add(self, item)

    def _message(self, item: JsonObject) -> None:
        role, content = item["role"], item.get("content")
        if role == "assistant":
            self._assistant().contents.append(parts_of("" if content is None else content))
            return
        if role == "developer" and not self._dialect.developer_role:
            role = "system"
        message = {"role": role, "content": content if type(content) is str else _joined([parts_of(content)])}
        if role == "system" and (self._dialect.system_first or not self._entries):
            self._system.append(message)
            return
        self._open = None
        self._entries.append(message)

    def _reasoning(self, item: JsonObject) -> None:
        if text := reasoning_text(item):
            self._assistant().reasoning.append(text)

    def _function_call(self, item: JsonObject) -> None:
        self._call(item, _legal_arguments(item.get("arguments")))

    def _custom_call(self, item: JsonObject) -> None:
        self._call(item, custom.wrap(str(item.get("input") or "")))

    def _call(self, item: JsonObject, arguments: str) -> None:
        turn, call_id = self._assistant(), item["call_id"]
        name = self._toolbox.wire_name(item["name"], item.get("namespace"))
        turn.calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
        turn.open_calls[call_id] = turn.open_calls.get(call_id, 0) + 1
        self._open_turns.setdefault(call_id, []).append(turn)

    def _output(self, item: JsonObject) -> None:
        call_id, output = item["call_id"], item.get("output")
        text, attached = _text_and_rest("" if output is None else output)
        turn = self._turn_of(call_id)
        turn.results.append(_result(call_id, text or (_ATTACHED if attached else "")))
        if attached:
            turn.attached += [{"type": "text", "text": f"From tool call {call_id}:"}, *attached]

    def _turn_of(self, call_id: str) -> _Turn:
        """Return the turn of a result, which may arrive late, after other messages."""
        if turns := self._open_turns.get(call_id):
            turn = turns.pop()
            turn.open_calls[call_id] -= 1
            if turn is self._open:
                self._open = None  # a result ends the turn
            return turn
        last = self._entries[-1] if self._entries else None
        if not (isinstance(last, _Turn) and not last.has_message):
            self._entries.append(last := _Turn(has_message=False))
        self._open = None
        return last

    def _assistant(self) -> _Turn:
        if self._open is None:
            self._open = _Turn()
            self._entries.append(self._open)
        return self._open

    _ADDERS: Mapping[str, Callable[[_History, JsonObject], None]] = {
        "message": _message,
        "reasoning": _reasoning,
        "function_call": _function_call,
        "custom_tool_call": _custom_call,
        "function_call_output": _output,
        "custom_tool_call_output": _output,
    }


def _result(call_id: str, text: str) -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def _legal_arguments(arguments: object) -> str:
    """Return arguments that are valid JSON: servers parse the arguments of past calls, and one incomplete call must
    not make the whole conversation fail."""
    if not isinstance(arguments, str):
        return json.dumps(arguments or {}, ensure_ascii=False)
    if not arguments.strip():
        return "{}"
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return json.dumps({"raw": arguments}, ensure_ascii=False)
    return arguments


# --- content -------------------------------------------------------------------------------------


def parts_of(content: object) -> list[Part]:
    """Return content as chat parts.  Raise RequestError when it has no chat form."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise RequestError("content must be a string or an array of parts.", param="input")
    return [_part(part) for part in content]


def _part(part: object) -> Part:
    if not isinstance(part, Mapping):
        raise RequestError("a content part must be an object.", param="input")
    kind = part.get("type")
    if kind in ("input_image", "image_url"):
        return _image(part)
    if kind in ("input_file", "file"):
        return _file(part)
    if kind == "input_audio" and isinstance(part.get("input_audio"), Mapping):
        return {"type": "input_audio", "input_audio": part["input_audio"]}  # chat's part has the same name
    text = part.get("refusal") if kind == "refusal" else part.get("text")
    if isinstance(text, str):
        return {"type": "text", "text": text}
    raise RequestError(f"content of type {kind!r} cannot be sent to a chat backend.", param="input")


def _image(part: JsonObject) -> Part:
    source = part.get("image_url")
    members = dict(source) if isinstance(source, Mapping) else {"url": source}
    if not isinstance(members.get("url"), str) or not members["url"]:
        raise RequestError("an image needs image_url; images by file_id are not supported.", param="input")
    if part.get("detail") is not None:
        members["detail"] = part["detail"]
    return {"type": "image_url", "image_url": {name: members[name] for name in ("url", "detail") if members.get(name)}}


def _file(part: JsonObject) -> Part:
    source = part["file"] if isinstance(part.get("file"), Mapping) else part
    members = {name: source[name] for name in ("file_id", "file_data", "filename") if source.get(name)}
    if "file_id" not in members and "file_data" not in members:
        raise RequestError("a file needs file_data or file_id; files by file_url are not supported.", param="input")
    return {"type": "file", "file": members}


def _text_and_rest(content: object) -> tuple[str, list[Part]]:
    """Return the texts of a content as one, and its other parts."""
    if type(content) is str:
        return content, []
    parts = parts_of(content)
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    return text, [part for part in parts if part["type"] != "text"]


def _joined(contents: list[list[Part]]) -> str | list[Part]:
    """Return contents as one: a string when there is nothing but text, which every server reads."""
    if len(contents) == 1 and len(contents[0]) == 1 and contents[0][0]["type"] == "text":
        return str(contents[0][0]["text"])
    if all(part["type"] == "text" for parts in contents for part in parts):
        texts = ["".join(part["text"] for part in parts) for parts in contents]
        return BETWEEN.join(text for text in texts if text)
    return [part for parts in contents for part in parts]


# --- reasoning -----------------------------------------------------------------------------------


def reasoning_text(item: JsonObject) -> str:
    """Return the reasoning in an item; "" when there is none that can be read."""
    return (
        _texts(item.get("content"))
        or unseal_reasoning(item.get("encrypted_content"))
        or _texts(item.get("summary"), between=BETWEEN)
    )


def _texts(parts: object, between: str = "") -> str:
    if not isinstance(parts, list):
        return ""
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return between.join(text for text in texts if isinstance(text, str) and text)
