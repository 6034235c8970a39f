"""CONTRIBUTING.md's recipe for a new backend, followed to the letter in a copy of the project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, Document
from tests.e2e.server import Router, content
from tests.fakes.replies import error

RECIPE = "### A backend that speaks the OpenAI API"
REGISTRY = "app/backends/__init__.py"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The copy, with the file and the two lines that the recipe says."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("wsgi.py", "gunicorn.conf.py", "pyproject.toml", "docs", "policy.example.yaml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    shutil.copytree(ROOT / "app", copy / "app", ignore=shutil.ignore_patterns("__pycache__"))
    page = Document.read("CONTRIBUTING.md")
    section = Document(page.path, page.text.partition(RECIPE)[2].partition("\n### ")[0])
    assert "`app/backends/lmstudio.py`" in section.text and f"`{REGISTRY}`" in section.text
    (file,) = section.blocks("python")
    (copy / "app/backends/lmstudio.py").write_text(file.text, "utf-8")
    registry = (copy / REGISTRY).read_text("utf-8")
    for change in section.blocks("diff"):
        registry = changed(registry, change.text.splitlines())
    (copy / REGISTRY).write_text(registry, "utf-8")
    return copy


def changed(text: str, diff: list[str]) -> str:
    """`text` with the lines marked + put where the diff has them."""
    before = "\n".join(line[1:] for line in diff if not line.startswith("+"))
    assert text.count(before) == 1, before
    return text.replace(before, "\n".join(line[1:] for line in diff))


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLR_")}
    environ |= {"LLR_POLICY": str(project / "policy.yaml"), "PYTHONPATH": str(project)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=project, env=environ, text=True, capture_output=True, check=False
    )


def test_the_policy_knows_the_type(project: Path):
    (project / "policy.yaml").write_text("backends: {studio: {type: lmstudio}}\nroutes: [{default: studio}]\n", "utf-8")
    done = run(project, "flask", "policy", "check")
    assert (done.returncode, done.stdout[:9]) == (0, "ok: 1 bac"), done.stderr
    shown = json.loads(run(project, "flask", "policy", "show", "--json").stdout)
    assert shown["backends"]["studio"]["endpoint"] == "http://localhost:1234/v1"
    assert shown["backends"]["studio"]["local"] is True


def test_it_is_as_tidy_as_the_recipe_says(project: Path):
    """Style and imports; the generated reference gets its line by `make docs`."""
    for command in (("ruff", "format", "--check", "app"), ("ruff", "check", "app"), ("mypy", "app")):
        done = run(project, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "| `lmstudio` | http://localhost:1234/v1 | - | - | if private |"
        in run(project, "flask", "policy", "docs").stdout
    )


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
