"""`flask doctor`: each broken set-up is named with its fix, good ones are left in peace."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import Result

from app.cli import checks, first_policy
from app.cli.checks import Discovery, Facts, Finding
from app.cli.surroundings import explore
from app.metrics.store import Store
from app.settings import Settings
from app.storage import now_ms
from tests import build
from tests.e2e.server import free_port
from tests.fakes.replies import html, reply
from tests.fakes.upstream import Upstream

HELD = ("llama3.1:8b", "qwen2.5-coder:7b", "gemma3:12b")
Fake = Callable[..., Upstream]


def silent_about_its_version(up: Upstream) -> Upstream:
    """An Ollama of which nobody can say whether it is too old for its own API."""
    up.script(reply(404, {"error": "not found"}), path="/api/version", repeat=True)
    return up


def ollama(up: Upstream, **more: Any) -> dict[str, Any]:
    silent_about_its_version(up)
    known = {"type": "ollama", "endpoint": up.url, "models": ["llama3.1:8b"], "contextWindow": 16384}
    return {**known, **more}


def rules(default: str = "local", **backends: Any) -> dict[str, Any]:
    return {"backends": backends, "routes": [{"default": default}]}


def only(done: Result, where: str, what: str, fix: str) -> None:
    """It found this, and nothing else."""
    assert done.exit_code == 1, done.output
    assert done.output.endswith("\n1 problem\n"), done.output
    assert done.output.startswith(f"1. {where}: "), done.output
    assert what in done.output and fix in done.output.partition("fix: ")[2], done.output


def in_order(done: Result) -> None:
    assert (done.exit_code, done.output) == (0, f"ok: no problem found ({len(checks.CHECKS) + 1} checks)\n")


# --- twelve broken set-ups, and some more -------------------------------------------------------


def test_no_policy(examine) -> None:
    only(examine(None), "LLR_POLICY", "no such file", "`flask init`, which writes a first policy")


def test_a_wrong_policy(examine) -> None:
    done = examine("backends: {e: {type: ecko}}\nroutes: [{default: e}]\n")
    assert done.exit_code == 1 and "did you mean echo?" in done.output and "fix: correct this line" in done.output


def test_a_wrong_variable(examine) -> None:
    done = examine(rules(e={"type": "echo"}, default="e"), LLR_WORKERS="many")
    only(done, "environment", "LLR_WORKERS: must be a whole number from 1 to 64", "correct this variable")


def test_endpoint_unreachable(examine) -> None:
    nobody = {"type": "ollama", "endpoint": f"http://127.0.0.1:{free_port()}", "models": ["m"], "contextWindow": 8192}
    only(examine(rules(local=nobody)), "local", "connection refused", "start it (`ollama serve`")


def test_a_name_that_does_not_resolve(examine) -> None:
    lost = {"type": "vllm", "endpoint": "http://nowhere.invalid:8000", "models": ["m"]}
    only(examine(rules("gpu", gpu=lost)), "gpu", "no such host", "correct the host")


def test_something_else_answers(examine, upstream: Fake) -> None:
    up = upstream()
    up.script(html(), path="/api/tags", repeat=True)
    only(examine(rules(local=ollama(up))), "local", "not a JSON object", "another program answers")


def test_a_model_that_is_not_pulled(examine, upstream: Fake) -> None:
    up = upstream(models=HELD)
    done = examine(rules(local=ollama(up, models=["llama3.1:70b"])))
    only(
        done,
        "local",
        "names llama3.1:70b, which its server does not have",
        "`ollama pull llama3.1:70b`, or name a model that it",
    )
    assert "such as llama3.1:8b" in done.output


def test_an_alias_of_a_model_that_is_not_there(examine, upstream: Fake) -> None:
    fast = {"fast": "local/llama3.2:3b", "good": "local/llama3.1:8b", "any": "local", "gpt-4o": "auto"}
    done = examine(rules(local=ollama(upstream(models=HELD))) | {"aliases": fast})
    only(done, "fast", "it stands for local/llama3.2:3b, and local does not have llama3.2:3b", "correct `aliases`")
    in_order(examine(rules(local=ollama(upstream(models=HELD))) | {"aliases": {"any": "local", "a": "LLAMA3.1:8b"}}))


def test_no_model_at_all(examine, upstream: Fake) -> None:
    only(examine(rules(local=ollama(upstream(models=())))), "local", "its server has no model", "`ollama pull")


def test_a_missing_key(examine, upstream: Fake) -> None:
    policy = rules(local=ollama(upstream(models=HELD)), cloud={"type": "openai", "model": "gpt-4o"})
    only(examine(policy), "cloud", "OPENAI_API_KEY is not set", "export OPENAI_API_KEY=… for the router's process")


def test_a_refused_key(examine, upstream: Fake) -> None:
    up = upstream()
    up.script(reply(401, {"error": {"message": "no"}}), path="/v1/models", repeat=True)
    cloud = {"type": "openai", "endpoint": f"{up.url}/v1", "model": "gpt-4o", "local": False}
    done = examine(rules("cloud", cloud=cloud), OPENAI_API_KEY="sk-wrong")
    only(done, "cloud", "answered 401", "put a valid key into OPENAI_API_KEY")
    assert "sk-wrong" not in done.output


def test_a_local_endpoint_that_is_not_local() -> None:
    away = {"type": "ollama", "endpoint": "http://203.0.113.7:11434", "models": ["m"], "contextWindow": 8192}
    found = findings(rules(local=away), addresses={"local": ["203.0.113.7"]})
    assert [(one.check, one.where) for one in found] == [("local", "local")]
    assert "its type is local, but" in found[0].what and "`local: true`" in found[0].fix


def test_local_said_of_a_public_address() -> None:
    away = {"type": "ollama", "endpoint": "http://203.0.113.7:11434", "models": ["m"], "contextWindow": 8192}
    facts = {"addresses": {"local": ["203.0.113.7"]}, "local_keys": {"local": True}}
    (found,) = findings(rules(local={**away, "local": True}), **facts)
    assert "private requests leave" in found.what and "remove `local: true`" in found.fix
    assert not findings(rules(local={**away, "local": False}), **{**facts, "local_keys": {"local": False}})


def test_a_local_server_of_a_hosted_type(examine, upstream: Fake) -> None:
    up = upstream(models=HELD)
    studio = {"type": "openai", "endpoint": f"{up.url}/v1", "model": "llama3.1:8b", "apiKeyEnv": ""}
    only(examine(rules("studio", studio=studio)), "studio", "counts as hosted", "write `local: true` if it is yours")


def test_nothing_local_for_private_requests(examine, upstream: Fake) -> None:
    up = upstream(models=["gpt-4o"])
    cloud = {"type": "openai", "endpoint": f"{up.url}/v1", "model": "gpt-4o", "local": False, "apiKeyEnv": ""}
    done = examine({**rules("cloud", cloud=cloud), "sensitivity": {"detect": ["iban"]}})
    only(done, "backends", "no backend is local: the router refuses them", "add a local backend")


def test_a_cloud_model_in_a_local_backend(examine, upstream: Fake) -> None:
    up = upstream(models=(*HELD, "gpt-oss:120b-cloud"))
    done = examine(rules(local=ollama(up, families={"qwen-coder": "gpt-oss:120b-cloud"})))
    only(done, "local", "runs in its maker's cloud", "name a model without `cloud`")


@pytest.mark.parametrize("named", ["llama3.1", "llama3.1:latest", "LLAMA3.1"])
def test_a_model_that_runs_at_another_host(examine, upstream: Fake, named: str) -> None:
    up = upstream(models=("llama3.1:latest", "m:1"), remote={"llama3.1:latest": "https://ollama.com:443"})
    done = examine(rules(local=ollama(up, models=[named, "m:1"])))
    only(
        done,
        "local",
        f"{named} runs at ollama.com:443, not on this machine",
        "name another model, and `ollama pull` it",
    )
    in_order(examine(rules(local=ollama(up, models=["m:1"]))))


def test_private_requests_and_only_models_that_run_elsewhere(examine, upstream: Fake) -> None:
    up = upstream(models=("m:1",), remote={"m:1": "https://ollama.com:443"})
    done = examine({**rules(local=ollama(up, models=["m:1"])), "sensitivity": {"detect": ["iban"]}})
    assert done.output.endswith("\n2 problems\n")
    assert "m:1 runs at ollama.com:443" in done.output
    assert "no local backend has a model: the router refuses them (503)" in done.output


@pytest.mark.parametrize(
    "fallback_ms, what", [(600, "the route always skips it"), (1500, "its fastest backend is expected to take 1500 ms")]
)
def test_a_budget_that_nobody_can_meet(examine, upstream: Fake, fallback_ms: int, what: str) -> None:
    up = upstream(models=HELD)
    policy = rules(local=ollama(up, p50Ms=1800), spare=ollama(up, p50Ms=fallback_ms))
    policy["routes"] = [{"default": "local", "fallback": "spare", "latencyBudgetMs": 1200}]
    only(examine(policy), "default", what, "raise it above 1800")


def test_a_budget_against_what_was_measured(examine, upstream: Fake, tmp_path: Path) -> None:
    up = upstream(models=HELD)
    policy = rules(local=ollama(up, p50Ms=500), spare=ollama(up, p50Ms=600))
    policy["routes"] = [{"default": "local", "fallback": "spare", "latencyBudgetMs": 1200}]
    in_order(examine(policy))
    fill(
        tmp_path,
        *[build.record(ts_ms=now_ms(), request_id=f"r{n}", model="llama3.1:8b", latency_ms=9000) for n in range(9)],
    )
    only(examine(policy), "default", "local is expected to take 9000 ms", "raise it above 9000")


def test_a_budget_is_compared_with_the_best_member_of_a_pool(examine, upstream: Fake) -> None:
    up = upstream(models=HELD)
    policy = rules(one=ollama(up, p50Ms=1800), two=ollama(up, p50Ms=900), spare=ollama(up, p50Ms=600))
    policy["pools"] = {"gpu": {"members": ["one", "two"]}}
    policy["routes"] = [{"default": "gpu", "fallback": "spare", "latencyBudgetMs": 1200}]
    in_order(examine(policy))
    policy["routes"][0]["latencyBudgetMs"] = 800
    only(examine(policy), "default", "gpu is expected to take 900 ms: the route always skips it", "raise it above 900")


def test_an_echo_in_a_pool(examine, upstream: Fake) -> None:
    policy = rules(one=ollama(upstream(models=HELD)), parrot={"type": "echo"})
    policy["pools"] = {"gpu": {"members": ["one", "parrot"]}}
    policy["routes"] = [{"default": "gpu"}]
    only(examine(policy), "parrot", "it is no model: it repeats the prompt", "install Ollama")


@pytest.mark.parametrize("said", [None, 4096, 16384])
def test_a_small_context(examine, upstream: Fake, said: int | None) -> None:
    up = upstream(models=HELD)
    up.script(reply(200, {"models": [{"name": "llama3.1:8b", "context_length": 4096}]}), path="/api/ps", repeat=True)
    done = examine(rules(local={name: value for name, value in ollama(up, contextWindow=said).items() if value}))
    what = "the server runs it with 4096" if said == 16384 else "runs with a context of 4096 tokens"
    only(done, "local", what, "OLLAMA_CONTEXT_LENGTH=16384")


def test_a_context_that_nobody_knows(examine, upstream: Fake) -> None:
    policy = rules(
        local={name: value for name, value in ollama(upstream(models=HELD)).items() if name != "contextWindow"}
    )
    only(examine(policy), "local", "`contextWindow` is not set", "OLLAMA_CONTEXT_LENGTH=16384")


def test_an_ollama_that_is_too_old(examine, upstream: Fake) -> None:
    policy = rules(local={"type": "ollama", "endpoint": upstream(models=HELD).url, "models": ["llama3.1:8b"]})
    policy["backends"]["local"]["contextWindow"] = 16384
    only(examine(policy), "local", "its version 0.12.5 is too old for `api: native`", "update Ollama")
    policy["backends"]["local"]["api"] = "openai"
    in_order(examine(policy))


def test_ollama_reachable_from_outside(examine, upstream: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("app.cli.inspection"), "own_addresses", lambda: ["127.0.0.2"])
    up = upstream(models=HELD, host="0.0.0.0")
    done = examine(rules(local=ollama(up, endpoint=f"http://127.0.0.1:{up.port}")))
    up.wait(lambda: up.connections >= 2 and not up.open_connections)  # it saw the knock and its end
    only(done, "local", f"other machines can reach it at 127.0.0.2:{up.port}", "set OLLAMA_HOST=127.0.0.1 for Ollama")


def test_an_open_door(examine, upstream: Fake) -> None:
    policy = rules(local=ollama(upstream(models=HELD)))
    only(examine(policy, LLR_HOST="0.0.0.0"), "LLR_HOST", "needs no key", "set LLR_API_KEYS")
    in_order(examine(policy, LLR_HOST="0.0.0.0", LLR_API_KEYS="abc"))


def test_no_model_but_echo(examine) -> None:
    only(examine(rules("e", e={"type": "echo"})), "e", "it repeats the prompt", "install Ollama")


def test_a_database_in_a_folder_that_is_not_there(examine, upstream: Fake, tmp_path: Path) -> None:
    done = examine(rules(local=ollama(upstream(models=HELD))), LLR_DB=str(tmp_path / "none" / "metrics.db"))
    only(done, "LLR_DB", "unable to open", "make its folder")
    assert not (tmp_path / "none").exists()


def test_a_database_that_is_none(examine, upstream: Fake, tmp_path: Path) -> None:
    (tmp_path / "metrics.db").write_text("no database " * 100)
    done = examine(rules(local=ollama(upstream(models=HELD))))
    only(done, "LLR_DB", "the router cannot write it", "name another file in LLR_DB")


def test_a_locked_database(examine, upstream: Fake, tmp_path: Path) -> None:
    fill(tmp_path, build.record(ts_ms=now_ms()))
    other = sqlite3.connect(tmp_path / "metrics.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    done = examine(rules(local=ollama(upstream(models=HELD))))
    other.close()
    only(done, "LLR_DB", "locked", "another program locks it")


def test_rows_from_the_future(examine, upstream: Fake, tmp_path: Path) -> None:
    fill(tmp_path, build.record(ts_ms=now_ms() + 3 * 3_600_000 + 60_000))
    done = examine(rules(local=ollama(upstream(models=HELD))))
    only(done, "LLR_DB", "its newest row is 3 hours in the future", "timedatectl set-ntp true")


@pytest.mark.e2e
def test_a_router_that_was_not_reloaded(examine, upstream: Fake, router) -> None:
    policy = rules(local=ollama(upstream(models=HELD)))
    running = router(policy, workers=1)
    done = examine(policy, LLR_PORT=str(running.port))
    assert done.exit_code == 1 and "uses policy" in done.output and "SIGHUP" in done.output  # the texts differ
    same = running.policy_file.read_text("utf-8")
    in_order(examine(same, LLR_PORT=str(running.port), LLR_DB=str(running.database)))


@pytest.mark.e2e
def test_a_running_router_that_writes_another_database(examine, upstream: Fake, router, tmp_path: Path) -> None:
    running = router(rules(local=ollama(upstream(models=HELD))), workers=1)
    done = examine(running.policy_file.read_text("utf-8"), LLR_PORT=str(running.port))
    only(done, "LLR_DB", "runs, but there is no database at", "as it is set for the router")
    assert not (tmp_path / "metrics.db").exists()


def test_a_full_disk(examine, upstream: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, build.record(ts_ms=now_ms()))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    done = examine(rules(local=ollama(upstream(models=HELD))))
    only(done, "LLR_DB", "disk is full", "free space")


# --- five good ones -----------------------------------------------------------------------------


def test_a_laptop(examine, upstream: Fake) -> None:
    up = upstream(models=HELD)
    up.script(reply(200, {"models": [{"name": "llama3.1:8b", "context_length": 16384}]}), path="/api/ps", repeat=True)
    families = {"qwen-coder": "qwen2.5-coder:7b", "gemma": "gemma3:12b"}
    in_order(examine(rules(local=ollama(up, families=families))))


def test_laptop_and_cloud(examine, upstream: Fake) -> None:
    up, cloud = upstream(models=HELD), upstream(models=["gpt-4o"])
    policy = rules(
        local=ollama(up, p50Ms=1800),
        cloud={"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "gpt-4o", "p50Ms": 900, "local": False},
    )
    policy["routes"] = [
        {"match": {"sensitivity": "high"}, "backend": "local"},
        {"default": "local", "fallback": "cloud", "latencyBudgetMs": 4000},
    ]
    in_order(examine(policy, OPENAI_API_KEY="sk-good"))


def test_two_servers_of_the_office(examine, upstream: Fake) -> None:
    llama, vllm = upstream(), upstream(models=["Qwen/Qwen3-32B"])
    llama.script(reply(200, {"default_generation_settings": {"n_ctx": 32768}}), path="/props", repeat=True)
    served = {"data": [{"id": "Qwen/Qwen3-32B", "max_model_len": 40960}]}
    vllm.script(reply(200, served), path="/v1/models", repeat=True)
    policy = rules(
        small={"type": "llamacpp", "endpoint": llama.url, "models": ["any"], "contextWindow": 32768},
        big={"type": "vllm", "endpoint": vllm.url, "models": ["Qwen/Qwen3-32B"], "contextWindow": 40960},
        default="small",
    )
    in_order(examine(policy))


def test_a_studio_that_is_said_to_be_local(examine, upstream: Fake) -> None:
    up = upstream(models=["qwen3:4b"])
    studio = {"type": "openai", "endpoint": f"{up.url}/v1", "model": "qwen3:4b", "local": True, "apiKeyEnv": ""}
    in_order(examine({**rules("studio", studio=studio), "sensitivity": {"detect": ["email"]}}))


def test_only_the_cloud(examine, upstream: Fake) -> None:
    up = upstream(models=["gpt-4o", "gpt-4o-mini"])
    cloud = {"type": "openai", "endpoint": f"{up.url}/v1", "model": "gpt-4o", "local": False}
    in_order(examine(rules("cloud", cloud=cloud), OPENAI_API_KEY="sk-good"))


@pytest.mark.parametrize("told", ["loaded", "modelfile", "environment", "nothing"])
def test_what_init_has_just_written(examine, upstream: Fake, told: str) -> None:
    """Doctor finds nothing when Ollama reports its windows; otherwise it reports them, because prompts may be cut."""
    up = silent_about_its_version(upstream(models=HELD))
    held = [{"name": name, "context_length": 16384} for name in HELD]
    if told == "loaded":
        up.script(reply(200, {"models": held}), path="/api/ps", repeat=True)
    if told == "modelfile":
        up.script(reply(200, {"parameters": "num_ctx 16384"}), path="/api/show", repeat=True)
    environ = {"OLLAMA_HOST": up.url, **({"OLLAMA_CONTEXT_LENGTH": "16384"} if told == "environment" else {})}
    written = first_policy.write(explore(environ, []))
    done = examine(written)
    if told in ("loaded", "modelfile"):
        in_order(done)
        return
    only(done, "local", f"the context window of {', '.join(HELD)} is unknown: ", "OLLAMA_CONTEXT_LENGTH=16384")
    in_order(examine(written.replace("# contextWindow:", "contextWindow:")))


# --- what scripts read, and the checks alone ----------------------------------------------------


def test_as_json(examine, upstream: Fake) -> None:
    policy = rules(local=ollama(upstream(models=HELD)), cloud={"type": "openai", "model": "gpt-4o"})
    done = examine(policy, "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert [sorted(one) for one in report["findings"]] == [["check", "fix", "what", "where"]]
    assert report["findings"][0]["check"] == "key"
    assert json.loads(examine(rules(local=policy["backends"]["local"]), "--json").stdout) == {
        "ok": True,
        "findings": [],
    }


def test_several_at_once_are_counted(examine) -> None:
    policy = rules("e", e={"type": "echo"}, cloud={"type": "openai", "model": "m"}, more={"type": "sarmalink"})
    assert examine(policy).output.endswith("\n3 problems\n")


def test_one_fix_for_several_is_said_once(examine) -> None:
    lines = examine("backends: {e: {type: echo}}\nroutes:\n  - default: f\nsave: 1\nab: 2\n").output.splitlines()
    assert lines[3:] == ["   fix for 1 to 3: correct this line; docs/policy.md describes every key", "3 problems"]
    assert [int(line.split(":")[1]) for line in lines[:3]] == [3, 4, 5]


def fill(folder: Path, *calls: Any) -> None:
    store = Store(str(folder / "metrics.db"))
    store.write(calls)
    store.close()


def findings(policy: dict[str, Any], **facts: Any) -> list[Finding]:
    made = build.policy(yaml.safe_dump(policy))
    discoveries = {name: Discovery(models=config.models) for name, config in made.backends.items()}
    return checks.findings(Facts(settings=Settings(), policy=made, **{"discoveries": discoveries, **facts}))
