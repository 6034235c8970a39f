"""Pools before real servers: members share the load, replace each other, keep conversations, and never leak."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.routing.pools import conversation_of, ranks
from app.types import Pool
from tests import build
from tests.e2e.server import ROOT, Answer, Router, wait_until
from tests.fakes.replies import Gate, completion, error, reply
from tests.fakes.upstream import Upstream

CANARY = "canary-5c1e"
SESSION = {
    "X-Session-Id": f"{CANARY}-1",
    "session-id": f"{CANARY}-2",
    "X-Request-Id": f"{CANARY}-3",
    "traceparent": "00-a",
}
MEMBERS = ("box1", "box2", "box3")
SLOW = [0.15, *reply(200, completion("slow"))]


@pytest.fixture
def boxes() -> Iterator[list[Upstream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Upstream()) for _ in range(3)]


def policy(boxes: list[Upstream], *members: str, pool: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Backends before the boxes, in a pool; `cloud` is not local.  `more` are keys of all other backends."""
    backends: dict[str, Any] = {}
    for name, box in zip(members, boxes, strict=False):
        own = {"type": "openai", "endpoint": f"{box.url}/v1", "model": "m", "apiKeyEnv": "", "local": name != "cloud"}
        backends[name] = own | ({} if name == "cloud" else more)
    rules = {"members": list(members), **(pool or {})}
    return {"backends": backends, "pools": {"gpu": rules}, "routes": [{"default": "gpu"}]}


def starts(member: str, count: int, members: tuple[str, ...] = MEMBERS) -> list[str]:
    """First messages of conversations whose own member is `member`."""

    def own(text: str) -> str:
        rank = ranks(conversation_of(build.request(text)).key, members, Pool(members=members))
        return min(rank, key=rank.__getitem__)

    return [text for text in map("conversation {}".format, range(400)) if own(text) == member][:count]


def at_once(count: int, ask: Callable[[int], Answer]) -> list[Answer]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(ask, range(count)))


def most_at_once(box: Upstream) -> int:
    """The largest number of chats that a box answered at the same time."""
    events = [(one.received_at, 1) for one in box.chats] + [(one.finished_at or 1e12, -1) for one in box.chats]
    busy = most = 0
    for _, change in sorted(events):
        busy += change
        most = max(most, busy)
    return most


def backends(answers: list[Answer]) -> Counter[str]:
    assert [answer.status for answer in answers] == [200] * len(answers), [answer.body for answer in answers]
    return Counter(answer.headers["X-LLR-Backend"] for answer in answers)


# --- load ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"maxConcurrency": 1}, {"maxConcurrency": 2}, {}])
def test_a_burst_of_equal_calls_is_divided_evenly(limit: dict[str, Any], boxes: list[Upstream], tmp_path: Path) -> None:
    """30 calls over 3 equal boxes: at most 1.15 times the ideal makespan means at most 11 calls in a row."""
    for box in boxes:
        box.script(SLOW, repeat=True)
    with Router(policy(boxes, *MEMBERS, **limit), folder=tmp_path, workers=2) as router:
        counts = backends(at_once(30, lambda number: router.chat(f"burst {number}")))
        assert sum(counts.values()) == 30
        assert max(counts.values()) <= 11, counts
        if limit:
            assert [most_at_once(box) for box in boxes] == [limit["maxConcurrency"]] * 3


def test_equal_prompts_are_divided_too(boxes: list[Upstream], tmp_path: Path) -> None:
    """The same first message has one own member, and the calls still use all places."""
    for box in boxes:
        box.script(SLOW, repeat=True)
    with Router(policy(boxes, *MEMBERS, maxConcurrency=1), folder=tmp_path, workers=2) as router:
        counts = backends(at_once(12, lambda _: router.chat("the same")))
        assert max(counts.values()) <= 5, counts


