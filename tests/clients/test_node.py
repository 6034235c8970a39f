"""Clients in JavaScript: the openai package, and the Vercel AI SDK with its default settings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.backend import call, fragments, said, streamed
from tests.clients.conftest import SCRIPTS, House
from tests.documents import Document
from tests.e2e.server import Router
from tests.fakes import replies

pytestmark = pytest.mark.clients

RunScript = Callable[..., Any]

TWO_CALLS = [call("call_b", "weather", {"city": "Bern"}), call("call_r", "weather", {"city": "Rome"}, 1)]
CALLED = [
    {"id": "call_b", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}},
    {"id": "call_r", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
]
ANSWERED = [
    {"role": "tool", "tool_call_id": "call_b", "content": "4 °C"},
    {"role": "tool", "tool_call_id": "call_r", "content": "19 °C"},
]
QUESTION = {"role": "user", "content": "Bern or Rome?"}


@pytest.fixture
def run(house: House, node: Path, tmp_path: Path) -> RunScript:
    """`run("openai.mjs", "create")`: what the script printed, as JSON."""

    def run(script: str, *args: str, url: str = "") -> Any:
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        environ |= {"BASE_URL": url or house.base_url, "OTHER_URL": url or house.other_url}
        done = subprocess.run(
            [node, SCRIPTS / script, *args], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return json.loads(done.stdout)

    return run


def tidy(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with the arguments of calls in one form."""
    text = json.dumps(messages, ensure_ascii=False)
    return json.loads(text.replace('{\\"city\\": \\"', '{\\"city\\":\\"'))


def turn(text: str = "", reasoning: str | None = None) -> dict[str, Any]:
    """What the model said before it was told the weather."""
    thought = {"reasoning": reasoning} if reasoning else {}
    return {"role": "assistant", "content": text, **thought, "tool_calls": CALLED}


