"""The house holds: what the code knows is in the docs, what the docs say works, and imports point one way."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from marshmallow import fields

from app import create_app, errors, policy
from app.backends import failures
from app.metrics.aggregates import Aggregate, Key
from app.metrics.prometheus import Snapshot, exposition
from app.metrics.servers import servers
from app.metrics.summary import ab_report, metrics_summary
from app.policy.docs import reference
from app.policy.schema import PolicySchema, backend_schema
from app.routing.classify import classify
from app.routing.decide import decide
from app.settings import VARIABLES, Settings
from app.storage.model import Metric
from app.types import ABTest, ChatRequest, Classification, Observations
from app.web.identifiers import FORWARDED
from app.wire.chat import request as chat
from tests import build
from tests.documents import ROOT, Document, names
from tests.e2e.server import Router
from tests.faults.altered import ALL, Edits, altered_copy

README = Document.read("README.md")
API = Document.read("docs/api.md")
CLIENTS = Document.read("docs/clients.md")
ARCHITECTURE = Document.read("ARCHITECTURE.md")
OPERATIONS = Document.read("docs/operations.md")
CONTRIBUTING = Document.read("CONTRIBUTING.md")
EXAMPLE = (ROOT / "policy.example.yaml").read_text("utf-8")
PAGES = [
    *(Document.read(name) for name in ("CHANGELOG.md", "docs/classifier.md", "docs/differences.md", "docs/policy.md")),
    *(Document.read(f"docs/{name}.md") for name in ("start", "cookbook", "troubleshooting")),
    *(README, API, CLIENTS, ARCHITECTURE, OPERATIONS, CONTRIBUTING),
]
SOURCES = sorted((ROOT / "app").rglob("*.py"))
ECHO = {"backends": {"echo": {"type": "echo"}}, "routes": [{"default": "echo"}]}
LIVE = Key("echo", "echo", "default", "live")


@pytest.fixture
def app(tmp_path: Path):
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(ECHO), "utf-8")
    return create_app({"LLR_POLICY": str(tmp_path / "policy.yaml"), "LLR_DB": str(tmp_path / "metrics.db")})


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for source in SOURCES:
        yield source, ast.parse(source.read_text("utf-8"))


def assigned(name: str) -> set[str]:
    """Every text that the code gives to `name`: as a keyword argument, a variable, or one place of a tuple."""
    found: set[str] = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == name:
                found |= texts(node.value)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    pairs = zip(target.elts, node.value.elts, strict=True) if is_tuple(target, node) else ()
                    for place, value in (*pairs, (target, node.value)):
                        found |= texts(value) if named(place) == name else set()
    return found


def is_tuple(target: ast.expr, node: ast.Assign) -> bool:
    return isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)


def named(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def texts(node: ast.expr) -> set[str]:
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def error_classes(kind: type[errors.RouterError] = errors.RouterError) -> Iterator[type[errors.RouterError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from error_classes(below)


# --- errors -------------------------------------------------------------------------------------


def test_every_error_code_is_in_the_table_of_errors_and_no_other():
    documented = {code for row in API.rows("status", "code") for code in names(row[1])} - {"null"}
    assert documented == assigned("code") - {"stream_interrupted"}
    assert "`stream_interrupted`" in API.prose


def test_every_class_of_errors_is_documented_with_its_status():
    documented = {(row[0], code) for row in API.rows("status", "code") for code in names(row[1])}
    known = {(str(kind.status), kind.code) for kind in error_classes() if kind.code}
    assert known <= documented


def test_every_kind_of_error_in_a_row_is_documented():
    documented = {name for row in OPERATIONS.rows("`error`", "what happened") for name in names(row[0])}
    kinds = {kind.kind for kind in error_classes(errors.BackendError)} - {errors.BackendError.kind}
    written = re.findall(r'kind="([a-z_]+)"', "".join(source.read_text("utf-8") for source in SOURCES))
    kinds |= {*written, "error_event", "truncated", "internal"} - {"live", "shadow", "probe"}
    kinds |= {meaning.kind for table in (failures.ERRNOS, failures.NAMES) for meaning in table.values()}
    assert {kind for kind in kinds if not kind.startswith("http_")} == documented - {"http_503"}


CHAT = {"messages": [{"role": "user", "content": "hi"}]}
PRIVATE = {"X-LLR-Sensitivity": "high"}
ASKED = [  # what is asked, and what the table of errors promises
    ("POST", "/v1/chat/completions", {"messages": []}, {}, 400, None),
    ("POST", "/v1/chat/completions", CHAT, {"X-LLR-Sensitivity": "secret"}, 400, None),
    ("POST", "/v1/chat/completions", CHAT, {"X-LLR-Sensitive": "high"}, 400, None),
    ("POST", "/v1/chat/completions", CHAT | {"model": "small"}, {}, 400, "context_length_exceeded"),
    (
        "POST",
        "/v1/responses",
        {"input": "hi", "previous_response_id": "resp_x"},
        {},
        400,
        "previous_response_not_found",
    ),
    ("POST", "/v1/responses", {"input": [{"type": "item_reference", "id": "msg_x"}]}, {}, 400, "item_not_found"),
    ("GET", "/v1/models", None, {"Authorization": "Bearer wrong"}, 401, "invalid_api_key"),
    ("GET", "/v1/models", None, {"Host": "evil.example"}, 403, "host_not_allowed"),
    ("GET", "/v1/models", None, {"Origin": "https://evil.example"}, 403, "origin_not_allowed"),
    ("GET", "/v1/nothing", None, {}, 404, "not_found"),
    ("GET", "/v1/models/nothing", None, {}, 404, "model_not_found"),
    ("GET", "/v1/responses/resp_x", None, {}, 404, "response_not_found"),
    ("GET", "/v1/chat/completions", None, {}, 405, None),
    ("POST", "/v1/chat/completions", CHAT | {"more": "x" * 2000}, {}, 413, "request_too_large"),
    ("POST", "/v1/chat/completions", CHAT, {"Content-Type": "text/plain"}, 415, None),
    ("POST", "/v1/chat/completions", CHAT | {"model": "dead"}, {}, 502, "all_backends_failed"),
    ("POST", "/v1/chat/completions", CHAT | {"model": "smal"}, {}, 404, "model_not_found"),
    ("POST", "/v1/chat/completions", CHAT | {"model": "cloud"}, PRIVATE, 503, "no_eligible_backend"),
]


def ask(folder: Path, request: tuple[Any, ...], database: str = "metrics.db") -> tuple[int, dict[str, Any]]:
    """The answer of a router whose backends hold nothing, answer nothing, or are not local."""
    method, url, body, headers, *_ = request
    backends = {
        "small": {"type": "echo", "contextWindow": 1},
        "dead": {"type": "ollama", "endpoint": "http://127.0.0.1:1", "models": ["m"]},
        "cloud": {"type": "sarmalink"},
    }
    (folder / "policy.yaml").write_text(
        yaml.safe_dump({"backends": backends, "routes": [{"default": "cloud"}]}), "utf-8"
    )
    environ = {"LLR_POLICY": str(folder / "policy.yaml"), "LLR_DB": str(folder / database)}
    client = create_app(environ | {"LLR_API_KEYS": "key", "LLR_MAX_BODY_BYTES": "1024"}).test_client()
    text = None if body is None else json.dumps(body)
    sent = {"Authorization": "Bearer key", "Content-Type": "application/json"} | headers
    answer = client.open(url, method=method, data=text, headers=sent)
    return answer.status_code, answer.json["error"]


@pytest.mark.parametrize("request_", ASKED, ids=lambda asked: f"{asked[4]} {asked[5]}")
def test_documented_errors_come(tmp_path: Path, request_: tuple[Any, ...]):
    status, error = ask(tmp_path, request_)
    assert (status, error["code"]) == request_[4:]
    assert set(error) == {"message", "type", "param", "code"}
    listed = {(row[0], code) for row in API.rows("status", "code") for code in names(row[1])}
    assert (str(status), error["code"] or "null") in listed


@pytest.mark.parametrize(
    ("url", "code"), [("/v1/metrics", "metrics_unavailable"), ("/v1/responses/resp_x", "store_unavailable")]
)
def test_an_unreadable_database_is_a_503(tmp_path: Path, url: str, code: str):
    status, error = ask(tmp_path, ("GET", url, None, {}), database="no/such/folder/metrics.db")
    assert (status, error["code"]) == (503, code)


def test_the_dry_run_shows_every_tag_and_names_every_stage():
    section = Document(API.path, API.text.partition("## POST /v1/route\n")[2].partition("\n## ")[0])
    shown = next(block.text for block in section.blocks("json") if '"classification"' in block.text)
    tags = [field.name for field in dataclasses.fields(Classification)]
    assert list(json.loads(shown)["classification"]) == tags
    many = OPERATIONS.text.partition("### Classification of many prompts\n")[2].partition("\n##")[0]
    assert set(tags) <= set(names(Document(OPERATIONS.path, many).prose))
    source = (ROOT / "app/routing/decide.py").read_text("utf-8")
    stages = re.findall(r"^        (\w+),  # ", source, re.MULTILINE)
    listed = section.text.partition("The stages are")[2].partition(".")[0]
    assert [name for name in names(listed) if name in stages] == stages
    assert " -> ".join(stages) in source


# --- settings and policy ------------------------------------------------------------------------


def test_every_variable_is_documented_with_its_default():
    rows = {name: row[1] for row in OPERATIONS.rows("variable", "default") for name in names(row[0])}
    assert rows == {variable.name: variable.default for variable in VARIABLES}


def test_no_page_names_a_variable_that_does_not_exist():
    known = {variable.name for variable in VARIABLES} | {"LLR_PROT"}  # the example of a typing mistake
    for page in [*PAGES, Document(ROOT / "policy.example.yaml", EXAMPLE)]:
        assert set(re.findall(r"\bLLR_[A-Z_]*[A-Z]\b", page.text)) <= known, page.path


def schema_keys(members: dict[str, Any]) -> Iterator[str]:
    """Every key that a policy may hold, names of the operator's choice left out."""
    for name, field in members.items():
        yield field.data_key or name
        inner = field.inner if isinstance(field, fields.List) else field
        if isinstance(inner, fields.Nested):
            yield from schema_keys(inner.schema.fields)


