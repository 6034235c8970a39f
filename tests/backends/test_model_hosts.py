"""At which host a model of an Ollama runs: what its server says, how long that holds, and who asks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from app.backends.llamacpp import LlamaCppBackend
from app.backends.model_hosts import ModelHosts
from app.backends.ollama import OllamaBackend, host_said
from app.errors import (
    BackendDenied,
    BackendError,
    BackendServerError,
    BackendTimeout,
    BackendUnavailable,
    ClientGone,
    ConnectTimeout,
    PrivacyViolation,
)
from app.types import BackendConfig, Timeouts
from tests.fakes.replies import CLOSE, HANG, RESET, Step, drip, error, html, redirect, reply
from tests.fakes.upstream import Upstream, black_hole_url, refused_url

CLOUD = "https://ollama.com:443"


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream(models=["llama3:latest", "m:1", "kimi:cloud"], remote={"llama3:latest": CLOUD}) as running:
        yield running


@contextlib.contextmanager
def ollama(endpoint: str, **fields: Any) -> Iterator[OllamaBackend]:
    timeouts = Timeouts(0.3, 0.3, 0.3)
    backend = OllamaBackend(BackendConfig(name="o", type="ollama", endpoint=endpoint, timeouts=timeouts, **fields), {})
    try:
        yield backend
    finally:
        backend.close()


# --- what a server says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, host",
    [
        ({}, ""),
        ({"remote_host": "", "remote_model": ""}, ""),
        ({"remote_host": None, "remote_model": None}, ""),
        ({"host": "x", "remote": True}, ""),
        ({"remote_host": CLOUD, "remote_model": "gpt-oss:120b"}, "ollama.com:443"),
        ({"remote_host": "https://ollama.com/"}, "ollama.com"),
        ({"remote_host": "http://10.1.2.3:11434/api"}, "10.1.2.3:11434"),
        ({"remote_host": "https://me:secret@box.example:9"}, "box.example:9"),
        ({"remote_host": "ollama.com:443"}, "ollama.com:443"),
        ({"remote_host": "https://[2001:db8::1]:443/x"}, "[2001:db8::1]:443"),
        ({"remote_model": "gpt-oss:120b"}, "an unnamed host"),
        ({"remote_host": "   "}, "an unnamed host"),
        ({"remote_host": "a\nb"}, "an unnamed host"),
        ({"remote_host": "https://"}, "an unnamed host"),
        ({"remote_host": ["x"]}, "an unnamed host"),
        ({"remote_host": {"url": "x"}}, "an unnamed host"),
        ({"remote_host": True}, "an unnamed host"),
        ({"remote_host": "x" * 500}, "x" * 100),
    ],
    ids=str,
)
def test_what_a_server_says_of_a_model(said: dict[str, Any], host: str) -> None:
    assert host_said(said) == host


def test_the_list_of_models_says_which_run_elsewhere_and_they_come_last(up: Upstream) -> None:
    with ollama(up.url) as backend:
        assert backend.model_hosts == {}
        assert backend.discover() == ("m:1", "llama3:latest", "kimi:cloud")
        assert backend.model_hosts == {"m:1": "", "llama3:latest": "ollama.com:443", "kimi:cloud": ""}
        before = backend.model_hosts
        backend.discover()
        assert backend.model_hosts is before, "the same object until something changes"
        up.remote = {}
        backend.discover()
        assert backend.model_hosts["llama3:latest"] == ""


@pytest.mark.parametrize("name", ["llama3", "llama3:latest", "LLAMA3", "library/llama3", " llama3 "])
def test_the_server_is_asked_for_the_name_that_is_called(up: Upstream, name: str) -> None:
    with ollama(up.url) as backend:
        assert backend.host_of_model(name) == "ollama.com:443"
        assert backend.model_hosts == {"llama3:latest": "ollama.com:443"}, "it is learned"
    (asked,) = up.requests
    assert (asked.method, asked.path, asked.json) == ("POST", "/api/show", {"model": name})


def test_other_kinds_of_servers_are_not_asked() -> None:

    config = BackendConfig(name="l", type="llamacpp", endpoint="http://127.0.0.1:9", timeouts=Timeouts(1, 1, 1))
    backend = LlamaCppBackend(config, {})
    assert (backend.host_of_model("m"), backend.model_hosts) == ("", None)
    backend.close()


OLD = {
    "404 without a body": reply(404, b""),
    "404 page not found": reply(404, b"404 page not found", content_type="text/plain"),
    "404 in JSON": reply(404, {"error": "model 'm:1' not found"}),
    "404 in OpenAI's shape": error(404, "no such path"),
    "404 in HTML": html(404),
    "no such field": reply(200, {"modelfile": "FROM x", "details": {}}),
    "an empty object": reply(200, {}),
}


@pytest.mark.parametrize("answer", OLD.values(), ids=OLD)
def test_an_old_server_hands_nothing_on(up: Upstream, answer: list[Step]) -> None:
    up.script(answer, path="/api/show", repeat=True)
    with ollama(up.url) as backend:
        assert backend.host_of_model("m:1") == ""


NO_ANSWER = {
    "500": error(500),
    "503 in HTML": html(503),
    "429": error(429),
    "400": error(400),
    "401": error(401),
    "403": error(403),
    "405": reply(405, {"error": "method not allowed"}),
    "a redirect": redirect("http://127.0.0.1:1/api/show", 307),
    "HTML": html(),
    "cut JSON": reply(200, b'{"remote_host": '),
    "a list": reply(200, []),
    "a text": reply(200, b'"fine"'),
    "an error": reply(200, {"error": "busy"}),
    "nothing": reply(200, b""),
    "closed": [CLOSE],
    "reset": [RESET],
    "silent": [HANG],
}


@pytest.mark.parametrize("answer", NO_ANSWER.values(), ids=NO_ANSWER)
def test_whatever_is_no_answer_is_no_permission_and_no_failure_of_the_backend(up: Upstream, answer: list[Step]) -> None:
    up.script(answer, path="/api/show", repeat=True)
    with ollama(up.url) as backend, pytest.raises(PrivacyViolation) as caught:
        backend.host_of_model("m:1")
    assert caught.value.message.startswith("the request is private and this backend did not say where it runs m:1 (")
    assert (caught.value.kind, caught.value.backend_failed, caught.value.next_target) == ("privacy", False, True)


def test_an_answer_that_drips_is_none(up: Upstream) -> None:
    up.script(drip(reply(200, {"remote_model": "x" * 100}), 0.02), path="/api/show")
    with ollama(up.url) as backend, pytest.raises(PrivacyViolation):
        backend.host_of_model("m:1")


def test_a_server_that_cannot_be_reached_has_failed() -> None:
    with refused_url() as url, ollama(url) as backend, pytest.raises(BackendUnavailable) as refused:
        backend.host_of_model("m:1")
    assert (refused.value.kind, refused.value.backend_failed) == ("refused", True)
    with black_hole_url() as url, ollama(url) as backend, pytest.raises(ConnectTimeout) as late:
        backend.host_of_model("m:1")
    assert (late.value.kind, late.value.backend_failed) == ("timeout", True)
    assert isinstance(late.value, BackendTimeout)


def test_a_name_that_the_server_does_not_hold_may_be_an_alias_of_another(up: Upstream) -> None:
    """The chat API follows aliases, /api/show does not."""
    with ollama(up.url) as backend:
        assert backend.host_of_model("claude-haiku") == ""
    alias = {"alias": "claude-haiku", "target": "kimi:cloud", "prefix_matching": True}
    up.script(reply(200, {"aliases": [alias]}), path="/api/experimental/aliases", repeat=True)
    with ollama(up.url) as backend:
        assert backend.host_of_model("m:1") == "", "no alias hides a model that is there"
        with pytest.raises(PrivacyViolation):
            backend.host_of_model("claude-haiku")
    up.script(error(500), path="/api/experimental/aliases")
    up.script(reply(200, {"aliases": []}), path="/api/experimental/aliases")
    assert [request.path for request in up.requests].count("/api/experimental/aliases") == 2


def test_the_question_goes_where_private_requests_go(up: Upstream) -> None:
    """Through the connection that looks at its peer: through another one the model's name could get out."""
    with ollama("http://203.0.113.7:9", local=None) as backend:
        assert backend._private_connections is not backend._connections
    with ollama(up.url, local=True) as backend:
        assert backend._private_connections is backend._connections


