"""A scripted Ollama: it holds models, loads and evicts them, cuts prompts, queues, and keeps a log of all it did.

    with Ollama([Model("llama3.2:3b", load_s=0.2)], window=4096) as ollama:
        … call ollama.url …
        assert ollama.loads == ["llama3.2:3b"]

It behaves as a real Ollama 0.33 was measured to: one model answers one request at a time, in the order of arrival; a
model that is not loaded is loaded first, for which another one goes when `most_loaded` are there; /v1 and /api/chat cut
a prompt that is too long without a word, /api/chat with `truncate: false` answers 400 with both numbers; /api/ps lists
what is loaded.  A token is a word, and a message costs four more.  It answers the number of tokens that it read.
"""

from __future__ import annotations

import abc
import hashlib
import json
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MESSAGE_TOKENS = 4
_IMAGE_TOKENS = 768
_RUNNER = ("num_ctx", "num_batch", "num_gpu", "num_thread")  # options whose change loads a model anew


@dataclass(frozen=True, slots=True)
class Model:
    """One model that the server holds."""

    name: str  # with its tag
    capabilities: tuple[str, ...] = ("completion", "tools")
    trained: int = 131_072  # tokens
    num_ctx: int | None = None  # of its Modelfile
    size_bytes: int = 2_000_000_000
    on_gpu: float = 1.0  # share of the size
    load_s: float = 0.0
    prefill_s: float = 0.0  # a prompt, whatever its length
    token_s: float = 0.0  # a token of the answer
    refuses_load: tuple[int, str] | None = None  # status and message
    remote_host: str = ""
    weights: str = ""  # models with the same weights share a runner; "" = its own
    digest: str = ""  # 64 hexadecimal characters; "" = one of its own


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that the server did: load, give up (a load), evict, answer, refuse, leave (the client left), wait."""

    kind: str
    model: str
    path: str = ""
    tokens: int = 0  # of the prompt that was read
    cut: bool = False  # the prompt had more
    body: dict[str, Any] = field(default_factory=dict)


class _Turn:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self) -> None:
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    def enter(self) -> object:
        """Return a ticket: the place in the queue."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
        return ticket

    def wait(self, ticket: object, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._queue[0] is ticket, timeout_s)

    def leave(self, ticket: object) -> None:
        with self._changed:
            self._queue.remove(ticket)
            self._changed.notify_all()


