"""Hold the first answer: read it, and send nothing of it."""

from __future__ import annotations

import time
from math import inf

from app.backends.reply import NothingYet, Stream, Whole
from app.errors import StreamInterrupted
from app.types import JsonObject, Verification
from app.wire.answer import Answer, Collector


class Hold:
    """Hold one reply, until its answer is complete or can be held no longer."""

    def __init__(self, reply: Whole | Stream, rules: Verification, chat: JsonObject) -> None:
        self.pieces: list[bytes] = []
        self.broken: StreamInterrupted | None = None  # the stream ended with it, before its answer was complete
        self.began = time.monotonic()
        self._reply = reply
        reply.collect()
        self._rules = rules
        self._to_its_end = _must_be_whole(chat)  # whatever its length

    @property
    def ms(self) -> int:
        """Return for how long the answer has been held."""
        return round((time.monotonic() - self.began) * 1000)

    @property
    def limit(self) -> str:
        """Return the limit at which an answer is sent before its end."""
        collector = self._collector
        if collector is None or collector.is_full:
            return "it is too long"
        is_long = collector.tokens > self._rules.max_hold_tokens
        return f"over {self._rules.max_hold_tokens} tokens" if is_long else f"held for {self._rules.max_hold_ms:g} ms"

    @property
    def left_s(self) -> float:
        """Return how long the answer may still be held; 0 when it was held for too long."""
        return max(0.0, self._deadline - time.monotonic())

    @property
    def _collector(self) -> Collector | None:
        return None if isinstance(self._reply, Whole) else self._reply.collector

    @property
    def _deadline(self) -> float:
        return self.began + self._rules.max_hold_ms / 1000

    def read(self) -> Answer | None:
        """Read the reply to its end, and return its answer.  Return None when it must be sent before, or is too long to
        be judged."""
        return self._reply.answer if isinstance(self._reply, Whole) or self._has_read(self._reply) else None

    def _has_read(self, stream: Stream) -> bool:
        while self._may_go_on():
            try:
                piece = stream.next_before(inf if self._to_its_end else self._deadline)
            except StopIteration:
                return True
            except NothingYet:
                return False
            except StreamInterrupted as error:
                error.__traceback__ = None
                self.broken = error
                return True
            self.pieces.append(piece)
        return False

    def _may_go_on(self) -> bool:
        """Return True while no limit is reached.  Calls of tools are held to their end: half of one is of no use, and a
        client may run it."""
        collector = self._collector
        if collector is None or collector.is_full:
            return False
        self._to_its_end = self._to_its_end or collector.has_tool_call
        return self._to_its_end or (collector.tokens <= self._rules.max_hold_tokens and self.left_s > 0)


def _must_be_whole(chat: JsonObject) -> bool:
    """Return True for a request whose answer is of use as a whole only: a JSON format, or a call of a tool."""
    form, choice = chat.get("response_format"), chat.get("tool_choice")
    is_format = isinstance(form, dict) and form.get("type") not in (None, "text")
    return is_format or isinstance(choice, dict) or choice == "required"
