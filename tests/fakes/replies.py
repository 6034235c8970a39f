"""What a fake upstream answers: builders that return lists of steps.

A step is one of: bytes (sent as they are), a number (seconds to wait), a Gate (wait until the test opens it),
HANG, CLOSE (clean end of the connection) or RESET (TCP RST).  So every fault is a list, and lists can be joined:
`[0.5, *reply(503)]` waits half a second first.  A list that ends without CLOSE leaves the connection open.
"""

from __future__ import annotations

import asyncio
import enum
import gzip
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any


class End(enum.Enum):
    HANG = "say nothing more and wait for the client to leave"
    CLOSE = "close the connection cleanly"
    RESET = "close it with a TCP reset"


HANG, CLOSE, RESET = End.HANG, End.CLOSE, End.RESET


class Gate:
    """A step that waits until the test calls `open()`: order without sleeps.  `reached` is set when a reply waits."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._opened = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def open(self) -> None:
        with self._lock:
            self._opened = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            if not loop.is_closed():  # the upstream was stopped meanwhile
                loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        event = asyncio.Event()
        with self._lock:
            opened = self._opened
            if not opened:
                self._waiting.append((asyncio.get_running_loop(), event))
        self.reached.set()
        if not opened:
            await event.wait()


Step = bytes | float | Gate | End
Headers = Sequence[tuple[str, str]]
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"
_REASONS = {status.value: status.phrase for status in HTTPStatus}


# --- documents ----------------------------------------------------------------------------------


def completion(text: str = "hello", model: str = "fake", *, prompt_tokens: int = 5, **message: Any) -> dict[str, Any]:
    """A chat completion as OpenAI's servers write it."""
    tokens = max(1, len(text.split()))
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1700000000,
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
        ],
        "usage": usage(prompt_tokens, tokens),
    }


