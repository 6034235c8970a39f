"""The tool calls of escalated answers, which all workers remember."""

from __future__ import annotations

import os
from typing import Any

import pytest

from app.tool_loops import ToolLoops
from tests import build

QUESTION = {"role": "user", "content": "How warm is it in Paris?"}


def call(call_id: str | None = "call_1", arguments: Any = '{"city": "Paris"}', name: str = "weather") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"type": "function", "function": function} | ({} if call_id is None else {"id": call_id})


def answer(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def result(call_id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "21"}


def request(*messages: Any, **fields: Any):
    return build.request({"messages": [QUESTION, *messages]}, **fields)


@pytest.fixture
def loops():
    known = ToolLoops()
    known.add(request(), answer(call()))
    return known


@pytest.mark.parametrize(
    "messages",
    [
        (answer(call()), result()),
        (answer(call("other"), call()), result("other"), result()),
        (answer(call(arguments='{"city":"Paris"}')), result()),
    ],
)
def test_results_of_these_calls_continue_the_loop(loops, messages):
    assert loops.mark(request(*messages)).escalated


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (answer(call("other", '{"city": "Rome"}')), result("other")),
        (answer(call()), result(), {"role": "user", "content": "And in Rome?"}),
        (answer(call()), result(), answer(call("next", "{}")), result("next")),
        (answer(call()), result(), {"role": "assistant", "content": "21"}),
        (result(),),
        (answer(), result()),
    ],
)
def test_these_do_not(loops, messages):
    assert not loops.mark(request(*messages)).escalated


def test_the_same_id_in_another_conversation_is_another_call(loops):
    other = build.request({"messages": [{"role": "user", "content": "Hi"}, answer(call()), result()]})
    assert not loops.mark(other).escalated
    assert not loops.mark(request(answer(call()), result(), session="another")).escalated


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}, '{"city":"Paris"}'])
def test_a_call_without_an_id_is_known_by_its_arguments(arguments):
    loops = ToolLoops()
    loops.add(request(), answer(call(None, arguments)))
    assert loops.mark(request(answer(call("made_up")), result("made_up"))).escalated
    assert not loops.mark(request(answer(call("made_up", '{"city": "Rome"}')), result("made_up"))).escalated


@pytest.mark.parametrize("arguments", ["{", "[" * 5000, None, 1, "\ud800"])
def test_arguments_of_any_shape_are_read(arguments):
    loops = ToolLoops()
    loops.add(request(), answer(call(None, arguments)))
    assert loops.mark(request(answer(call("made_up", arguments)), result("made_up"))).escalated


def test_all_workers_know_them():
    fd = os.memfd_create("loops")
    one, two = ToolLoops(fd), ToolLoops(fd)
    one.add(request(), answer(call()))
    assert two.mark(request(answer(call()), result())).escalated
    os.close(fd)


def test_old_calls_are_forgotten_and_new_ones_are_not():
    loops = ToolLoops()
    for number in range(20_000):
        loops.add(request(), answer(call(f"call_{number}")))
    known = [loops.mark(request(answer(call(f"call_{number}", "{}")), result())).escalated for number in range(20_000)]
    assert all(known[-10_000:][-100:]) and sum(known) > 15_000


def test_a_long_loop_costs_no_more():
    loops = ToolLoops()
    many = [call(f"call_{number}") for number in range(500)]
    loops.add(request(), answer(*many))
    assert loops.mark(request(answer(*many), result())).escalated
