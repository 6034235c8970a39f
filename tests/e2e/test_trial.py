"""The A/B trial at work: both answers to a sampled request are judged, and nothing of their text is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.server import Router, wait_until
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

Start = Callable[..., Any]
PRIVATE = {"X-LLR-Sensitivity": "high"}


def trial(old: Upstream, new: Upstream) -> dict[str, Any]:
    return {
        "backends": {
            "old": {"type": "ollama", "endpoint": old.url, "models": ["m:1"]},
            "new": {"type": "llamacpp", "endpoint": new.url, "models": ["n"], "local": True},
        },
        "routes": [{"default": "old"}],
        "ab": {"enabled": True, "sampleRate": 1, "candidates": {"old": "new"}},
    }


def shadows(running: Router, number: int) -> list[dict[str, Any]]:
    def rows() -> list[dict[str, Any]]:
        return [row for row in running.rows() if row["kind"] == "shadow"]

    return wait_until(lambda: len(rows()) >= number and rows(), 10, f"{number} shadow calls")


@pytest.mark.parametrize("native", [False, True], ids=["chat", "native"])
def test_both_answers_are_judged_on_both_surfaces_whole_and_as_streams(
    upstream: Start, router: Start, native: bool
) -> None:
    old, new = upstream(text="The answer is 4.", native=native), upstream(text="4")
    running = router(trial(old, new), workers=1)
    ask = "What is 2 + 2? Answer with a number."
    for number, send in enumerate(
        (
            lambda: running.chat(ask),
            lambda: running.chat(ask, headers=PRIVATE),
            lambda: running.chat(ask, stream=True),
            lambda: running.post("/v1/responses", {"input": ask}),
            lambda: running.post("/v1/responses", {"input": ask, "stream": True}),
        ),
        1,
    ):
        assert send().status == 200
        same = shadows(running, number)  # when many wait, others are dropped
    new.text = "5"
    running.chat(ask)
    other = shadows(running, 6)[5:]
    new.text = ""
    running.chat(ask)
    (empty,) = shadows(running, 7)[6:]
    assert [row["agreement"] for row in same + other] == [1, 1, 1, 1, 1, 0]
    assert all(0 < row["doubt"] < 1 and 0 < row["live_doubt"] < 1 for row in same + other)
    assert max(row["doubt"] for row in same) < min(row["doubt"] for row in other)
    assert (empty["doubt"], empty["fault"]) == (1, "empty")
    live = [row for row in running.rows() if row["kind"] == "live"]
    assert {(row["doubt"], row["agreement"], row["live_doubt"]) for row in live} == {(None, None, None)}
    (pair,) = running.get("/v1/ab").json["pairs"]
    assert pair["quality"]["n"] == 7
    assert 0.7 < pair["quality"]["agreement"] < 0.9
    assert 0 < pair["quality"]["primaryDoubt"] < pair["quality"]["doubt"] < 1


def test_no_text_of_a_judged_answer_is_stored(upstream: Start, router: Start) -> None:
    old, new = upstream(text="the heron sleeps"), upstream(text="the heron wakes")
    running = router(trial(old, new), workers=1)
    running.chat("What does the bird do?", headers=PRIVATE)
    with running.stream("What does the bird do?") as events:
        events.read()
    assert all(row["doubt"] is not None for row in shadows(running, 2))
    assert running.terminate() == 0
    assert all(b"heron" not in file.read_bytes() for file in running.database.parent.glob("metrics.db*"))


def test_a_call_that_is_not_sampled_is_not_judged(upstream: Start, router: Start) -> None:
    old, new = upstream(text="4"), upstream(text="4")
    policy = trial(old, new)
    policy["ab"]["sampleRate"] = 0
    running = router(policy, workers=1)
    running.chat("What is 2 + 2?")
    wait_until(lambda: running.rows(), 10, "a row")
    assert (len(old.chats), new.chats) == (1, [])


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_held_is_compared_as_the_primary_gave_it(
    upstream: Start, router: Start, stream: bool
) -> None:
    """The client may get the answer of a stronger target: the trial compares the primary with its candidate."""
    old, new, strong = upstream(text="4"), upstream(text="4"), upstream(text="four")
    policy = trial(old, new)
    policy["backends"]["strong"] = {"type": "llamacpp", "endpoint": strong.url, "models": ["s"], "local": True}
    policy["routes"] = [{"default": "old", "fallback": "strong", "verify": {"by": ["structure"]}}]
    running = router(policy, workers=1)
    ask = "What is 2 + 2? Answer with a number."
    assert running.chat(ask, stream=stream).headers["X-LLR-Verified"] == "kept"
    (kept,) = shadows(running, 1)
    assert (kept["agreement"], kept["fault"]) == (1, None)
    assert kept["doubt"] == kept["live_doubt"]
    old.text = ""

    def escalated() -> bool:  # a new worker first reads how many requests were escalated today
        before = len(shadows(running, 1))
        reply = running.chat(ask, stream=stream)
        shadows(running, before + 1)
        return reply.headers["X-LLR-Verified"] == "escalated structure"

    wait_until(escalated, 20, "an escalation")
    rows = shadows(running, 2)
    assert {row["backend"] for row in rows} == {"new"}
    assert {row["live_doubt"] for row in rows[1:]} == {1}
    assert all(row["doubt"] < 1 for row in rows)