def policy_keys() -> set[str]:
    from_types = (schema_keys(backend_schema(kind).fields) for kind in policy.schema.BACKEND_TYPES.values())
    return {*schema_keys(PolicySchema().fields), "min"}.union(*from_types)


def document_keys(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        yield from document
        for value in document.values():
            yield from document_keys(value)
    elif isinstance(document, list):
        for value in document:
            yield from document_keys(value)


def test_the_example_policy_names_every_key():
    used = set(document_keys(yaml.safe_load(EXAMPLE)))
    only_explained = {"sensitivity", "modality", "family"} & set(re.findall(r"^#   (\w+)", EXAMPLE, re.MULTILINE))
    assert policy_keys() <= used | only_explained


def test_the_reference_names_every_key_and_is_current():
    listed = names(reference().replace("{min, max}", "min` `max"))
    assert policy_keys() <= {key.rpartition(".")[2] for key in listed}
    assert (ROOT / "docs/policy.md").read_text("utf-8") == reference(), "run `make docs`"


def test_the_example_policy_loads_without_a_warning():
    loaded = policy.load(EXAMPLE, "policy.example.yaml", Settings(), lambda _: [])
    assert not loaded.warnings


def test_the_example_policy_goes_local_first():
    rules = policy.load(EXAMPLE, "policy.example.yaml", Settings()).policy
    body = chat.parse(b'{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}')
    request = ChatRequest(request_id="t", surface="chat", body=body, model="auto", stream=False)
    decision = decide(request, classify(request), rules, Observations(local=frozenset({"local"})))
    assert decision.route == "default"
    assert [target.backend for target in decision.targets] == ["local", "sarmalink"]
    for route in rules.routes:
        expected = rules.backends[route.backend].p50_ms
        assert not route.latency_budget_ms or not expected or expected < route.latency_budget_ms


# --- metrics ------------------------------------------------------------------------------------


def test_every_column_is_documented():
    documented = [name for row in OPERATIONS.rows("column") for name in names(row[0])]
    assert sorted(documented) == sorted(field.column_name for field in Metric._meta.sorted_fields)


def test_every_prometheus_name_is_documented_with_its_type():
    workers = {"w": {"in_flight": {"echo": 0}, "waiting": {"echo": 0}, "circuit_open": {"echo": 0}, "queued": 0}}
    lines = exposition(Snapshot({LIVE: Aggregate()}, {LIVE: Aggregate()}, workers, 0)).decode().splitlines()
    known = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    rows = OPERATIONS.rows("name", "type", "labels")
    assert {name: row[1] for row in rows for name in names(row[0])} == known


def test_the_names_of_the_original_are_kept():
    names = {"llr_backend_calls_total", "llr_backend_success_total"}
    names |= {"llr_backend_latency_avg_ms", "llr_backend_latency_p95_ms"}
    assert names <= set(re.findall(r"llr_\w+", OPERATIONS.text))


def members(document: Any) -> Iterator[str]:
    return (str(key) for key in document_keys(document))


def test_every_member_of_the_json_reports_is_documented(app):
    extra = {"rows_dropped": 0, "refusals": {}, "servers": servers(["local"], [build.worker_report()], 0)}
    summary = metrics_summary({LIVE: Aggregate()}, 24, extra)
    report = ab_report({}, ABTest(True, 0.1, {"a": "b"}), 24)
    health = app.test_client().get("/health").json
    explained = app.test_client().post("/v1/route", json=CHAT).json
    for name in {*members(summary), *members(report), *members(health), *members(explained)}:
        assert f"`{name}`" in API.prose or f'"{name}"' in API.text, name


# --- URLs, headers, commands --------------------------------------------------------------------


def test_every_url_is_documented(app):
    rules = list(app.url_map.iter_rules())
    known = {f"{method} {rule.rule}" for rule in rules for method in rule.methods - {"HEAD", "OPTIONS"}}
    known = {re.sub(r"<[\w:]+>", "{id}", url) for url in known}
    listed = {name if " " in name else f"GET {name}" for row in API.rows("URL") for name in names(row[0])}
    assert listed == known
    in_short = {name if " " in name else f"GET {name}" for row in README.rows("URL") for name in names(row[0])}
    assert in_short < known
    for url in known:
        assert f"## {url}\n" in API.text or API.prose.count(f"`{url}`") >= 2, url


def test_every_header_is_documented():
    code = "".join(source.read_text("utf-8") for source in SOURCES)
    written = set(re.findall(r"\bX-LLR-[A-Za-z]+(?:-[A-Za-z]+)*", code))
    written |= {"X-LLR-" + name.replace("_", "-").title() for name in re.findall(r"HTTP_X_LLR_([A-Z_]+[A-Z])", code)}
    written |= set(re.findall(r"\bx-should-retry\b", code)) | set(FORWARDED.values())
    tables = [*API.rows("header", "values"), *API.rows("header", "on")]
    assert written == {name for row in tables for name in names(row[0])}


def commands(app) -> set[str]:
    found = set()
    for name, command in app.cli.commands.items():
        found |= {f"{name} {below}" for below in command.commands} if hasattr(command, "commands") else {name}
    return found


def test_every_command_is_documented_and_every_documented_one_exists(app):
    listed = {name.removeprefix("flask ") for row in OPERATIONS.rows("command") for name in names(row[0])}
    assert listed == commands(app)
    for page in PAGES:
        for name in re.findall(r"`flask ([a-z]+(?: [a-z]+)?)", page.text):
            assert any(name == known or known.startswith(f"{name} ") for known in commands(app)), (page.path, name)


def test_every_check_of_doctor_is_documented():
    calls = (node for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Call))
    found = {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "Finding" and isinstance(call.args[0], ast.Constant)
    }
    page = Document.read("docs/troubleshooting.md")
    assert {name for row in page.rows("check", "finds") for name in names(row[0])} == found