def test_three_requests_on_two_boxes_of_one_place(boxes: list[Upstream], tmp_path: Path) -> None:
    gates = [Gate(), Gate()]
    for box, gate in zip(boxes, gates, strict=False):
        box.script([gate, *reply(200, completion("late"))])
    with Router(policy(boxes, "box1", "box2", maxConcurrency=1), folder=tmp_path, workers=2) as router:
        with ThreadPoolExecutor(3) as threads:
            asked = [threads.submit(router.chat, f"one of three {number}") for number in range(3)]
            for gate in gates:
                assert gate.reached.wait(10)
            wait_until(lambda: sum(len(box.chats) for box in boxes) == 2, 5, "two calls")
            wait_until(lambda: sum(waits(router)) > 0, 10, "the third call waits")
            gates[1].open()
            boxes[1].wait_requests(2, 10)
            assert len(boxes[0].chats) == 1  # the third call takes the place that is free first
            gates[0].open()
            assert backends([one.result() for one in asked]) == {"box1": 1, "box2": 2}
        rows = router.wait_rows(3)
        assert [row["pool"] for row in rows] == ["gpu"] * 3
        assert [row["fallback_for"] for row in rows] == [None] * 3
        assert sum(row["wait_ms"] is not None for row in rows) == 1


def test_a_first_turn_does_not_wait_beside_an_idle_member(boxes: list[Upstream], tmp_path: Path) -> None:
    one, other = starts("box1", 2)
    gate = Gate()
    boxes[0].script([gate, *reply(200, completion("late"))])
    rules = policy(boxes, *MEMBERS, maxConcurrency=1, p50Ms=60_000)
    with Router(rules, folder=tmp_path, workers=2) as router, ThreadPoolExecutor(1) as threads:
        blocked = threads.submit(router.chat, one)
        assert gate.reached.wait(10)
        answer = router.chat(other, headers={"X-LLR-Explain": "1"})
        assert answer.headers["X-LLR-Backend"] != "box1"
        assert "gpu: box1/m is passed over, all its places are taken" in answer.headers["X-LLR-Trace"]
        assert "X-LLR-Fallback-For" not in answer.headers
        gate.open()
        assert blocked.result().headers["X-LLR-Backend"] == "box1"


def test_a_later_turn_waits_for_its_own_member(boxes: list[Upstream], tmp_path: Path) -> None:
    one, other = starts("box1", 2)
    gate = Gate()
    boxes[0].script([gate, *reply(200, completion("late"))])
    turns = [("user", other), ("assistant", "yes"), ("user", "go on")]
    messages = [{"role": role, "content": text} for role, text in turns]
    with Router(policy(boxes, *MEMBERS, maxConcurrency=1, p50Ms=20_000), folder=tmp_path, workers=2) as router:
        with ThreadPoolExecutor(2) as threads:
            threads.submit(router.chat, one)
            assert gate.reached.wait(10)
            waiting = threads.submit(router.chat, messages=messages)
            wait_until(lambda: sum(waits(router)) == 1, 5, "a call that waits")
            gate.open()
            assert waiting.result().headers["X-LLR-Backend"] == "box1"
        assert [len(box.chats) for box in boxes] == [2, 0, 0]


def waits(router: Router) -> list[int]:
    """The calls that wait for a place, by worker and backend."""
    page = router.get("/metrics").body.decode()
    lines = [line for line in page.splitlines() if line.startswith("llr_backend_waiting{")]
    return [int(float(line.rpartition(" ")[2])) for line in lines]


def test_a_later_turn_goes_elsewhere_when_that_is_cheaper(boxes: list[Upstream], tmp_path: Path) -> None:
    one, other = starts("box1", 2)
    gate = Gate()
    boxes[0].script([gate, *reply(200, completion("late"))])
    turns = [("user", other), ("assistant", "yes"), ("user", "go on")]
    messages = [{"role": role, "content": text} for role, text in turns]
    rules = policy(boxes, *MEMBERS, maxConcurrency=1, p50Ms=1)
    with Router(rules, folder=tmp_path, workers=2) as router, ThreadPoolExecutor(1) as threads:
        blocked = threads.submit(router.chat, one)
        assert gate.reached.wait(10)
        assert router.chat(messages=messages).headers["X-LLR-Backend"] != "box1"
        gate.open()
        assert blocked.result().status == 200


