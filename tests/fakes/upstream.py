"""A real HTTP/1.1 server that plays a model server, well or badly.

    with Upstream() as up:
        up.script(error(503), sse("hel", 0.2, "lo", RESET, finish=False))   # the first two chat requests
        up.script(html(), model="gemma3:12b", repeat=True)                  # every one for this model
        … call up.url …
        assert up.requests[0].json["model"] == "auto"

What no script covers is answered properly: a completion that echoes the last user text, or a stream of it.
It runs on asyncio in a thread of its own, so it holds a thousand streams and can be driven from plain tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.native import chat_request, native_steps
from tests.fakes.replies import (
    CLOSE,
    DONE,
    HANG,
    LAST_CHUNK,
    RESET,
    End,
    Gate,
    Play,
    Step,
    chunk,
    completion,
    delta,
    error,
    event,
    head,
    logprobs,
    reply,
    usage,
)

_NATIVE_PATH = "/api/chat"
_LINGER_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True, eq=False)
class Received:
    """One request as it arrived, and what became of its answer.  Times are `time.monotonic()`."""

    number: int  # counted from 0 over the life of the upstream
    method: str
    path: str
    headers: list[tuple[str, str]]
    head: bytes  # request line and headers as they came
    connection: int  # which accepted connection, counted from 0
    nth: int  # which request on that connection, counted from 0
    client_port: int
    received_at: float
    body: bytes = b""
    json: Any = None  # the parsed body, or None
    sent: int = 0  # bytes of the answer given to the socket
    finished_at: float | None = None  # the whole script was played
    closed_at: float | None = None  # the client closed the connection
    hung_up: bool = False  # it did so before the answer was finished
    native: Any = None  # the parsed body of /api/chat; `json` and `path` are those of the chat request it stands for

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def model(self) -> Any:
        return self.json.get("model") if isinstance(self.json, dict) else None


@dataclass(slots=True)
class _Rule:
    plays: list[Play]
    path: str | None
    model: str | None
    when: Callable[[Received], bool] | None
    repeat: bool
    early: bool

    def matches(self, request: Received, early: bool) -> bool:
        if not self.plays or self.early != early:
            return False
        path = request.path.partition("?")[0]
        if self.path != "*" and not path.endswith(self.path or "/chat/completions"):
            return False
        return (self.model is None or request.model == self.model) and (self.when is None or self.when(request))

    def take(self) -> Play:
        return self.plays[0] if self.repeat and len(self.plays) == 1 else self.plays.pop(0)


class _Connection(asyncio.Protocol):
    """One accepted connection: reads requests and plays their scripts, one after the other."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.buffer = bytearray()
        self.request: Received | None = None
        self.ended_by_us = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.arrived = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        # Each write leaves at once, a byte alone too; asyncio does not do this for accepted sockets.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        self.client_port = peer[1] if peer else 0
        self.number = self.upstream._opened(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.upstream.eavesdropping:
            self.upstream.heard += data
        self.arrived.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def eof_received(self) -> None:
        self._client_left()
        self.transport.abort()  # no half-open connections: a client that ended its side has left

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended_by_us:
            self._client_left()
        self.task.cancel()
        self.upstream._closed(self)

    def _client_left(self) -> None:
        request = self.request
        if request is not None and request.closed_at is None:
            request.closed_at = time.monotonic()
            request.hung_up = request.finished_at is None
            self.upstream._changed()

    async def _serve(self) -> None:
        try:
            end = self.upstream._at_accept()
            if end is not None:
                await self._end(end)
            nth = 0
            while end is None and await self._one(nth):
                nth += 1
        except Exception as error:  # a mistake in a script: stop() shows it
            self.upstream.mistakes.append(error)
        self._close()

    async def _one(self, nth: int) -> bool:
        """Reads and answers one request; False when the connection is not to be used again."""
        raw = await self._read_head()
        request = self.upstream._begin(raw, self, nth)
        is_native = self.upstream.native and request.path.endswith(_NATIVE_PATH)
        if is_native:  # scripts are those of chat
            request.path = request.path.removesuffix(_NATIVE_PATH) + "/v1/chat/completions"
        play = self.upstream._pick(request, early=True)
        if play is not None:
            self.transport.pause_reading()  # the body stays in the socket: closing now resets the connection
            going_on = await self._play(request, play, is_native)
            self.transport.resume_reading()
            return going_on and await self._read_body(request)
        if not await self._read_body(request):
            return await self._play(request, error(400, "bad chunk in request")) and False
        if is_native:
            request.native, request.json = request.json, chat_request(request.json)
        self.upstream._arrived(request)
        return await self._play(request, self.upstream._pick(request) or self.upstream.answer(request), is_native)

    async def _read_head(self) -> bytes:
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            await self._more()
        raw = bytes(self.buffer[: end + 4])
        del self.buffer[: end + 4]
        return raw

    async def _read_body(self, request: Received) -> bool:
        """False when the body is no proper chunked body."""
        if (request.header("Transfer-Encoding") or "").lower() != "chunked":
            request.body = await self._exactly(int(request.header("Content-Length") or 0))
        else:
            parts = []
            while True:
                try:
                    size = int((await self._line()).partition(b";")[0], 16)
                except ValueError:
                    return False
                if size == 0:
                    break
                parts.append(await self._exactly(size))
                await self._line()
            while await self._line():  # trailers
                pass
            request.body = b"".join(parts)
        try:
            request.json = json.loads(request.body)
        except (ValueError, RecursionError):
            request.json = None
        return True

    async def _line(self) -> bytes:
        while (end := self.buffer.find(b"\r\n")) < 0:
            await self._more()
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        return line

    async def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            await self._more()
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def _more(self) -> None:
        self.arrived.clear()
        await self.arrived.wait()  # connection_lost cancels the task: there is no wait for ever

    async def _play(self, request: Received, play: Play, is_native: bool = False) -> bool:
        steps: Iterable[Step] = play(request) if callable(play) else play
        for step in native_steps(steps) if is_native else steps:
            if isinstance(step, bytes):
                request.sent += len(step)
                self.transport.write(step)
                await asyncio.sleep(0)  # the other connections' turn; a broken one is cancelled here
                await self.writable.wait()
            elif isinstance(step, Gate):
                await step.wait()
            elif isinstance(step, End):
                if step is not HANG:
                    self.upstream._finished(request)
                await self._end(step)
                return False
            else:
                await asyncio.sleep(step)
        self.upstream._finished(request)
        return (request.header("Connection") or "").lower() != "close"

    async def _end(self, how: End) -> None:
        if how is HANG:
            await asyncio.Event().wait()
        if how is RESET:
            self.ended_by_us = True
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self.transport.abort()
        self._close()

    def _close(self) -> None:
        self.ended_by_us = True
        self.transport.close()


@dataclass(eq=False)
class Upstream:
    """See the module's text.  The attributes may be changed while it runs."""

    host: str = "127.0.0.1"
    port: int = 0
    models: Sequence[str] = ("llama4:16x17b",)
    loaded: Sequence[str] = ()  # what /api/ps says
    remote: dict[str, str] = field(
        default_factory=dict
    )  # model -> the host to which it is handed on, as Ollama says it
    native: bool = False  # an Ollama with its own API (tests/fakes/native.py); else one that is too old for it
    text: str | None = None  # what it says; None = echo the last user text
    tokens: int | None = None  # how many tokens it says; None = the words of the text
    logprobs: Sequence[float] = ()  # of its tokens in turn, for a request that asks for them; () = it gives none
    null_logprobs: bool = False  # replies without them have `"logprobs": null`, as vLLM writes it
    delay_s: float = 0.0  # before the answer
    gap_s: float = 0.0  # between tokens of a stream
    recording: bool = True  # False keeps no request: for long runs
    eavesdropping: bool = False  # True keeps every byte that arrives, understood or not, in `heard`
    heard: bytearray = field(default_factory=bytearray, init=False)
    requests: list[Received] = field(default_factory=list, init=False)
    handed_on: list[bytes] = field(default_factory=list, init=False)  # bodies that an Ollama hands on to another host
    connections: int = field(default=0, init=False)  # accepted so far
    answered: int = field(default=0, init=False)  # scripts played to the end
    mistakes: list[Exception] = field(default_factory=list, init=False)  # of scripts

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._change = threading.Condition(self._lock)
        self._rules: list[_Rule] = []
        self._accept: tuple[End, int | None] | None = None
        self._open: set[_Connection] = set()
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # --- life ---

    def __enter__(self) -> Upstream:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Listens; after a `stop()` on the same port again."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, listener), daemon=True)
        self._thread.start()
        serving = self._loop.create_server(lambda: _Connection(self), sock=listener, backlog=1024)
        asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)

    def _run(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        listener.close()
        for connection in list(self._open):
            connection.ended_by_us = True
            connection.transport.abort()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(asyncio.sleep(0))  # lets the aborted transports close their sockets
        loop.close()

    def stop(self) -> None:
        """Closes everything; connections are refused from now on."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        assert not thread.is_alive(), "the upstream's thread did not end"
        if self.mistakes:
            raise self.mistakes.pop()

    # --- what it is told ---

    def script(
        self,
        *plays: Play,
        path: str | None = None,
        model: str | None = None,
        when: Callable[[Received], bool] | None = None,
        repeat: bool = False,
        early: bool = False,
    ) -> None:
        """Plays for the next requests that match, one each, in order; with `repeat` the last one stays.

        Older scripts go first.  `path` is how the path ends (chat requests when absent, "*" for all).  `early` plays as
        soon as the request's head was read: its body is still unread, so `model` and `json` are not known.
        """
        with self._lock:
            self._rules.append(_Rule(list(plays), path, model, when, repeat, early))

    def at_accept(self, end: End | None, times: int | None = None) -> None:
        """Treats new connections so before any byte is read (HANG, CLOSE, RESET); None = serve them again."""
        with self._lock:
            self._accept = None if end is None else (end, times)

    def stale_after_first(self, end: End = CLOSE) -> None:
        """Keep-alive connections die, unanswered, at their second request."""
        self.script([end], when=lambda request: request.nth > 0, repeat=True, path="*")

    def reset(self) -> None:
        """Forgets scripts and requests; connections stay."""
        with self._lock:
            self._rules.clear()
            self._accept = None
            self.requests.clear()

    # --- what it saw ---

    @property
    def version(self) -> str:
        """What /api/version says: versions from 0.12.6 on are asked over /api/chat."""
        return "0.33.0" if self.native else "0.12.5"

    @property
    def chats(self) -> list[Received]:
        """The requests for completions, without discovery and probes of other URLs."""
        return [request for request in list(self.requests) if request.path.endswith("/chat/completions")]

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def busy(self) -> int:
        """Answers that have begun and not ended."""
        with self._lock:
            return sum(1 for c in self._open if c.request is not None and c.request.finished_at is None)

    def wait(self, condition: Callable[[], Any], timeout: float = 5.0) -> Any:
        """Until `condition()` is true (its value is returned); looked at whenever something happens here."""
        with self._change:
            value = self._change.wait_for(condition, timeout)
        if not value:
            raise TimeoutError(f"the upstream waited {timeout} s in vain; it saw {[r.path for r in self.requests]}")
        return value

    def wait_requests(self, count: int, timeout: float = 5.0) -> list[Received]:
        """Until that many chat requests have arrived."""
        self.wait(lambda: len(self.chats) >= count, timeout)
        return self.chats

    def wait_hangup(self, timeout: float = 5.0, request: Received | None = None) -> Received:
        """Until the client closed a connection whose answer was not finished (that of `request`, if given)."""
        looked_at = (lambda: [request]) if request is not None else (lambda: self.requests)
        return self.wait(lambda: next((r for r in looked_at() if r.hung_up), None), timeout)

    def wait_quiet(self, timeout: float = 5.0) -> None:
        """Until no answer is going on."""
        self.wait(lambda: self.busy == 0 or None, timeout)

    # --- the connections' side; all of this runs in the loop's thread ---

    def _changed(self) -> None:
        with self._change:
            self._change.notify_all()

    def _opened(self, connection: _Connection) -> int:
        with self._change:
            self._open.add(connection)
            self.connections += 1
            self._change.notify_all()
            return self.connections - 1

    def _closed(self, connection: _Connection) -> None:
        with self._change:
            self._open.discard(connection)
            self._change.notify_all()

    def _at_accept(self) -> End | None:
        with self._lock:
            if self._accept is None:
                return None
            end, times = self._accept
            if times is not None:
                self._accept = (end, times - 1) if times > 1 else None
            return end

    def _begin(self, raw: bytes, connection: _Connection, nth: int) -> Received:
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        method, path, *_ = [*first.split(" "), "", ""]
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        with self._lock:
            number, self._number = self._number, self._number + 1
        connection.request = Received(
            number, method, path, headers, raw, connection.number, nth, connection.client_port, time.monotonic()
        )
        return connection.request

    def _arrived(self, request: Received) -> None:
        request.received_at = time.monotonic()
        if not request.path.startswith("/api/show") and self._remote_host(model_in_go(request)):
            self.handed_on.append(request.body)
        if self.recording:
            with self._change:
                self.requests.append(request)
                self._change.notify_all()

    def _pick(self, request: Received, early: bool = False) -> Play | None:
        with self._lock:
            rule = next((rule for rule in self._rules if rule.matches(request, early)), None)
            if rule is None:
                return None
            if early:
                self._arrived(request)
            return rule.take()

    def _finished(self, request: Received) -> None:
        with self._change:
            request.finished_at = time.monotonic()
            self.answered += 1
            self._change.notify_all()

    # --- the proper answers ---

    def answer(self, request: Received) -> Iterable[Step]:
        """What a well-behaved server says to `request`."""
        path = request.path.partition("?")[0]
        if path.endswith("/chat/completions"):
            return self._chat(request)
        if path == "/api/tags":
            return reply(200, {"models": [self._tag(model) for model in self.models]})
        if path == "/api/ps":
            return reply(200, {"models": [self._tag(model) for model in self.loaded]})
        if path == "/api/show":
            return self._show(request)
        if path.endswith("/api/version"):
            return reply(200, {"version": self.version})
        if path.endswith("/models"):
            data = [{"id": model, "object": "model", "created": 0, "owned_by": "fake"} for model in self.models]
            return reply(200, {"object": "list", "data": data})
        return error(404, f"no such path: {path}", type="invalid_request_error")

    def _with_logprobs(self, document: dict[str, Any], body: Any, places: Sequence[int] = ()) -> dict[str, Any]:
        """Put the log-probabilities of some tokens in, for a request that asks for them.  The last value counts
        for the rest."""
        (choice,) = document["choices"]
        if body.get("logprobs") and self.logprobs and places:
            values = [self.logprobs[min(place, len(self.logprobs) - 1)] for place in places]
            choice["logprobs"] = {"content": logprobs(values)}
        elif self.null_logprobs:
            choice["logprobs"] = None
        return document

    def _tag(self, model: str) -> dict[str, Any]:
        known = {"name": model, "model": model, "size": 1, "digest": "00", "details": {"family": "fake"}}
        return {**known, **self._remote_fields(model)}

    def _show(self, request: Received) -> list[Step]:
        model = str(request.model)
        if ollama_name(model) not in map(ollama_name, self.models):
            return reply(404, {"error": f"model '{model}' not found"})
        known = {"details": {"family": "fake"}, "model_info": {}, "capabilities": ["completion"]}
        return reply(200, {**known, **self._remote_fields(model)})

    def _remote_fields(self, model: str) -> dict[str, str]:
        """The two fields of a model that is handed on; one that runs here has neither."""
        host = self._remote_host(model)
        return {"remote_model": "gpt-oss:120b", "remote_host": host} if host else {}

    def _remote_host(self, model: str) -> str:
        hosts = {ollama_name(name): host for name, host in self.remote.items()}
        return hosts.get(ollama_name(model), "")

    def _chat(self, request: Received) -> Iterator[Step]:
        if not isinstance(request.json, dict) or not request.json.get("messages"):
            yield from error(400, "messages is missing", type="invalid_request_error")
            return
        body = request.json
        text = last_user_text(body) if self.text is None else self.text
        model = str(body.get("model", "fake"))
        if self.delay_s:
            yield self.delay_s
        if not body.get("stream"):
            words = text if self.tokens is None else " ".join(["token"] * self.tokens)
            document = completion(words, model)
            yield from reply(200, self._with_logprobs(document, body, range(len(words.split(" ")))))
            return
        tokens = text.split(" ") if self.tokens is None else ["token"] * self.tokens
        yield head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
        yield chunk(event(self._with_logprobs(delta("", model, role="assistant"), body)))
        for place, token in enumerate(tokens):
            if self.gap_s and place:
                yield self.gap_s
            document = delta(token if place == 0 else " " + token, model)
            yield chunk(event(self._with_logprobs(document, body, [place])))
        yield chunk(event(self._with_logprobs(delta(model=model, finish="stop"), body)))
        options = body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            yield chunk(event({**delta(model=model), "choices": [], "usage": usage(5, len(tokens))}))
        yield chunk(DONE)
        yield LAST_CHUNK


def ollama_name(model: str) -> str:
    """The one name under which an Ollama knows a model: case, the default registry, the tag `latest` and a digest make
    no difference."""
    name = model.strip().lower().partition("@")[0].removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def model_in_go(request: Received) -> str:
    """The model as a server written in Go reads it: whatever the case, the last one counts."""
    try:
        document: Any = json.loads(request.body, object_pairs_hook=tuple)  # an object is a tuple, an array a list
    except (ValueError, RecursionError):
        return ""
    members = document if isinstance(document, tuple) else ()
    return next((str(value) for name, value in reversed(members) if name.lower() == "model"), "")


def last_user_text(body: dict[str, Any]) -> str:
    """The text of the last user message, its parts joined."""
    for message in reversed(body["messages"]):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
            return str(content)
    return ""


@contextmanager
def refused_url() -> Iterator[str]:
    """A URL where nothing listens; the port stays reserved, so that nothing else can take it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound, never listening
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@contextmanager
def black_hole_url() -> Iterator[str]:
    """A URL whose connections are never completed (a full accept queue): for connect timeouts.  Linux only."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


def main() -> None:
    """For benchmarks: prints the port and serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A fake model server.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0, help="before each answer")
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--gap-ms", type=float, default=0, help="between the tokens of a stream")
    parser.add_argument("--models", default="llama4:16x17b", help="comma-separated")
    args = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    upstream = Upstream(
        port=args.port,
        models=args.models.split(","),
        tokens=args.tokens,
        delay_s=args.delay_ms / 1000,
        gap_s=args.gap_ms / 1000,
        recording=False,
    )
    with upstream:
        sys.stdout.write(f"{upstream.port}\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
