"""Every command, its good and its bad path, as a person runs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from click.testing import Result

from app import create_app, policy
from app.cli import surroundings
from app.metrics import rollup
from app.metrics import window as windows
from app.metrics.store import Store
from app.policy.docs import reference
from app.settings import Settings
from app.words import utc
from tests import build
from tests.fakes.ollama import Model, Ollama
from tests.fakes.replies import reply
from tests.fakes.upstream import Upstream, refused_url

POLICY = """\
backends:
  parrot: {type: echo}
  cloud: {type: openai, model: gpt, apiKeyEnv: CLOUD_KEY}
routes:
  - match: {sensitivity: high}
    backend: parrot
    reason: stays here
  - match: {task: code}
    backend: parrot
    fallback: cloud
  - default: parrot
ab: {candidates: {parrot: cloud}}
"""
BAD = POLICY.replace("backend: parrot", "backend: parot", 1)
BAD_LINE = (
    "policy.yaml:6: routes[0].backend: no backend is called 'parot' (did you mean parrot?); name one of parrot, cloud"
)

Run = Callable[..., Result]
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "SARMALINK_API_KEY", "CLOUD_KEY", "OLLAMA_HOST")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("policy", "check")` in an empty folder, as `flask policy check`."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LLR_") or name in KEYS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    monkeypatch.setenv("LLR_LOG_LEVEL", "error")
    monkeypatch.setattr(surroundings, "LOCAL_SERVERS", ())  # whatever else runs on this machine

    def invoke(*arguments: str, text: str | None = None) -> Result:
        result = create_app().test_cli_runner().invoke(args=arguments, input=text)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


@pytest.fixture
def good(run: Run, tmp_path: Path) -> Run:
    (tmp_path / "policy.yaml").write_text(POLICY)
    return run


@pytest.fixture
def bad(run: Run, tmp_path: Path) -> Run:
    (tmp_path / "policy.yaml").write_text(BAD)
    return run


# --- init ---------------------------------------------------------------------------------------


def written(folder: Path) -> policy.Loaded:
    return policy.load((folder / "policy.yaml").read_text("utf-8"), "policy.yaml", Settings())


KEPT = [
    "  Private prompts never leave: those with the header X-LLR-Sensitivity: high,",
    "  and those in which a detector finds a secret (`sensitivity`).",
]


def test_init_without_any_model_writes_the_echo(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_url() as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        result = run("init")
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            f"no Ollama: connection refused at {url} (is Ollama running?)",
            "wrote policy.yaml with the backend echo",
            "  Prompts go to echo.",
            "  No prompt leaves your network: the policy has no hosted backend.",
            *KEPT,
            "`echo` is no model: it repeats the prompt.",
            "Next step: install Ollama, run `ollama pull llama3.2`, delete that file and run this again.",
            "`make demo` runs the router with a small real model, which it installs itself (220 MB).",
        ],
    )
    loaded = written(tmp_path)
    assert loaded.warnings == ()
    assert [config.type for config in loaded.policy.backends.values()] == ["echo"]
    assert [(route.label, route.backend) for route in loaded.policy.routes] == [
        ("sensitivity=high", "echo"),
        ("default", "echo"),
    ]
    assert "no model" in (tmp_path / "policy.yaml").read_text()
    assert run("policy", "check").exit_code == 0


def test_init_uses_the_models_that_ollama_holds(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upstream: Callable[..., Upstream]
) -> None:
    held = ["nomic-embed-text:latest", "gpt-oss:120b-cloud", "llava:7b", "qwen2.5-coder:7b", "llama3.2:3b", "phi4:14b"]
    server = upstream(models=held)
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-something")
    result = run("init")
    assert result.output.splitlines() == [
        f"Ollama at {server.url} has 6 models",
        "wrote policy.yaml with the backends local, openai",
        "  Prompts go to local first; when it fails, to openai.",
        "  OPENAI_API_KEY is set, so openai is a backend. Its calls cost money.",
        "  A prompt leaves your network when a client asks local for gpt-oss:120b-cloud",
        "  (it runs at its maker's cloud).",
        "  These prompts leave your network, for api.openai.com: hard prompts",
        "  (`difficulty` of 0.65 or more); prompts that local fails on.",
        "  To keep all prompts here, remove openai from `backends`, `routes` and",
        "  `aliases`.",
        *KEPT,
    ]
    rules = written(tmp_path).policy
    assert list(rules.backends) == ["local", "openai"]
    local = rules.backends["local"]
    assert (local.type, local.endpoint, local.models) == ("ollama", server.url, ("llama3.2:3b",))
    assert local.families == {"gemma": "llava:7b", "qwen-coder": "qwen2.5-coder:7b", "llama": "llama3.2:3b"}
    assert [(route.label, route.backend, route.fallbacks) for route in rules.routes] == [
        ("sensitivity=high", "local", ()),
        ("purpose=background", "local", ()),
        ("difficulty=0.65..", "openai", ("local",)),
        ("default", "local", ("openai",)),
    ]
    said = " ".join((tmp_path / "policy.yaml").read_text("utf-8").replace("\n#", "").split())
    assert (
        "leave your network, for api.openai.com: hard prompts (`difficulty` of 0.65 or more); prompts that local"
        in said
    )
    assert "sk-something" not in (tmp_path / "policy.yaml").read_text()
    asked = {request.path for request in server.requests}
    assert asked == {"/api/tags", "/api/ps", "/api/show"}, "nothing is loaded"
    report = json.loads(run("policy", "show", "--json").stdout)
    assert report["backends"]["local"]["price"] == {"input": 0, "output": 0}


def test_init_with_keys_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-something")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "third")
    monkeypatch.setenv("SARMALINK_API_KEY", "other")
    with refused_url() as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        assert run("init").exit_code == 0
    rules = written(tmp_path).policy
    assert list(rules.backends) == ["openai", "anthropic", "sarmalink"]
    assert [(route.label, route.backend, route.fallbacks) for route in rules.routes] == [
        ("default", "openai", ("anthropic", "sarmalink"))
    ]


def a_file(path: Path) -> None:
    path.write_text("mine")


def an_empty_file(path: Path) -> None:
    path.touch()


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [a_file, an_empty_file, a_folder])
def test_init_never_overwrites(run: Run, tmp_path: Path, make: Callable[[Path], None]) -> None:
    file = tmp_path / "policy.yaml"
    make(file)
    before = file.read_bytes() if file.is_file() else None
    result = run("init")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: policy.yaml exists already and was not touched. Delete it first to write a new one.\n"
    )
    assert (file.read_bytes() if file.is_file() else None) == before


def test_init_does_not_write_through_a_link_that_leads_nowhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    with refused_url() as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        assert run("init").exit_code == 1
    assert not (tmp_path / "elsewhere.yaml").exists()


def test_init_writes_where_the_variable_says(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_url() as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        monkeypatch.setenv("LLR_POLICY", "no/such/folder.yaml")
        result = run("init")
        assert (result.exit_code, result.stderr) == (
            1,
            "Error: no/such/folder.yaml cannot be written: No such file or directory. "
            "Name another file in LLR_POLICY, or create the folder no/such\n",
        )
        monkeypatch.setenv("LLR_POLICY", "mine.yaml")
        assert "wrote mine.yaml with the backend echo" in run("init").output.splitlines()
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.yaml"]


def test_init_names_a_wrong_variable(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLR_PORT", "http")
    result = run("init")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: environment: LLR_PORT: must be a whole number from 1 to 65535\n",
    )
    assert list(tmp_path.iterdir()) == []


# --- policy -------------------------------------------------------------------------------------


def test_policy_check_of_a_good_file(good: Run, tmp_path: Path) -> None:
    version = written(tmp_path).policy.version
    said = f"ok: 2 backends, 3 routes, policy version {version}\n"
    assert (good("policy", "check").output, good("policy", "check").exit_code) == (said, 0)
    assert good("policy", "check", "policy.yaml").output == said
    assert good("policy", "check", "-", text=POLICY).output == said


def test_policy_check_of_a_bad_file(bad: Run) -> None:
    for arguments, name in (([], "./policy.yaml"), (["policy.yaml"], "policy.yaml"), (["-"], "./policy.yaml")):
        result = bad("policy", "check", *arguments, text=BAD)
        assert (result.exit_code, result.stdout) == (1, "")
        said = BAD_LINE.replace("policy.yaml", name)
        assert result.stderr == f"Error: the policy has problems\n{said}\n"


def test_policy_check_without_a_file(run: Run) -> None:
    result = run("policy", "check", "nowhere.yaml")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == ["nowhere.yaml: no such file; name a file that exists"]
    assert "`flask init` writes a first policy" in run("policy", "check").stderr


def test_policy_check_warns(run: Run, tmp_path: Path) -> None:
    text = POLICY.replace("{type: echo}", '{type: ollama, endpoint: "http://no-such-host.invalid"}')
    (tmp_path / "policy.yaml").write_text(text)
    result = run("policy", "check")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: ./policy.yaml:6: routes[0].backend: 'parrot' counts as not local for now: no-such-host.invalid does "
        "not resolve yet\n"
    )


def test_policy_show_names_the_members_of_pools(good: Run, tmp_path: Path) -> None:
    text = (tmp_path / "policy.yaml").read_text("utf-8")
    pools = {
        "both": {"members": ["parrot", "cloud"]},
        "trial": {"members": ["parrot", "cloud"], "weights": {"parrot": 9}},
    }
    (tmp_path / "policy.yaml").write_text(f"{text}\npools: {json.dumps(pools)}\n", "utf-8")
    assert good("policy", "check").output.startswith("ok: 2 backends, 2 pools, 3 routes, ")
    output = good("policy", "show").output
    assert "pool   members\nboth   parrot cloud\ntrial  parrot (9) cloud (1)\n" in output


def test_policy_show(good: Run, tmp_path: Path) -> None:
    lines = good("policy", "show").output.splitlines()
    assert lines == [
        f"policy version {written(tmp_path).policy.version}",
        "",
        "backend  type    endpoint                   models",
        "parrot   echo    http://localhost           echo",
        "cloud    openai  https://api.openai.com/v1  gpt",
        "",
        "route             targets         reason",
        "sensitivity=high  parrot          stays here",
        "task=code         parrot > cloud",
        "default           parrot",
    ]
    document = json.loads(good("policy", "show", "--json").output)
    assert document["backends"]["cloud"]["api_key_env"] == "CLOUD_KEY"
    assert [route["label"] for route in document["routes"]] == ["sensitivity=high", "task=code", "default"]


def test_policy_docs(run: Run) -> None:
    assert run("policy", "docs").output == reference()


NEED_A_POLICY = [
    ["policy", "show"],
    ["route", "explain", "hi"],
    ["backends", "list"],
    ["backends", "probe"],
    ["metrics", "summary"],
    ["metrics", "prune"],
    ["ab", "report"],
    ["egress"],
    ["verify", "report"],
]


@pytest.mark.parametrize("command", NEED_A_POLICY, ids=" ".join)
def test_a_command_that_needs_a_policy_says_what_is_wrong_with_it(run: Run, tmp_path: Path, command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: ./policy.yaml: no such file. `flask init` writes a first policy; LLR_POLICY names another\n"
    )
    (tmp_path / "policy.yaml").write_text(BAD)
    result = run(*command)
    assert (result.exit_code, result.stderr) == (1, f"Error: ./{BAD_LINE}\n")


# --- route --------------------------------------------------------------------------------------


def test_route_explain(good: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")  # narrower ones fold the lines
    lines = good("route", "explain", "write a python function to reverse a string").output.splitlines()
    assert lines[0].startswith("task        code, confidence ")
    assert lines[2].startswith("complexity  low, difficulty ")
    assert lines[4].startswith("tags        sensitivity=normal  modality=text  family=qwen-coder  tokens=")
    assert lines[5:] == [
        "route       task=code",
        "targets     parrot/echo, then cloud/gpt",
        "  match     sensitivity=high: no, sensitivity is normal",
        "  match     task=code: yes",
        "  privacy   not private: every target may be used",
        "  model     parrot: echo",
        "  model     cloud: gpt",
        "first       parrot/echo, local, time unknown, cost unknown",
        "            no request is sent: this backend is a part of the router",
        "then        cloud/gpt, NOT LOCAL, time unknown, cost unknown",
        "            POST https://api.openai.com/v1/chat/completions",
        "            104 bytes, unchanged except for the model; CLOUD_KEY is not set: the call would fail",
    ]
    assert not (tmp_path / "metrics.db").exists(), "nothing is called or written"


def test_route_explain_decides_by_what_was_measured(run: Run, tmp_path: Path) -> None:
    """As the running router does."""
    (tmp_path / "policy.yaml").write_text(
        "backends:\n  e: {type: echo, model: m}\n  f: {type: echo, model: m, p50Ms: 100}\n"
        "routes: [{default: e, latencyBudgetMs: 500, fallback: [f]}]\n"
    )
    explain = ("route", "explain", "hi", "--json")
    assert [target["backend"] for target in json.loads(run(*explain).output)["targets"]] == ["e", "f"]
    store = Store(str(tmp_path / "metrics.db"))
    now = int(time.time() * 1000)
    store.write([build.record(backend="e", ts_ms=now, latency_ms=800, request_id=f"r{n}") for n in range(9)])
    store.close()
    found = json.loads(run(*explain).output)
    assert [target["backend"] for target in found["targets"]] == ["f", "e"]
    assert found["calls"][1]["expected_ms"] == 800


def test_route_explain_as_json(good: Run) -> None:
    document = json.loads(good("route", "explain", "hi", "--sensitivity", "high", "--json").output)
    assert list(document) == [
        "classification", "evidence", "route", "targets", "trace", "calls", "mirrors", "verify", "never",
        "sensitivity_reason",
        "conversation",
    ]  # fmt: skip
    assert (document["route"], document["targets"]) == ("sensitivity=high", [{"backend": "parrot", "model": "echo"}])


def test_route_explain_that_finds_no_backend(good: Run, tmp_path: Path) -> None:
    misspelt = good("route", "explain", "hi", "--model", " clodu ")
    assert (misspelt.exit_code, misspelt.stderr[:64]) == (
        1, "Error: No model here is called 'clodu'; did you mean 'cloud'? GE"
    )  # fmt: skip
    (tmp_path / "policy.yaml").write_text("backends: {cloud: {type: sarmalink}}\nroutes: [default: cloud]")
    result = good("route", "explain", "hi", "--sensitivity", "high", "--model", " cloud ")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "Error: The request is private (because of the header X-LLR-Sensitivity), the model that it names, 'cloud',"
    )


@pytest.mark.parametrize(
    "arguments", [["route", "explain"], ["route", "explain", "hi", "--sensitivity", "low"], ["route", "explian", "hi"]]
)
def test_route_explain_used_wrongly(good: Run, arguments: list[str]) -> None:
    result = good(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_route_classify(good: Run, tmp_path: Path) -> None:
    lines = ['{"text": "write a python function", "id": 7}', "", '{"messages": [{"role": "user", "content": "hi"}]}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    for source, text in (("in.jsonl", None), ("-", "\n".join(lines))):
        result = good("route", "classify", "--jsonl", source, text=text)
        assert result.exit_code == 0
        (first, second) = [json.loads(line) for line in result.stdout.splitlines()]
        assert (first["task"], first["text"], first["id"]) == ("code", "write a python function", 7)
        assert (second["task"], second["messages"]) == ("general", [{"role": "user", "content": "hi"}])


def test_route_classify_names_bad_lines_and_goes_on(run: Run) -> None:
    result = run("route", "classify", "--jsonl", "-", text='{"text": 5}\n{"text": "hi"}\n{\n[]\n')
    assert result.exit_code == 1
    assert json.loads(result.stdout)["task"] == "general"
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["line 1", "line 3", "line 4"]


def test_route_classify_without_a_policy_needs_none_but_a_wrong_one_is_told(run: Run, tmp_path: Path) -> None:
    assert run("route", "classify", "--jsonl", "-", text='{"text": "hi"}').exit_code == 0
    (tmp_path / "policy.yaml").write_text(BAD)
    result = run("route", "classify", "--jsonl", "-", text='{"text": "hi"}')
    assert (result.exit_code, result.stderr) == (1, f"Error: ./{BAD_LINE}\n")
    assert run("route", "classify", "--jsonl", "nowhere.jsonl").exit_code == 2


# --- backends -----------------------------------------------------------------------------------


def test_backends_list(good: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert good("backends", "list").output.splitlines() == [
        "backend  type    endpoint                   local  key",
        "parrot   echo    http://localhost           yes    none needed",
        "cloud    openai  https://api.openai.com/v1  no     NOT SET",
    ]
    monkeypatch.setenv("CLOUD_KEY", "sk-secret")
    (parrot, cloud) = json.loads(good("backends", "list", "--json").output)
    assert (parrot["local"], parrot["key"]) == (True, "none needed")
    assert (cloud["local"], cloud["key"]) == (False, "set")


def test_backends_list_names_the_models_that_run_elsewhere(
    run: Run, tmp_path: Path, upstream: Callable[..., Upstream]
) -> None:
    server = upstream(models=["a:1", "b:1"], remote={"b:1": "https://ollama.com:443"})
    (tmp_path / "policy.yaml").write_text(
        f"backends:\n  home: {{type: ollama, endpoint: '{server.url}'}}\n"
        f"  away: {{type: ollama, endpoint: '{server.url}', local: false}}\n"
        "  down: {type: ollama, endpoint: 'http://127.0.0.1:9'}\nroutes: [default: home]\n"
    )
    result = run("backends", "list")
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "home: b:1 runs at ollama.com:443: it is not local"
    rows = json.loads(run("backends", "list", "--json").output)
    assert [(row["backend"], row["local"], row["remote_models"]) for row in rows] == [
        ("home", True, {"b:1": "ollama.com:443"}),
        ("away", False, {}),
        ("down", True, {}),
    ]
    (home, *_) = json.loads(run("backends", "probe", "--json").output)
    assert home["answer"] == "2 models, 1 run at another host"


def test_backends_list_shows_the_models_of_a_server(run: Run, tmp_path: Path) -> None:
    models = [
        Model("llama3.1:8b", on_gpu=0.62, size_bytes=5_200_000_000),
        Model("gemma3:12b", capabilities=("completion", "vision"), num_ctx=16384),
    ]
    with Ollama(models) as server:
        load = Request(f"{server.url}/api/generate", data=b'{"model": "llama3.1:8b", "keep_alive": "150s"}')
        urlopen(load).read()
        (tmp_path / "policy.yaml").write_text(
            f"backends:\n  home: {{type: ollama, endpoint: '{server.url}', model: 'gemma3:12b'}}\n"
            "  down: {type: ollama, endpoint: 'http://127.0.0.1:9'}\nroutes: [default: home]\n"
        )
        lines = run("backends", "list").output.splitlines()
        (home, down) = json.loads(run("backends", "list", "--json").output)
    assert lines[4:8] == [
        "home:",
        "model        loaded  window  GPU  expires   can use",
        "llama3.1:8b  yes       4096  62%  in 2 min  tools",
        "gemma3:12b   no       16384    -  -         vision",
    ]
    assert lines[-1] == "down: connection refused at http://127.0.0.1:9 (is Ollama running?)"
    first, second = home["models"]
    assert 0 < first.pop("expires_in_s") <= 150
    assert first == {
        "model": "llama3.1:8b", "loaded": True, "window": 4096, "trained": 131072, "size_bytes": 5_200_000_000,
        "gpu_share": 0.62, "capabilities": ["completion", "tools"],
    }  # fmt: skip
    assert (second["model"], second["loaded"], second["window"], second["gpu_share"]) == (
        "gemma3:12b",
        False,
        16384,
        None,
    )
    assert (home["more_models"], home["error"]) == (0, None)
    assert (down["models"], down["error"]) == ([], lines[-1].removeprefix("down: "))


def test_backends_list_of_ten_thousand_models_is_short(
    run: Run, tmp_path: Path, upstream: Callable[..., Upstream]
) -> None:
    server = upstream(models=[f"m{number}:1b" for number in range(10_000)])
    tags = [{"name": f"m{number}:1b", "size": 5} for number in range(10_000)]
    server.script(reply(200, {"models": tags}), path="/api/tags", repeat=True)
    (tmp_path / "policy.yaml").write_text(
        f"backends:\n  home: {{type: ollama, endpoint: '{server.url}', model: 'm9999:1b'}}\nroutes: [default: home]\n"
    )
    lines = run("backends", "list").output.splitlines()
    assert len(lines) < 60 and lines[-1] == "and 9950 other models"
    assert lines[5].startswith("m9999:1b ")
    (home,) = json.loads(run("backends", "list", "--json").output)
    assert (len(home["models"]), home["more_models"]) == (50, 9950)


def test_backends_probe(run: Run, tmp_path: Path, upstream: Callable[..., Upstream]) -> None:
    server = upstream(models=["a", "b", "c"])
    (tmp_path / "policy.yaml").write_text(
        f"backends:\n  home: {{type: ollama, endpoint: '{server.url}'}}\n  parrot: {{type: echo}}\n"
        "routes: [default: home]\n"
    )
    result = run("backends", "probe")
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.output.splitlines()] == [
        ["backend", "ok"],
        ["home", "yes"],
        ["parrot", "yes"],
    ]
    (home, parrot) = json.loads(run("backends", "probe", "--json").output)
    assert (home["ok"], home["answer"], parrot["answer"]) == (True, "3 models", "1 model")


def test_backends_probe_of_one_that_is_down(run: Run, tmp_path: Path) -> None:
    with refused_url() as url:
        (tmp_path / "policy.yaml").write_text(
            f"backends:\n  home: {{type: ollama, endpoint: '{url}'}}\n  cloud: {{type: openai, model: m}}\n"
            "routes: [default: home]\n"
        )
        result = run("backends", "probe", "--json")
    assert result.exit_code == 1
    assert [(row["backend"], row["ok"], row["answer"]) for row in json.loads(result.output)] == [
        ("home", False, f"connection refused at {url} (is Ollama running?)"),
        ("cloud", False, "OPENAI_API_KEY is not set"),
    ]


# --- metrics and ab -----------------------------------------------------------------------------


def fill(file: Path) -> None:
    now = int(time.time() * 1000)
    store = Store(str(file))
    store.write(
        [
            build.record(backend="parrot", ts_ms=now, latency_ms=100, input_tokens=5, output_tokens=7, cost_usd=0.5),
            build.record(
                backend="parrot", ts_ms=now, latency_ms=300, outcome="error", error="timeout", route="task=code"
            ),
            build.record(backend="cloud", ts_ms=now, kind="shadow", latency_ms=50),
            *[build.record(backend="cloud", ts_ms=now - 40 * 86_400_000, latency_ms=50) for _ in range(1500)],
            build.record(backend="cloud", ts_ms=now - 2 * 86_400_000, latency_ms=50),
            build.record(backend="parrot", ts_ms=now, latency_ms=200),
        ]
    )
    store.close()


def source_line(since_ms: int) -> str:
    """The first line of every report."""
    return f"./metrics.db: rows since {utc(since_ms)}"


def test_metrics_summary(good: Run, tmp_path: Path) -> None:
    fill(tmp_path / "metrics.db")
    assert good("metrics", "summary").output.splitlines() == [
        source_line(first_row(tmp_path / "metrics.db")),
        "",
        "backend  calls  success  fallb.  p50 ms  p95 ms  tok in  tok out  USD",
        "cloud        0        -       0       -       -       0        0    -",
        "parrot       3    66.7%       0     200     300       5        7  0.5",
        "",
        "route      calls  success  fallb.  p50 ms  p95 ms  tok in  tok out  USD",
        "default        2   100.0%       0     100     200       5        7  0.5",
        "task=code      1     0.0%       0     300     300       0        0    0",
        "",
        "3 requests in 24 hours: 100.0% answered locally, 0.0% spilled",
    ]
    document = json.loads(good("metrics", "summary", "--json", "--since", "72h").output)
    assert document["window_hours"] == 72
    assert [(entry["backend"], entry["calls"]) for entry in document["backends"]] == [("cloud", 1), ("parrot", 3)]


def test_metrics_summary_shows_the_models_of_a_running_router(good: Run, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "metrics.db"))
    now = int(time.time() * 1000)
    waits = [build.record(backend="parrot", ts_ms=now, wait_ms=ms, load_ms=2 * ms) for ms in (1000, 2400, 9000)]
    store.write(waits)
    store.report_worker("host:1", now, build.worker_report("parrot"))
    store.report_worker("host:2", now - 60_000, build.worker_report("parrot", model="of a dead worker"))
    store.close()
    lines = good("metrics", "summary").output.splitlines()
    assert lines[-6:] == [
        "model now           loaded  window  loads  evicted  wait ms  load ms  warm ms",
        "parrot/llama3.1:8b  yes       4096      7        6     4900        0      180",
        "",
        "3 requests in 24 hours: 100.0% answered locally, 0.0% spilled",
        "3 calls waited for a place, in the median 2.4 s",
        "3 calls waited for a load, in the median 4.8 s",
    ]
    document = json.loads(good("metrics", "summary", "--json").output)
    (server,) = [one for one in document["servers"] if one["models"]]
    assert (server["backend"], [model["loads"] for model in server["models"]]) == ("parrot", [7])


def test_small_savings_are_no_zero(run: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(
        "backends:\n  e: {type: echo, price: {input: 0, output: 0}}\n"
        "  far: {type: openai, model: m, price: {input: 2, output: 10}}\n"
        "routes: [default: e]\nsavings: {against: far}\n"
    )
    store = Store(str(tmp_path / "metrics.db"))
    now = int(time.time() * 1000)
    store.write([build.record(backend="e", ts_ms=now, input_tokens=1000, output_tokens=100, cost_usd=0)])
    store.close()
    assert run("metrics", "summary").output.splitlines()[-1] == "saved 0.003 USD against far"


def test_metrics_summary_counts_refusals(good: Run, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "metrics.db"))
    begin = int(time.time()) // 600 * 600
    store.write([], refusals={(begin, "bad_request"): 1, (begin, "invalid_api_key"): 3})
    line = "4 requests refused before any call: 3 invalid_api_key, 1 bad_request"
    assert good("metrics", "summary").output.splitlines()[1:] == [line]
    store.close()
    fill(tmp_path / "metrics.db")
    assert good("metrics", "summary").output.splitlines()[-1] == line
    assert json.loads(good("metrics", "summary", "--json").output)["refusals"] == {
        "invalid_api_key": 3,
        "bad_request": 1,
    }


def ask(file: Path, sql: str) -> int:
    with contextlib.closing(sqlite3.connect(file)) as database:
        return int(database.execute(sql).fetchone()[0])


def rows(file: Path) -> int:
    return ask(file, "SELECT count(*) FROM metrics")


def first_row(file: Path) -> int:
    return ask(file, "SELECT min(ts) FROM metrics")


def test_metrics_prune(good: Run, tmp_path: Path) -> None:
    fill(tmp_path / "metrics.db")
    for arguments, said, left in (
        ([], "deleted 1500 rows older than 30 days", 5),
        (["--days", "1"], "deleted 1 row older than 1 day", 4),
        (["--days", "1"], "deleted 0 rows older than 1 day", 4),
    ):
        result = good("metrics", "prune", *arguments)
        line = source_line(first_row(tmp_path / "metrics.db"))
        assert (result.exit_code, result.stdout) == (0, f"{line}\n{said}\n")
        assert rows(tmp_path / "metrics.db") == left


def test_a_database_that_nobody_summed_up(good: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older version, or another program, wrote its rows."""
    fill(tmp_path / "metrics.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.db")) as database, database:
        database.execute("DELETE FROM llr_sums")
        database.execute("DELETE FROM llr_state WHERE name = 'rolled_to'")
        database.execute("INSERT INTO llr_state VALUES ('rolled_to', 0)")
    with monkeypatch.context() as patch:
        patch.setattr(windows, "_EXACT_ROWS", 10)
        patch.setattr(rollup, "_FRESH_ROWS", 10)
        reports = [
            good(*command, "--since", "60d").stdout for command in (("metrics", "summary"), ("verify", "report"))
        ]
    for report in reports:
        assert "the numbers hold 0.7% of the calls, those since " in " ".join(report.split())
    assert good("metrics", "prune").exit_code == 0
    assert rows(tmp_path / "metrics.db") == 5


