"""`flask backends`."""

from __future__ import annotations

import os
import time

import click
from flask.cli import AppGroup

from app.background.observe import resolve
from app.cli.common import as_json, cells, counted, print_json, runtime
from app.cli.table import table
from app.errors import BackendError

backends_group = AppGroup("backends", help="The backends of the policy.")


@backends_group.command("list")
@as_json
def backends_list(as_json: bool) -> None:
    """Backends, whether they are local, and whether their key is set."""
    rt = runtime()
    rt.look_up_names(resolve)
    local = rt.observations().local
    rows = []
    for name, config in rt.policy.backends.items():
        key = "none needed" if not config.api_key_env else "set" if os.environ.get(config.api_key_env) else "NOT SET"
        entry = {"backend": name, "type": config.type, "endpoint": config.endpoint, "local": name in local, "key": key}
        rows.append(entry)
    if as_json:
        print_json(rows)
    else:
        click.echo(table(("backend", "type", "endpoint", "local", "key"), [cells(row) for row in rows]))


@backends_group.command("probe")
@as_json
def backends_probe(as_json: bool) -> None:
    """Ask every backend for its models; `ms` is how long it took.  Exit status 1 when one does not answer."""
    rows, failed = [], False
    for name, upstream in runtime().upstreams.items():
        started = time.monotonic()
        try:
            answer = counted(len(upstream.backend.discover()), "model")
            ok = True
        except BackendError as error:
            answer, ok, failed = error.told(), False, True
        ms = round((time.monotonic() - started) * 1000)
        rows.append({"backend": name, "ok": ok, "ms": ms, "answer": answer})
    if as_json:
        print_json(rows)
    else:
        click.echo(table(("backend", "ok", "ms", "answer"), [cells(row) for row in rows]))
    if failed:
        raise SystemExit(1)
