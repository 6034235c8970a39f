"""Many clients at once, unlucky servers and disconnects at every phase of a judgement, in real gunicorn processes."""

from __future__ import annotations

import collections
import concurrent.futures
import json
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.server import Router, chat_body, wait_until
from tests.e2e.test_verify import QUESTION, RIGHT, STRONG, WRONG, Stage
from tests.fakes.replies import CLOSE, RESET, completion, error, reply, sse
from tests.fakes.upstream import Received

pytestmark = pytest.mark.e2e

CLIENTS = 30
REQUESTS = 3  # of each client
TEXTS = (RIGHT, RIGHT, WRONG, "I'm sorry, but I can't help with that.", '{"left": 2}')
MEMBERS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"n": 2},
    {"logprobs": True},
    {"response_format": {"type": "json_object"}},
)
PRIVATE = "about my salary"  # marks the requests whose header says so


def unlucky(seed: int) -> Callable[[Received], list[Any]]:
    """Answer well, late, not at all, or half."""
    dice = random.Random(seed)

    def play(request: Received) -> list[Any]:
        text, wait, luck = dice.choice(TEXTS), dice.choice((0, 0, 0.05, 0.2, 0.4)), dice.random()
        if luck < 0.06:
            return [wait, *error(dice.choice((500, 503, 400, 429)))]
        if luck < 0.1:
            return [wait, RESET]
        if not request.json.get("stream"):
            return [wait, *reply(200, completion(text))]
        if luck < 0.16:
            return [wait, *sse("The ", wait, "answer", dice.choice((RESET, CLOSE)), finish=False)]
        if luck < 0.2:
            return [wait, *sse("The ", wait, {"error": {"message": "broken"}}, finish=False)]
        first, _, rest = text.partition(" ")
        return [wait, *sse(first, wait, f" {rest}")]

    return play


def one_request(dice: random.Random) -> tuple[str, dict[str, Any], dict[str, str]]:
    stream, private = dice.random() < 0.5, dice.random() < 0.15
    question = f"{QUESTION} {dice.random()}" + (f" {PRIVATE}" if private else "")
    headers = {"X-LLR-Sensitivity": "high"} if private else {}
    messages = [{"role": "user", "content": question}]
    path, body = dice.choice(
        (
            ("/v1/chat/completions", {**chat_body(question), **dice.choice(MEMBERS)}),
            ("/v1/responses", {"input": question, "store": dice.random() < 0.5}),
            ("/v1/messages", {"model": "auto", "max_tokens": 500, "messages": messages}),
        )
    )
    return path, {**body, "stream": stream}, headers


def client(router: Router, seed: int) -> list[bytes]:
    """Return the responses that were read to their end; half of the requests are left at any time."""
    dice, whole = random.Random(seed), []
    for _ in range(REQUESTS):
        path, body, headers = one_request(dice)
        leaves, after_s = dice.random() < 0.5, 0.5 * dice.random()
        raw = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(raw)}", "Connection: close"]
        lines += ["Content-Type: application/json", *(f"{name}: {value}" for name, value in headers.items())]
        try:
            with router.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + raw, timeout=30) as sock:
                sock.settimeout(after_s if leaves else 30)
                data = b""
                while piece := sock.recv(65536):
                    data += piece
        except OSError:  # it left, or its worker was killed
            continue
        whole += [data] if data else []
    return whole


def kill(stage: Stage) -> None:
    for _ in range(2):
        time.sleep(0.5)
        os.kill(stage.router.worker_pids()[0], signal.SIGKILL)


def reload(stage: Stage) -> None:
    plain = stage.policy()
    del plain["routes"][0]["verify"]
    for policy in (stage.policy(maxHoldTokens=1), plain, stage.policy()):
        time.sleep(0.4)
        stage.router.write_policy(policy)
        stage.router.sighup()


def nothing(stage: Stage) -> None:
    assert stage.router.answers()