# --- conversations ------------------------------------------------------------------------------


def test_conversations_return_to_their_member_from_every_worker_and_after_a_restart(
    boxes: list[Upstream], tmp_path: Path
) -> None:
    router = Router(policy(boxes, *MEMBERS, maxConcurrency=4), folder=tmp_path, workers=2)
    members: dict[str, set[str]] = {}
    for _ in range(2):
        with router:
            for start in map("talk {}".format, range(12)):
                for turns in range(3):
                    messages = [{"role": "user", "content": start}]
                    for turn in range(turns):
                        messages += [{"role": "assistant", "content": "y"}, {"role": "user", "content": f"{turn}?"}]
                    answer = router.chat(messages=messages)
                    members.setdefault(start, set()).add(answer.headers["X-LLR-Backend"])
    assert [len(own) for own in members.values()] == [1] * 12
    assert set().union(*members.values()) == set(MEMBERS)


def test_the_own_member_may_be_the_one_without_places(boxes: list[Upstream], tmp_path: Path) -> None:
    mixed = policy(boxes, *MEMBERS)
    mixed["backends"]["box1"]["maxConcurrency"] = 4
    with Router(mixed, folder=tmp_path) as router:
        for member in MEMBERS:
            answers = [router.chat(start) for start in starts(member, 3)]
            assert backends(answers) == {member: 3}


def test_weights_divide_conversations(boxes: list[Upstream], tmp_path: Path) -> None:
    rules = policy(boxes, "box1", "box2", pool={"weights": {"box1": 9}})
    with Router(rules, folder=tmp_path, workers=2) as router:
        counts = Counter[str]()
        for block in range(10):
            counts += backends(at_once(20, lambda number, block=block: router.chat(f"{block} {number}")))
        assert abs(counts["box2"] / 200 - 0.1) <= 0.06, counts


# --- failures -----------------------------------------------------------------------------------


def test_a_member_that_dies_under_load_fails_no_request(boxes: list[Upstream], tmp_path: Path) -> None:
    for box in boxes:
        box.script([0.03, *reply(200, completion("quick"))], repeat=True)
    with Router(policy(boxes, *MEMBERS, maxConcurrency=2), folder=tmp_path, workers=2) as router:

        def ask(number: int) -> Answer:
            if number == 30:
                boxes[1].stop()
            return router.chat(f"load {number}")

        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(ask, range(120)))
        assert sum(backends(answers).values()) == 120
        after = backends([router.chat(f"after {number}") for number in range(8)])
        assert after["box2"] == 0
        failed = router.rows("SELECT * FROM metrics WHERE outcome = 'error'")
        assert {(row["backend"], row["pool"]) for row in failed} <= {("box2", "gpu")}


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_member_replaces_one_that_fails(stream: bool, boxes: list[Upstream], tmp_path: Path) -> None:
    boxes[0].script(error(500), repeat=True)
    with Router(policy(boxes, "box1", "box2"), folder=tmp_path) as router:
        (text,) = starts("box1", 1, ("box1", "box2"))
        if stream:
            with router.stream(text, headers={"X-LLR-Explain": "1"}) as answer:
                assert "[DONE]" in answer.events()
        else:
            answer = router.chat(text, headers={"X-LLR-Explain": "1"})
        named = [answer.headers[f"X-LLR-{name}"] for name in ("Backend", "Pool", "Fallback-For")]
        assert (answer.status, named) == (200, ["box2", "gpu", "box1"])
        rows = router.wait_rows(2)
        assert [(row["backend"], row["pool"], row["reason"], row["fallback_for"]) for row in rows] == [
            ("box1", "gpu", "route", None),
            ("box2", "gpu", "fallback", "box1"),
        ]


