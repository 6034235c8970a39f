"""Write the turns of a Messages request as chat messages.

The same turns give the same text in every request of a conversation, whatever `cache_control` says and whether a
content is a string or an array of one block, so that servers find their prompt cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from app.errors import RequestError
from app.types import Dialect, JsonDict, JsonObject
from app.wire.chat.system_messages import BETWEEN
from app.wire.reasoning import unseal_reasoning

Message = JsonDict
Part = JsonDict  # a chat content part

_ATTACHED = "(attached to the next message)"
_FAILED = "Error: "  # in front of the result of a tool that failed: chat has no mark for it


def to_messages(system: str, turns: Iterable[JsonObject], dialect: Dialect) -> list[Message]:
    """Return the chat history.  A system turn stays in its place; for servers whose templates want system messages in
    front, it becomes a part of the user's turn.  Raise RequestError for content that has no chat form."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        role, blocks = turn["role"], _blocks(turn["content"])
        if role == "assistant":
            messages.append(_assistant(blocks, dialect))
        elif role == "system" and not dialect.system_first:
            messages.append({"role": "system", "content": _joined(list(_parts(blocks)))})
        else:
            for message in _user(blocks):
                _append(messages, message, merge=dialect.system_first)
    return messages


def _append(messages: list[Message], message: Message, *, merge: bool) -> None:
    """Add a message.  With `merge`, the texts of two messages of the user become one, because many templates refuse
    two in a row."""
    last = messages[-1] if messages else None
    if merge and last is not None and last["role"] == message["role"] == "user":
        last["content"] = _joined([*_as_parts(last["content"]), *_as_parts(message["content"])])
    else:
        messages.append(message)


def _assistant(blocks: Sequence[JsonObject], dialect: Dialect) -> Message:
    """Return a reply of the model.  Thinking of another vendor's model means nothing to this one."""
    message: Message = {"role": "assistant", "content": _joined(list(_parts(blocks)))}
    thinking = [text for block in blocks if (text := unseal_reasoning(block.get("signature")))]
    if thinking and dialect.reasoning_field:
        message[dialect.reasoning_field] = BETWEEN.join(thinking)
    if calls := [_call(block) for block in blocks if block.get("type") == "tool_use"]:
        message["tool_calls"] = calls
    return message


def _call(block: JsonObject) -> JsonDict:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    return {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}}


def _user(blocks: Sequence[JsonObject]) -> Iterator[Message]:
    """Yield the results of tools, and then the words of the user: results must follow their calls directly."""
    attached: list[Part] = []
    results = [block for block in blocks if block.get("type") == "tool_result"]
    for block in results:
        call_id, parts = block["tool_use_id"], list(_parts(_blocks(block.get("content"))))
        media = [part for part in parts if part["type"] != "text"]
        text = _joined([part for part in parts if part["type"] == "text"])
        mark = _FAILED if block.get("is_error") is True else ""
        yield {"role": "tool", "tool_call_id": call_id, "content": f"{mark}{text or (_ATTACHED if media else '')}"}
        if media:  # a tool message cannot hold images
            attached += [{"type": "text", "text": f"From tool call {call_id}:"}, *media]
    content = [*attached, *_parts(blocks)]
    if content or not results:
        yield {"role": "user", "content": _joined(content)}


def _parts(blocks: Iterable[JsonObject]) -> Iterator[Part]:
    """Yield the chat parts of the blocks that have some.  Calls, results and thinking have other places; blocks of
    unknown types hold nothing that another vendor's model could read."""
    for block in blocks:
        write = _WRITERS.get(str(block.get("type")))
        if write is not None:
            yield from write(block)


def _text(block: JsonObject) -> Iterator[Part]:
    if block["text"]:
        yield {"type": "text", "text": block["text"]}


def _image(block: JsonObject) -> Iterator[Part]:
    yield {"type": "image_url", "image_url": {"url": _url(block["source"], "an image")}}


def _document(block: JsonObject) -> Iterator[Part]:
    source = block["source"]
    kind = source.get("type")
    if kind == "text" and isinstance(source.get("data"), str):
        yield {"type": "text", "text": source["data"]}
    elif kind == "content":
        yield from _parts(_blocks(source.get("content")))
    else:
        name = block.get("title")
        file = {"filename": name if isinstance(name, str) and name else "document.pdf"}
        yield {"type": "file", "file": file | {"file_data": _url(source, "a document")}}


def _search_result(block: JsonObject) -> Iterator[Part]:
    head = "\n".join(text for name in ("title", "source") if isinstance(text := block.get(name), str) and text)
    texts = [part["text"] for part in _parts(_blocks(block.get("content"))) if part["type"] == "text"]
    yield {"type": "text", "text": "\n".join([head, *texts]) if head else "\n".join(texts)}


_WRITERS = {"text": _text, "image": _image, "document": _document, "search_result": _search_result}


def _url(source: JsonObject, what: str) -> str:
    """Return the data of a source as a URL.  Raise RequestError for a file that only Anthropic keeps."""
    url, data = source.get("url"), source.get("data")
    if source.get("type") == "url" and isinstance(url, str):
        return url
    if source.get("type") == "base64" and isinstance(data, str):
        return f"data:{source.get('media_type') or 'application/octet-stream'};base64,{data}"
    raise RequestError(f"`messages` holds {what} by its id; send base64 data or a URL.", param="messages")


def _blocks(content: object) -> Sequence[JsonObject]:
    """Return content as blocks."""
    if isinstance(content, str):
        return ({"type": "text", "text": content},)
    return [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else ()


def _as_parts(content: object) -> list[Part]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])  # type: ignore[call-overload]


def _joined(parts: list[Part]) -> str | list[Part]:
    """Return parts as one string when they are texts, which every server reads."""
    if all(part["type"] == "text" for part in parts):
        return BETWEEN.join(part["text"] for part in parts)
    return parts
