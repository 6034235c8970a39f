"""`flask backends`: list the backends, and ask them for their models."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import click
from flask.cli import AppGroup

from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.beliefs.local import resolve
from app.cli.common import TIMEOUTS, cells, counted, get_services, print_json
from app.cli.options import as_json
from app.cli.table import table
from app.errors import BackendError
from app.types import BackendConfig, JsonDict

backends_group = AppGroup("backends", help="List the backends, and ask them.")


@backends_group.command("list")
@as_json
def backends_list(as_json: bool) -> None:
    """List the backends, whether they are local, and whether their key is set.

    Asks each local Ollama server which of its models run at another host.  Such models are not local."""
    services = get_services()
    services.beliefs.local.refresh(resolve)
    local = services.beliefs.observations().local
    rows: list[JsonDict] = []
    remote: dict[str, dict[str, str]] = {}
    for name, config in services.policy.backends.items():
        key = "none needed" if not config.api_key_env else "set" if os.environ.get(config.api_key_env) else "NOT SET"
        entry = {"backend": name, "type": config.type, "endpoint": config.endpoint, "local": name in local, "key": key}
        rows.append(entry)
        remote[name] = _remote_models(config) if name in local else {}
    if as_json:
        print_json([{**row, "remote_models": remote[row["backend"]]} for row in rows])
        return
    click.echo(table(("backend", "type", "endpoint", "local", "key"), [cells(row) for row in rows]))
    for name, models in remote.items():
        for model, host in models.items():
            click.echo(f"{name}: {model} runs at {host}: it is not local")


def _remote_models(config: BackendConfig) -> dict[str, str]:
    """Ask a server which of its models it forwards, and to which host.  A server that does not reply forwards none."""
    backend = BACKEND_TYPES[config.type](replace(config, timeouts=TIMEOUTS), os.environ)
    try:
        if backend.model_hosts is not None:
            backend.discover()
    except BackendError:
        return {}
    finally:
        backend.close()
    return {model: host for model, host in (backend.model_hosts or {}).items() if host}


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