@pytest.mark.parametrize("days", ["0", "-3", "x", "nan", "inf", "1e300"])
def test_metrics_prune_of_a_wrong_number_of_days_deletes_nothing(good: Run, tmp_path: Path, days: str) -> None:
    fill(tmp_path / "metrics.db")
    assert good("metrics", "prune", "--days", days).exit_code == 2
    assert rows(tmp_path / "metrics.db") == 1505


def test_ab_report(good: Run, tmp_path: Path) -> None:
    fill(tmp_path / "metrics.db")
    store, now = Store(str(tmp_path / "metrics.db")), int(time.time() * 1000)
    answer = {"request_id": "a", "ts_ms": now, "finish": "stop", "answer_chars": 10}
    cut = {"finish": "length", "answer_chars": 0, "latency_ms": 50, "kind": "shadow", "live_ts_ms": now}
    store.write(
        [
            build.record(**{**answer, "backend": "parrot", "latency_ms": 400}),
            build.record(**{**answer, "backend": "cloud", **cut}),
        ]
    )
    store.close()
    assert good("ab", "report").output.splitlines() == [
        source_line(first_row(tmp_path / "metrics.db")),
        "the trial is off: `ab.enabled` is false in the policy",
        "",
        "           backend  success  avg ms  p95 ms   empty     cut  refused",
        "primary    parrot    100.0%     300     400    0.0%    0.0%     0.0%",
        "candidate  cloud     100.0%      50      50  100.0%  100.0%     0.0%",
        "the candidate got 2 requests; both backends succeeded on 2",
        "the candidate's replies are 0 times as long",
        "recommendation: insufficient-data, 18 more samples needed",
        "- parrot is type echo, which is no model: it repeats what it is told",
    ]
    document = json.loads(good("ab", "report", "--json").output)
    assert document["enabled"] is False
    assert document["pairs"][0]["recommendation"] == "insufficient-data"
    assert document["pairs"][0]["candidateCutShare"] == 1


