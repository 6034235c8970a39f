"""Collect the facts for `flask doctor`: from the backends, the database, the environment and this machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import should_bypass_proxies

from app import policy
from app.backends import BACKEND_TYPES
from app.beliefs.local import resolve
from app.cli.checks import Facts
from app.cli.checks.backends import key_problem
from app.cli.discovery import discover
from app.cli.records import open_circuits, read
from app.descriptors import limits
from app.metrics.judged import judged_report
from app.policy import yaml_source
from app.routing.locality import host_name, is_address, is_loopback_name
from app.services import Services
from app.settings import Settings
from app.storage import now_ms
from app.storage.mounts import MOUNTS, network_file_system
from app.types import BackendConfig

_CONNECT_S = 0.5  # to a port of this machine
_THREADS = 16
# NVIDIA's and AMD's devices on Linux; macOS has a GPU always, and its server reports all of a model on it
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
_OPEN_FILES = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)  # of /proc/pid/limits: the soft limit
_PROXIES = tuple(name for low in ("http_proxy", "https_proxy", "all_proxy") for name in (low.upper(), low))


def inspect(services: Services, environ: Mapping[str, str]) -> Facts:
    """Collect all facts; ask all backends in parallel, each for a few seconds at most."""
    backends = services.policy.backends
    missing_keys = {name: key for name, up in services.upstreams.items() if (key := up.backend.missing_key)}
    reachable = {
        name: config for name, config in backends.items() if config.type != "echo" and name not in missing_keys
    }
    discoveries = discover(reachable.values(), environ)
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        addresses = dict(zip(backends, pool.map(_addresses, backends.values()), strict=True))
        exposed_at = dict(zip(reachable, pool.map(_exposed_at, reachable.values()), strict=True))
    records = read(services.settings.db)
    return Facts(
        settings=services.settings,
        policy=services.policy,
        discoveries=discoveries,
        missing_keys=missing_keys,
        addresses=addresses,
        local_keys=_local_keys(services.settings),
        exposed_at={name: address for name, address in exposed_at.items() if address},
        timings=records.timings,
        database_problem=records.problem,
        newest_row_ms=records.newest_ms,
        is_database_missing=records.is_missing,
        now_ms=now_ms(),
        running_policy=_running_policy(services.settings),
        calls=records.calls,
        timed=records.timed,
        judged=judged_report(records.last_day, services.policy)["routes"],
        refusals=records.refusals,
        workers=len(records.workers),
        open_circuits=open_circuits(records.workers),
        malformed_keys=_malformed_keys(backends.values(), services.settings, environ),
        unused_proxies=_unused_proxies(backends, environ),
        network_file_system=_network_file_system(services.settings.db),
        has_gpu=any(map(os.path.exists, _GPU_DEVICES)),
        descriptors=_descriptors(records.workers),
    )


# --- backends -----------------------------------------------------------------------------------


def _addresses(config: BackendConfig) -> Sequence[str]:
    host = host_name(config.endpoint)
    return [host] if is_address(host) else resolve(host)


def _exposed_at(config: BackendConfig) -> str:
    """Return an address of this machine at which other machines reach a server on loopback, or ""."""
    parts = urlsplit(config.endpoint)
    host = parts.hostname or ""
    if BACKEND_TYPES[config.type].hosted or not (is_loopback_name(host) or host in ("127.0.0.1", "::1")):
        return ""
    for address in own_addresses():
        try:
            socket.create_connection((address, parts.port or 80), timeout=_CONNECT_S).close()
        except OSError:
            continue
        return address
    return ""


def own_addresses() -> list[str]:
    """Return this machine's addresses in the network that leads to the Internet.  Sends no packet."""
    addresses = []
    for family, public in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((public, 9))
                addresses.append(sock.getsockname()[0])
        except OSError:
            continue
    return addresses


# --- environment and policy file ----------------------------------------------------------------


def _malformed_keys(
    backends: Iterable[BackendConfig], settings: Settings, environ: Mapping[str, str]
) -> Mapping[str, str]:
    """Return the variables whose value does not look like a key, each with its problem."""
    variables = {config.api_key_env for config in backends if config.api_key_env}
    values = {name: [environ.get(name, "")] for name in sorted(variables)} | {"LLR_API_KEYS": settings.api_keys}
    problems = {name: next(filter(None, map(key_problem, keys)), "") for name, keys in values.items()}
    return {name: problem for name, problem in problems.items() if problem}


def _unused_proxies(backends: Mapping[str, BackendConfig], environ: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    """Return the variables that name a proxy for other HTTP clients, with the backends outside NO_PROXY."""
    exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = [
        name
        for name, config in backends.items()
        if config.type != "echo" and not should_bypass_proxies(config.endpoint, exempt)
    ]
    return {variable: names for variable in _PROXIES if names and environ.get(variable, "").strip()}


def _local_keys(settings: Settings) -> Mapping[str, bool]:
    """Return the keys `local` that the policy file contains."""
    entries = yaml_source.parse(settings.policy, policy.read(settings.policy)).data["backends"]
    return {str(name): entry["local"] for name, entry in entries.items() if "local" in entry}


# --- this machine and the running router --------------------------------------------------------


def _network_file_system(location: str) -> str:
    if "://" in location:
        return ""
    with contextlib.suppress(OSError):  # the system is not Linux
        return network_file_system(os.path.realpath(location), Path(MOUNTS).read_text("utf-8", "replace"))
    return ""


def _descriptors(workers: Iterable[str]) -> int:
    """Return the lowest limit of the router's workers on this machine, or the limit that a new router would get."""
    limits_of_workers = []
    for host, _, pid in (worker.rpartition(":") for worker in workers):
        if host == socket.gethostname():
            with contextlib.suppress(OSError):
                if line := _OPEN_FILES.search(Path(f"/proc/{pid}/limits").read_text()):
                    limits_of_workers.append(int(line[1]))
    return min(limits_of_workers, default=limits()[1])


def _running_policy(settings: Settings) -> str | None:
    """Return the hash of the policy of the router that listens at our port, or None."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=_CONNECT_S)
    try:
        connection.request("GET", "/health")
        version = json.loads(connection.getresponse().read(10_000))["policy"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()
    return version if isinstance(version, str) else None