def test_every_make_target_is_documented():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert targets == set(re.findall(r"\bmake ([a-z-]+)", CONTRIBUTING.text))
    for page in PAGES:
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", page.text, re.MULTILINE)) <= targets, page.path


def test_the_page_of_clients_names_the_versions_that_are_tested():
    named = " ".join(row[2] for row in CLIENTS.rows("client", "API", "tested with"))
    packages = json.loads((ROOT / "tests/clients/node/package.json").read_text("utf-8"))["dependencies"]
    for name in ("openai", "ai", "@ai-sdk/openai", "@openai/codex"):
        assert packages[name] in named, name
    for file in ("requirements-dev.txt", "requirements-clients.txt"):
        (version,) = re.findall(r"^openai==(\S+)", (ROOT / file).read_text("utf-8"), re.MULTILINE)
        assert version in named, file


# --- the pages themselves -----------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(README.text.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.name)
def test_links_lead_somewhere(page: Document):
    for link in page.links:
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.path.parent / target).resolve() if target else page.path
        assert file.exists(), link
        assert not anchor or anchor in Document(file, file.read_text("utf-8")).anchors, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.name)
def test_snippets_are_valid(page: Document):
    for block in page.blocks("python"):
        compile(block.text, f"{page.path.name}:{block.line}", "exec")
    for block in page.blocks("sh"):
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{page.path.name}:{block.line}: {done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.name)
def test_no_page_knows_the_machine_it_was_written_on(page: Document):
    assert not re.findall(r"/tmp/|/home/|/root/|<<<<<<<|>>>>>>>", page.text)


