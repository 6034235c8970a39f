"""CONTRIBUTING.md's recipes, done in copies of the project: what they name is enough, and nothing breaks."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents import ROOT, Document
from tests.e2e.server import Router, content
from tests.fakes.replies import CLOSE, RESET, Step, error, head, reply, sse

BACKEND = "A backend that speaks the OpenAI API"
REGISTRY = "app/backends/__init__.py"
DONE = yaml.safe_load((ROOT / "tests/recipes.yaml").read_text("utf-8"))
CHECKED = (  # what is run in the copy: the checks that look at more than one place
    "tests/test_house.py", "tests/policy/test_docs.py", "tests/routing/test_classify.py",
    "tests/routing/test_decide.py", "tests/routing/test_detect.py", "tests/policy/test_policy.py",
    "tests/routing/test_explain.py", "tests/cli/test_route.py",
    "tests/metrics/test_replay.py", "tests/storage", "tests/cli/test_doctor_hour.py::test_every_check_is_in_the_table",
    "tests/cli/test_cli.py::test_about", "tests/cli/test_cli.py::test_every_command_is_listed_and_explains_itself",
    "tests/web/test_page.py::test_aliases_have_a_section",
    "tests/test_recipes.py::test_the_policy_knows_the_type",  # it must not mind that the recipe was followed
)  # fmt: skip


def recipe(title: str) -> Document:
    page = Document.read("CONTRIBUTING.md")
    return Document(page.path, page.text.partition(f"### {title}\n")[2].partition("\n##")[0])


def copied(folder: Path) -> Path:
    """The project without what belongs to one machine."""
    unwanted = shutil.ignore_patterns(
        ".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis", "build", "*.db*", "node_modules"
    )
    return shutil.copytree(ROOT, folder / "project", ignore=unwanted)


def with_backend(project: Path) -> Path:
    """Writes the file and the two lines of the recipe for a backend."""
    section = recipe(BACKEND)
    assert "`app/backends/lmstudio.py`" in section.text and f"`{REGISTRY}`" in section.text
    (file,) = section.blocks("python")
    (project / "app/backends/lmstudio.py").write_text(file.text, "utf-8")
    registry = (project / REGISTRY).read_text("utf-8")
    for change in section.blocks("diff"):
        registry = changed(registry, change.text.splitlines())
    (project / REGISTRY).write_text(registry, "utf-8")
    return project


def changed(text: str, diff: list[str]) -> str:
    """`text` with the lines marked + put where the diff has them, unless somebody has followed the recipe already."""
    before = "\n".join(line[1:] for line in diff if not line.startswith("+"))
    behind = "\n".join(line[1:] for line in diff)
    if behind in text:
        return text
    assert text.count(before) == 1, before
    return text.replace(before, behind)


def put(file: Path, change: dict[str, str]) -> None:
    """Makes one change of recipes.yaml."""
    if "text" in change:
        assert not file.exists(), file
        file.parent.mkdir(exist_ok=True)
        file.write_text(change["text"], "utf-8")
        return
    text = file.read_text("utf-8")
    place = change.get("before") or change["behind"]
    assert text.count(place) == 1, f"{place!r} stands {text.count(place)} times in {file}"
    file.write_text(
        text.replace(place, change["add"] + place if "before" in change else place + change["add"]), "utf-8"
    )


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLR_")}
    environ |= {"LLR_POLICY": str(project / "policy.yaml"), "PYTHONPATH": str(project)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=project, env=environ, text=True, capture_output=True, check=False
    )


# --- a backend ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the backend."""
    return with_backend(copied(tmp_path_factory.mktemp("backend")))


def test_the_policy_knows_the_type(project: Path):
    (project / "policy.yaml").write_text("backends: {studio: {type: lmstudio}}\nroutes: [{default: studio}]\n", "utf-8")
    done = run(project, "flask", "policy", "check")
    assert (done.returncode, done.stdout[:9]) == (0, "ok: 1 bac"), done.stderr
    shown = json.loads(run(project, "flask", "policy", "show", "--json").stdout)
    assert shown["backends"]["studio"]["endpoint"] == "http://localhost:1234/v1"
    assert shown["backends"]["studio"]["local"] is True