@pytest.fixture(scope="module")
def native(running: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a router whose backend speaks the Responses API itself: it is the router of the house."""
    backend = {"type": "openai", "endpoint": running.base_url, "model": "auto", "responses": "native"}
    local = {"type": "ollama", "endpoint": running.cloud.url, "models": ["m:1"]}
    policy = {"backends": {"native": backend, "chat": local}, "routes": [{"default": "native", "fallback": "chat"}]}
    env = {"OPENAI_API_KEY": "key-for-tests"}
    with Router(policy, folder=tmp_path_factory.mktemp("native"), workers=2, env=env) as router:
        yield f"{router.url}/v1"


# --- openai --------------------------------------------------------------------------------------


def test_openai_create_and_stream(house: House, run: RunScript):
    house.local.script(said("once upon"), streamed("once ", "upon"))
    assert run("openai.mjs", "create") == {"text": "once upon", "tokens": 7}
    assert run("openai.mjs", "stream") == {"text": "once upon", "deltas": ["once ", "upon"]}


@pytest.mark.parametrize("stream", [False, True])
def test_openai_tool_loop(house: House, run: RunScript, stream: bool):
    if stream:
        cut = fragments("call_b", "weather", '{"ci', 'ty":"Bern"}')
        cut += fragments("call_r", "weather", '{"city"', ':"Rome"}', index=1)
        house.local.script(streamed({"reasoning": "Two."}, "Looking.", *cut), streamed("Rome."))
    else:
        house.local.script(said("Looking.", *TWO_CALLS, reasoning="Two."), said("Rome."))
    assert run("openai.mjs", "tools-streamed" if stream else "tools") == {"steps": 2, "text": "Rome."}
    assert tidy(house.told) == [QUESTION, turn("Looking.", "Two."), *ANSWERED]


def test_openai_conversation(house: House, run: RunScript):
    house.local.script(streamed({"tool_calls": TWO_CALLS}), said("Rome."))
    gone = {"kind": "NotFoundError", "status": 404, "code": "response_not_found", "param": None}
    assert run("openai.mjs", "continued") == {
        "text": "Rome.",
        "previous": True,
        "items": ["function_call_output", "function_call_output"],
        "gone": gone,
    }
    assert tidy(house.told) == [QUESTION, turn(), *ANSWERED]


def test_openai_conversation_at_a_native_backend(house: House, run: RunScript, native: str):
    house.local.script(streamed({"tool_calls": TWO_CALLS}), said("Rome."))
    result = run("openai.mjs", "continued", url=native)
    assert (result["text"], result["previous"], result["gone"]["status"]) == ("Rome.", True, 404)
    assert tidy(house.told) == [QUESTION, turn(), *ANSWERED]


def test_openai_parse_chat_and_models(house: House, run: RunScript):
    house.local.script(said('{"x": 1, "y": 2}'), said("once"), streamed("on", "ce"))
    assert run("openai.mjs", "parse") == {"x": 1, "y": 2}
    assert house.sent[-1]["response_format"]["json_schema"]["name"] == "point"
    assert run("openai.mjs", "chat") == {"text": "once", "streamed": "once"}
    assert run("openai.mjs", "models")[:3] == ["auto", "local", "cloud"]


def test_openai_errors(house: House, run: RunScript):
    wrong = replies.error(400, "no", type="invalid_request_error", code="context_length_exceeded")
    house.local.script(wrong, replies.sse("half", replies.CLOSE, finish=False))
    house.cloud.script(wrong)
    refused, unknown, broken = run("openai.mjs", "errors")
    assert (refused["kind"], refused["code"]) == ("BadRequestError", "context_length_exceeded")
    assert (unknown["kind"], unknown["param"]) == ("BadRequestError", "previous_response_id")
    assert broken["kind"] == "APIError"


# --- the page ---


@pytest.mark.parametrize("package", ["'openai'", "'@ai-sdk/openai'"])
def test_the_example_on_the_page_of_clients(house: House, node: Path, tmp_path: Path, package: str):
    [block] = [block for block in Document.read("docs/clients.md").blocks("js") if f"from {package}" in block.text]
    text = block.text.replace("http://127.0.0.1:3030/v1", house.base_url)
    command = [node, "--input-type=module", "-"]  # its imports are looked for from the current folder
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        command, input=text, cwd=SCRIPTS, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert house.told == [{"role": "user", "content": "Name a city."}]


# --- the AI SDK ----------------------------------------------------------------------------------

MODELS = ["auto", "gpt-5"]  # the SDK knows the second as one that reasons, and treats it otherwise
STEPS = [
    {
        "reasoning": "Two.",
        "text": "Looking.",
        "calls": [["weather", "Bern"], ["weather", "Rome"]],
        "results": ["4 °C", "19 °C"],
        "finish": "tool-calls",
    },
    {"reasoning": None, "text": "Rome.", "calls": [], "results": [], "finish": "stop"},
]


@pytest.mark.parametrize("model", MODELS)
def test_ai_sdk_multi_step_tool_loop(house: House, run: RunScript, model: str):
    house.local.script(said("Looking.", *TWO_CALLS, reasoning="Two."), said("Rome."))
    assert run("ai-sdk.mjs", "generate", model) == {"text": "Rome.", "steps": STEPS, "references": [0, 2]}
    assert tidy(house.told) == [QUESTION, turn("Looking.", "Two."), *ANSWERED]


@pytest.mark.parametrize("scenario", ["generate", "stream"])
def test_ai_sdk_multi_step_tool_loop_at_a_native_backend(house: House, run: RunScript, native: str, scenario: str):
    if scenario == "stream":
        house.local.script(streamed({"reasoning": "Two."}, "Looking.", {"tool_calls": TWO_CALLS}), streamed("Rome."))
    else:
        house.local.script(said("Looking.", *TWO_CALLS, reasoning="Two."), said("Rome."))
    result = run("ai-sdk.mjs", scenario, "auto", url=native)
    assert (result["text"], result["steps"], result["references"]) == ("Rome.", STEPS, [0, 2])
    assert tidy(house.told) == [QUESTION, turn("Looking.", "Two."), *ANSWERED]
    assert not house.cloud.chats


@pytest.mark.parametrize("model", MODELS)
def test_ai_sdk_multi_step_tool_loop_streamed(house: House, run: RunScript, model: str):
    cut = fragments("call_b", "weather", '{"ci', 'ty":"Bern"}')
    cut += fragments("call_r", "weather", '{"city"', ':"Rome"}', index=1)
    house.local.script(streamed({"reasoning": "Two."}, "Looking.", *cut), streamed("Ro", "me."))
    result = run("ai-sdk.mjs", "stream", model)
    parts = result.pop("parts")
    assert result == {"text": "Rome.", "steps": STEPS, "references": [0, 2]}
    assert (parts.count("tool-call"), parts.count("tool-result"), parts.count("text-delta")) == (2, 2, 3)
    assert "error" not in parts
    assert tidy(house.told) == [QUESTION, turn("Looking.", "Two."), *ANSWERED]


def test_ai_sdk_loop_whose_steps_meet_workers_in_turn(house: House, run: RunScript):
    cities = ["Bern", "Rome", "Bern", "Rome"]
    steps = [said(f"Step {at}.", call(f"c{at}", "weather", {"city": city})) for at, city in enumerate(cities)]
    house.local.script(*steps, said("Rome."))
    assert run("ai-sdk.mjs", "generate", "auto")["references"] == [0, 1, 2, 3, 4]
    connections = [request.connection for request in house.local.chats]  # each worker has its own
    assert not {*connections[::2]} & {*connections[1::2]}
    roles = [message["role"] for message in house.told]
    assert roles == ["user"] + ["assistant", "tool"] * 4
    assert [message["content"] for message in house.told[1::2]] == [f"Step {at}." for at in range(4)]


def test_ai_sdk_conversation_goes_on(house: House, run: RunScript):
    house.local.script(said("Looking.", *TWO_CALLS, reasoning="Two."), said("Rome."), said("Yes."))
    assert run("ai-sdk.mjs", "conversation", "auto")["text"] == "Yes."
    more = [{"role": "assistant", "content": "Rome."}, {"role": "user", "content": "Sure?"}]
    assert tidy(house.told) == [QUESTION, turn("Looking.", "Two."), *ANSWERED, *more]


def test_ai_sdk_object_and_chat_api(house: House, run: RunScript):
    house.local.script(said('{"x": 1, "y": 2}'), said("", *TWO_CALLS), said("Rome."))
    assert run("ai-sdk.mjs", "object", "auto") == {"x": 1, "y": 2}
    assert house.sent[-1]["response_format"]["type"] == "json_schema"
    assert run("ai-sdk.mjs", "chat", "auto")["text"] == "Rome."


def test_ai_sdk_private_loop(house: House, run: RunScript):
    house.local.script(said("Looking.", *TWO_CALLS, reasoning="Two."), said("Rome."))
    result = run("ai-sdk.mjs", "private", "auto")
    assert (result["text"], result["references"]) == ("Rome.", [0, 0])
    assert tidy(house.told) == [QUESTION, turn("Looking.", "Two."), *ANSWERED]
    assert not house.cloud.chats