def test_all_members_fail(boxes: list[Upstream], tmp_path: Path) -> None:
    for box in boxes[:2]:
        box.script(error(500), repeat=True)
    with Router(policy(boxes, "box1", "box2"), folder=tmp_path) as router:
        answer = router.chat()
        assert (answer.status, answer.error["code"]) == (502, "all_backends_failed")
        assert answer.headers["X-LLR-Pool"] == "gpu"
        assert [len(box.chats) for box in boxes] == [1, 1, 0]


# --- privacy and names --------------------------------------------------------------------------


def test_no_byte_of_a_private_request_reaches_a_member_that_is_not_local(boxes: list[Upstream], tmp_path: Path) -> None:
    boxes[0].script(error(500), repeat=True)
    rules = policy(boxes, "box1", "cloud", maxConcurrency=1)
    rules["routes"].insert(0, {"match": {"sensitivity": "high"}, "backend": "gpu"})
    with Router(rules, folder=tmp_path, workers=2) as router:
        for model in ("auto", "gpu", "gpu/m"):
            asked = at_once(6, lambda n, model=model: router.chat(f"{CANARY} {n}", model=model, headers=HIGH))
            assert {answer.status for answer in asked} == {502}
        planned = router.post("/v1/route", {"messages": [{"role": "user", "content": CANARY}]}, HIGH).json
        assert planned["targets"] == [{"backend": "box1", "model": "m", "pool": "gpu"}]
        assert {"backend": "cloud", "why": "the request is private and it is not local"} in planned["never"]
        assert not [one for one in boxes[1].requests if CANARY.encode() in one.head + one.body]
        refused = router.chat(CANARY, model="cloud", headers=HIGH)
        assert refused.headers["X-LLR-Pin"] == "refused"


HIGH = {"X-LLR-Sensitivity": "high"}


def test_pins_aliases_and_models(boxes: list[Upstream], tmp_path: Path) -> None:
    rules = policy(boxes, "box1", "box2", type="vllm") | {"aliases": {"fast": "gpu"}}
    rules["routes"] = [{"default": "box1", "fallback": "gpu"}]
    boxes[1].models = ("m", "special")
    with Router(rules, folder=tmp_path) as router:
        names = [entry["id"] for entry in router.get("/v1/models").json["data"]]
        assert names[:5] == ["auto", "fast", "box1", "box2", "gpu"]
        assert router.get("/v1/models/gpu").json["owned_by"] == "router"
        for model in ("gpu", "fast", "gpu/m"):
            answer = router.chat(model=model)
            assert (answer.headers["X-LLR-Route"], answer.headers["X-LLR-Pool"]) == ("pin", "gpu")
        wait_until(lambda: "special" in str(router.get("/v1/models").json), 20, "discovery")
        answer = router.chat(model="gpu/special")
        assert [answer.headers[f"X-LLR-{name}"] for name in ("Backend", "Model")] == ["box2", "special"]
        misspelled = router.chat(model="gpus")
        assert misspelled.status == 404
        assert "did you mean 'gpu'?" in misspelled.error["message"]


def test_the_dry_run_shows_the_members(boxes: list[Upstream], tmp_path: Path) -> None:
    with Router(policy(boxes, *MEMBERS, maxConcurrency=1), folder=tmp_path) as router:
        (text,) = starts("box2", 1)
        plan = router.post("/v1/route", {"messages": [{"role": "user", "content": text}]}).json
        assert plan["targets"][0] == {"backend": "box2", "model": "m", "pool": "gpu"}
        assert [call["pool"] for call in plan["calls"]] == ["gpu"] * 3
        assert {"stage": "pool", "outcome": "gpu: box2/m goes first, the own member of the conversation"} in plan[
            "trace"
        ]


