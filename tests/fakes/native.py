"""Play the scripts of a chat server over Ollama's own API, as Ollama itself does for both of its APIs.

A request for /api/chat becomes the chat request that it stands for, and the reply of a script becomes JSON lines or a
document of /api/chat.  Faults below the level of messages (resets, waits, broken framing) stay what they are.
Facts: openai/openai.go and server/routes.go of Ollama 0.33.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.fakes.replies import LAST_CHUNK, End, Step, chunk

_OPTIONS = {"num_predict": "max_tokens", "stop": "stop"} | {
    name: name for name in ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "top_k", "min_p")
}
_PNG = "data:image/png;base64,"


def chat_request(body: Any) -> Any:
    """Return the chat body for a body of /api/chat."""
    if not isinstance(body, dict) or "messages" not in body:
        return body
    assert body["truncate"] is False, "this server would cut a long prompt"
    chat: dict[str, Any] = {"model": body["model"], "messages": [_chat_message(one) for one in body["messages"]]}
    if body.get("stream", True):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}  # each reply has its counts
    chat |= {name: body[name] for name in ("tools", "logprobs", "top_logprobs", "keep_alive") if name in body}
    for name, value in body.get("options", {}).items():
        chat[_OPTIONS.get(name, name)] = value
    if (think := body.get("think")) is not None:
        chat["reasoning_effort"] = think if isinstance(think, str) else "medium" if think else "none"
    if (form := body.get("format")) is not None:
        schema = {"type": "json_schema", "json_schema": {"schema": form}}
        chat["response_format"] = {"type": "json_object"} if form == "json" else schema
    return chat


def _chat_message(message: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(message["content"], str), "the server reads only strings"
    chat: dict[str, Any] = {"role": message["role"], "content": message["content"]}
    if images := message.get("images"):
        pictures = [{"type": "image_url", "image_url": {"url": _PNG + image}} for image in images]
        chat["content"] = [{"type": "text", "text": message["content"]}, *pictures]
    if "thinking" in message:
        chat["reasoning"] = message["thinking"]
    if "tool_call_id" in message:
        chat["tool_call_id"] = message["tool_call_id"]
        assert message["tool_name"], "some templates need the name of the tool"
    if "tool_calls" in message:
        chat["tool_calls"] = [_chat_call(call) for call in message["tool_calls"]]
    return chat


def _chat_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    assert isinstance(function["arguments"], dict), "the server reads only objects"
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": text}}


def native_steps(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield a script's steps with the replies as /api/chat writes them."""
    body: _Body | None = None
    for step in steps:
        if not isinstance(step, bytes):
            yield from body.cut() if body and isinstance(step, End) else ()
            yield step
        elif body is None and step.startswith(b"HTTP/"):
            body = _Body(step)
            yield from body.begin()
        else:
            yield from body.feed(step) if body else [step]
    yield from body.cut() if body else ()


