"""Backends at our own seam: they do what a test tells them, call by call, and touch no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from app.backends.base import Backend
from app.backends.logprobs import Logprobs
from app.backends.reply import Whole
from app.circuits import Circuits
from app.places import Places
from app.progress import Progress
from app.services import Upstream
from app.types import (
    BackendConfig,
    CallRecord,
    ChatRequest,
    ModelFacts,
    Observations,
    Outgoing,
    Price,
    Queue,
    Target,
    Timeouts,
    Wire,
)
from app.wire import WIRES
from app.wire.answer import Answer, Collector
from app.wire.reply_facts import ReplyFacts
from tests import build


class FakeStream:
    """A stream of chunks; an exception among them is raised in its place."""

    wire = Wire.CHAT
    has_end = False

    def __init__(self, *chunks: bytes | BaseException, tokens: tuple[int | None, int | None] = (None, None)) -> None:
        self._chunks = iter(chunks)
        self.input_tokens, self.output_tokens = tokens
        self.facts = ReplyFacts()
        self.collector: Collector | None = None
        self.logprobs: tuple[float, ...] = ()
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        if isinstance(chunk, BaseException):
            raise chunk
        if self.collector is not None:
            self.collector.feed(chunk)
        return chunk

    def next_before(self, deadline: float) -> bytes:  # noqa: ARG002
        return next(self)

    def collect(self) -> None:
        self.collector = WIRES[self.wire].collect()

    @property
    def answer(self) -> Answer | None:
        return None if self.collector is None or self.collector.is_full else self.collector.answer

    def close(self) -> None:
        self.closed += 1
        self._chunks = iter(())


Given = Whole | FakeStream | BaseException | Callable[[], Any]


def whole(text: str = "hi", tokens: tuple[int, int] | None = (3, 5)) -> Whole:
    document: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    if tokens:
        document["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return Whole(json.dumps(document).encode(), document)


class FakeBackend(Backend):
    """Answers with `answers` in order, the last one again and again; notes every call in `calls`."""

    type = "fake"
    hosted = False

    def __init__(self, config: BackendConfig, *answers: Given) -> None:
        self.config = config
        self._key = ""
        self._logprobs = Logprobs(config.name, {}, "")
        self.answers = list(answers) or [whole()]
        self.calls: list[tuple[ChatRequest, Target, bool, bool]] = []  # request, target, stream, private

    def prepare(self, request: ChatRequest, target: Target, *, stream: bool) -> Outgoing:
        self._request = request
        return super().prepare(request, target, stream=stream)

    def open(self, outgoing: Outgoing, target: Target, *, stream: bool, private: bool) -> Any:
        assert outgoing == super().prepare(self._request, target, stream=stream)
        self.calls.append((self._request, target, stream, private))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer

    def discover(self) -> tuple[str, ...]:
        answer = self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return self.config.models

    def close(self) -> None:
        pass


def config(name: str = "a", *, first_byte_s: float = 0.001, **fields: Any) -> BackendConfig:
    known: dict[str, Any] = {"type": "fake", "endpoint": "http://fake", "timeouts": Timeouts(1, first_byte_s, 1)}
    return BackendConfig(**{"name": name, **known, **fields})


class Stage:
    """Services over fake backends, with every record of a call."""

    def __init__(
        self,
        answers: Mapping[str, list[Given]],
        *,
        local: frozenset[str] = frozenset(),
        limits: Mapping[str, int] | None = None,
        prices: Mapping[str, Price] | None = None,
        longest_wait_ms: Mapping[str, float] | None = None,
        first_byte_s: float = 0.001,
    ) -> None:
        self.now = 1000.0
        self.circuits = Circuits(lambda: self.now)
        self.local = local
        self.model_hosts: Mapping[str, Mapping[str, str]] = {}
        self.queues: Mapping[tuple[str, str], Queue] = {}
        self.facts: Mapping[str, Mapping[str, ModelFacts]] = {}
        self.records: list[SimpleNamespace] = []  # flat, see build.flat
        self.backends = {
            name: FakeBackend(
                config(
                    name,
                    first_byte_s=first_byte_s,
                    price=(prices or {}).get(name),
                    max_concurrency={"*": (limits or {}).get(name, 0)},
                    max_wait_ms=(longest_wait_ms or {}).get(name),
                ),
                *given,
            )
            for name, given in answers.items()
        }
        self.upstreams = {name: Upstream(backend) for name, backend in self.backends.items()}
        self.places = Places([backend.config for backend in self.backends.values()])
        self.services: Any = SimpleNamespace(  # those that dispatching uses
            upstreams=self.upstreams,
            places=self.places,
            circuits=self.circuits,
            progress=Progress(),
            beliefs=SimpleNamespace(observations=self.observations),
            record=self.record,
            shadows=SimpleNamespace(samples=lambda *_: False),
        )

    def observations(self) -> Observations:
        unhealthy = self.circuits.unhealthy()
        return Observations(
            local=self.local,
            unhealthy=unhealthy,
            model_hosts=self.model_hosts,
            facts=self.facts,
            queues={**self.places.queues(), **self.queues},
            busy=self.circuits.busy(),
        )

    def record(self, call: CallRecord) -> None:
        self.records.append(build.flat(call))
        self.circuits.note(call)

    @property
    def called(self) -> list[str]:
        """The calls that reached a backend, in no order over backends."""
        return [name for name, backend in self.backends.items() for _ in backend.calls]

    @property
    def in_flight(self) -> int:
        return sum(self.places.in_flight(name) for name in self.backends)
