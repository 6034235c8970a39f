"""Bodies of a given size in shapes that are hard on a parser, a classifier or a detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from app.wire.chat import MOST_PIECES

_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_CALLED = [
    {"role": "assistant", "content": None, "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "x"},
]
_PLAIN = {"role": "user", "content": "hello there"}

TEXTS = {
    "prose": "The quick brown fox jumps over the lazy dog. ",
    "code": "def f(x):\n    return x + 1  # why?\n",
    "one letter": "a",
    "line ends": "\n",
    "fences": "```\n",
    "tags": "<context>",
    "closing tags": "</a>",
    "punctuation": "?!.,",
    "emoji": "😀",
    "escapes": "\x01",
    "digits": "1234567890",
    "cards that are none": "4111 1111 1111 1112 ",
    "IBANs that are none": "DE00 1234 ",
    "IBAN heads": "DE00",
    "phones that are none": "+1 2 3 4 ",
    "mails that are none": "a@a.",
    "names without hosts": "a.b+c-d%",
    "SSNs that are none": "000-00-0000 ",
    "keys that are none": "sk-a-b-c-",
    "tokens that are none": "eyJaaaaaaaa.",
    "PEM heads": "-----BEGIN A ",
}


def _count(item: Any, size: int) -> int:
    """How many of them fill `size` bytes, no more than are let in."""
    return min(MOST_PIECES - 1, size // (len(json.dumps(item)) + 2))


def _listed(item: Any) -> Callable[[int], dict[str, Any]]:
    return lambda size: {"messages": [item] * _count(item, size)}


def _beside(name: str, item: Any) -> Callable[[int], dict[str, Any]]:
    return lambda size: {"messages": [_PLAIN], name: [item] * (size // (len(json.dumps(item)) + 2))}


def _said(text: str) -> Callable[[int], dict[str, Any]]:
    each = len(json.dumps(text)) - 2
    return lambda size: {"messages": [{"role": "user", "content": text * (size // each)}]}


def _parts(part: Any) -> Callable[[int], dict[str, Any]]:
    return lambda size: {"messages": [{"role": "user", "content": [part] * _count(part, size)}]}


SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    **{name: _said(text) for name, text in TEXTS.items()},
    "messages": _listed(_PLAIN),
    "empty messages": _listed({}),
    "tool calls": lambda size: {"messages": [_PLAIN, *_CALLED * (_count(_CALLED, size) // 2)]},
    "parts": _parts({"type": "text", "text": "x"}),
    "empty parts": _parts({}),
    "tools": _beside("tools", _TOOL),
    "empty lists": _beside("metadata", []),
    "numbers": _beside("metadata", 1),
    "long numbers": _beside("metadata", 4111111111111112),
    "empty texts": _beside("metadata", ""),
    "an image": _parts({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 20_000}}),
}


def body(shape: str, size: int) -> bytes:
    """About `size` bytes of JSON."""
    return json.dumps({"model": "auto", **SHAPES[shape](size)}, ensure_ascii=False).encode()
