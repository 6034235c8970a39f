"""`flask doctor`: looks at everything a running router depends on, and names what is wrong, with the fix."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

import click
from flask import current_app
from flask.cli import with_appcontext
from requests.utils import should_bypass_proxies

from app import policy
from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.background.observe import resolve
from app.cli.checks import CHECKS, Answer, Finding, Seen, findings
from app.cli.checks.backends import key_problem
from app.cli.common import PROBLEM, as_json, print_json
from app.cli.records import circuits, read
from app.cli.table import wrapped
from app.descriptors import limits
from app.errors import BackendError, NoPolicy, PolicyError
from app.policy import yaml_source
from app.routing.locality import host_name, is_address, is_loopback_name
from app.runtime import Runtime
from app.settings import Settings
from app.storage import now_ms
from app.storage.mounts import MOUNTS, network_file_system
from app.types import BackendConfig, Timeouts

_WAIT = Timeouts(connect_s=2.0, first_byte_s=4.0, idle_s=4.0)
_KNOCK_S = 0.5
_OPEN_FILES = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)  # of /proc/pid/limits: the soft limit
_PROXIES = tuple(name for low in ("http_proxy", "https_proxy", "all_proxy") for name in (low.upper(), low))
_LINE = "mend this line; docs/policy.md lists every key"
_VARIABLE = "mend this variable; docs/operations.md lists them all"


@click.command()
@as_json
@with_appcontext
def doctor(as_json: bool) -> None:
    """Look for what is wrong, and say how to mend it.

    Asks every backend for its models.  Exit status 1 when there is something to mend.
    """
    if PROBLEM in current_app.extensions:
        found = _unfit(current_app.extensions[PROBLEM])
    else:
        found = findings(look(current_app.extensions["runtime"], os.environ))
    if as_json:
        print_json({"ok": not found, "findings": [dataclasses.asdict(one) for one in found]})
    else:
        for line in _lines(found):
            click.echo(line)
        click.echo(f"{len(found)} to mend" if found else f"ok: nothing to mend ({len(CHECKS) + 1} checks)")
    if found:
        raise SystemExit(1)


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    """Findings in a row that have one fix get it once."""
    numbered = list(enumerate(found, 1))
    for fix, group in groupby(numbered, key=lambda one: one[1].fix):
        numbers = []
        for number, one in group:
            numbers.append(number)
            yield wrapped(f"{number}. {one.where}: {one.what}", 3)
        whose = "" if len(numbers) == 1 else f" for {numbers[0]} to {numbers[-1]}"
        yield wrapped(f"   fix{whose}: {fix}", 3)


def _unfit(problem: PolicyError) -> list[Finding]:
    """Without a policy nothing else can be looked at."""
    if isinstance(problem, NoPolicy):
        what = problem.message.partition(". ")[0]
        return [Finding("policy", "LLR_POLICY", what, "`flask init` writes a first one; or name yours in LLR_POLICY")]
    found = []
    for line in problem.problems:
        where, _, what = line.partition(": ")
        fix = _VARIABLE if where == "environment" else _LINE
        found.append(Finding("policy", where, what, fix))
    return found


def look(rt: Runtime, environ: Mapping[str, str]) -> Seen:
    """Asks all backends at once, each for some seconds at most."""
    backends = rt.policy.backends
    askable = {
        name: BACKEND_TYPES[config.type](dataclasses.replace(config, timeouts=_WAIT), environ)
        for name, config in backends.items()
        if config.type != "echo" and not rt.upstreams[name].backend.missing_key
    }
    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = dict(zip(askable, pool.map(_ask, askable.values()), strict=True))
        addresses = dict(zip(backends, pool.map(_addresses, backends.values()), strict=True))
        open_at = dict(zip(askable, pool.map(_open_at, (backends[name] for name in askable)), strict=True))
    records = read(rt.settings.db)
    return Seen(
        settings=rt.settings,
        policy=rt.policy,
        answers=answers,
        missing_keys={name: key for name, up in rt.upstreams.items() if (key := up.backend.missing_key)},
        addresses=addresses,
        said_local=_said_local(rt.settings),
        open_at={name: address for name, address in open_at.items() if address},
        latency_ms=records.latency_ms,
        database_problem=records.problem,
        newest_row_ms=records.newest_ms,
        database_missing=records.is_missing,
        now_ms=now_ms(),
        serving=_serving(rt.settings),
        calls=records.calls,
        refusals=records.refusals,
        workers=len(records.workers),
        circuit_open=circuits(records.workers),
        spoiled_keys=_spoiled_keys(rt, environ),
        unused_proxies=_unused_proxies(backends, environ),
        network_file_system=_network_file_system(rt.settings.db),
        descriptors=_descriptors(records.workers),
    )


def _spoiled_keys(rt: Runtime, environ: Mapping[str, str]) -> Mapping[str, str]:
    variables = {config.api_key_env for config in rt.policy.backends.values() if config.api_key_env}
    values = {name: [environ.get(name, "")] for name in sorted(variables)} | {"LLR_API_KEYS": rt.settings.api_keys}
    found = {name: next(filter(None, map(key_problem, each)), "") for name, each in values.items()}
    return {name: problem for name, problem in found.items() if problem}


def _unused_proxies(backends: Mapping[str, BackendConfig], environ: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    """Return the variables that name a proxy for other HTTP clients, with the backends that NO_PROXY leaves to it."""
    exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    called = [
        name
        for name, config in backends.items()
        if config.type != "echo" and not should_bypass_proxies(config.endpoint, exempt)
    ]
    return {name: called for name in _PROXIES if called and environ.get(name, "").strip()}


def _network_file_system(location: str) -> str:
    if "://" in location:
        return ""
    with contextlib.suppress(OSError):  # no Linux
        return network_file_system(os.path.realpath(location), Path(MOUNTS).read_text("utf-8", "replace"))
    return ""


def _descriptors(workers: Iterable[str]) -> int:
    """Return the lowest limit of the router's workers on this machine, or the one that a router started here gets."""
    here = [name.rpartition(":")[2] for name in workers if name.rpartition(":")[0] == socket.gethostname()]
    found = []
    for pid in here:
        with contextlib.suppress(OSError):
            if line := _OPEN_FILES.search(Path(f"/proc/{pid}/limits").read_text()):
                found.append(int(line[1]))
    return min(found, default=limits()[1])