class _Body:
    """Turn the pieces of one reply's body into those of a native one.  A stream is turned while it is sent; all else
    when it is complete, and what is not complete stays as it is."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._chunked = b"Transfer-Encoding: chunked" in head
        self._gzipped = b"Content-Encoding: gzip" in head
        self._is_stream = b"text/event-stream" in head
        size = re.search(rb"Content-Length: (\d+)", head)
        self._size = int(size[1]) if size else None
        self._at_once = self._is_stream and not self._gzipped and self._size is None
        self._raw = b""  # not turned yet
        self._data = b""  # the same without its framing
        self._read = 0  # bytes of `_raw` whose chunks are in `_data`
        self._rest = b""  # of an event
        self._lines = _Lines()
        self._is_over = self._chunked is False and self._size is None and not self._is_stream and b" 200 " not in head

    def begin(self) -> Iterator[Step]:
        """Yield the head, unless the length of the body will be another one."""
        if self._size is None:
            yield self._head.replace(b"text/event-stream", b"application/x-ndjson")

    def feed(self, step: bytes) -> Iterator[Step]:
        if self._is_over:
            yield step
            return
        self._raw += step
        if not self._chunked:
            self._raw, self._data = (b"", b"") if self._at_once else (self._raw, self._raw)
            if self._at_once:
                yield from filter(None, [self._written(step)])
            elif self._size is not None and len(self._data) >= self._size:
                yield from self._turned()
            return
        yield from self._chunks()

    def _chunks(self) -> Iterator[Step]:
        unread = self._raw if self._at_once else self._raw[self._read :]
        while (mark := unread.find(b"\r\n")) >= 0:
            size = int(unread[:mark], 16) if re.fullmatch(rb"[0-9a-fA-F]+", unread[:mark]) else -1
            if size < 0:  # the framing itself is the fault
                self._is_over = True
                yield self._raw if not self._at_once else unread
                return
            if size == 0:
                yield from self._last_chunk()
                return
            if len(unread) < mark + size + 4:
                break
            piece, unread = unread[mark + 2 : mark + 2 + size], unread[mark + size + 4 :]
            if self._at_once:
                yield from (chunk(line) for line in filter(None, [self._written(piece)]))
            else:
                self._data += piece
                self._read += mark + size + 4
        if self._at_once:
            self._raw = unread

    def _last_chunk(self) -> Iterator[Step]:
        if not self._at_once:
            yield from self._turned()
            return
        self._is_over = True
        yield from (chunk(line) for line in filter(None, [self._lines.end()]))
        yield LAST_CHUNK

    def _turned(self) -> Iterator[Step]:
        """Yield a body that is complete."""
        self._is_over = True
        data = _unpacked(self._data) if self._gzipped else self._data
        written = self._written(data) + self._lines.end() if self._is_stream else document(data)
        written = gzip.compress(written) if data is not self._data else written
        if self._size is not None:
            size = b"Content-Length: %d"
            yield self._head.replace(size % self._size, size % len(written)).replace(b"event-stream", b"x-ndjson")
        yield chunk(written) + LAST_CHUNK if self._chunked else written

    def _written(self, data: bytes) -> bytes:
        """Return the lines for the events that `data` ends."""
        *events, self._rest = (self._rest + data.replace(b"\r\n", b"\n")).split(b"\n\n")
        return b"".join(map(self._lines.feed, events))

    def cut(self) -> Iterator[Step]:
        """Yield what is left when the connection is about to end."""
        if self._is_over:
            return
        self._is_over = True
        if not self._at_once:
            if self._size is None and not self._chunked:
                yield from self._turned()  # the end of the connection is that of the body
            else:
                yield from filter(None, [self._head if self._size is not None else b"", self._raw])
            return
        line = self._lines.end() + self._rest.removeprefix(b"data: ")  # half an event is half a line
        if line:
            yield chunk(line) if self._chunked else line


def _unpacked(data: bytes) -> bytes:
    """Return what gzip packed; the data as it is when that is the fault."""
    try:
        return gzip.decompress(data)
    except (OSError, EOFError):
        return data


class _Lines:
    """Turn the events of a chat stream into lines.  Calls are sent whole, and the last line has the counts."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        self._finish: str | None = None
        self._counts: dict[str, int] = {}
        self._is_over = False

    def feed(self, event: bytes) -> bytes:
        name = b"error" if b"event: error" in event else b""
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if event.startswith(b"error: "):
            name, data = b"error", event[7:]
        if data == b"[DONE]":
            return self.end(b"stop")
        if not data:
            return b""  # a comment: Ollama sends none
        try:
            document = json.loads(data)
        except ValueError:
            return _error(data.decode("utf-8", "replace")) if name else data + b"\n"
        choices = document.get("choices") if isinstance(document, dict) else None
        if document.get("usage"):
            self._counts = _counts(document["usage"])
        if choices is None or name:
            return _error(_text_of(document))
        return b"".join(self._line(choice) for choice in choices)

    def _line(self, choice: dict[str, Any]) -> bytes:
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            whole = self._calls.setdefault(call.get("index", len(self._calls)), {"id": "", "name": "", "arguments": ""})
            whole["id"] = call.get("id") or whole["id"]
            function = call.get("function") or {}
            whole["name"] += function.get("name") or ""
            whole["arguments"] += function.get("arguments") or ""
        message = {"content": delta.get("content") or ""}
        if thinking := delta.get("reasoning") or delta.get("reasoning_content"):
            message["thinking"] = thinking
        logprobs = {"logprobs": choice["logprobs"]["content"]} if choice.get("logprobs") else {}
        line = _json_line(_message(message), done=False, **logprobs) if any(message.values()) else b""
        if choice.get("finish_reason"):
            self._finish = choice["finish_reason"]
            line += self._call_line()
        return line

    def _call_line(self) -> bytes:
        calls, self._calls = self._calls, {}
        if not calls:
            return b""
        whole = [
            _native_call({"id": call["id"], "index": index, "function": call}) for index, call in sorted(calls.items())
        ]
        return _json_line(_message({"content": "", "tool_calls": whole}), done=False)

    def end(self, finish: bytes = b"") -> bytes:
        """Return the last line when the reply is complete."""
        reason = self._finish or finish.decode()
        if self._is_over or not reason:
            return b""
        self._is_over = True
        return self._call_line() + _json_line(_message({"content": ""}), **_ending(reason), **self._counts)