def test_ab_report_on_judged_answers(good: Run, tmp_path: Path) -> None:
    fill(tmp_path / "metrics.db")
    store, now = Store(str(tmp_path / "metrics.db")), int(time.time() * 1000)
    known = {"kind": "shadow", "backend": "cloud", "live_ts_ms": now, "ts_ms": now}
    for number in range(40):
        verdict = {"doubt": 0.2, "live_doubt": 0.5, "agreement": number % 2 * 0.9}
        store.write(
            [
                build.record(request_id=f"j{number}", backend="parrot", ts_ms=now),
                build.record(request_id=f"j{number}", **known, **verdict),
            ]
        )
    store.close()
    lines = good("ab", "report").output.splitlines()
    assert "judged on 40 requests: doubt 0.20, primary 0.50, agreement 0.45" in lines
    (bounds,) = (line for line in lines if line.startswith("difference of the doubts: -0."))
    assert bounds.endswith("; at most +0.02 is no worse")
    quality = json.loads(good("ab", "report", "--json").output)["pairs"][0]["quality"]
    assert (quality["n"], quality["doubt"], quality["primaryDoubt"]) == (40, 0.2, 0.5)
    assert quality["difference"][0] < -0.3 < quality["difference"][1] < 0


def test_ab_report_without_a_trial(run: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("backends: {e: {type: echo}}\nroutes: [default: e]\n")
    fill(tmp_path / "metrics.db")
    assert run("ab", "report").output.splitlines()[1].startswith("no trial: the policy names no `ab.candidates`")


def test_egress(good: Run, tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    store = Store(str(tmp_path / "metrics.db"))
    away = {"backend": "cloud", "destination": "api.example:443", "sent_bytes": 321, "model": "gpt"}
    store.write(
        [
            build.record(ts_ms=now),
            build.record(ts_ms=now - 7_200_000, reason="pin", **away),
            build.record(ts_ms=now, reason="fallback", **away),
        ]
    )
    store.close()
    first, *sums, _, title, pin, fallback = good("egress").output.splitlines()
    assert first == source_line(now - 7_200_000)
    assert sums == [
        "by destination",
        "  api.example:443: 2 calls, 642 bytes sent",
        "by reason",
        "  pin: 1 call, 321 bytes sent",
        "  fallback: 1 call, 321 bytes sent",
        "  in all: 2 calls, 642 bytes sent",
    ]
    assert title.split() == ["UTC", "destination", "model", "route", "reason", "bytes"]
    assert pin.split()[2:] == ["api.example:443", "gpt", "default", "pin", "321"]
    assert fallback.split()[2:] == ["api.example:443", "gpt", "default", "fallback", "321"]
    assert "  api.example:443: 1 call, 321 bytes sent\n" in good("egress", "--since", "60m").output
    document = json.loads(good("egress", "--json").output)
    assert document["total"] == {"calls": 2, "sent_bytes": 642}
    assert document["destinations"] == {"api.example:443": {"calls": 2, "sent_bytes": 642}}
    assert document["reasons"] == {name: {"calls": 1, "sent_bytes": 321} for name in ("pin", "fallback")}
    assert [call["reason"] for call in document["calls"]] == ["pin", "fallback"]


def test_a_long_ledger_is_summed_up_and_its_latest_calls_are_listed(good: Run, tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    store = Store(str(tmp_path / "metrics.db"))
    away = {"backend": "cloud", "destination": "api.example:443", "model": "gpt"}
    store.write([build.record(ts_ms=now - 1200 + n, sent_bytes=n, **away) for n in range(1200)])
    store.close()
    lines = good("egress").output.splitlines()
    assert lines[2] == "  api.example:443: 1200 calls, 719400 bytes sent"
    assert "the latest 20 calls; --all lists 1180 earlier ones too" in lines
    assert len(lines) < 30 and lines[-1].endswith(" 1199")
    every = good("egress", "--all").output
    assert "left out" not in every and len(every.splitlines()) > 1200
    assert len(json.loads(good("egress", "--json").output)["calls"]) == 1200


@pytest.mark.parametrize("since", ["0h", "soon", "24", "-1h", "1w", "1.5h", "", "9999999d"])
@pytest.mark.parametrize(
    "command", [["egress"], ["metrics", "summary"], ["ab", "report"], ["verify", "report"]], ids=" ".join
)
def test_since_what_is_no_time(good: Run, command: list[str], since: str) -> None:
    result = good(*command, "--since", since)
    assert result.exit_code == 2
    assert f"Invalid value for '--since': {since!r} is no time span; write 30m, 24h or 7d" in result.stderr


@pytest.mark.parametrize(
    "command",
    [["metrics", "summary"], ["metrics", "prune"], ["ab", "report"], ["egress"], ["verify", "report"]],
    ids=" ".join,
)
def test_a_file_that_is_no_database_is_told_and_left_as_it_is(good: Run, tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "metrics.db"
    file.write_bytes(b"no database " * 100)
    result = good(*command)
    assert result.exit_code == 1
    assert result.stderr == "Error: ./metrics.db: file is not a database. `flask doctor` prints the fix\n"
    assert file.read_bytes() == b"no database " * 100


REPORTS = (
    ["metrics", "summary"],
    ["ab", "report"],
    ["egress"],
    ["verify", "report"],
    ["policy", "replay", "policy.yaml"],
)
ON_ROWS = (*REPORTS, ["metrics", "prune"])


@pytest.mark.parametrize("place", ["", "./elsewhere.db", "no/such/folder/metrics.db", "with space?&#%.db"])
@pytest.mark.parametrize("command", ON_ROWS, ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_database_that_is_not_there_is_told_and_not_made(
    good: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], place: str, as_json: bool
) -> None:
    """LLR_POLICY right, LLR_DB unset or another than the router's: that is no proof that nothing left."""
    if place:
        monkeypatch.setenv("LLR_DB", place)
    result = good(*command, *(["--json"] if as_json else []))
    path = (tmp_path / (place or "metrics.db")).absolute()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: there is no database at {path} (LLR_DB): the router creates it when it starts. "
        "When a router runs, set LLR_DB here to the value that it has\n"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.yaml"]


@pytest.mark.parametrize("command", [["doctor"], ["route", "explain", "hi"], ["backends", "list"], ["policy", "show"]])
def test_the_other_commands_make_no_database_either(good: Run, tmp_path: Path, command: list[str]) -> None:
    good(*command)
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.yaml"]


NO_ROWS = [  # ts of the rows beside now, and what is said of the last 7 days
    ([], "no rows since {begin}: ./metrics.db holds none yet"),
    (
        [-9 * 86_400_000, -8 * 86_400_000],
        "no rows since {begin}: ./metrics.db has rows from {first} to {last}; use a longer --since",
    ),
]


@pytest.mark.parametrize("command", REPORTS, ids=" ".join)
@pytest.mark.parametrize(("times", "said"), NO_ROWS, ids=["none at all", "older ones"])
def test_no_rows_is_not_nothing_left(
    good: Run, tmp_path: Path, command: list[str], times: list[int], said: str
) -> None:
    now = int(time.time() * 1000)
    store = Store(str(tmp_path / "metrics.db"))
    store.write([build.record(ts_ms=now + ms) for ms in times])
    store.close()
    result = good(*command, "--since", "7d")
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("no rows since ")]
    ends = dict(zip(("first", "last"), (utc(now + ms) for ms in times), strict=False))
    assert re.sub(r"since [\d:Z -]+: ", "since {begin}: ", line).format(begin="{begin}") == said.format(
        begin="{begin}", **ends
    )
    document = json.loads(good(*command, "--since", "7d", "--json").stdout)
    assert (document["database"], document["rows_since"]) == ("./metrics.db", ends.get("first"))


def test_calls_that_all_stayed_are_told_with_the_time_they_are_of(good: Run, tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    store = Store(str(tmp_path / "metrics.db"))
    store.write([build.record(ts_ms=now)])
    store.close()
    first, second = good("egress").output.splitlines()
    assert first == source_line(now)
    assert re.fullmatch(r"no call since [\d-]{10} [\d:]{8}Z went to a backend that is not local", second)


OLD_TABLE = """CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, backend TEXT NOT NULL,
    latency_ms INTEGER NOT NULL, ok INTEGER NOT NULL, error TEXT, fallback_for TEXT,
    shadow INTEGER NOT NULL DEFAULT 0)"""


@pytest.mark.parametrize("command", REPORTS, ids=" ".join)
def test_an_older_database_is_read_and_left_as_it_is(good: Run, tmp_path: Path, command: list[str]) -> None:
    file, now = tmp_path / "metrics.db", int(time.time() * 1000)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute(OLD_TABLE)
        database.execute("INSERT INTO metrics (ts, backend, latency_ms, ok) VALUES (?, 'parrot', 20, 1)", (now,))
        database.commit()
    before = file.read_bytes()
    result = good(*command)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, source_line(now))
    assert file.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["metrics.db", "policy.yaml"]


# --- help ---------------------------------------------------------------------------------------


def test_every_command_is_listed_and_explains_itself(run: Run) -> None:
    for group, commands in {
        "policy": ["check", "docs", "show"],
        "route": ["classify", "explain"],
        "backends": ["list", "probe"],
        "metrics": ["prune", "summary"],
        "ab": ["report"],
    }.items():
        text = run(group, "--help").output
        for command in commands:
            assert f"  {command} " in text
            assert run(group, command, "--help").exit_code == 0
    assert "never overwrites" in " ".join(run("init", "--help").output.lower().split())
