"""Read the parts of a request and of an answer that the checks of an answer compare.

Requests and answers of any shape are read without an error: a member of the wrong type counts as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from app.types import JsonObject

_LATEST_TURNS = 3  # a short turn ("shorter, please") needs the one before it to be understood
_HEAD_CHARS, _TAIL_CHARS = 3_000, 1_000  # of one message
_MOST_PARTS = 1_000  # of the content of one message
_LIMITS = ("max_completion_tokens", "max_tokens")
# How models mark their reasoning where the server does not take it out of the text.
_REASONING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<analysis>", "</analysis>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
_UNOPENED = "\n</think>"  # some chat templates put the opening mark into the prompt
# White space, characters that are not visible, and the marks of chat templates.
_NOTHING = re.compile(
    r"(?:[\s\ufeff\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2800\u3164\x00-\x1f]"
    r"|<\|[a-z_]{1,24}\|>|</?s>|<(?:bos|eos|pad|unk|end_of_turn|start_of_turn)>|\[(?:PAD|UNK|EOS)\])*+"
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Hold one call of a tool."""

    name: str
    arguments: object  # JSON text; some servers send an object


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold the parts of an answer that a client sees."""

    text: str  # without reasoning
    calls: tuple[ToolCall, ...] = ()
    refusal: str = ""  # the member by which a model says that it refuses
    has_media: bool = False  # a picture or a sound
    reasoning_chars: int = 0  # of the reasoning, which clients do not take for the answer

    @property
    def is_blank(self) -> bool:
        """Return True when the text has nothing to read."""
        return is_blank(self.text)


class Question:
    """Hold a request, and read its parts when a check needs them."""

    def __init__(self, body: JsonObject) -> None:
        self.body = body

    @cached_property
    def ask(self) -> str:
        """The latest turns of the user, the last one at the end.  Long ones are shortened."""
        return "\n".join(map(_shortened, self._turns))

    @cached_property
    def lines(self) -> int:
        """The number of line ends in the latest turns."""
        return sum(turn.count("\n") for turn in self._turns)

    @cached_property
    def system(self) -> str:
        """The system prompt."""
        texts = (text_of(message.get("content")) for message in self._messages[:2] if _is_system(message))
        return _shortened("\n".join(texts))

    @property
    def limit(self) -> int | None:
        """The most tokens that the client wants, when it says so."""
        limits = [value for name in _LIMITS if type(value := self.body.get(name)) is int and value > 0]
        return min(limits, default=None)

    @cached_property
    def _turns(self) -> list[str]:
        users = (message for message in reversed(self._messages) if message.get("role") == "user")
        return [text_of(message.get("content")) for message in islice(users, _LATEST_TURNS)][::-1]

    @cached_property
    def _messages(self) -> list[JsonObject]:
        return objects_in(self.body.get("messages"))


def read_question(request: object) -> Question:
    """Return the question in a chat body."""
    return Question(request if isinstance(request, Mapping) else {})


def read_answer(answer: object) -> Answer:
    """Return the parts of an answer: a text, or a message of the assistant."""
    if not isinstance(answer, Mapping):
        whole = text_of(answer)
        text = without_reasoning(whole)
        return Answer(text, reasoning_chars=len(whole) - len(text))
    content = answer.get("content")
    whole = text_of(content)
    text = without_reasoning(whole)
    reasoning = answer.get("reasoning_content") or answer.get("reasoning")
    return Answer(
        text=text,
        calls=tuple(_calls(answer)),
        refusal=_refusal(answer),
        has_media=any(answer.get(name) for name in ("audio", "images")) or _has_media(content),
        reasoning_chars=len(whole) - len(text) + (len(reasoning) if isinstance(reasoning, str) else 0),
    )


def text_of(content: object) -> str:
    """Return the text of a content: a string, or a list of parts.  Characters that are not valid are replaced."""
    text = content if isinstance(content, str) else "".join(_texts(content))
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def without_reasoning(text: str) -> str:
    """Return a text without the reasoning at its beginning; "" when there is nothing else."""
    if text.startswith(("<", "[", "◁", " ", "\n", "\t", "\r")):
        begin = text.lstrip()
        for opening, closing in _REASONING:
            if begin.startswith(opening):
                return begin.partition(closing)[2]
    before, mark, after = text.partition(_UNOPENED)
    return after if mark and "<think>" not in before else text


def is_blank(text: str) -> bool:
    """Return True when a text has nothing to read."""
    text = text.strip()
    return not text or _NOTHING.fullmatch(text) is not None


def objects_in(value: object) -> list[JsonObject]:
    """Return the objects of a list."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _texts(content: object) -> Iterator[str]:
    for part in content[:_MOST_PARTS] if isinstance(content, (list, tuple)) else ():
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text


def _has_media(content: object) -> bool:
    """Return True when a part of a content is neither a text nor a refusal."""
    kinds = (part.get("type") for part in objects_in(content)[:_MOST_PARTS])
    return any(isinstance(kind, str) and kind.endswith(("image", "image_url", "audio", "file")) for kind in kinds)


def _refusal(answer: JsonObject) -> str:
    parts = [part.get("refusal") for part in objects_in(answer.get("content"))[:_MOST_PARTS]]
    texts = (text for text in (answer.get("refusal"), *parts) if isinstance(text, str))
    return next((text for text in texts if not is_blank(text)), "")


def _calls(answer: JsonObject) -> Iterator[ToolCall]:
    calls = answer.get("tool_calls")
    for call in objects_in([calls] if isinstance(calls, Mapping) else calls):
        custom = call.get("custom")
        yield _call(custom if isinstance(custom, Mapping) else call.get("function"), call)
    if isinstance(old := answer.get("function_call"), Mapping):  # OpenAI's form before there were tools
        yield _call(old, old)


def _call(function: object, call: JsonObject) -> ToolCall:
    """Return a call; some servers leave out the object `function` around its members."""
    members = function if isinstance(function, Mapping) else call
    name = members.get("name")
    return ToolCall(name if isinstance(name, str) else "", members.get("arguments"))


def _is_system(message: JsonObject) -> bool:
    return message.get("role") in ("system", "developer")


def _shortened(text: str) -> str:
    if len(text) <= _HEAD_CHARS + _TAIL_CHARS:
        return text
    return f"{text[:_HEAD_CHARS]}\n{text[-_TAIL_CHARS:]}"
