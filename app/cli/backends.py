"""`flask backends`: list the backends and their models, and ask the backends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

import click
from flask.cli import AppGroup

from app.backends.base import Backend
from app.beliefs.local import resolve
from app.cli.checks import Discovery
from app.cli.common import cells, counted, get_services, print_json
from app.cli.discovery import discover
from app.cli.options import as_json
from app.cli.table import table
from app.errors import BackendError
from app.metrics.servers import at, is_described, model_rows
from app.storage import now_ms
from app.types import BackendConfig, JsonDict, JsonObject, Policy
from app.words import age

backends_group = AppGroup("backends", help="List the backends, and ask them.")


@backends_group.command("list")
@as_json
def backends_list(as_json: bool) -> None:
    """List the backends and the models of local servers.

    Asks each local server which models are loaded, with which context window, how much of them is on the GPU, and what
    they can use.  Models that an Ollama runs at another host are not local."""
    services = get_services()
    services.beliefs.local.refresh(resolve)
    local = services.beliefs.observations().local
    rows: list[JsonDict] = []
    for name, config in services.policy.backends.items():
        key = "none needed" if not config.api_key_env else "set" if os.environ.get(config.api_key_env) else "NOT SET"
        entry = {"backend": name, "type": config.type, "endpoint": config.endpoint, "local": name in local, "key": key}
        rows.append(entry)
    servers = [upstream.backend for name, upstream in services.upstreams.items() if name in local]
    replies = discover((one.config for one in servers if not (one.in_process or one.missing_key)), os.environ)
    if as_json:
        print_json([{**row, **_details(row["backend"], replies, services.policy)} for row in rows])
        return
    click.echo(table(("backend", "type", "endpoint", "local", "key"), [cells(row) for row in rows]))
    for name, reply in replies.items():
        _print_models(services.policy.backends[name], reply)
    for name, reply in replies.items():
        for model, host in _remote_models(reply).items():
            click.echo(f"{name}: {model} runs at {host}: it is not local")


def _details(name: str, replies: Mapping[str, Discovery], policy: Policy) -> JsonDict:
    """Return the members of a backend's JSON that its server tells."""
    reply = replies.get(name, Discovery())
    models = list(_model_rows(policy.backends[name], reply))
    more = {"models": models, "more_models": max(0, len(reply.models) - len(models)), "error": reply.error or None}
    return {"remote_models": _remote_models(reply), **more}


def _remote_models(reply: Discovery) -> dict[str, str]:
    """Return the models that a server forwards, with their hosts."""
    return {model: host for model, host in (reply.model_hosts or {}).items() if host}


def _model_rows(config: BackendConfig, reply: Discovery) -> Iterator[JsonDict]:
    """Yield what a server tells about its models: the loaded ones first, then those of the policy."""
    names = [*config.models, *config.families.values(), *reply.models]
    for row in model_rows(names if reply.models else (), reply.facts, reply.residency):
        yield at(row, now_ms())


def _print_models(config: BackendConfig, reply: Discovery) -> None:
    if reply.error:
        click.echo(f"\n{config.name}: {reply.error}")
    rows = [row for row in _model_rows(config, reply) if is_described(row)]
    if not rows:
        return
    lines = [
        (
            row["model"],
            {True: "yes", False: "no", None: None}[row["loaded"]],
            row["window"],
            None if row["gpu_share"] is None else f"{row['gpu_share']:.0%}",
            _expiry(row),
            " ".join(word for word in row["capabilities"] or () if word != "completion") or None,
        )
        for row in rows
    ]
    click.echo(f"\n{config.name}:")
    click.echo(table(("model", "loaded", "window", "GPU", "expires", "can use"), lines))
    if more := len(reply.models) - len(lines):
        click.echo(f"and {counted(more, 'other model')}")


def _expiry(row: JsonObject) -> str | None:
    """Return when the server unloads a model."""
    if not row["loaded"]:
        return None
    seconds = row["expires_in_s"]
    return "never" if seconds is None else f"in {age(seconds * 1000)}" if seconds else "now"


@backends_group.command("probe")
@as_json
def backends_probe(as_json: bool) -> None:
    """Ask every backend for its models, and print the time in ms.  The exit status is 1 when one does not reply."""
    rows = [_probe(name, upstream.backend) for name, upstream in get_services().upstreams.items()]
    if as_json:
        print_json(rows)
    else:
        click.echo(table(("backend", "ok", "ms", "answer"), [cells(row) for row in rows]))
    if not all(row["ok"] for row in rows):
        raise SystemExit(1)


def _probe(name: str, backend: Backend) -> JsonDict:
    """Ask one backend for its models, and return its row."""
    start_s, ok = time.monotonic(), True
    try:
        answer = counted(len(backend.discover()), "model")
        remote = sum(map(bool, (backend.model_hosts or {}).values()))
        answer += f", {remote} run at another host" if remote else ""
    except BackendError as error:
        answer, ok = error.full_message(), False
    finally:
        backend.close()
    return {"backend": name, "ok": ok, "ms": round((time.monotonic() - start_s) * 1000), "answer": answer}
