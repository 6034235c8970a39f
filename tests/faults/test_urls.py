"""20,000 requests with anything anywhere at every URL, and some thousand through gunicorn: no 500, every error in the
API's shape, and the router serves on."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.factory import POLICY_TEXT, create_app
from tests.e2e.server import Router
from tests.faults.requests import Asked, Requests
from tests.faults.test_fuzz import POLICY
from tests.logs import captured

pytestmark = pytest.mark.faults

IN_PROCESS, THROUGH_GUNICORN = 20_000, 4_000
SEED = 7
FOR_PEOPLE = ("text/html", "text/plain")  # the page, its form for a key, /metrics
counted: Counter[str] = Counter()


@pytest.fixture(scope="module", params=[{}, {"LLR_API_KEYS": "secret"}], ids=["open", "with keys"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    folder = tmp_path_factory.mktemp("urls")
    environ = {POLICY_TEXT: POLICY, "LLR_DB": str(folder / "metrics.db"), "LLR_LOG_LEVEL": "error", **request.param}
    yield create_app(environ).test_client()


def is_envelope(raw: bytes, path: str) -> bool:
    """True for an error in the shape of the URL's API: OpenAI's, or Anthropic's below /v1/messages."""
    document = json.loads(raw)
    error = document["error"]
    if document.get("type") == "error":
        members = set(document) == {"type", "error", "request_id"} and set(error) == {"type", "message"}
        return path.startswith("/v1/messages") and members and bool(error["type"] and error["message"])
    told = isinstance(error["message"], str) and error["message"] and isinstance(error["type"], str)
    return set(document) == {"error"} and {"message", "type", "param", "code"} <= set(error) and bool(told)


def check(asked: Asked, status: int, kind: str, body: bytes) -> None:
    assert status != 500, (asked, body)
    if status >= 400 and asked.method != "HEAD" and not (kind.startswith(FOR_PEOPLE) and status == 401):
        assert kind.startswith("application/json") and is_envelope(body, asked.path), (asked, status, kind, body)
        assert len(body) < 5_000, "an error quotes too much"


def test_any_request_at_any_url(client: FlaskClient) -> None:
    supply = Requests(SEED + bool(client.application.extensions["access"].wants_key))
    with captured("llr", "ERROR") as lines:
        for _ in range(IN_PROCESS // 2):
            asked = supply.next()
            answer = sent(client, asked)
            counted[f"{answer.status_code // 100}xx"] += 1
            check(asked, answer.status_code, answer.mimetype, answer.get_data())
            answer.close()
            assert not lines, (asked, lines)


def sent(client: FlaskClient, asked: Asked) -> Any:
    """The request as gunicorn would hand it over: header values are latin-1, and the path is decoded."""
    environ = {
        f"HTTP_{name.upper().replace('-', '_')}": value.encode("utf-8", "surrogatepass").decode("latin-1")
        for name, value in asked.headers.items()
        if name.lower() not in ("content-type", "content-length")
    }
    kind = asked.headers.get("Content-Type", "application/json")
    environ["CONTENT_TYPE"] = kind.encode("utf-8", "surrogatepass").decode("latin-1")
    return client.open(asked.path, method=asked.method, data=asked.body, environ_overrides=environ)


def test_any_request_through_gunicorn(tmp_path: Path) -> None:
    supply = Requests(SEED + 2)
    with Router(POLICY, folder=tmp_path, env={"LLR_LOG_LEVEL": "error"}) as router:
        for number in range(THROUGH_GUNICORN):
            asked = supply.next()
            message = message_of(asked)
            raw = exchanged(router, supply.torn(message) if number % 5 == 0 else message)
            if not raw.startswith(b"HTTP/1."):
                assert not raw, (asked, raw)
                counted["closed"] += 1
                continue
            head, _, rest = raw.partition(b"\r\n\r\n")
            status, told = int(head.split(b" ", 2)[1]), headers_of(head)
            counted[f"gunicorn {status // 100}xx"] += 1
            assert status != 500, (asked, raw)
            if "content-length" in told:  # what was torn may be read as another request behind it
                check(asked, status, told.get("content-type", ""), rest[: int(told["content-length"])])
        assert router.chat("hello").status == 200
        log = router.log_text()
    assert "Traceback" not in log and "unexpected" not in log, log[-3000:]


def headers_of(head: bytes) -> dict[str, str]:
    pairs = (line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:])
    return {name.lower(): value for name, _, value in pairs}


def message_of(asked: Asked) -> bytes:
    """The bytes of a request, whatever its headers say of its body."""
    names = {name.lower() for name in asked.headers}
    lines = [f"{asked.method} {asked.path} HTTP/1.1", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in asked.headers.items()]
    lines += [] if "host" in names else ["Host: localhost"]
    lines += [] if "content-length" in names else [f"Content-Length: {len(asked.body)}"]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + asked.body


def exchanged(router: Router, message: bytes) -> bytes:
    """The bytes of the answer."""
    pieces = []
    with router.raw(timeout=10) as sock, contextlib.suppress(ConnectionError, TimeoutError):
        sock.sendall(message)
        with contextlib.suppress(OSError):  # ENOTCONN: the router has refused it and reset the connection
            sock.shutdown(socket.SHUT_WR)
        while piece := sock.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def test_how_many_requests(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        for name, count in sorted(counted.items()):
            print(f"\n  {count:6d} {name}", end="")  # noqa: T201
        print(f"\n  {counted.total():6d} requests in all")  # noqa: T201
