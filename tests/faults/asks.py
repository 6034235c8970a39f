"""The private requests of the matrix: every way to ask, to name a target, and to be private.

Each holds a canary of its own, and the name of the fault that the local backend is to play for it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

CANARY = "kanarie"  # nothing else says this word
CONTROL = "controle"  # its like in requests that are not private

Document = dict[str, Any]
Headers = tuple[tuple[str, str], ...]

SURFACES = (
    ("chat", False),
    ("chat", True),
    ("responses", False),
    ("responses", True),
    ("messages", False),
    ("messages", True),
    ("route", False),
)
SHAPES = ("chat", "responses", "messages")

PINS: tuple[str | None, ...] = (
    None,
    "auto",
    "gpt-4o-of-some-client",
    "home",
    "home/m:1",
    "m:1",
    "shared",  # held by home and by cloud
    "cloud",
    "cloud/c-1",
    "c-1",
    "mirror",
    "home/gpt-oss:120b-cloud",
    "home/Kimi:CLOUD@sha256:00ff",
)


@dataclass(frozen=True, slots=True)
class Marking:
    """What makes a request private.  `refused`: it is so doubtful that the answer is a 400."""

    name: str
    headers: Headers = ()
    text: str = ""  # what a detector finds …
    place: str = "said"  # … and where it stands
    refused: bool = False


def _header(name: str, *headers: tuple[str, str], refused: bool = False) -> Marking:
    return Marking(name, headers, refused=refused)


_NAME = "X-LLR-Sensitivity"
MARKINGS = (
    _header("high", (_NAME, "high")),
    _header("spelling", ("x-llr-SENSITIVITY", "\t HIGH  ")),
    _header("underscores", ("X_LLR_Sensitivity", "high")),
    _header("twins", (_NAME, "high"), ("x_llr_sensitivity", "High")),
    _header("twice", (_NAME, "high"), (_NAME, "high")),
    _header("in one line", (_NAME, "high, high")),
    _header("contradiction", (_NAME, "normal"), (_NAME, "high"), refused=True),
    _header("contradicting twins", (_NAME, "normal"), ("X_LLR_Sensitivity", "high"), refused=True),
    _header("unknown value", (_NAME, "hgih"), refused=True),
    _header("empty", (_NAME, ""), refused=True),
    _header("not ASCII", (_NAME, "normal\xa0"), refused=True),
    _header("look-alike", ("X-LLR-Sensitive", "high"), refused=True),
    Marking("card", text="4111 1111 1111 1111"),
    Marking("card in instructions", text="4111-1111-1111-1111", place="instructions"),
    Marking("api key in a tool", text="sk-proj-abcdefghij0123456789XYZ", place="tool"),
    Marking("private key in a tool's output", text="-----BEGIN RSA PRIVATE KEY-----", place="output"),
    Marking("iban said before", text="DE89 3704 0044 0532 0130 00", place="before"),
    Marking("ssn in metadata", text="123-45-6789", place="metadata"),
    Marking("mail in a repeated member", text="me@corp.example", place="repeated"),
    Marking("pattern in an unknown member", text="about Project BlueBird", place="unknown"),
)
CONTINUED = Marking("continuation", place="continuation")
REFERRED = Marking("item reference", place="reference")
NOT_PRIVATE = Marking("control")


@dataclass(frozen=True, slots=True)
class Past:
    """A private conversation that the router keeps."""

    response_id: str
    item_id: str


@dataclass(frozen=True, slots=True)
class Ask:
    number: int
    surface: str  # chat | responses | messages | route
    stream: bool
    pin: str | None
    marking: Marking
    fault: str
    past: Past | None = None

    @property
    def canary(self) -> str:
        return f"{CONTROL if self.marking is NOT_PRIVATE else CANARY}{self.number:06d}"

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.surface == "chat" else f"/v1/{self.surface}"

    def body(self) -> bytes:
        """The request; its canary stands in what is said, in the instructions and in the metadata."""
        wordings: dict[str, Callable[[str, str], Document]] = {
            "chat": _chat,
            "responses": _responses,
            "messages": _messages,
        }
        said = f"{self.canary} fault-{self.fault} hello"
        shape = self.surface if self.surface != "route" else SHAPES[self.number % 3]  # the dry run reads all of them
        document = wordings[shape](said, self.marking.text and f"{self.canary} {self.marking.text}")
        document = {"metadata": {"note": self.canary}, **document}
        if self.stream:
            document["stream"] = True
        if self.pin is not None:
            document["model"] = self.pin
        _mark(document, self, shape)
        text = json.dumps(document, ensure_ascii=self.number % 3 == 0)
        if self.marking.place == "repeated":
            text = f'{{"user": "{self.canary} {self.marking.text}", ' + text[1:-1] + ', "user": "x"}'
        if self.number % 7 == 0:  # servers written in Go would take it for `model`
            text = text[:-1] + ', "Model": "gpt-oss:120b-cloud"}'
        return text.encode()


def _chat(said: str, note: str) -> Document:
    return {"messages": [{"role": "user", "content": said}], "note": note}


def _responses(said: str, note: str) -> Document:
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": said}]}], "note": note}


def _messages(said: str, note: str) -> Document:
    return {"max_tokens": 50, "system": "Be brief.", "messages": [{"role": "user", "content": said}], "note": note}


def _mark(document: Document, ask: Ask, shape: str) -> None:
    """Moves the telling text from `note` to its place."""
    note, place = document.pop("note"), ask.marking.place
    turns = document["input" if shape == "responses" else "messages"]
    if place == "said" and note:
        turns.insert(0, {"role": "user", "content": note})
    elif place == "before":
        turns[:0] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": note}]
    elif place == "instructions":
        if shape == "chat":
            turns.insert(0, {"role": "developer", "content": note})
        else:
            document["system" if shape == "messages" else "instructions"] = note
    elif place == "tool":
        function = {"name": "look", "description": note, "parameters": {"type": "object", "properties": {}}}
        tools = {
            "chat": {"type": "function", "function": function},
            "responses": {"type": "function", **function},
            "messages": {"name": "look", "description": note, "input_schema": {"type": "object"}},
        }
        document["tools"] = [tools[shape]]
    elif place == "output":
        turns[1:1] = _called(note, shape)
    elif place == "metadata":
        document["metadata"]["private"] = note
    elif place == "unknown":
        document["x_unknown"] = {"deep": [note]}
    elif ask.past and place == "continuation":
        document["previous_response_id"] = ask.past.response_id
    elif ask.past and place == "reference":
        turns.insert(0, {"type": "item_reference", "id": ask.past.item_id})


def _called(note: str, shape: str) -> list[Document]:
    if shape == "responses":
        call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
        return [call, {"type": "function_call_output", "call_id": "c1", "output": note}]
    if shape == "messages":
        call = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "c1", "content": note}
        return [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": note},
    ]


def asks(faults: Sequence[str], first: int, pasts: Sequence[Past] = (), every: int = 1) -> Iterator[Ask]:
    """All surfaces x pins x markings, the faults going round; every n-th of them.  Numbers count from `first`."""
    round_of_faults = itertools.cycle(faults)
    round_of_pasts = itertools.cycle(pasts)
    numbers = itertools.count(first)
    combinations = itertools.product(MARKINGS, PINS, SURFACES)
    for marking, pin, (surface, stream) in itertools.islice(combinations, first % every, None, every):
        yield Ask(next(numbers), surface, stream, pin, marking, next(round_of_faults))
    if pasts:
        ways = itertools.product((CONTINUED, REFERRED), PINS, ((False, True) * 4))
        for marking, pin, stream in ways:
            yield Ask(next(numbers), "responses", stream, pin, marking, next(round_of_faults), next(round_of_pasts))