def document(data: bytes) -> bytes:
    """Return a whole reply as /api/chat writes it; anything but a completion or an error as it is."""
    try:
        chat = json.loads(data)
    except ValueError:
        return data
    if isinstance(chat, dict) and isinstance(chat.get("error"), dict) and "message" in chat["error"]:
        return _error(_text_of(chat))
    if not isinstance(chat, dict) or not chat.get("choices") or not isinstance(chat["choices"][0].get("message"), dict):
        return data
    choice = chat["choices"][0]
    message = {"content": choice["message"].get("content") or ""}
    if thinking := choice["message"].get("reasoning") or choice["message"].get("reasoning_content"):
        message["thinking"] = thinking
    if calls := choice["message"].get("tool_calls"):
        message["tool_calls"] = [_native_call(call) for call in calls]
    logprobs = {"logprobs": choice["logprobs"]["content"]} if choice.get("logprobs") else {}
    ending = _ending(choice.get("finish_reason") or "stop")
    return _json_line(_message(message), **ending, **_counts(chat.get("usage") or {}), **logprobs)


def _native_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.loads(function.get("arguments") or "{}")
    index = call.get("index", 0)
    return {"id": call.get("id"), "function": {"index": index, "name": function["name"], "arguments": arguments}}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", **message}


def _ending(finish: str) -> dict[str, Any]:
    return {"done": True, "done_reason": "stop" if finish == "tool_calls" else finish}


def _counts(usage: dict[str, int]) -> dict[str, int]:
    names = {"prompt_tokens": "prompt_eval_count", "completion_tokens": "eval_count"}
    return {native: usage[name] for name, native in names.items() if name in usage}


def _json_line(message: dict[str, Any], **members: Any) -> bytes:
    head = {"model": "fake", "created_at": "2023-11-14T22:13:20Z"}
    return json.dumps({**head, "message": message, **members}).encode() + b"\n"


def _error(text: str) -> bytes:
    return json.dumps({"error": text}).encode() + b"\n"


def _text_of(document: Any) -> str:
    error = document.get("error") if isinstance(document, dict) else document
    fields = error if isinstance(error, dict) else document if isinstance(document, dict) else {"message": str(error)}
    quoted = json.dumps({"error": fields}) if fields.get("code") else ""  # as it quotes its inference server
    words = fields.get("message") or fields.get("detail") or fields.get("details") or error
    return quoted if "message" in fields and quoted else str(words)
