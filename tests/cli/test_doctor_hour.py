"""`flask doctor` reads the last hour: what went wrong in it is named with its fix, an ordinary hour is not."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from app.cli import checks
from app.cli.checks import Discovery, Facts, Finding
from app.cli.checks.backends import key_problem
from app.metrics.rollup import BUCKET_S
from app.metrics.store import Store
from app.settings import Settings
from app.storage import now_ms
from app.storage.mounts import file_system, network_file_system
from app.types import Basis, Observations, Target
from tests import build
from tests.cli.test_doctor import HELD, in_order, ollama, only, rules
from tests.e2e.server import wait_until
from tests.fakes import replies
from tests.fakes.upstream import Upstream

Fake = Callable[..., Upstream]
Call = Mapping[str, Any]

POLICY = """\
backends:
  local: {type: ollama, models: [m], p50Ms: 900}
  cloud: {type: openai, model: gpt-4o, p50Ms: 500, price: {input: 2, output: 10}}
  dear: {type: openai, model: o, endpoint: "https://dear.example/v1", apiKeyEnv: DEAR_KEY}
routes:
  - {match: {task: code}, backend: local, fallback: cloud, latencyBudgetMs: 1000}
  - {default: local, fallback: cloud}
"""
AWAY: Call = {"backend": "cloud", "destination": "api.openai.com:443", "input_tokens": 9, "output_tokens": 9}


def calls(number: int, **fields: Any) -> list[Call]:
    return [fields] * number


def failed(number: int, error: str, **fields: Any) -> list[Call]:
    return calls(number, **{"outcome": "error", "error": error, **fields})


def pinned(number: int, asked: str | None, **fields: Any) -> list[Call]:
    basis = Basis(
        policy="p",
        asked_model=asked,
        output_tokens=0,
        observations=Observations(),
        measured=False,
        targets=(Target("cloud", "gpt-4o"),),
    )
    return calls(number, **{**AWAY, "reason": "pin", "route": "pin", "basis": basis, "cost_usd": 1.0, **fields})


def spilled(number: int, reason: str, **fields: Any) -> list[Call]:
    return calls(number, **{**AWAY, "route": "task=code", "reason": reason, "cost_usd": 0.1, **fields})


def history(folder: Path, made: Sequence[Call], ago_ms: int = 60_000) -> Store:
    store = Store(str(folder / "metrics.db"))
    store.write(
        [
            build.record(**{"request_id": f"r{number}", "ts_ms": now_ms() - ago_ms, **call})
            for number, call in enumerate(made)
        ]
    )
    return store


def found(folder: Path, made: Sequence[Call], policy: str = POLICY, **facts: Any) -> list[Finding]:
    """What the checks find in a database with these calls; nothing else is wrong."""
    store = history(folder, made, facts.pop("ago_ms", 60_000))
    groups = store.groups(now_ms() - 3_600_000)
    store.close()
    rules_ = build.policy(policy)
    discoveries = {
        name: Discovery(models=config.models, windows={"m": 16384}) for name, config in rules_.backends.items()
    }
    return checks.findings(Facts(settings=Settings(), policy=rules_, discoveries=discoveries, calls=groups, **facts))


WRONG: dict[str, tuple[list[Call], str, str, str, str]] = {
    "the server is not there": (
        [*failed(85, "refused"), *calls(15)],
        "failing",
        "local",
        "85 of 100 calls (85%) of the last hour failed",
        "start it (`ollama serve`",
    ),
    "nothing was answered": (failed(3, "refused"), "failing", "local", "no call succeeded", "ollama serve"),
    "kinds are counted, the most frequent has its fix": (
        [*failed(6, "timeout"), *failed(2, "reset"), *failed(1, "http_503"), *failed(1, "http_500"), *calls(2)],
        "failing",
        "local",
        "6 x timeout, 2 x reset",
        "loading a model",
    ),
    "a tenth fails": (
        [*failed(10, "http_500"), *calls(90)],
        "failing",
        "local",
        "10 of 100 calls (10%)",
        "read the log of the backend",
    ),
    "it breaks off": (
        [*failed(3, "truncated"), *calls(3)],
        "failing",
        "local",
        "3 x truncated",
        "replies are incomplete",
    ),
    "a key is refused": (failed(4, "http_401", **AWAY), "failing", "cloud", "4 x http_401", "into OPENAI_API_KEY"),
    "no balance": (failed(4, "http_402", **AWAY), "failing", "cloud", "4 x http_402", "top it up"),
    "a rate limit": (failed(4, "http_429", **AWAY), "failing", "cloud", "4 x http_429", "limits the rate"),
    "a model is gone": (failed(4, "http_404"), "failing", "local", "4 x http_404", "`ollama pull m`"),
    "its places are full": (failed(4, "busy"), "failing", "local", "4 x busy", "raise `maxConcurrency`"),
    "a name": (failed(4, "dns", **AWAY), "failing", "cloud", "4 x dns", "correct the host"),
    "clients send what it refuses": (
        [*failed(4, "http_400"), *failed(2, "http_422"), *calls(5)],
        "failing",
        "local",
        "it rejected 6 of 11 calls (55%) of the last hour: 4 x http_400, 2 x http_422",
        "read the error at the client",
    ),
    "a route spills for its budget": (
        [*spilled(6, "spill"), *calls(4, route="task=code")],
        "spill",
        "task=code",
        "6 of 10 requests (60%) of the last hour went past local: "
        "6 because local was expected to take longer than latencyBudgetMs (1000)",
        "raise the route's `latencyBudgetMs`",
    ),
    "a route spills because its backend cools down": (
        [*spilled(4, "cooling"), *spilled(1, "fit"), *calls(5, route="task=code")],
        "spill",
        "task=code",
        "4 because the circuit of local was open after failures; 1 because the prompt did not fit",
        "fix local",
    ),
    "prompts do not fit": (
        spilled(3, "fit"),
        "spill",
        "task=code",
        "3 because the prompt did not fit",
        "raise the server's",
    ),
    "a client has a model built in": (
        [*pinned(5, "gpt-4o"), *spilled(1, "route")],
        "pins",
        "pins",
        "5 of 6 calls (83%) of the last hour left this machine because clients named a model, which skips the "
        "routes: 5 x gpt-4o",
        '`aliases: {"gpt-4o": auto}`',
    ),
    "clients name a backend": (
        pinned(5, "cloud/gpt-4o"),
        "pins",
        "pins",
        "5 x cloud/gpt-4o",
        "`pins: local` lets requests name local models only",
    ),
    "a call without a price": (
        calls(1, **{**AWAY, "backend": "dear"}),
        "price",
        "dear",
        "it has no price, so the cost of 1 call in the last hour is unknown",
        "write `price:",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_went_wrong_in_the_last_hour(name: str, tmp_path: Path) -> None:
    made, check, where, what, fix = WRONG[name]
    (one,) = found(tmp_path, made)
    assert (one.check, one.where) == (check, where)
    assert what in one.what and fix in one.fix, one


@pytest.mark.parametrize("name", WRONG)
def test_what_is_older_than_an_hour_is_over(name: str, tmp_path: Path) -> None:
    assert not found(tmp_path, WRONG[name][0], ago_ms=3_700_000)


RIGHT: dict[str, list[Call]] = {
    "nothing happened": [],
    "all went well": [*calls(200), *calls(50, **AWAY, cost_usd=0.1)],
    "a failure now and then": [*failed(9, "timeout"), *calls(91)],
    "two failures in a quiet hour": failed(2, "refused"),
    "clients that leave": calls(50, outcome="cancelled"),
    "a client that errs now and then": [*failed(4, "http_400"), *calls(20)],
    "what is no fault of the backend": [*failed(9, "privacy"), *failed(9, "descriptors"), *calls(1)],
    "a budget at work": [*spilled(20, "spill"), *calls(80, route="task=code")],
    "fallbacks are told of the backend that failed": spilled(9, "fallback", fallback_for="local"),
    "pins now and then": [*pinned(19, "gpt-4o"), *spilled(81, "route")],
    "pins to this machine": calls(50, reason="pin", route="pin"),
    "calls of a backend that is no longer in the policy": failed(9, "refused", backend="gone"),
    "spills of a route that is no longer in the policy": spilled(9, "spill", route="task=vision"),
    "mirrored calls": failed(9, "refused", kind="shadow"),
    "tokens that a priced backend did not tell": calls(9, backend="cloud", destination="api.openai.com:443"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_an_ordinary_hour_is_left_in_peace(name: str, tmp_path: Path) -> None:
    assert not found(tmp_path, RIGHT[name])


def test_the_time_of_the_last_answer_is_told(tmp_path: Path) -> None:
    begin = 1_800_000_000_000
    groups = history(tmp_path, [*calls(1, ts_ms=now_ms()), *failed(3, "refused", ts_ms=now_ms())]).groups(0)
    moved = [group._replace(first_ms=begin, last_ms=begin + 60_000) for group in groups]
    policy = build.policy(POLICY)
    (one,) = checks.findings(Facts(settings=Settings(), policy=policy, discoveries={}, calls=moved))
    assert (
        "since 2027-01-15 08:00:00Z: 3 x refused; the last call that succeeded was at 2027-01-15 08:01:00Z" in one.what
    )


@pytest.mark.parametrize("pins", ["local", "none"])
def test_pins_that_the_policy_now_forbids_are_over(tmp_path: Path, pins: str) -> None:
    assert not found(tmp_path, pinned(9, "gpt-4o"), f"{POLICY}pins: {pins}\n")


def test_an_alias_is_the_operators_own_word(tmp_path: Path) -> None:
    assert not found(tmp_path, pinned(9, "Fast"), POLICY + "aliases: {fast: cloud}\n")


def test_circuits_are_told_of_the_running_workers(tmp_path: Path) -> None:
    (failing, circuit) = found(
        tmp_path, failed(3, "refused"), workers=2, open_circuits={"local": 1, "cloud": 0, "gone": 1}
    )
    assert (failing.check, circuit.check, circuit.where) == ("failing", "circuit", "local")
    assert "circuit is open after failures in 1 of 2 workers" in circuit.what and "ollama serve" in circuit.fix


def test_a_circuit_whose_failures_are_not_known(tmp_path: Path) -> None:
    (alone,) = found(tmp_path, [], workers=1, open_circuits={"cloud": 1})
    assert "read the log" in alone.fix


@pytest.mark.parametrize(
    "code, fix",
    [
        ("invalid_api_key", "LLR_API_KEYS"),
        ("host_not_allowed", "LLR_ALLOWED_HOSTS"),
        ("origin_not_allowed", "ORIGINS"),
        ("request_too_large", "LLR_MAX_BODY_BYTES"),
        ("no_eligible_backend", "local backend"),
        ("not_found", "/v1"),
        ("model_not_found", "aliases"),
        ("response_not_found", "only the key that made a response can read it"),
        ("something_new", "docs/api.md"),
    ],
)
def test_refused_requests_are_told_by_code(tmp_path: Path, code: str, fix: str) -> None:
    (one,) = found(tmp_path, [], refusals={code: 3, "bad_request": 2})
    assert (one.check, one.where) == ("refusals", code)
    assert "the router refused 3 requests of the last hour" in one.what and fix in one.fix


# --- from the database, through the command -----------------------------------------------------


def test_doctor_reads_the_database(examine, upstream: Fake, tmp_path: Path) -> None:
    policy = rules(local=ollama(upstream(models=HELD)))
    store = history(tmp_path, [*failed(17, "timeout"), *calls(3)])
    store.write([], refusals={(now_ms() // 1000 // BUCKET_S * BUCKET_S, "invalid_api_key"): 5})
    store.report_worker("host:1", now_ms(), {"circuit_open": {"local": 1}})
    store.report_worker("host:2", now_ms() - 60_000, {"circuit_open": {"local": 1}})  # it is gone
    store.close()
    done = examine(policy, "--json")
    assert done.exit_code == 1
    named = [(one["check"], one["where"]) for one in json.loads(done.stdout)["findings"]]
    assert named == [("failing", "local"), ("circuit", "local"), ("refusals", "invalid_api_key")]
    assert "17 of 20 calls (85%)" in done.stdout and "in 1 of 1 workers" in done.stdout


def test_an_ordinary_day_is_left_in_peace(examine, upstream: Fake, tmp_path: Path) -> None:
    up, cloud = upstream(models=HELD), upstream(models=["gpt-4o"])
    far = {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "gpt-4o", "price": {"input": 2, "output": 10}}
    policy = rules(local=ollama(up), cloud={**far, "local": False})
    policy["routes"] = [{"default": "local", "fallback": "cloud"}]
    history(tmp_path, [*calls(90, model="llama3.1:8b"), *calls(9, **AWAY, cost_usd=0.1), *failed(2, "timeout")]).close()
    in_order(examine(policy, OPENAI_API_KEY="sk-good"))


@pytest.mark.e2e
def test_a_router_whose_primary_fails(examine, upstream: Fake, router) -> None:
    """Through a real router: the rows, the circuits and the refusals that it writes."""
    up = upstream(models=HELD)
    running = router(rules(local=ollama(up)), workers=1, env={"LLR_API_KEYS": "a-key"})
    up.script(replies.error(503), path="/v1/chat/completions", repeat=True)
    for _ in range(4):
        running.chat("hello", headers={"Authorization": "Bearer a-key"})
        running.chat("hello", headers={"Authorization": "Bearer wrong"})
    running.wait_rows(4)
    text = running.policy_file.read_text("utf-8")
    environ = {"LLR_PORT": str(running.port), "LLR_DB": str(running.database), "LLR_API_KEYS": "a-key"}

    def named() -> set[tuple[str, str]]:
        report = json.loads(examine(text, "--json", **environ).stdout)
        return {(one["check"], one["where"]) for one in report["findings"]}

    wanted = {("failing", "local"), ("circuit", "local"), ("refusals", "invalid_api_key")}
    wait_until(lambda: named() == wanted, 20, "doctor to see the hour")


# --- keys, proxies, descriptors, file systems ---------------------------------------------------


ANSWERED: Call = {**AWAY, "cost_usd": 0.1}
MISSING = "its key is missing: OPENAI_API_KEY is not set"
SET_ELSEWHERE = "not set in this shell, so this command did not ask the backend; the router has the key"


@pytest.mark.parametrize(
    "made, what, fix",
    [
        ([], MISSING, "export OPENAI_API_KEY=… for the router's process"),
        ([ANSWERED], SET_ELSEWHERE, "run `flask doctor` with the variables of the router's process"),
        ([{"outcome": "ok"}], MISSING, "export"),  # another backend's answer
        ([{**AWAY, "outcome": "error", "error": "http_500"}], MISSING, "export"),
        ([{**ANSWERED, "ts_ms": now_ms() - 90_000}, *failed(1, "no_key", backend="cloud")], MISSING, "export"),
        (
            [ANSWERED, *failed(1, "no_key", backend="cloud", ts_ms=now_ms() - 90_000)],
            SET_ELSEWHERE,
            "run `flask doctor",
        ),
    ],
)
def test_a_key_that_only_this_shell_lacks(tmp_path: Path, made: Sequence[Call], what: str, fix: str) -> None:
    (one,) = found(tmp_path, made, missing_keys={"cloud": "OPENAI_API_KEY"})
    assert (one.check, one.where) == ("key", "cloud")
    assert what in one.what and fix in one.fix


@pytest.mark.parametrize("location", ["mysql://x/y", "postgresql://u:secret@host/"])
def test_a_database_with_which_no_router_starts(examine, upstream: Fake, location: str) -> None:
    done = examine(rules(local=ollama(upstream(models=HELD))), "--json", LLR_DB=location)
    (one,) = json.loads(done.stdout)["findings"]
    assert (one["check"], one["where"]) == ("database", "LLR_DB")
    assert "postgresql://user:password@host/name" in one["what"] and "correct LLR_DB" in one["fix"]
    assert "secret" not in done.stdout


@pytest.mark.parametrize(
    "value, problem",
    [
        ("sk-proj-abc_DEF-123", ""),
        ("  sk-abc\n", ""),
        ("", ""),
        ("key-for-tests", ""),
        ('"sk-abc"', "is in quotes"),
        ("'sk-abc'", "is in quotes"),
        ("“sk-abc”", "is in quotes"),
        ('sk-abc"', "is in quotes"),
        (' "sk-abc" ', "is in quotes"),
        ("Bearer sk-abc", "begins with `Bearer`"),
        ("bearer  sk-abc", "begins with"),
        ("Authorization: Bearer sk-abc", "begins with `Authorization: Bearer`"),
        ("sk-abc sk-def", "spaces or line breaks"),
        ("sk-abc\nsk-def", "spaces or line breaks"),
        ("sk-äbc", "characters that no key has"),
    ],
)
def test_the_form_of_a_key(value: str, problem: str) -> None:
    said = key_problem(value)
    assert problem in said and bool(problem) == bool(said)


def test_a_quoted_key_is_named_and_not_shown(examine, upstream: Fake) -> None:
    cloud = {"type": "openai", "endpoint": f"{upstream(models=['gpt-4o']).url}/v1", "model": "gpt-4o", "local": False}
    done = examine(rules("cloud", cloud=cloud), OPENAI_API_KEY='"sk-secret"')
    only(done, "OPENAI_API_KEY", "its value is in quotes", "write OPENAI_API_KEY=KEY")
    assert "sk-secret" not in done.output


def test_a_quoted_key_of_clients(examine, upstream: Fake) -> None:
    policy = rules(local=ollama(upstream(models=HELD)))
    only(examine(policy, LLR_API_KEYS='"abc",def'), "LLR_API_KEYS", "its value is in quotes", "write LLR_API_KEYS=KEY")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_that_is_not_used(examine, upstream: Fake, variable: str) -> None:
    policy = rules(local=ollama(upstream(models=HELD)))
    done = examine(policy, **{variable: "http://proxy.example:3128"})
    only(done, variable, "but the router uses no proxy: it connects directly to local", "NO_PROXY")
    in_order(examine(policy, **{variable: "http://proxy.example:3128", "NO_PROXY": "localhost,127.0.0.0/8"}))


@pytest.mark.parametrize("limit, clients", [(1024, 300), (256, 44), (100, 8)])
def test_too_few_descriptors(tmp_path: Path, limit: int, clients: int) -> None:
    (one,) = found(tmp_path, [], descriptors=limit)
    assert (one.check, one.where) == ("descriptors", "ulimit -n")
    assert f"enough for {clients} clients" in one.what and "LimitNOFILE" in one.fix
    assert not found(tmp_path, [], descriptors=1_048_576)


def test_the_limit_is_that_of_the_running_router() -> None:
    inspection = import_module("app.cli.inspection")
    own = inspection._descriptors([f"{socket.gethostname()}:{os.getpid()}", "elsewhere:1", f"{socket.gethostname()}:0"])
    assert own == inspection.limits()[0]


MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 27 0:40 / /srv/office rw,relatime shared:9 - nfs4 nas:/office rw,vers=4.2
41 40 0:41 / /srv/office/fast rw - xfs /dev/sdb rw
42 27 0:42 / /mnt/my\040share rw - cifs //nas/share rw
43 27 0:43 / /home/a/far rw - fuse.sshfs a@far: rw
44 27 0:44 / /over rw - nfs nas:/old rw
45 44 0:45 / /over rw - tmpfs tmpfs rw
46 27 0:46 / /var/lib/containers rw - fuse.fuse-overlayfs fuse-overlayfs rw
47 27 8:1 / /windows rw - fuseblk /dev/sda1 rw
a line that is none
48 27 0:48 / /smb rw master:1 propagate_from:2 - smb3 //nas/x rw
""".strip()