def usage(prompt_tokens: int = 5, completion_tokens: int = 1) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def delta(content: str | None = None, model: str = "fake", *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a streamed completion; `more` goes into the delta (role, tool_calls …)."""
    piece = {**more} if content is None else {**more, "content": content}
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": model,
        "choices": [{"index": 0, "delta": piece, "finish_reason": finish}],
    }


def logprobs(values: Iterable[float]) -> list[dict[str, Any]]:
    """The log-probabilities of tokens as servers write them."""
    return [{"token": "t", "logprob": value, "bytes": [116], "top_logprobs": []} for value in values]


def error_document(message: str = "it broke", type: str = "server_error", code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n\n"


# --- HTTP ---------------------------------------------------------------------------------------


def head(status: int = 200, headers: Headers = (), *, reason: str | None = None) -> bytes:
    if reason is None:
        reason = _REASONS.get(status, "Status")
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def to_bytes(body: Any) -> bytes:
    """Bytes as they are, text as UTF-8, anything else as JSON."""
    if isinstance(body, bytes):
        return body
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate as its JSON escape


def reply(
    status: int = 200,
    body: Any = b"",
    headers: Headers = (),
    *,
    content_type: str | None = "application/json",
    framing: str = "length",
) -> list[Step]:
    """A whole answer.  `framing`: length (Content-Length), chunked, or close (the end of the connection ends it)."""
    return _framed(status, [to_bytes(body)], headers, content_type, framing)


def html(status: int = 200, body: str = "<!doctype html><title>Sign in</title><p>Hotel wifi</p>") -> list[Step]:
    return reply(status, body, content_type="text/html; charset=utf-8")


def error(status: int, message: str = "it broke", headers: Headers = (), **fields: Any) -> list[Step]:
    return reply(status, error_document(message, **fields), headers)


def rate_limited(retry_after: str | int | None = None) -> list[Step]:
    headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
    return error(429, "slow down", headers, type="rate_limit_error", code="rate_limit_exceeded")


def redirect(url: str, status: int = 307) -> list[Step]:
    return reply(status, b"", [("Location", url)], content_type=None)


def gzipped(body: Any, *, content_type: str = "application/json") -> list[Step]:
    """A gzip answer, whether or not the client said that it reads gzip."""
    packed = gzip.compress(to_bytes(body))
    return reply(200, packed, [("Content-Encoding", "gzip")], content_type=content_type)


def sse(
    *pieces: Any,
    model: str = "fake",
    finish: bool = True,
    framing: str = "chunked",
    headers: Headers = (),
    status: int = 200,
) -> list[Step]:
    """An event stream.  A piece is text (a content delta), a dict (one event), bytes (raw), or any other step.

    `finish` adds the finish event and `[DONE]`.  The stream is cut without them by `finish=False` and a last step
    CLOSE or RESET; `finish=False` alone ends the body properly, but early.
    """
    raw: list[Step] = []
    for piece in pieces:
        if isinstance(piece, str):
            raw.append(event(delta(piece, model)))
        else:
            raw.append(event(piece) if isinstance(piece, dict) else piece)
    if finish:
        raw += [event(delta(model=model, finish="stop")), DONE]
    return _framed(status, raw, headers, "text/event-stream", framing)


def _framed(status: int, body: list[Step], headers: Headers, content_type: str | None, framing: str) -> list[Step]:
    lines = [("Content-Type", content_type)] if content_type else []
    lines += headers
    ends_itself = bool(body) and isinstance(body[-1], End)
    if framing == "chunked":
        lines.append(("Transfer-Encoding", "chunked"))
        chunked: list[Step] = [chunk(step) if isinstance(step, bytes) else step for step in body if step != b""]
        return [head(status, lines), *chunked, *([] if ends_itself else [LAST_CHUNK])]
    if framing == "close":
        lines.append(("Connection", "close"))
        return [head(status, lines), *body, *([] if ends_itself else [CLOSE])]
    if framing != "length":
        raise ValueError(f"framing is length, chunked or close, not {framing!r}")
    lines.append(("Content-Length", str(sum(len(step) for step in body if isinstance(step, bytes)))))
    return [head(status, lines), *(step for step in body if step != b"")]


# --- ways to spoil an answer --------------------------------------------------------------------


def cut(steps: Iterable[Step], keep: int, end: End = CLOSE) -> list[Step]:
    """Only the first `keep` bytes of the body (negative: all but the last ones), then `end`.  The head stays whole,
    so a Content-Length promises more than arrives and a chunked body never gets its last chunk."""
    first, *rest = steps
    if keep < 0:
        keep += sum(len(step) for step in rest if isinstance(step, bytes))
    kept: list[Step] = [first]
    for step in rest:
        if isinstance(step, bytes):
            step, keep = step[:keep], keep - len(step)
        elif isinstance(step, End):
            break
        kept.append(step)
        if keep <= 0:
            break
    return [*kept, end]


def drip(steps: Iterable[Step], gap: float = 0.0) -> list[Step]:
    """The same bytes one at a time, `gap` seconds apart.  The head is sent whole; the framing is dripped too."""
    first, *rest = steps
    dripped: list[Step] = [first]
    for step in rest:
        if not isinstance(step, bytes):
            dripped.append(step)
            continue
        for place in range(len(step)):
            dripped += [step[place : place + 1], gap]  # a wait of 0 still lets the byte go out alone
    return dripped


def pause_after_head(steps: Iterable[Step], seconds: float | Gate | End) -> list[Step]:
    """Headers at once, the body later (or never, with HANG)."""
    first, *rest = steps
    return [first, seconds, *rest]


def bad_chunk_size(size: bytes = b"zz") -> list[Step]:
    """A chunked JSON answer whose chunk size is no number."""
    headers = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
    return [head(200, headers), size + b"\r\n" + to_bytes(completion()) + b"\r\n", LAST_CHUNK, CLOSE]


Play = Iterable[Step] | Callable[[Any], Iterable[Step]]