# --- how long it holds, and who asks ------------------------------------------------------------


class Server:
    """Answers with `answers` in order; each question waits for `gate`."""

    def __init__(self, *answers: str | BaseException) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.gate = Event()
        self.gate.set()
        self.now = 100.0
        self.hosts = ModelHosts(self._answer, lambda: self.now)

    def _answer(self, model: str) -> str:
        self.asked.append(model)
        assert self.gate.wait(10)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_an_answer_holds_for_a_second_from_when_it_was_asked() -> None:
    server = Server("", "", "away:443")
    for now, host, questions in (
        (0, "", 1),
        (0.5, "", 1),
        (0.999, "", 1),
        (1.0, "", 2),
        (1.9, "", 2),
        (2.1, "away:443", 3),
    ):
        server.now = 100.0 + now
        assert server.hosts.confirm("m") == host
        assert len(server.asked) == questions, now


def test_a_name_with_and_without_latest_is_one_and_a_digest_is_another() -> None:
    server = Server("a", "b", "c")
    assert [server.hosts.confirm(name) for name in ("x", "x:latest", "X", "x@sha256:00", "x:1")] == [
        "a",
        "a",
        "a",
        "b",
        "c",
    ]
    assert server.asked == ["x", "x@sha256:00", "x:1"]


def test_what_the_gate_hears_is_learned_and_what_runs_here_only_where_it_changes_something() -> None:
    server = Server("away:443", "", "")
    server.hosts.learn({"m:latest": ""})
    server.hosts.confirm("m")
    assert server.hosts.by_model == {"m:latest": "away:443"}
    server.hosts.confirm("made-up-by-a-client")
    assert server.hosts.by_model == {"m:latest": "away:443"}
    server.now += 2
    server.hosts.confirm("m")
    assert server.hosts.by_model == {"m:latest": ""}