def test_pictures_are_small():
    pictures = [*(ROOT / "docs/images").iterdir()]
    assert {f"docs/images/{picture.name}" for picture in pictures} == {
        link for link in README.links if link.startswith("docs/images/")
    }
    assert max(picture.stat().st_size for picture in pictures) < 200_000


def test_the_policy_in_the_readme_is_fit_to_serve():
    (block,) = README.blocks("yaml")
    assert not policy.load(block.text, "README.md", Settings(), lambda _: []).warnings


@pytest.mark.e2e
def test_the_examples_of_readme_and_api_run(router, tmp_path: Path):
    """Every curl and the SDK snippet, as they stand but for the port, against the policy that `flask init` writes where
    it finds nothing."""
    running: Router = router(_first_policy(tmp_path))
    for page in (README, Document.read("docs/start.md"), API, CLIENTS):
        for block in page.blocks("sh"):
            if "curl" in block.text:
                script = block.text.replace("127.0.0.1:3030", f"127.0.0.1:{running.port}")
                script = script.replace("curl ", "curl --fail --silent --show-error --max-time 20 ")
                _run(["bash", "-e"], script, f"{page.path.name}:{block.line}")
    (block,) = README.blocks("python")
    said = _run([sys.executable, "-"], block.text.replace(":3030", f":{running.port}"), "README.md, SDK")
    assert "Why is the sky blue?" in said and "red at dusk" in said


