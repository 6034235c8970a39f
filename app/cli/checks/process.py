"""Checks of the process and its machine: who may come in, the database, the clock, the environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from app.cli.checks.seen import Finding, Seen
from app.descriptors import connections, wanted
from app.routing.locality import is_address, is_loopback_name
from app.settings import database_problem

_SKEW_MS = 5_000


def door(seen: Seen) -> Iterator[Finding]:
    host = seen.settings.host.strip("[]")
    is_loopback = is_loopback_name(host) or (is_address(host) and ipaddress.ip_address(host).is_loopback)
    if not is_loopback and not seen.settings.api_keys:
        what = f"the router listens on {host} and wants no key: whoever reaches it spends your GPU and your bill"
        yield Finding("door", "LLR_HOST", what, "set LLR_API_KEYS, or LLR_HOST=127.0.0.1")


def database(seen: Seen) -> Iterator[Finding]:
    if problem := database_problem(seen.settings.db):
        yield Finding("database", "LLR_DB", problem, "correct LLR_DB; with this one the router does not start")
        return
    problem = seen.database_problem
    if seen.database_missing and seen.serving is not None and not problem:
        what = f"the router at port {seen.settings.port} runs, but there is no database at {seen.settings.db}"
        yield Finding(
            "database", "LLR_DB", what, "set LLR_DB here as it is set for the router, or reports find nothing"
        )
    if not problem:
        return
    fixes = (
        ("unable to open", "make its folder, and let the router's user write there"),
        ("readonly", "let the router's user write to the file and to its folder"),
        ("read-only", "let the router's user write to the file and to its folder"),
        ("not a database", "the file is something else: name another in LLR_DB"),
        ("locked", "another program holds it: end that program"),
        ("full", "free space on its disk"),
    )
    fix = next((fix for word, fix in fixes if word in problem), "name a place that can be written in LLR_DB")
    yield Finding("database", "LLR_DB", f"it cannot be written: {problem}", fix)


def clock(seen: Seen) -> Iterator[Finding]:
    ahead = (seen.newest_row_ms or 0) - seen.now_ms
    if ahead > _SKEW_MS:
        what = f"its newest row is {_span(ahead)} in the future: a clock was, or is, wrong"
        fix = "set the clocks of all machines that write to it (`timedatectl set-ntp true`)"
        yield Finding("clock", "LLR_DB", what, fix)


def _span(ms: int) -> str:
    for limit, unit in ((86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes")):
        if ms >= 2 * limit:
            return f"{ms // limit} {unit}"
    return f"{ms // 1000} seconds"


def serving(seen: Seen) -> Iterator[Finding]:
    if seen.serving is not None and seen.serving != seen.policy.version:
        what = (
            f"the router at port {seen.settings.port} serves policy {seen.serving}, the file is {seen.policy.version}"
        )
        yield Finding(
            "reload", seen.settings.policy, what, "send the router SIGHUP (`systemctl reload`), and read its log"
        )


def file_system(seen: Seen) -> Iterator[Finding]:
    """SQLite's locks do not hold between machines, and its write-ahead log needs memory that all writers share."""
    if kind := seen.network_file_system:
        what = f"{seen.settings.db} lies on a network file system ({kind}): SQLite can lose rows or ruin the file there"
        fix = "put it on a disk of this machine, or share a PostgreSQL: LLR_DB=postgresql://user:password@host/name"
        yield Finding("file-system", "LLR_DB", what, fix)


def descriptors(seen: Seen) -> Iterator[Finding]:
    limit = seen.descriptors
    if limit is not None and limit < wanted():
        what = f"a worker may open {limit} files and sockets, enough for {connections(limit)} clients at once"
        fix = f"raise the hard limit to {wanted()}: `ulimit -Hn`, under systemd LimitNOFILE, in Docker --ulimit nofile"
        yield Finding("descriptors", "ulimit -n", what, fix)


def proxies(seen: Seen) -> Iterator[Finding]:
    for variable, backends in seen.unused_proxies.items():
        what = f"it names a proxy, which the router does not use: it connects directly to {', '.join(backends)}"
        fix = "unset it for the router, or list them in NO_PROXY; where only a proxy leads out put a forwarder between"
        yield Finding("proxy", variable, what, fix)
