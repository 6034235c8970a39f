"""Codex CLI works through the router with a backend that only speaks chat completions."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.backend import call, fragments, streamed
from tests.clients.conftest import SCRIPTS, House
from tests.documents import Document
from tests.fakes import replies

pytestmark = pytest.mark.clients

CODEX = SCRIPTS / "node_modules/@openai/codex/bin/codex.js"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
KNOWN = "gpt-5.5"  # has `apply_patch` as a custom tool
NEWEST = "gpt-6.1-sol"  # has its tools in an input item, and runs scripts that call them


@dataclass(frozen=True, slots=True)
class Session:
    status: int
    events: list[dict[str, Any]]
    folder: Path  # where it worked

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items that were completed, the warning about an unknown model left out."""
        done = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [item for item in done if "Model metadata" not in item.get("message", "")]

    @property
    def shape(self) -> list[tuple[str, Any]]:
        return [(item["type"], item.get("text") or item.get("aggregated_output") or "") for item in self.items]

    @property
    def errors(self) -> list[str]:
        return [event["message"] for event in self.events if event["type"] == "error"]


RunCodex = Callable[..., Session]


def config(base_url: str, model: str) -> str:
    """config.toml as docs/clients.md has it."""
    [block] = Document.read("docs/clients.md").blocks("toml")
    assert 'model = "auto"' in block.text and "http://127.0.0.1:3030/v1" in block.text
    return block.text.replace("http://127.0.0.1:3030/v1", base_url).replace('model = "auto"', f'model = "{model}"')