def test_memory_is_bounded_whatever_models_clients_name() -> None:
    server = Server(*[""] * 3000)
    for number in range(3000):
        server.hosts.confirm(f"m{number}")
    assert len(server.hosts._answers) <= 1000
    assert not server.hosts._questions


def together(server: Server, count: int) -> list[Any]:
    """What `count` requests get that ask while one question is on its way."""
    server.gate.clear()
    got: list[Any] = []

    def ask() -> None:
        try:
            got.append(server.hosts.confirm("m"))
        except (BackendError, ClientGone) as error:
            got.append(error)

    greenlets = [gevent.spawn(ask) for _ in range(count)]
    gevent.sleep(0)  # all of them have begun
    server.gate.set()
    gevent.joinall(greenlets, timeout=10)
    return got


def test_requests_at_the_same_time_share_one_question() -> None:
    server = Server("away:443")
    assert together(server, 20) == ["away:443"] * 20
    assert server.asked == ["m"]


def test_they_share_its_failure_too_each_with_an_error_of_its_own() -> None:
    server = Server(*[BackendServerError("answered 500", kind="http_500")] * 20)
    got = together(server, 20)
    assert {type(error) for error in got} == {PrivacyViolation}
    assert len({id(error) for error in got}) == 20
    assert server.asked == ["m"]
    assert not server.hosts._questions


def test_a_failure_is_not_kept() -> None:
    server = Server(BackendServerError("answered 500", kind="http_500"), "")
    with pytest.raises(PrivacyViolation):
        server.hosts.confirm("m")
    assert server.hosts.confirm("m") == ""


def test_when_the_client_of_the_asker_leaves_the_next_one_asks() -> None:
    server = Server(ClientGone(), "away:443")
    got = together(server, 5)
    assert sorted(map(repr, got)) == ["'away:443'"] * 4 + ["ClientGone()"]
    assert server.asked == ["m", "m"]


def test_a_refusal_of_another_kind_keeps_its_words() -> None:
    server = Server(BackendDenied("answered 401; check its access rules", kind="http_401"))
    with pytest.raises(PrivacyViolation) as caught:
        server.hosts.confirm("m")
    assert "answered 401" in caught.value.message
    assert json.dumps(caught.value.backend_text) == "null", "nothing that the server wrote"