@pytest.mark.e2e
def test_a_request_goes_through_it(project: Path, upstream, tmp_path: Path):
    up = upstream(models=["qwen3:4b"], text="from the studio")
    backend = {"type": "lmstudio", "endpoint": f"{up.url}/v1", "models": ["qwen3:4b"]}
    policy = {"backends": {"studio": backend}, "routes": [{"default": "studio"}]}
    with Router(policy, folder=tmp_path / "router", root=project) as router:
        answer = router.chat("hello", headers={"X-LLR-Sensitivity": "high"})
        assert (answer.status, answer.text) == (200, "from the studio")
        assert answer.headers["X-LLR-Backend"] == "studio"
        assert up.chats[-1].path == "/v1/chat/completions"
        assert up.chats[-1].model == "qwen3:4b"
        with router.stream("hello") as stream:
            assert content(stream.events()) == "from the studio"
        up.script(error(503))
        assert router.chat("hello").error["message"] == "studio: answered 503: it broke"


# --- all of them together -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which every recipe was followed, each with an example."""
    copy = with_backend(copied(tmp_path_factory.mktemp("all")))
    put(copy / "policy.example.yaml", {"before": "ollama | llamacpp", "add": "lmstudio | "})
    put(copy / "ARCHITECTURE.md", {"before": "ollama.py llamacpp.py", "add": "lmstudio.py "})
    for files in DONE.values():
        for name, changes in files.items():
            for change in changes:
                put(copy / name, change)
    (copy / "docs/policy.md").write_text(run(copy, "flask", "policy", "docs").stdout, "utf-8")  # `make docs`
    return copy


def named(title: str) -> set[str]:
    """The files that a recipe names, in backticks or as links."""
    text = recipe(title).text
    return {*re.findall(r"`([\w./<>-]+\.(?:py|md|yaml|html))`", text), *re.findall(r"\]\(([\w./]+\.md)\)", text)}


@pytest.mark.parametrize("title", DONE)
def test_a_recipe_names_every_file_that_it_changes(title: str):
    changes = {re.sub(r"(?<=/)(about|clock|embeddings|lines|retired|tiny)\b", "<name>", name) for name in DONE[title]}
    assert changes <= named(title)


def test_a_tag_touches_few_files_of_the_program():
    assert len([name for name in DONE["A tag"] if name.startswith("app/")]) <= 6


def test_a_wire_form_is_a_package_and_its_rows_in_the_table():
    program = {name for name in DONE["A wire form"] if name.startswith("app/")}
    assert {name for name in program if not re.match(r"app/(wire|backends)/tiny\b", name)} == {
        "app/types/states.py", "app/wire/__init__.py", REGISTRY,
    }  # fmt: skip


