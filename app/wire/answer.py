"""Put the answer in a reply together, in the form of a chat message, so that it can be judged.

Each wire form translates its replies to deltas of the chat API.  A whole reply counts as a stream of one delta.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app import finish
from app.types import JsonDict, JsonObject
from app.wire import sse
from app.wire.reply_facts import objects_in, word_of
from app.wire.tool_calls import Fragment, ToolCalls, fragments_in

MOST_BYTES = 4 * 1024 * 1024  # of a stream that is held
_LEAST_LOGPROB = -9999.0  # OpenAI writes it for a token without probability, other servers write -Infinity
_CHARS_A_TOKEN = 4  # of English text
_REASONING = ("reasoning_content", "reasoning")
_MEDIA = ("audio", "images")  # members that servers add for other output than text
_WORDS = {"max_output_tokens": "length", "content_filter": "content_filter"}  # finish.cut_of -> OpenAI's word


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold the answer in a reply.  When the reply has several choices, it is the first one."""

    message: JsonDict  # of the assistant, as in the chat API
    finish: str | None = None  # stop, length, tool_calls, content_filter, or the backend's own word; None = no end came
    logprobs: tuple[float, ...] = ()  # natural logarithms of the probabilities of the chosen tokens


class Deltas:
    """Join the deltas of one message.  The work is linear in their length."""

    def __init__(self) -> None:
        self.has_tool_call = False
        self.chars = 0
        self._events = 0  # deltas with output; most servers send one for each token
        self._texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
        self._calls = ToolCalls(str)  # a call without an id gets an empty one
        self._fragments: list[Fragment] = []
        self._custom: dict[object, list[str]] = {}  # calls of custom tools by index: id, name, pieces of the input
        self._media: JsonDict = {}
        self._finish: str | None = None
        self._logprobs: list[float] = []

    @property
    def tokens(self) -> int:
        return max(self._events, len(self._logprobs), self.chars // _CHARS_A_TOKEN)

    def read(self, delta: JsonObject, logprobs: Iterable[float] = ()) -> None:
        """Read one delta, and the log-probabilities of its tokens."""
        before = self.chars
        reasoning = next((text for name in _REASONING if (text := _text(delta.get(name)))), "")
        self._write("reasoning_content", reasoning)
        self._write("content", _text(delta.get("content")))
        self._write("refusal", _text(delta.get("refusal")))
        calls = fragments_in(delta)
        if not calls and isinstance(delta.get("function_call"), Mapping):
            calls = [{"function": delta["function_call"]}]  # the older form, before tools
        for raw in calls:
            if isinstance(raw, Mapping):
                self._read_call(raw)
        self._media |= {name: delta[name] for name in _MEDIA if delta.get(name)}
        self._logprobs += logprobs
        self._events += self.chars > before

    def end(self, reason: object) -> None:
        """Note a finish reason; a value that is no word changes nothing."""
        if word := word_of(reason):
            self._finish = _WORDS.get(finish.cut_of(word) or "", word)

    @property
    def answer(self) -> Answer:
        """Return the answer that has been read."""
        self._calls.settle()
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        calls = [*_joined(self._fragments), *map(_custom_call, self._custom.values())]
        content = texts.pop("content")
        message: JsonDict = {"role": "assistant", "content": content or (None if calls else "")}
        message |= {name: text for name, text in texts.items() if text}
        message |= {"tool_calls": calls} if calls else {}
        return Answer(message | self._media, self._finish, tuple(self._logprobs))

    def _write(self, name: str, text: str) -> None:
        if text:
            self.chars += len(text)
            self._texts[name].append(text)

    def _read_call(self, raw: JsonObject) -> None:
        if isinstance(custom := raw.get("custom"), Mapping):
            self._read_custom(raw, custom)
        elif fragment := self._calls.read(raw):
            self.has_tool_call = True
            self.chars += len(fragment.arguments)
            self._fragments.append(fragment)

    def _read_custom(self, raw: JsonObject, custom: JsonObject) -> None:
        self.has_tool_call = True
        index = raw.get("index")
        call = self._custom.setdefault(index if type(index) is int else None, ["", ""])
        call[0] = call[0] or _text(raw.get("id"))
        call[1] = call[1] or _text(custom.get("name"))
        call.append(text := _text(custom.get("input")))
        self.chars += len(text)


def _joined(fragments: Iterable[Fragment]) -> list[JsonDict]:
    """Return whole calls for the fragments of calls."""
    heads: dict[int, Fragment] = {}
    arguments: dict[int, list[str]] = {}
    for fragment in fragments:
        heads.setdefault(fragment.index, fragment)
        arguments.setdefault(fragment.index, []).append(fragment.arguments)
    return [
        {"id": head.id, "type": "function", "function": {"name": head.name, "arguments": "".join(arguments[index])}}
        for index, head in heads.items()
    ]


def _custom_call(call: list[str]) -> JsonDict:
    call_id, name, *pieces = call
    return {"id": call_id, "type": "custom", "custom": {"name": name, "input": "".join(pieces)}}


def _text(value: object) -> str:
    """Return a text that may be a string or a list of parts; empty for any other value."""
    if isinstance(value, list):
        return "".join(text for part in objects_in(value) if isinstance(text := part.get("text"), str))
    return value if isinstance(value, str) else ""


def logprobs_in(entries: object) -> list[float]:
    """Return the natural logarithms in a list of `{"token": …, "logprob": …}`; entries without a number are left
    out."""
    values = (entry.get("logprob") for entry in objects_in(entries))
    numbers = (value for value in values if isinstance(value, (int, float)) and type(value) is not bool)
    return [float(min(max(number, _LEAST_LOGPROB), 0.0)) for number in numbers if number == number]


class Collector(ABC):
    """Read the answer in a stream whose pieces are held.  Each wire form has its own way to split a stream."""

    def __init__(self) -> None:
        self._deltas = Deltas()
        self._bytes = 0

    @property
    def has_tool_call(self) -> bool:
        """Return True when a tool call has begun."""
        return self._deltas.has_tool_call

    @property
    def chars(self) -> int:
        """Return the characters of text, reasoning, refusals and arguments that have arrived."""
        return self._deltas.chars

    @property
    def tokens(self) -> int:
        """Return about how many tokens have arrived."""
        return self._deltas.tokens

    @property
    def is_full(self) -> bool:
        """Return True when the stream is too long to be held.  Its later pieces are not read."""
        return self._bytes > MOST_BYTES

    @property
    def answer(self) -> Answer:
        """Return the answer that has arrived.  Read it after the last piece."""
        self._read_rest()
        return self._deltas.answer

    def feed(self, piece: bytes) -> None:
        """Read the next piece of the body, which may end anywhere."""
        self._bytes += len(piece)
        if not self.is_full:
            self._read(piece)

    @abstractmethod
    def _read(self, piece: bytes) -> None:
        """Read what a piece completes."""

    @abstractmethod
    def _read_rest(self) -> None:
        """Read what has no end mark at the end of the body."""


class EventCollector(Collector):
    """Read the answer in a stream of server-sent events."""

    def __init__(self) -> None:
        super().__init__()
        self._splitter = sse.Splitter()

    def _read(self, piece: bytes) -> None:
        for event in self._splitter.feed(piece):
            self._read_event(sse.json_of(sse.data_of(event) or b"") or {})

    def _read_rest(self) -> None:
        for event in self._splitter.flush():
            self._read_event(sse.json_of(sse.data_of(event) or b"") or {})

    @abstractmethod
    def _read_event(self, document: JsonObject) -> None:
        """Read the JSON object in the data of an event; empty when it has none."""