def _first_policy(folder: Path) -> str:
    environ = {"PATH": "", "LLR_POLICY": str(folder / "first.yaml"), "OLLAMA_HOST": "127.0.0.1:1"}
    command = [sys.executable, "-m", "flask", "init"]
    subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    return (folder / "first.yaml").read_text("utf-8")


def _run(command: list[str], text: str, where: str) -> str:
    done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, f"{where}: {done.stderr}\n{done.stdout}"
    assert done.stdout, where
    return done.stdout


# --- imports ------------------------------------------------------------------------------------


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environ = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_point_one_way(copy: Path):
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "planted", "broken"),
    [
        ("app/routing/decide.py", "import flask", "what decides does no I/O"),
        ("app/wire/sse.py", "import socket", "what decides does no I/O"),
        ("app/dispatch.py", "from app.web import chat", "imports point one way"),
        ("app/backends/base.py", "from app import policy", "imports point one way"),
    ],
)
def test_a_planted_import_is_found(copy: Path, file: str, planted: str, broken: str):
    source = copy / file
    source.write_text(f"{source.read_text('utf-8')}\n{planted}\n", "utf-8")
    done = lint_imports(copy)
    assert done.returncode != 0
    assert f"{broken} BROKEN" in done.stdout


def test_the_architecture_page_has_the_layers_that_are_checked():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    drawn = "".join(f"{layer.replace('app.', '')}\n" for layer in layers)
    assert drawn in [block.text for block in ARCHITECTURE.blocks("text")]
    assert all(f'"{contract["name"]}"' in ARCHITECTURE.text or contract["type"] == "layers" for contract in contracts)


def test_the_architecture_page_names_every_module():
    (rooms,) = (block.text for block in ARCHITECTURE.blocks("text") if "gunicorn.conf.py" in block.text)
    for source in SOURCES:
        folder, name = source.parent.name, source.name
        shown = f"{folder}/" if folder == "dashboard" or name == "__init__.py" else name
        assert shown in rooms, f"{source} is missing from ARCHITECTURE.md"
        assert name == "__init__.py" or folder in ("app", "dashboard") or f"  {folder}/" in rooms, source