@dataclass(slots=True)
class _Runner:
    """A loaded model."""

    model: Model
    window: int
    options: dict[str, Any]
    turn: _Turn = field(default_factory=_Turn)
    keep_s: float = 300.0
    used_at: float = field(default_factory=time.time)
    users: int = 0
    loading: bool = True


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Ollama:
    """The server.  `log` holds what it did, in order."""

    def __init__(
        self,
        models: Sequence[Model],
        *,
        window: int = 4096,
        most_loaded: int = 1,
        most_waiting: int = 512,
        version: str = "0.33.0",
        logprob: float | None = -0.25,
    ) -> None:
        """`window` is OLLAMA_CONTEXT_LENGTH, `most_waiting` OLLAMA_MAX_QUEUE: who waits for a load counts.  `logprob`
        is that of each token, for a request that asks for it; None = this version gives none."""
        self.models = {model.name: model for model in models}
        self.window = window
        self.most_loaded = most_loaded
        self.most_waiting = most_waiting
        self.version = version
        self.logprob = logprob
        self.log: list[Event] = []
        self.looks: list[float] = []  # when /api/ps was asked, monotonic seconds
        self._runners: dict[str, _Runner] = {}
        self._lock = threading.Condition()
        self._waiting = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"ollama": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Ollama:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def loads(self) -> list[str]:
        return [event.model for event in self.log if event.kind == "load"]

    @property
    def evictions(self) -> list[str]:
        return [event.model for event in self.log if event.kind == "evict"]

    @property
    def answers(self) -> list[Event]:
        return [event for event in self.log if event.kind == "answer"]

    def note(self, kind: str, model: str, **more: Any) -> None:
        self.log.append(Event(kind, model, **more))

    def loaded(self) -> list[dict[str, Any]]:
        """Return the entries of /api/ps."""
        self._expire()
        with self._lock:
            return [
                {
                    "name": runner.model.name,
                    "model": runner.model.name,
                    "digest": _digest(runner.model),
                    "size": runner.model.size_bytes,
                    "size_vram": round(runner.model.size_bytes * runner.model.on_gpu),
                    "expires_at": _rfc3339(runner.used_at + runner.keep_s),
                    "context_length": runner.window,
                }
                for runner in self._runners.values()
            ]

    def unload(self, name: str) -> None:
        """Evict a model, as another client of the server would."""
        with self._lock:
            runner = self._runners.pop(_key(self.find(name)), None)
        if runner is not None:
            self.note("evict", runner.model.name)

    def find(self, name: str) -> Model:
        """Return a model by its name; a name without a tag is `:latest`.  Raises Refused."""
        model = self.models.get(name) or self.models.get(f"{name}:latest")
        if model is None:
            raise Refused(404, f"model '{name}' not found")
        return model

    def window_of(self, model: Model, options: dict[str, Any]) -> int:
        wanted = options.get("num_ctx") or model.num_ctx or self.window
        return min(int(wanted), model.trained)

    def take(
        self, model: Model, options: dict[str, Any], keep_s: float | None, left: Callable[[], bool] = lambda: False
    ) -> _Runner:
        """Return the runner of a model, loaded when it has to be.  Raises Refused when too many wait for a load, and
        BrokenPipeError when the client left meanwhile: its load is given up then."""
        self._expire()
        key, wanted = _key(model), {name: options[name] for name in _RUNNER if name in options}
        with self._lock:
            runner = self._runners.get(key)
            if runner is None or runner.loading or runner.options != wanted:
                if self._waiting >= self.most_waiting:
                    self.note("refuse", model.name)
                    raise Refused(503, "server busy, please try again.  maximum pending requests exceeded")
                self._waiting += 1
                try:
                    runner = self._load(model, key, wanted, options, left)
                finally:
                    self._waiting -= 1
            runner.users += 1
            runner.used_at = time.time()
            if keep_s is not None:
                runner.keep_s = keep_s
            return runner

    def leave(self, runner: _Runner) -> None:
        with self._lock:
            runner.users -= 1
            runner.used_at = time.time()
            self._lock.notify_all()

    def _load(
        self, model: Model, key: str, wanted: dict[str, Any], options: dict[str, Any], left: Callable[[], bool]
    ) -> _Runner:
        """Load a model when the others left room.  The lock is held, but for waits."""
        while True:
            runner = self._runners.get(key)
            if runner is not None and runner.options == wanted and not runner.loading:
                return runner
            idle = [name for name, one in self._runners.items() if one.users == 0]
            if runner is not None and runner.users == 0:
                self._evict(key)
            elif runner is None and len(self._runners) < self.most_loaded:
                break
            elif runner is None and idle:
                self._evict(min(idle, key=lambda name: self._runners[name].used_at))
            else:
                self._lock.wait(0.05)
        if model.refuses_load is not None:
            raise Refused(*model.refuses_load)
        self.note("load", model.name, body=dict(wanted))
        runner = self._runners[key] = _Runner(model, self.window_of(model, options), wanted, users=1)
        self._lock.release()
        try:
            until = time.monotonic() + model.load_s
            while not (gone := left()) and (rest_s := until - time.monotonic()) > 0:
                time.sleep(min(0.02, rest_s))
        finally:
            self._lock.acquire()
        if gone:
            self.note("give up", self._runners.pop(key).model.name)
            self._lock.notify_all()
            raise BrokenPipeError
        runner.loading = False
        runner.users -= 1
        self._lock.notify_all()
        return runner

    def _evict(self, key: str) -> None:
        self.note("evict", self._runners.pop(key).model.name)

    def _expire(self) -> None:
        with self._lock:
            now = time.time()
            for key in [key for key, one in self._runners.items() if not one.users and one.used_at + one.keep_s <= now]:
                self._evict(key)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ollama: Ollama
    load_ns = 0  # that this request waited for a load

    def log_message(self, *_: object) -> None:
        """The server's log is `Ollama.log`."""

    def do_GET(self) -> None:
        ollama = self.ollama
        if self.path == "/api/tags":
            self._json(200, {"models": [_tag(model) for model in ollama.models.values()]})
        elif self.path == "/api/ps":
            ollama.looks.append(time.monotonic())
            self._json(200, {"models": ollama.loaded()})
        elif self.path == "/api/version":
            self._json(200, {"version": ollama.version})
        elif self.path == "/v1/models":
            names = [{"id": name, "object": "model", "owned_by": "library"} for name in ollama.models]
            self._json(200, {"object": "list", "data": names})
        else:
            self._json(404, {"error": "not found"})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw or b"{}")
            {
                "/api/show": self._show,
                "/api/chat": self._chat,
                "/api/generate": self._generate,
                "/v1/chat/completions": self._completions,
            }[self.path](body)
        except KeyError:
            self._json(404, {"error": "not found"})
        except Refused as refused:
            error: Any = refused.message
            if self.path.startswith("/v1/"):
                error = {"message": refused.message, "type": "invalid_request_error", "param": None, "code": None}
            self._json(refused.status, {"error": error})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _show(self, body: dict[str, Any]) -> None:
        model = self.ollama.find(str(body.get("model")))
        parameters = f"num_ctx                        {model.num_ctx}" if model.num_ctx else ""
        info = {"general.architecture": "llama", "llama.context_length": model.trained}
        modelfile = f"# Modelfile\nFROM /models/blobs/sha256-{_sha256(_key(model))}\nTEMPLATE hello\n"
        self._json(200, {"parameters": parameters, "modelfile": modelfile, "model_info": info, **_tag(model)})

    def _generate(self, body: dict[str, Any]) -> None:
        """Without a prompt: load, or with `keep_alive: 0` unload."""
        model = self.ollama.find(str(body.get("model")))
        if body.get("keep_alive") in (0, "0", "0s"):
            self.ollama.unload(model.name)
            reason = "unload"
        else:
            runner = self._take(model, body.get("options") or {}, _seconds(body.get("keep_alive")))
            self.ollama.leave(runner)
            reason = "load"
        load = {"load_duration": self.load_ns}
        self._json(200, {"model": model.name, "response": "", "done": True, "done_reason": reason, **load})

    def _chat(self, body: dict[str, Any]) -> None:
        model = self.ollama.find(str(body.get("model")))
        _check(model, body, body.get("think"))
        options = body.get("options") or {}
        runner = self._take(model, options, _seconds(body.get("keep_alive")))
        cut_allowed = body.get("truncate") is not False
        self._answer(model, runner, body, options.get("num_predict"), cut_allowed, _Native(self, model, body))

    def _completions(self, body: dict[str, Any]) -> None:
        """`options`, `keep_alive`, `think` and `max_completion_tokens` are ignored here, as the real server does."""
        model = self.ollama.find(str(body.get("model")))
        effort = body.get("reasoning_effort")
        _check(model, body, None if effort in (None, "none") else effort)
        runner = self._take(model, {}, None)
        self._answer(model, runner, body, body.get("max_tokens"), True, _OpenAI(self, model, body))

    def _take(self, model: Model, options: dict[str, Any], keep_s: float | None) -> _Runner:
        begin = time.monotonic_ns()
        runner = self.ollama.take(model, options, keep_s, self._client_left)
        self.load_ns = time.monotonic_ns() - begin
        return runner

    def _answer(
        self, model: Model, runner: _Runner, body: dict[str, Any], most: Any, cut_allowed: bool, writer: _Writer
    ) -> None:
        ollama = self.ollama
        ticket = runner.turn.enter()
        try:
            ollama.note("wait", model.name, path=self.path)
            while not runner.turn.wait(ticket, 0.05):
                if self._client_left():
                    raise BrokenPipeError
            tokens = prompt_tokens(body)
            if tokens > runner.window and not cut_allowed:
                ollama.note("refuse", model.name, path=self.path, tokens=tokens)
                message = f"request ({tokens} tokens) exceeds the available context size ({runner.window} tokens)"
                error = {"code": 400, "message": message, "type": "exceed_context_size_error"}
                counts = {"n_prompt_tokens": tokens, "n_ctx": runner.window}
                raise Refused(400, json.dumps({"error": {**error, **counts}}))
            read = tokens if tokens <= runner.window else runner.window // 2
            ollama.note("answer", model.name, path=self.path, tokens=read, cut=read < tokens, body=body)
            time.sleep(model.prefill_s)
            words = f"read {read} tokens".split()
            finish = "stop"
            if isinstance(most, int) and 0 <= most < len(words):
                words, finish = words[:most], "length"
            writer.write(words, read, finish)
        except (BrokenPipeError, ConnectionResetError):
            ollama.note("leave", model.name, path=self.path)
            raise
        finally:
            runner.turn.leave(ticket)
            ollama.leave(runner)

    def pause(self, seconds: float) -> None:
        """Wait as long as a token takes.  Raises BrokenPipeError when the client left meanwhile."""
        time.sleep(seconds)
        if self._client_left():
            raise BrokenPipeError

    def _client_left(self) -> bool:
        poll = select.poll()  # select() takes no descriptor beyond 1023
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)

    def _json(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True


class _Writer(abc.ABC):
    """Write one answer in the form of an API."""

    def __init__(self, handler: _Handler, model: Model, body: dict[str, Any]) -> None:
        self.handler = handler
        self.model = model
        self.body = body

    @abc.abstractmethod
    def write(self, words: list[str], read: int, finish: str) -> None: ...

    def pieces(self, words: list[str]) -> Iterator[str]:
        for number, word in enumerate(words):
            self.handler.pause(self.model.token_s)
            yield word if number == 0 else f" {word}"

    def logprobs(self, count: int) -> dict[str, Any]:
        """The member with the log-probabilities of some tokens, for a request that asks for it."""
        value = self.handler.ollama.logprob
        if not self.body.get("logprobs") or value is None or not count:
            return {}
        return {"logprobs": [{"token": "t", "logprob": value, "bytes": [116]}] * count}

    @property
    def tool_call(self) -> dict[str, Any] | None:
        """The call that a user asks for by `call NAME`, when such a tool is offered."""
        names = [tool["function"]["name"] for tool in self.body.get("tools") or ()]
        text = _text(self.body["messages"][-1].get("content"))
        return next(({"name": name, "arguments": {"city": "Rome"}} for name in names if f"call {name}" in text), None)


class _Native(_Writer):
    """/api/chat: JSON lines."""

    def write(self, words: list[str], read: int, finish: str) -> None:
        counts = {"prompt_eval_count": read, "eval_count": len(words)}
        counts |= {"load_duration": self.handler.load_ns, "total_duration": 2}
        end = {"done": True, "done_reason": finish, **counts}
        call = self.tool_call
        messages: Iterator[dict[str, Any]]
        if call is not None:
            messages = iter([{"content": "", "tool_calls": [{"id": "call_1", "function": {"index": 0, **call}}]}])
        else:
            messages = ({"content": piece} for piece in self.pieces(words))
        if "thinking" in self.model.capabilities and self.body.get("think") is not False:
            messages = iter([{"content": "", "thinking": "hm"}, *messages])
        if self.body.get("stream") is False:
            whole: dict[str, Any] = {"role": "assistant", "content": ""}
            for message in messages:
                whole |= {name: whole.get(name, "") + text for name, text in message.items() if name != "tool_calls"}
                whole |= {name: calls for name, calls in message.items() if name == "tool_calls"}
            self.handler._json(200, {**self._head(), "message": whole, **end, **self.logprobs(len(words))})
            return
        self.handler.begin("application/x-ndjson")
        if more := self.logprobs(1):  # of a token without text: such a line is sent for its log-probability alone
            self._line({"message": {"role": "assistant", "content": ""}, "done": False, **more})
        for message in messages:
            self._line({"message": {"role": "assistant", **message}, "done": False, **self.logprobs(1)})
        self._line({"message": {"role": "assistant", "content": ""}, **end})

    def _head(self) -> dict[str, Any]:
        return {"model": self.model.name, "created_at": _rfc3339(time.time())}

    def _line(self, document: dict[str, Any]) -> None:
        self.handler.wfile.write(json.dumps({**self._head(), **document}).encode() + b"\n")


class _OpenAI(_Writer):
    """/v1/chat/completions."""

    def write(self, words: list[str], read: int, finish: str) -> None:
        usage = {"prompt_tokens": read, "completion_tokens": len(words), "total_tokens": read + len(words)}
        call = self.tool_call
        calls: list[dict[str, Any]] = []
        if call is not None:
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
            calls, finish = [{"index": 0, "id": "call_1", "type": "function", "function": function}], "tool_calls"
        head = {"id": "chatcmpl-1", "created": int(time.time()), "model": self.model.name}
        if not self.body.get("stream"):
            message = {"role": "assistant", "content": "" if calls else "".join(self.pieces(words))}
            message |= {"tool_calls": calls} if calls else {}
            choice = {"index": 0, "message": message, "finish_reason": finish, **self._choice(len(words))}
            self.handler._json(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        self.handler.begin("text/event-stream")
        head["object"] = "chat.completion.chunk"
        deltas = iter([{"tool_calls": calls}]) if calls else ({"content": piece} for piece in self.pieces(words))
        for delta in deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": None, **self._choice(1)}
            self._event({**head, "choices": [choice]})
        self._event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if (self.body.get("stream_options") or {}).get("include_usage"):
            self._event({**head, "choices": [], "usage": usage})
        self.handler.wfile.write(b"data: [DONE]\n\n")

    def _choice(self, count: int) -> dict[str, Any]:
        return {"logprobs": {"content": entries}} if (entries := self.logprobs(count).get("logprobs")) else {}

    def _event(self, document: dict[str, Any]) -> None:
        self.handler.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")


def prompt_tokens(body: dict[str, Any]) -> int:
    """Count the tokens of a request: words, four a message, 768 an image."""
    tokens = len(json.dumps(body.get("tools")).split()) if body.get("tools") else 0
    for message in body["messages"]:
        parts = message.get("content")
        images = len(message.get("images") or ())
        if isinstance(parts, list):
            images += sum(part.get("type") == "image_url" for part in parts)
        tokens += _MESSAGE_TOKENS + len(_text(parts).split()) + _IMAGE_TOKENS * images
    return tokens


def _text(content: object) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text") or "" for part in content)
    return str(content or "")


def _check(model: Model, body: dict[str, Any], think: object) -> None:
    """Raise Refused for what the model cannot do."""
    lacks = []
    if body.get("tools") and "tools" not in model.capabilities:
        lacks.append("tools")
    images = any(
        message.get("images")
        or (
            isinstance(message.get("content"), list)
            and any(part.get("type") == "image_url" for part in message["content"])
        )
        for message in body["messages"]
    )
    if images and "vision" not in model.capabilities:
        lacks.append("vision")
    if think and "thinking" not in model.capabilities:
        lacks.append("thinking")
    if lacks:
        raise Refused(400, f'"{model.name}" does not support {lacks[0]}')


def _tag(model: Model) -> dict[str, Any]:
    """Return a model's entry in /api/tags."""
    remote = {"remote_host": model.remote_host, "remote_model": model.name} if model.remote_host else {}
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size_bytes,
        "digest": _digest(model),
        "details": {"family": "llama", "families": ["llama"], "context_length": model.trained},
        "capabilities": list(model.capabilities),
        **remote,
    }


def _digest(model: Model) -> str:
    return model.digest or _sha256(model.name)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(model: Model) -> str:
    return model.weights or model.name


def _seconds(keep_alive: object) -> float | None:
    """Read `keep_alive`: seconds, or a duration such as `5m`; negative = for ever."""
    if keep_alive is None:
        return None
    text = str(keep_alive)
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    seconds = float(text[:-1]) * unit if unit else float(text)
    return 10**9 if seconds < 0 else seconds


def _rfc3339(unix_s: float) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=min(unix_s, 2e11))).isoformat()