def test_the_member_that_keeps_a_response_continues_it(boxes: list[Upstream], tmp_path: Path) -> None:
    """`responses: native`: each backend knows its own responses only."""
    for number, box in enumerate(boxes[:2]):
        box.script(reply(200, native(f"resp_{number}")), path="/responses", repeat=True)
    with Router(policy(boxes, "box1", "box2", responses="native"), folder=tmp_path, workers=2) as router:
        first = [router.post("/v1/responses", {"input": f"begin {number}"}) for number in range(8)]
        assert backends(first).keys() == {"box1", "box2"}
        for answer in first:
            body = {"input": "go on", "previous_response_id": answer.json["id"]}
            assert router.post("/v1/responses", body).headers["X-LLR-Backend"] == answer.headers["X-LLR-Backend"]


def native(name: str) -> dict[str, Any]:
    text = {"type": "output_text", "text": "yes", "annotations": []}
    message = {"type": "message", "id": f"msg_{name}", "role": "assistant", "status": "completed", "content": [text]}
    return {
        "id": name, "object": "response", "created_at": 1, "status": "completed", "model": "m", "output": [message],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
    }  # fmt: skip


# --- identifiers --------------------------------------------------------------------------------


def test_identifiers_reach_local_backends_only(boxes: list[Upstream], tmp_path: Path) -> None:
    with Router(policy(boxes, "box", "cloud"), folder=tmp_path) as router:
        local = router.chat(model="box", headers=SESSION, prompt_cache_key="k")
        remote = router.chat(model="cloud", headers=SESSION)
        assert [answer.headers["X-Request-Id"] for answer in (local, remote)] == [f"{CANARY}-3"] * 2
        (received,) = boxes[0].chats
        assert {name: received.header(name) for name in SESSION} == SESSION
        assert received.json["prompt_cache_key"] == "k"
        (received,) = boxes[1].chats
        assert CANARY.encode() not in received.head + received.body
        refused = router.chat(model="clod", headers=SESSION)
        assert (refused.status, refused.headers["X-Request-Id"]) == (404, f"{CANARY}-3")
        with router.stream(model="box", headers=SESSION) as stream:
            assert stream.headers["X-Request-Id"] == f"{CANARY}-3"
            stream.read()
        assert boxes[0].chats[1].header("session-id") == f"{CANARY}-2"


# --- replay -------------------------------------------------------------------------------------


def test_replay_by_the_same_policy_changes_nothing_and_weights_move_conversations(
    boxes: list[Upstream], tmp_path: Path
) -> None:
    for box in boxes:
        box.script([0.02, *reply(200, completion("quick"))], repeat=True)
    rules = policy(boxes, *MEMBERS, maxConcurrency=1)
    with Router(rules, folder=tmp_path, workers=2) as router:
        backends(at_once(40, lambda number: router.chat(f"past {number}")))
        router.wait_rows(40)
    report = replay(router, rules)
    assert (report["requests"], report["changed"], report["not_replayed"]) == (40, 0, 0)
    rules["pools"]["gpu"]["weights"] = {"box1": 1_000_000}
    (share,) = {change["target_now"] for change in replay(router, rules)["changes"] if change["change"] == "elsewhere"}
    assert share == "box1/m"


def replay(router: Router, rules: dict[str, Any]) -> dict[str, Any]:
    file = router.folder / "new.yaml"
    text = json.dumps(rules, indent=1)
    file.write_text(text, "utf-8")
    command = [sys.executable, "-m", "flask", "policy", "replay", str(file), "--since", "1h", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=router.environment(), capture_output=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_flask_route_explain_shows_the_members(boxes: list[Upstream], tmp_path: Path) -> None:
    router = Router(policy(boxes, *MEMBERS, maxConcurrency=1), folder=tmp_path, env={"LLR_PORT": "3030"})
    (text,) = starts("box3", 1)
    command = [sys.executable, "-m", "flask", "route", "explain", text]
    done = subprocess.run(command, cwd=ROOT, env=router.environment(), capture_output=True, timeout=60, check=True)
    output = " ".join(done.stdout.decode().split())
    assert "pool gpu: box3/m goes first, the own member of the conversation" in output
    assert "first box3/m of the pool gpu, local" in output
