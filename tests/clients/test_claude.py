"""Claude Code, and Anthropic's package for Node, work through the router with a backend that only speaks chat."""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.backend import call, said, streamed
from tests.clients.conftest import SCRIPTS, House
from tests.documents import Document
from tests.e2e.server import wait_until
from tests.fakes import replies

pytestmark = pytest.mark.clients

MACHINE = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
CLAUDE = SCRIPTS / f"node_modules/@anthropic-ai/claude-code-{platform.system().lower()}-{MACHINE}/claude"
NOWHERE = "http://127.0.0.1:9"  # it must not look for anything outside


@dataclass(frozen=True, slots=True)
class Session:
    status: int
    result: dict[str, Any]


RunClaude = Callable[..., Session]


def settings(url: str) -> dict[str, str]:
    """The variables that docs/clients.md names."""
    [block] = [block for block in Document.read("docs/clients.md").blocks("bash") if "ANTHROPIC_BASE_URL" in block.text]
    lines = [line.removeprefix("export ") for line in block.text.splitlines() if line.startswith("export ")]
    named = dict(line.split("=", 1) for line in lines)
    assert named["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:3030"
    return named | {"ANTHROPIC_BASE_URL": url}


@pytest.fixture
def command(house: House, tmp_path: Path) -> Callable[..., tuple[list[str], dict[str, Any]]]:
    def command(prompt: str, *more: str) -> tuple[list[str], dict[str, Any]]:
        home, work = tmp_path / "home", tmp_path / "work"
        for place in (home, work):
            place.mkdir(exist_ok=True)
        (work / "note.txt").write_text("The tide is at noon.\n", "utf-8")
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(home), "NO_PROXY": "127.0.0.1", "IS_SANDBOX": "1"}
        environ |= {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "CLAUDE_CODE_MAX_RETRIES": "0"}
        environ |= settings(house.router.url)
        options = ["--output-format", "json", "--dangerously-skip-permissions", *more]
        return [str(CLAUDE), "-p", prompt, *options], {"cwd": work, "env": environ, "stdin": subprocess.DEVNULL}

    return command


@pytest.fixture
def claude(command: Callable[..., tuple[list[str], dict[str, Any]]]) -> RunClaude:
    def run(prompt: str, *more: str) -> Session:
        arguments, options = command(prompt, *more)
        done = subprocess.run(arguments, **options, capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout, done.stderr
        return Session(done.returncode, json.loads(done.stdout))

    return run


def shell(number: int) -> list[replies.Step]:
    arguments = {"command": f"echo {number}; cat note.txt", "description": "Read the note"}
    return streamed(
        f"Step {number}. ", {"tool_calls": [call(f"call_{number}", "Bash", arguments)]}, finish="tool_calls"
    )


def test_a_loop_of_five_steps(house: House, claude: RunClaude):
    house.local.script(*map(shell, range(5)), streamed("The tide is at noon.", tokens=(1000, 9)))
    session = claude("What does note.txt say?")
    assert (session.status, session.result["is_error"]) == (0, False)
    assert (session.result["result"], session.result["num_turns"]) == ("The tide is at noon.", 6)
    results = [message["content"] for message in house.told if message["role"] == "tool"]
    assert results == [f"{number}\nThe tide is at noon." for number in range(5)]
    rows = house.router.wait_rows(6)
    assert {(row["surface"], row["client"], row["purpose"], row["sensitivity"]) for row in rows} == {
        ("messages", "claude-code", "agent", "normal")
    }
    beginnings = [body[: body.index(b'],"tools"')] for body in (request.body for request in house.local.chats)]
    for beginning, later in itertools.pairwise(beginnings):
        assert later.startswith(beginning)  # so the server finds its prompt cache
    assert not any(b"billing" in body for body in beginnings)


def test_a_session_goes_on(house: House, claude: RunClaude):
    house.local.script(streamed("Noted."), streamed("The tide is at noon."))
    claude("Remember: the tide is at noon.")
    session = claude("When is the tide?", "--continue")
    assert session.result["result"] == "The tide is at noon."
    users = [str(message["content"]) for message in house.told if message["role"] == "user"]
    assert "Remember: the tide is at noon." in users[0] and users[-1].endswith("When is the tide?")


def test_an_error_is_shown(house: House, claude: RunClaude):
    house.local.script(replies.error(500, "out of memory"), repeat=True)
    house.cloud.script(replies.error(500, "out of order"), repeat=True)
    session = claude("What does note.txt say?")
    assert session.result["is_error"] and "out of" in session.result["result"]


def test_a_disconnect_ends_the_call(house: House, command: Callable[..., tuple[list[str], dict[str, Any]]]):
    house.local.script(replies.sse("Once ", replies.HANG, finish=False))
    arguments, options = command("What does note.txt say?")
    with subprocess.Popen(arguments, **options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: house.local.chats, 60, "the request")
        process.terminate()
    wait_until(lambda: house.local.chats[0].hung_up, 5, "the end of the call")


WEATHER = [call("call_b", "weather", {"city": "Bern"}), call("call_r", "weather", {"city": "Rome"}, 1)]


@pytest.mark.parametrize(
    ("scenario", "script"),
    [
        ("create", [said("", *WEATHER), said("Rome.")]),
        ("stream", [streamed({"tool_calls": WEATHER}, finish="tool_calls"), streamed("Rome.")]),
    ],
)
def test_the_package_for_node(house: House, node: Path, tmp_path: Path, scenario: str, script: list):
    house.local.script(*script)
    assert scene(house, node, tmp_path, scenario) == {"steps": 2, "text": "Rome.", "stop": "end_turn"}
    assert [message["content"] for message in house.told if message["role"] == "tool"] == ["4 °C", "19 °C"]


def test_an_error_in_the_package_for_node(house: House, node: Path, tmp_path: Path):
    told = scene(house, node, tmp_path, "failure")
    assert (told["name"], told["status"], told["type"]) == ("BadRequestError", 400, "invalid_request_error")
    assert told["id"].startswith("llr-")


def scene(house: House, node: Path, tmp_path: Path, scenario: str) -> Any:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "BASE_URL": house.router.url}
    command = [node, SCRIPTS / "anthropic.mjs", scenario]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