def test_the_copy_is_tidy(all_done: Path):
    for command in (("ruff", "format", "--check", "."), ("ruff", "check", "."), ("mypy",)):
        done = run(all_done, *command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.e2e
def test_the_checks_hold_in_the_copy(all_done: Path):
    done = run(all_done, "pytest", "-q", "-x", *CHECKED)
    assert done.returncode == 0, done.stdout[-6000:]


TINY = {"text": "one two", "end": "stop", "read": 3, "written": 5}
TINY_LINES = b'{"text": "one "}\n{"text": "two", "end": "stop", "read": 3, "written": 5}\n'


def tiny_stream(*steps: Step) -> list[Step]:
    return [head(200, [("Content-Type", "application/jsonl"), ("Connection", "close")]), *steps, CLOSE]


@pytest.mark.e2e
def test_clients_of_every_wire_form_reach_a_backend_of_the_new_one(all_done: Path, upstream, tmp_path: Path):
    up = upstream()
    policy = {"backends": {"toy": {"type": "tiny", "endpoint": up.url, "model": "t"}}, "routes": [{"default": "toy"}]}
    with Router(policy, folder=tmp_path / "router", root=all_done) as router:
        up.script(reply(200, TINY), reply(200, TINY), path="/tiny")
        assert router.chat("hello").text == "one two"
        assert up.requests[-1].json == {"model": "t", "prompt": "hello", "stream": False}
        assert router.post("/v1/responses", {"input": "hello"}).json["output_text"] == "one two"
        up.script(tiny_stream(TINY_LINES), tiny_stream(TINY_LINES), path="/tiny")
        with router.stream("hello") as stream:
            assert content(stream.events()) == "one two"
        streamed = router.post("/v1/responses", {"input": "hello", "stream": True}).body
        assert b"response.completed" in streamed and b'"text":"one two"' in streamed
        up.script(error(503), tiny_stream(TINY_LINES[:17]), tiny_stream(b'{"error": "broken"}\n'), path="/tiny")
        assert router.chat("hello").error["message"] == "toy: answered 503: it broke"
        with router.stream("hello") as stream:
            assert (
                stream.events()[-1]["error"]["message"] == "the backend ended its stream before the answer was complete"
            )
        assert router.chat("hello", stream=True).error["message"] == "toy: answered with an error event: broken"
        rows = [(row["input_tokens"], row["answer_chars"], row["error"]) for row in router.wait_rows(7)]
        assert rows == [(3, 7, None)] * 4 + [
            (None, None, "http_503"),
            (None, 4, "truncated"),
            (None, None, "error_event"),
        ]


@pytest.mark.e2e
def test_the_operation_is_served_with_a_record_and_its_private_requests_stay_local(
    all_done: Path, upstream, tmp_path: Path
):
    up = upstream(models=["m"])
    near = {"type": "vllm", "endpoint": up.url, "models": ["m"], "price": {"input": 1, "output": 0}}
    far = {"type": "openai", "endpoint": f"{up.url}/v1", "models": ["e"], "local": False, "apiKeyEnv": "NO_KEY"}
    policy = {"backends": {"near": near, "far": far}, "routes": [{"default": "near"}]}
    vectors = {"object": "list", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    with Router(policy, folder=tmp_path / "router", root=all_done) as router:
        up.script(reply(200, vectors), error(503), path="/embeddings")
        answer = router.post("/v1/embeddings", {"model": "m", "input": ["hello"]})
        assert (answer.status, answer.json) == (200, vectors)
        assert (up.requests[-1].path, up.requests[-1].json) == ("/v1/embeddings", {"model": "m", "input": ["hello"]})
        assert router.post("/v1/embeddings", {"model": "m", "input": "x"}).error["message"] == (
            "near: answered 503: it broke"
        )
        assert router.post("/v1/embeddings", {"model": "nothing", "input": "x"}).status == 404
        private = router.post("/v1/embeddings", {"model": "far", "input": "x"}, headers={"X-LLR-Sensitivity": "high"})
        assert (private.status, private.error["code"]) == (503, "no_eligible_backend")
        rows = [(row["surface"], row["kind"], row["input_tokens"], row["error"]) for row in router.wait_rows(2)]
        assert rows == [("embeddings", "live", 4, None), ("embeddings", "live", None, "http_503")]


def ask_lines(router: Router, method: str = "POST", key: str = "secret", **members: Any) -> tuple[int, str, str]:
    """Status, Content-Type and text of one request to the surface of the recipe."""
    text = json.dumps({"prompt": "hello", **members})
    answer = router.request(method, "/v1/lines", text.encode(), {"X-Key": key})
    return answer.status, answer.headers["Content-Type"], answer.body.decode()


@pytest.mark.e2e
def test_the_surface_is_served(all_done: Path, upstream, tmp_path: Path):
    """A reply, a stream, and errors: before the stream, in it, at the door and of Flask, all in the surface's form."""
    plain = "text/plain; charset=utf-8"
    up = upstream(models=["m"], text="one two")
    backend = {"type": "ollama", "endpoint": up.url, "models": ["m"]}
    policy = {"backends": {"local": backend}, "routes": [{"default": "local"}]}
    with Router(policy, folder=tmp_path / "router", root=all_done, env={"LLR_API_KEYS": "secret"}) as router:
        assert ask_lines(router) == (200, plain, "one two\n")
        assert ask_lines(router, stream=True) == (200, plain, "one two\n")
        up.script(error(503))
        assert ask_lines(router, stream=True) == (502, plain, "error: local: answered 503: it broke\n")
        up.script(sse("one", RESET, finish=False))
        status, kind, text = ask_lines(router, stream=True)
        assert (status, kind) == (200, plain) and text.startswith("one\nerror: the backend's stream broke")
        assert ask_lines(router, prompt=5) == (400, plain, "error: `prompt` must be a string.\n")
        wrong = "error: Wrong or missing key. Send `X-Key: KEY` with one of the keys in LLR_API_KEYS.\n"
        assert ask_lines(router, key="other") == (401, plain, wrong)
        assert ask_lines(router, method="GET") == (405, plain, "error: Wrong method: this URL takes POST.\n")
        rows = [(row["surface"], row["outcome"]) for row in router.wait_rows(4)]
        assert rows == [("lines", "ok")] * 2 + [("lines", "error")] * 2


def test_what_the_recipes_made_is_there(all_done: Path):
    (all_done / "policy.yaml").write_text(
        "backends: {studio: {type: lmstudio}, parrot: {type: echo}}\n"
        "routes: [{match: {length: long}, backend: parrot}, {default: studio}]\n",
        "utf-8",
    )
    found: dict[str, Any] = json.loads(run(all_done, "flask", "route", "explain", "--json", "word " * 5000).stdout)
    assert (found["classification"]["length"], found["route"]) == ("long", "length=long")
    assert json.loads(run(all_done, "flask", "about", "--json").stdout)["python"] == platform.python_version()
    assert "| `lmstudio` | http://localhost:1234/v1 |" in (all_done / "docs/policy.md").read_text("utf-8")