def test_there_is_one_flow():
    """Only the pipeline dispatches live calls; shadow calls go through the same door."""
    importers = {
        (str(source.relative_to(ROOT / "app")), node.module)
        for source, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("app.dispatch", "app.call")
    }
    assert importers == {
        ("pipeline.py", "app.dispatch"),
        ("verification/__init__.py", "app.dispatch"),
        ("verification/escalation.py", "app.dispatch"),
        ("verification/judging.py", "app.dispatch"),
        ("verification/chunks.py", "app.call"),
        ("verification/escalation.py", "app.call"),
        ("verification/opinion.py", "app.call"),
        ("dispatch.py", "app.call"),
        ("background/shadows.py", "app.call"),
    }


GENERIC = ("access", "door", "errors", "headers", "reply", "request_log", "response", "stream", "surface", "views")
# Methods of a Backend that send something, and who may call them: Call alone for a request; what asks a server for
# its models and windows, in the background and from the command line, is no request.
ASKERS = {
    "background/discovery.py",
    "background/residency.py",
    "cli/backends.py",
    "cli/discovery.py",
    "cli/surroundings.py",
}
DOORS = {
    "open": ({"private"}, {"call.py"}),
    "_open": ({"private"}, set()),
    "_send": (set(), set()),
    "host_of_model": (set(), {"call.py"}),
    "prepare": ({"stream"}, {"call.py", "dry_run.py"}),  # the dry run shows what would be sent
    **{method: (set(), ASKERS) for method in ("ask", "discover", "ask_for_facts", "learn_list")},
    "look": (set(), {*ASKERS, "background/shadows.py", "places/__init__.py"}),  # a call that waits looks at the queue
}


@pytest.mark.parametrize("method", DOORS)
def test_there_is_one_door_to_backends(method: str):
    """`open` is a method of files too: that of a backend says whether the request is private."""
    keywords, allowed = DOORS[method]
    callers = {
        str(source.relative_to(ROOT / "app"))
        for source, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
        if keywords <= {keyword.arg for keyword in node.keywords}
    }
    outside = {caller for caller in callers if not caller.startswith("backends/")}
    assert outside <= allowed
    assert callers, "it has another name now"


def readers(pattern: str) -> set[str]:
    """The modules whose code matches a pattern."""
    sources = ((str(source.relative_to(ROOT / "app")), source.read_text("utf-8")) for source in SOURCES)
    return {name for name, text in sources if re.search(pattern, text)}


@pytest.mark.parametrize(
    ("pattern", "modules"),
    [
        (r"\bCallRecord\(", {"call.py"}),  # every call makes its one record there
        (r"\.p50_ms\b", {"routing/expected.py"}),  # the one estimate of a call's time
        (r"\.places\.(take|wait|release)\(", {"call.py"}),
        (r"circuits\.(admit|answered)\(", {"call.py"}),
    ],
)
def test_what_has_one_place_is_nowhere_else(pattern: str, modules: set[str]):
    assert readers(pattern) == modules


@pytest.mark.parametrize("edits", ALL, ids=lambda edits: next(iter(edits)))
def test_the_lines_that_the_long_suites_change_are_there(tmp_path: Path, edits: Edits):
    altered_copy(tmp_path / "copy", edits)


def test_the_flow_fits_on_a_screen():
    assert len((ROOT / "app/pipeline.py").read_text("utf-8").splitlines()) <= 70


def test_nobody_else_opens_connections_to_backends():
    for source, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "app.backends.connection":
                assert source.parent.name == "backends", source


@pytest.mark.parametrize("name", GENERIC)
def test_what_serves_every_surface_knows_the_form_of_none(name: str):
    """An API is known to the file of its surface, and to openai.py for those of OpenAI: nowhere else."""
    source = ROOT / "app/web" / f"{name}.py"
    text = source.read_text("utf-8")
    imported = {f"{node.module}" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    imported -= {"app.wire", "app.wire.translator"}  # the table of translators, for whatever form
    assert not {module for module in imported if module.startswith(("app.wire", "app.web.openai"))}
    assert not re.findall(r"(?i)openai|envelope|bearer|event-stream|\bsse\b|\bdata:|\[DONE\]", text)


def test_no_import_hides_inside_a_function():
    for source, tree in trees():
        for function in ast.walk(tree):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                hidden = [node for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))]
                assert not hidden, (source, function.name)
