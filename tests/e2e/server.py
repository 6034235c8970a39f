"""Starts the real router: `gunicorn -c gunicorn.conf.py wsgi:app` in a process of its own.

    with Router(policy, folder=tmp_path, workers=2) as router:
        answer = router.chat("hello")
        assert answer.status == 200 and answer.headers["X-LLR-Backend"] == "local"
        assert router.wait_rows(1)[0]["outcome"] == "ok"

The environment is clean (nothing inherited that could change the router), HOME and TMPDIR lie inside `folder`, and
whatever was started is ended by its process id.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_KEPT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "VIRTUAL_ENV")

_JSON = {"Content-Type": "application/json"}

Headers = Mapping[str, str] | None


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_until(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """The first true value of `condition()`; TimeoutError naming `what` otherwise."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.02)
    return value


@dataclass(frozen=True, slots=True)
class Process:
    parent: int
    started: str  # tells a process from a later one with the same id


def processes() -> dict[int, Process]:
    """Every living process (zombies left out), from /proc where there is one, else from ps."""
    found: dict[int, Process] = {}
    if Path("/proc/self/stat").exists():
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it ended while we looked
                    state, parent, *more = (entry / "stat").read_text().rpartition(")")[2].split()
                    if state != "Z":
                        found[int(entry.name)] = Process(int(parent), more[17])
        return found
    command = ["ps", "-A", "-o", "pid=,ppid=,stat=,lstart="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        pid, parent, state, started = line.split(None, 3)
        if not state.startswith("Z"):
            found[int(pid)] = Process(int(parent), started)
    return found


def _has_event_loop(pid: int) -> bool:
    try:
        return any("eventpoll" in str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return not Path("/proc/self/fd").exists()  # no way to tell


class RouterDied(AssertionError):
    """The process ended although it should run; the text is its log."""


@dataclass(slots=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """What the model said, of a chat completion."""
        return self.json["choices"][0]["message"]["content"]

    @property
    def events(self) -> list[Any]:
        """Of a streamed answer that was read whole."""
        return parse_events(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; its four keys are checked."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error


class Stream:
    """An answer that is read while it arrives: iterating yields (time.monotonic(), bytes)."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._socket = connection.sock  # http.client forgets it when the answer is close-delimited
        self.port = self._socket.getsockname()[1]
        self._response = connection.getresponse()
        self.status = self._response.status
        self.headers = self._response.headers

    def __iter__(self) -> Iterator[tuple[float, bytes]]:
        while piece := self._response.read1(65536):
            yield time.monotonic(), piece

    def read(self) -> bytes:
        return b"".join(piece for _, piece in self)

    def until(self, mark: bytes) -> bytes:
        """What arrives up to the piece that completes `mark`."""
        data = b""
        for _, piece in self:
            data += piece
            if mark in data:
                return data
        raise AssertionError(f"the stream ended before {mark!r}: {data[-2000:]!r}")

    def events(self) -> list[Any]:
        """The rest of the stream: parsed JSON of every event, "[DONE]" as text, comments left out."""
        return parse_events(self.read())

    def close(self) -> None:
        """Hangs up at once, whatever was read so far."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._response.close()
        self._connection.close()
        self._socket.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def parse_events(body: bytes) -> list[Any]:
    events = []
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line.removeprefix(b"data:").strip() for line in block.split(b"\n") if line.startswith(b"data:")]
        if lines:
            data = b"\n".join(lines)
            events.append("[DONE]" if data == b"[DONE]" else json.loads(data))
    return events


def content(events: list[Any]) -> str:
    """The text of a streamed completion."""
    chunks = [event for event in events if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


class Router:
    """One gunicorn master with its workers.  `policy` is a dict or YAML text."""

    def __init__(
        self,
        policy: Mapping[str, Any] | str,
        *,
        folder: Path,
        workers: int = 1,
        env: Mapping[str, str] | None = None,
        wait: bool = True,
        root: Path = ROOT,
        descriptors: tuple[int, int] | None = None,
    ) -> None:
        """`descriptors` are the soft and the hard limit of open files that it starts with."""
        self.folder = folder
        self.workers = workers
        self.policy_file = folder / "policy.yaml"
        self.database = folder / "metrics.db"
        self.log_file = folder / "router.log"
        self.temp_folder = folder / "tmp"
        self.home = folder / "home"
        self.env = dict(env or {})
        self._wait = wait
        self._root = root
        self._descriptors = descriptors
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, str] = {}  # every worker that was ever met, and when it was started
        self.port = 0
        for place in (folder, self.temp_folder, self.home):
            place.mkdir(parents=True, exist_ok=True)
        self.write_policy(policy)

    # --- life ---

    def write_policy(self, policy: Mapping[str, Any] | str) -> None:
        text = policy if isinstance(policy, str) else json.dumps(policy, indent=1)  # JSON is YAML
        self.policy_file.write_text(text, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        clean = {name: os.environ[name] for name in _KEPT if name in os.environ}
        clean |= {
            "HOME": str(self.home),
            "TMPDIR": str(self.temp_folder),
            "PYTHONUNBUFFERED": "1",
            "LLR_HOST": "127.0.0.1",
            "LLR_PORT": str(self.port),
            "LLR_POLICY": str(self.policy_file),
            "LLR_DB": str(self.database),
            "LLR_WORKERS": str(self.workers),
            "LLR_GRACEFUL_TIMEOUT": "5",
        }
        return clean | self.env

    def start(self) -> Router:
        """Starts it (again): same folder, same database, a new port the first time only."""
        assert self._process is None or self._process.poll() is not None, "it is running"
        wanted = self.env.get("LLR_PORT", "")
        self.port = self.port or (int(wanted) if wanted.isdigit() else free_port())
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"],
                cwd=self._root,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self._limit if self._descriptors else None,
            )
        if self._wait:
            try:
                wait_until(self.answers, 20, "/health")
                wait_until(self._workers_ready, 20, "the workers")
            except BaseException:
                self.kill_all()
                raise
        return self

    def _limit(self) -> None:
        assert self._descriptors is not None
        resource.setrlimit(resource.RLIMIT_NOFILE, self._descriptors)

    def answers(self) -> bool:
        """Whether /health says 200; RouterDied when the process has ended."""
        self._must_run()
        try:
            return self.get("/health").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _must_run(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise RouterDied(f"exit status {self._process and self._process.returncode}:\n{self.log_text()}")

    def _workers_ready(self) -> bool:
        """Whether every worker runs its event loop.  Before that a signal sent to it is lost (gunicorn), and a stop
        takes the whole graceful timeout."""
        self._must_run()
        pids = self.worker_pids()
        return len(pids) >= self.workers and all(map(_has_event_loop, pids))

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def worker_pids(self) -> list[int]:
        if not self.running:
            return []
        found = {pid: process.started for pid, process in processes().items() if process.parent == self.pid}
        self._seen |= found
        return sorted(found)

    def sighup(self) -> None:
        self.signal(signal.SIGHUP)

    def signal(self, number: int) -> None:
        """To the master, if it lives: its id may belong to another process by now."""
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def wait_exit(self, timeout: float = 15.0) -> int:
        """The master's exit status; negative for a signal."""
        assert self._process is not None, "not started"
        return self._process.wait(timeout)

    def terminate(self, timeout: float = 15.0) -> int:
        """SIGTERM and the exit status."""
        self.worker_pids()
        self.signal(signal.SIGTERM)
        return self.wait_exit(timeout)

    def kill(self) -> None:
        """SIGKILL to the master only; its workers should notice and end."""
        self.worker_pids()
        self.signal(signal.SIGKILL)
        self.wait_exit()

    def kill_all(self) -> None:
        """SIGKILL to the master and every worker, at once."""
        self.worker_pids()
        self.signal(signal.SIGKILL)
        self.wait_exit()
        for pid in self.living_workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.living_workers(), 10, "the workers' end")

    def living_workers(self) -> list[int]:
        """Workers met so far that still run, whoever their parent is now (orphans of a killed master too)."""
        now = processes()
        return sorted(pid for pid, started in self._seen.items() if pid in now and now[pid].started == started)

    def __enter__(self) -> Router:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.terminate()
        self.kill_all()

    # --- HTTP ---

    def connect(self, timeout: float = 30.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def raw(self, data: bytes = b"", timeout: float = 10.0) -> socket.socket:
        """A plain socket to the router, `data` sent: for clients that misbehave.  The caller closes it."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        sock.sendall(data)
        return sock

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Headers = None, timeout: float = 30.0
    ) -> Answer:
        connection = self.connect(timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: Headers = None, timeout: float = 30.0) -> Answer:
        return self.request("GET", path, None, headers, timeout)

    def post(self, path: str, json: Any = None, headers: Headers = None, timeout: float = 30.0) -> Answer:
        """`json` is a document, or bytes that are sent as they are."""
        return self.request(
            "POST", path, _encode(json), {"Content-Type": "application/json"} | dict(headers or {}), timeout
        )

    def chat(self, text: str = "hello", *, headers: Headers = None, timeout: float = 30.0, **body: Any) -> Answer:
        return self.post("/v1/chat/completions", chat_body(text, **body), headers, timeout)

    def stream(
        self,
        text: str = "hello",
        *,
        path: str = "/v1/chat/completions",
        json: Any = None,
        headers: Headers = None,
        timeout: float = 30.0,
        **body: Any,
    ) -> Stream:
        """A streamed chat (or any `json` to any `path`), open until it is closed; use it with `with`."""
        document = json if json is not None else chat_body(text, stream=True, **body)
        connection = self.connect(timeout)
        try:
            connection.request("POST", path, _encode(document), _JSON | dict(headers or {}))
            return Stream(connection)
        except BaseException:
            connection.close()
            raise

    # --- what it leaves behind ---

    def log_text(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def rows(self, sql: str = "SELECT * FROM metrics ORDER BY id", *values: Any) -> list[dict[str, Any]]:
        """Rows of the database as dictionaries; none when there is no database or no such table yet."""
        if not self.database.exists():
            return []
        connection = sqlite3.connect(self.database, timeout=5)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(sql, values)]
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            connection.close()

    def wait_rows(self, count: int, timeout: float = 5.0, *, live_only: bool = True) -> list[dict[str, Any]]:
        """Until there are at least `count` rows (of live calls: probes and shadow calls come when they like)."""
        where = " WHERE NOT shadow" if live_only else ""
        return wait_until(
            lambda: (found := self.rows(f"SELECT * FROM metrics{where} ORDER BY id")) and len(found) >= count and found,
            timeout,
            f"{count} rows; there are {self.rows()}",
        )

    def wait_request_rows(self, request_id: str, count: int, timeout: float = 5.0) -> list[dict[str, Any]]:
        """The live rows of one request, exactly `count`."""
        sql = "SELECT * FROM metrics WHERE NOT shadow AND request_id = ? ORDER BY id"
        wait_until(lambda: len(self.rows(sql, request_id)) >= count, timeout, f"{count} rows of one request")
        found = self.rows(sql, request_id)
        assert len(found) == count, found
        return found


def chat_body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


def _encode(document: Any) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()