def _ask(backend: Backend) -> Answer:
    config = backend.config
    windows: dict[str, int] = {}
    try:
        held = backend.discover()
        with contextlib.suppress(BackendError):  # not every version tells
            for model in dict.fromkeys((*config.models, *config.families.values(), *held[:1])):
                if model in held and (size := backend.runs_with(model)):
                    windows[model] = size
        return Answer(models=held, windows=windows, model_hosts=backend.model_hosts)
    except BackendError as error:
        return Answer(error=error.message, kind=error.kind)
    finally:
        backend.close()


def _addresses(config: BackendConfig) -> Sequence[str]:
    host = host_name(config.endpoint)
    return [host] if is_address(host) else resolve(host)


def _said_local(settings: Settings) -> Mapping[str, bool]:
    given = yaml_source.parse(settings.policy, policy.read(settings.policy)).data["backends"]
    return {str(name): one["local"] for name, one in given.items() if "local" in one}


def _open_at(config: BackendConfig) -> str:
    """An address of this machine at which others reach a server that is meant for this machine alone."""
    parts = urlsplit(config.endpoint)
    host = parts.hostname or ""
    if BACKEND_TYPES[config.type].hosted or not (is_loopback_name(host) or host in ("127.0.0.1", "::1")):
        return ""
    for address in own_addresses():
        try:
            socket.create_connection((address, parts.port or 80), timeout=_KNOCK_S).close()
        except OSError:
            continue
        return address
    return ""


def own_addresses() -> list[str]:
    """This machine's address in the network that leads outside; nothing is sent to find it."""
    found = []
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((outside, 9))
                found.append(sock.getsockname()[0])
        except OSError:
            continue
    return found


def _serving(settings: Settings) -> str | None:
    """The policy of the router that answers at our port, if one does."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=_KNOCK_S)
    try:
        connection.request("GET", "/health")
        version = json.loads(connection.getresponse().read(10_000))["policy"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()
    return version if isinstance(version, str) else None