@pytest.fixture
def codex(house: House, node: Path, tmp_path: Path) -> RunCodex:
    """`codex("What does note.txt say?")` runs a whole task."""

    def run(prompt: str, model: str = "auto", settings: str = "", more: str = "", resume: bool = False) -> Session:
        home, work = tmp_path / "codex", tmp_path / "work"
        for place in (home, work):
            place.mkdir(exist_ok=True)
        text = f"{settings}\n{config(house.base_url, model)}\n{more}"  # top-level keys, the page's text, the table's
        (home / "config.toml").write_text(text, "utf-8")
        (work / "note.txt").write_text("The tide is at noon.\n", "utf-8")
        (work / "dot.png").write_bytes(base64.b64decode(PIXEL))
        nowhere = "http://127.0.0.1:9"  # it must not look for anything outside
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CODEX_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        environ |= {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere}
        options = ["--json", "--strict-config", "--skip-git-repo-check", "--sandbox", "danger-full-access"]
        command = [node, CODEX, "exec", *options, *(["resume", "--last"] if resume else []), prompt]
        done = subprocess.run(
            command, cwd=work, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert events, done.stderr
        print(done.stdout)  # noqa: T201  pytest shows it when the test fails, or with -rP
        return Session(done.returncode, events, work)

    return run


def shell(call_id: str, command: str, index: int = 0) -> dict[str, Any]:
    return call(call_id, "exec_command", {"cmd": command}, index)


def script(source: str) -> list[dict[str, Any]]:
    """A call of the newest models' one tool, in fragments."""
    arguments = json.dumps({"input": source})
    middle = len(arguments) // 2
    return fragments("c1", "functions__exec", arguments[:middle], arguments[middle:])


def turns(house: House) -> list[dict[str, Any]]:
    """What the backend was told last, from the user's prompt on."""
    prompt = max(at for at, message in enumerate(house.told) if message["role"] == "user" and "note" in str(message))
    return house.told[prompt:]


def test_a_task_of_two_steps(house: House, codex: RunCodex):
    cut = fragments("call_1", "exec_command", '{"cmd": ', '"cat note.txt"}')
    house.local.script(
        streamed({"reasoning": "I should "}, {"reasoning": "look."}, "Let me look.", *cut, tokens=(900, 20)),
        streamed("The note says: ", "the tide is at noon.", tokens=(1000, 9)),
    )
    session = codex("What does note.txt say?")
    assert (session.status, session.errors) == (0, [])
    assert session.shape == [
        ("reasoning", "I should look."),
        ("agent_message", "Let me look."),
        ("command_execution", "The tide is at noon.\n"),
        ("agent_message", "The note says: the tide is at noon."),
    ]
    assert session.items[2]["exit_code"] == 0
    usage = session.events[-1]["usage"]
    assert (session.events[-1]["type"], usage["input_tokens"], usage["output_tokens"]) == ("turn.completed", 1900, 29)

    prompt, said, result = turns(house)
    assert prompt == {"role": "user", "content": "What does note.txt say?"}
    assert (said["content"], said["reasoning"]) == ("Let me look.", "I should look.")
    assert said["tool_calls"][0]["function"] == {"name": "exec_command", "arguments": '{"cmd": "cat note.txt"}'}
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_1")
    assert "The tide is at noon." in result["content"]
    assert [message["role"] for message in house.told] == ["system", "user", "user", "assistant", "tool"]


def test_calls_at_once_and_an_image(house: House, codex: RunCodex):
    picture = call("c2", "view_image", {"path": "dot.png"}, 1)
    house.local.script(streamed({"tool_calls": [shell("c1", "cat note.txt"), picture]}), streamed("A dot."))
    session = codex("What is in the note and in dot.png?")
    assert session.shape[-1] == ("agent_message", "A dot.")
    *_, said, first, second, shown = house.told
    assert [made["id"] for made in said["tool_calls"]] == ["c1", "c2"]
    assert (first["tool_call_id"], second["tool_call_id"]) == ("c1", "c2")
    assert shown["content"][-1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_tools_of_a_namespace(house: House, codex: RunCodex):
    house.local.script(streamed({"tool_calls": [call("c1", "multi_agent_v1__close_agent", {"target": "x"})]}))
    house.local.script(streamed("Done."))
    session = codex("Close the agent; note this.")
    assert session.shape[-1] == ("agent_message", "Done.")
    assert "multi_agent_v1__close_agent" in [tool["function"]["name"] for tool in house.sent[0]["tools"]]
    assert house.told[-1]["role"] == "tool"
    assert "unsupported" not in house.told[-1]["content"]  # what Codex says of a tool that it does not know


def test_a_patch_by_custom_tool(house: House, codex: RunCodex):
    patch = "*** Begin Patch\n*** Add File: new.txt\n+grün\n*** End Patch\n"
    wrapped = json.dumps({"input": patch})
    house.local.script(streamed(*fragments("c1", "apply_patch", wrapped[:20], wrapped[20:])), streamed("Done."))
    session = codex("Write new.txt, note the umlaut.", model=KNOWN)
    assert [item["type"] for item in session.items] == ["file_change", "agent_message"]
    assert (session.folder / "new.txt").read_text("utf-8") == "grün\n"
    *_, said, result = house.told
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"input": patch}
    assert "Success" in result["content"]


def test_a_script_of_the_newest_models(house: House, codex: RunCodex):
    source = 'const r = await tools.exec_command({cmd: "cat note.txt"}); text(r.output);'
    house.local.script(streamed(*script(source)), streamed("At noon."))
    session = codex("When is the tide in the note?", model=NEWEST)
    assert session.shape == [("command_execution", "The tide is at noon.\n"), ("agent_message", "At noon.")]
    assert "functions__exec" in [tool["function"]["name"] for tool in house.sent[0]["tools"]]
    assert "The tide is at noon." in house.told[-1]["content"]


@pytest.mark.parametrize("end", ["broken", "length"])
def test_half_a_script_is_not_run(house: House, codex: RunCodex, end: str):
    source = json.dumps({"input": 'await tools.exec_command({cmd: "echo half > half.txt"});\n// and then'})
    half = {"tool_calls": [call("c1", "functions__exec", source[:-15])]}
    pieces = [replies.delta("", **half), replies.CLOSE if end == "broken" else replies.delta(finish="length")]
    house.local.script(replies.sse(*pieces, *([replies.DONE] if end == "length" else []), finish=False))
    house.local.script(streamed("Done."))
    session = codex("Write half.txt, note it.", model=NEWEST)
    assert not (session.folder / "half.txt").exists()
    assert "command_execution" not in [item["type"] for item in session.items]
    if end == "broken":  # tried again, as if nothing had been said
        assert session.shape == [("agent_message", "Done.")]
        assert [message["role"] for message in turns(house)] == ["user"]
    else:
        assert session.errors == ["Incomplete response returned, reason: max_output_tokens"]


def test_a_full_context_is_compacted(house: House, codex: RunCodex):
    house.local.script(
        streamed({"tool_calls": [shell("c1", "cat note.txt")]}, tokens=(60_000, 5)),
        streamed("SUMMARY: the note was read."),
        streamed("At noon."),
    )
    session = codex("When is the tide in the note?", settings="model_auto_compact_token_limit = 30000")
    assert session.shape[-1] == ("agent_message", "At noon.")
    assert "tools" not in house.sent[1]
    assert "SUMMARY: the note was read." in str(house.told) and "tool" not in [m["role"] for m in house.told]


def test_a_session_goes_on_later(house: House, codex: RunCodex):
    house.local.script(streamed({"reasoning": "Easy."}, "At noon."), streamed("Yes."))
    codex("When is the tide in the note?")
    assert codex("Is that note right?", resume=True).shape == [("agent_message", "Yes.")]
    said, asked = house.told[-2:]
    assert (said["content"], said["reasoning"]) == ("At noon.", "Easy.")
    assert asked == {"role": "user", "content": "Is that note right?"}


def test_a_prompt_that_is_too_long_for_all_is_told_at_once(house: House, codex: RunCodex):
    for backend in (house.local, house.cloud):
        backend.script(replies.error(400, "too long", type="invalid_request_error", code="context_length_exceeded"))
    session = codex("A note.")
    assert session.status == 1
    assert "ran out of room in the model's context window" in session.errors[0]
    assert len(house.sent) == 1


def test_a_private_session_stays_local(house: House, codex: RunCodex):
    house.local.script(replies.error(503, "down"))
    private = 'http_headers = { "X-LLR-Sensitivity" = "high" }'
    session = codex("A note.", more=f"request_max_retries = 0\nstream_max_retries = 0\n{private}")
    assert (session.status, len(house.sent)) == (1, 1)
    assert "local: answered 503" in session.errors[-1]
    assert not house.cloud.chats  # the fallback of every other request