@pytest.mark.parametrize(
    ("meanwhile", "rules"),
    [(kill, {}), (reload, {}), (nothing, {"second": None, "samples": 2})],
    ids=["kill", "reload", "samples"],
)
def test_many_unlucky_clients(tmp_path, rules, meanwhile):
    stage = Stage(tmp_path / "router", workers=2, maxHoldMs=1500, dailyShare=1, **rules)
    stage.backends = {
        "local": {"maxConcurrency": 2 if rules else 8},
        "twin": {"maxConcurrency": 3},
        "frontier": {"maxConcurrency": 4},
    }
    with stage, concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        servers = (stage.local, stage.twin, stage.frontier)
        for seed, up in enumerate(servers):
            up.script(unlucky(seed), repeat=True)
        running = [pool.submit(client, stage.router, seed) for seed in range(CLIENTS)]
        meanwhile(stage)
        responses = [response for one in running for response in one.result()]
        for up in servers:
            up.wait_quiet(10)
        wait_until(lambda: in_flight(stage.router) == {0}, 10, "free places")
        check_responses(responses)
        assert not any(PRIVATE.encode() in one.body for one in stage.frontier.chats)
        if not rules:
            assert not any(PRIVATE.encode() in one.body for one in stage.twin.chats)
        check_rows(stage.router, responses, is_killed=meanwhile is kill)
        for up in servers:
            up.reset()
        stage.local.text = stage.twin.text = RIGHT
        wait_until(lambda: stage.router.chat(QUESTION).headers["X-LLR-Verified"] == "kept", 15, "closed circuits")


def in_flight(router: Router) -> set[int]:
    return {server["in_flight"] for server in router.get("/v1/metrics").json["servers"]}


def check_responses(responses: list[bytes]) -> None:
    for response in responses:
        head, _, body = response.partition(b"\r\n\r\n")
        assert response.count(b"HTTP/1.1 ") == 1, response
        assert not head.startswith(b"HTTP/1.1 500"), response
        if b"text/event-stream" not in head:
            json.loads(body)


def check_rows(router: Router, responses: list[bytes], *, is_killed: bool) -> None:
    """Each request has one first call, at most one opinion, one verdict and one answer of a stronger target."""
    time.sleep(1)  # the thread that writes rows
    by_request = collections.defaultdict(list)
    for row in router.rows():
        by_request[row["request_id"]].append(row)
    for rows in by_request.values():
        counts = collections.Counter(row["reason"] for row in rows)
        assert counts["route"] + counts["queue"] + counts["cooling"] <= 1, rows
        assert counts["verify"] <= 1 and counts["escalated"] <= 1, rows
        assert [row["policy"] is not None for row in rows].count(True) == 1 or is_killed, rows
        verdicts = [row["verified"] for row in rows if row["verified"]]
        assert len(verdicts) <= 1, rows
        if not is_killed:
            assert ("escalated" in verdicts) <= bool(counts["escalated"]), rows
    for response in responses if not is_killed else ():
        head = dict(line.lower().split(b": ", 1) for line in response.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
        rows, verdict = by_request[head[b"x-llr-request-id"].decode()], head.get(b"x-llr-verified", b"").decode()
        assert rows, response
        if verdict:
            assert verdict.split()[0] in [row["verified"] for row in rows], (verdict, rows)


@pytest.mark.parametrize("rules", [{"second": None, "samples": 2}, {"second": "local/m"}, {"second": "local"}], ids=str)
def test_one_place_for_both_calls_of_all_clients(tmp_path, rules):
    stage = Stage(tmp_path / "router", workers=2, dailyShare=1, **rules)
    stage.backends["local"] = {"maxConcurrency": 1}
    with stage, concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = [*pool.map(lambda place: stage.router.chat(QUESTION, stream=bool(place % 2)), range(24))]
        assert {(one.status, one.headers["X-LLR-Verified"]) for one in answers} == {(200, "kept")}
        assert stage.calls == (48, 0, 0)
        rows = wait_until(lambda: (found := stage.router.rows())[47:] and found, 10, "rows")
        assert collections.Counter((row["kind"], row["agreement"]) for row in rows) == {
            ("live", 1): 24,
            ("verify", None): 24,
        }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), "x", None, True, [], {}],
    ids=["huge", "tiny", "word", "null", "boolean", "list", "object"],
)
def test_log_probabilities_of_any_kind(shared, stream, value):
    shared.local.reset()
    entry = {"token": "t", "logprob": value, "top_logprobs": []}
    document = completion(RIGHT)
    document["choices"][0]["logprobs"] = {"content": [entry]}
    streamed = {**document, "choices": [{"index": 0, "delta": {"content": RIGHT}, "logprobs": {"content": [entry]}}]}
    shared.local.script(sse(streamed) if stream else reply(200, document))
    answer = shared.router.chat(QUESTION, stream=stream, logprobs=True)
    assert answer.status == 200 and answer.headers["X-LLR-Verified"] in ("kept", "escalated confidence"), answer.body
    text = RIGHT if answer.headers["X-LLR-Verified"] == "kept" else STRONG
    assert text.encode() in answer.body or stream


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Stage(tmp_path_factory.mktemp("shared"), workers=1, dailyShare=1) as running:
        yield running
