"""Bodies of a given size in shapes that are hard on a parser, a classifier or a detector."""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Callable
from typing import Any

from app.wire.chat.request import MOST_PIECES
from app.wire.json_body import MOST_TOKENS
from app.wire.responses.tools import MOST_TOOLS

Shape = Callable[[int], dict[str, Any]]  # size in bytes -> a document of about that size

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


def _listed(item: Any) -> Shape:
    return lambda size: {"messages": [item] * _count(item, size)}


def _beside(name: str, item: Any) -> Shape:
    return lambda size: {
        "messages": [_PLAIN],
        name: [item] * min(MOST_TOKENS // 2 - 100, size // (len(json.dumps(item)) + 2)),
    }


def _said(text: str) -> Shape:
    each = len(json.dumps(text)) - 2
    return lambda size: {"messages": [{"role": "user", "content": text * (size // each)}]}


def _parts(part: Any) -> Shape:
    return lambda size: {"messages": [{"role": "user", "content": [part] * _count(part, size)}]}


SHAPES: dict[str, Shape] = {
    **{name: _said(text) for name, text in TEXTS.items()},
    "messages": _listed(_PLAIN),
    "empty messages": _listed({"role": "a"}),
    "tool calls": lambda size: {"messages": [_PLAIN, *_CALLED * (_count(_CALLED, size) // 2)]},
    "parts": _parts({"type": "text", "text": "x"}),
    "empty parts": _parts({}),
    "tools": lambda size: _beside("tools", _TOOL)(min(size, 2_500_000)),
    "empty lists": _beside("metadata", []),
    "numbers": _beside("metadata", 1),
    "long numbers": _beside("metadata", 4111111111111112),
    "empty texts": _beside("metadata", ""),
    "an image": _parts({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 20_000}}),
}


def _items(*items: Any) -> Shape:
    """Responses items, the same again and again."""
    pieces = len(items) + sum(len(item["content"]) for item in items if isinstance(item.get("content"), list))
    return lambda size: {"input": list(items) * min(MOST_PIECES // pieces, size // len(json.dumps(items)))}


def _numbered(size: int, *texts: str) -> list[list[Any]]:
    """For each text as many documents as fit, `%d` being their number."""
    count = min(MOST_PIECES // len(texts) - 1, size // sum(len(text) + 5 for text in texts))
    return [[json.loads(text % number) for number in range(count)] for text in texts]


_CALL_ITEM = '{"type": "function_call", "call_id": "c%d", "name": "f", "arguments": "{}"}'
_OUTPUT_ITEM = '{"type": "function_call_output", "call_id": "c%d", "output": "x"}'


def _calls_and_results(size: int) -> dict[str, Any]:
    calls, results = _numbered(size, _CALL_ITEM, _OUTPUT_ITEM)
    return {"input": [item for pair in zip(calls, results, strict=True) for item in pair]}


def _results_backwards(size: int) -> dict[str, Any]:
    calls, results = _numbered(size, _CALL_ITEM, _OUTPUT_ITEM)
    return {"input": [*calls, *reversed(results)]}


def _tools_that_look_alike(size: int) -> dict[str, Any]:
    """All have the same letters but for those that no chat server takes."""
    count = min(MOST_TOOLS - 1, size // 35)
    tools = [
        {"type": "custom", "name": chr(0x3400 + number % 20_000) * (1 + number // 20_000)} for number in range(count)
    ]
    return {"input": "x", "tools": [{"type": "namespace", "name": "s", "tools": tools}]}


def _long_names_alike(size: int) -> dict[str, Any]:
    """Pairs of tools with one name for chat servers, each pair with another name that ends alike."""
    heads = itertools.islice(itertools.product(string.ascii_letters, repeat=3), min(MOST_TOOLS // 2 - 1, size // 210))
    tools = [{"type": "custom", "name": f"{''.join(head)}{'a' * 60}{mark}"} for head in heads for mark in ".:"]
    return {"input": "x", "tools": [{"type": "namespace", "name": "s", "tools": tools}]}


def _tools_and_a_choice(size: int) -> dict[str, Any]:
    tools, entries = _numbered(size, '{"type": "function", "name": "f%d"}', '{"type": "function", "name": "g%d"}')
    return {"input": "x", "tools": tools[:MOST_TOOLS], "tool_choice": {"type": "allowed_tools", "tools": entries}}


def _brought(size: int) -> dict[str, Any]:
    """Tools that come with the input."""
    item = {"type": "additional_tools", "tools": [{"type": "custom", "name": "f"}]}
    return {"input": [_PLAIN, *[item] * min(MOST_TOOLS, _count(item, size))]}


_SPOKEN = {"role": "user", "content": [{"type": "input_text", "text": "x"}]}

RESPONSES_SHAPES: dict[str, Shape] = {
    "prose": lambda size: {"input": TEXTS["prose"] * (size // len(TEXTS["prose"]))},
    "messages": _items(_PLAIN),
    "messages of the model": _items({"role": "assistant", "content": "x"}),
    "system messages": _items({"role": "system", "content": "x"}),
    "parts": lambda size: {
        "input": [{"role": "user", "content": _SPOKEN["content"] * _count(_SPOKEN["content"], size)}]
    },
    "images": _items({"role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]}),
    "items nobody knows": _items({"type": "x"}, _PLAIN),
    "calls and results": _calls_and_results,
    "results backwards": _results_backwards,
    "calls alone": _items(json.loads(_CALL_ITEM % 1)),
    "results alone": _items(json.loads(_OUTPUT_ITEM % 1)),
    "reasoning": _items({"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}, _SPOKEN),
    "tools": lambda size: {
        "input": "x",
        "tools": _numbered(size, '{"type": "function", "name": "f%d"}')[0][:MOST_TOOLS],
    },
    "tools of the input": _brought,
    "tools that look alike": _tools_that_look_alike,
    "long names alike": _long_names_alike,
    "tools and a choice": _tools_and_a_choice,
    "empty lists": lambda size: {"input": "x", "metadata": {"a": [[]] * min(MOST_TOKENS // 2 - 100, size // 4)}},
}


def body(shape: Shape, size: int) -> bytes:
    """About `size` bytes of JSON."""
    return json.dumps({"model": "auto", **shape(size)}, ensure_ascii=False).encode()