@pytest.mark.parametrize(
    "path, kind, network",
    [
        ("/metrics.db", "ext4", ""),
        ("/srv/office/metrics.db", "nfs4", "nfs4"),
        ("/srv/office-2/metrics.db", "ext4", ""),
        ("/srv/office/fast/metrics.db", "xfs", ""),
        ("/mnt/my share/a/metrics.db", "cifs", "cifs"),
        ("/home/a/far/metrics.db", "fuse.sshfs", "fuse.sshfs"),
        ("/over/metrics.db", "tmpfs", ""),
        ("/var/lib/containers/metrics.db", "fuse.fuse-overlayfs", ""),
        ("/windows/metrics.db", "fuseblk", ""),
        ("/smb/metrics.db", "smb3", "smb3"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str, network: str) -> None:
    assert (file_system(path, MOUNTS), network_file_system(path, MOUNTS)) == (kind, network)
    assert file_system(path, "") == ""


def test_a_database_on_a_network_file_system(
    examine, upstream: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"27 1 254:0 / / rw - ext4 /dev/vda1 rw\n40 27 0:40 / {tmp_path} rw - nfs4 nas:/office rw\n")
    monkeypatch.setattr(import_module("app.cli.inspection"), "MOUNTS", str(mounts))
    policy = rules(local=ollama(upstream(models=HELD)))
    only(examine(policy), "LLR_DB", "network file system (nfs4)", "to a disk of this machine")


# --- the A/B trial ------------------------------------------------------------------------------


def test_a_candidate_that_is_no_model(examine, upstream: Fake) -> None:
    policy = rules(local=ollama(upstream(models=HELD)), parrot={"type": "echo"})
    policy["ab"] = {"enabled": True, "candidates": {"local": "parrot"}}
    only(examine(policy), "parrot", "a candidate of the A/B trial and no model", "`ab.candidates`")
    in_order(examine({**policy, "ab": {**policy["ab"], "enabled": False}}))


def test_every_check_is_in_the_table() -> None:
    modules = [checks.backends, checks.models, checks.policy, checks.history, checks.verify, checks.process]
    public = {
        value
        for module in modules
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__annotations__", {}).get("return") == "Iterator[Finding]"
        and not name.startswith("_")
    }
    assert public == set(checks.CHECKS)
