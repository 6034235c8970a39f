"""Check the process and its machine: access, the database, the clock and the environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from app.cli.checks.facts import Facts, Finding
from app.descriptors import connections, wanted
from app.routing.locality import is_address, is_loopback_name
from app.settings import database_problem

_SKEW_MS = 5_000  # a smaller difference between two clocks is normal


def access(facts: Facts) -> Iterator[Finding]:
    host = facts.settings.host.strip("[]")
    is_loopback = is_loopback_name(host) or (is_address(host) and ipaddress.ip_address(host).is_loopback)
    if not is_loopback and not facts.settings.api_keys:
        what = (
            f"the router listens on {host} and needs no key: everybody who reaches it uses your GPU and your accounts"
        )
        yield Finding("door", "LLR_HOST", what, "set LLR_API_KEYS, or LLR_HOST=127.0.0.1")


def database(facts: Facts) -> Iterator[Finding]:
    if problem := database_problem(facts.settings.db):
        yield Finding("database", "LLR_DB", problem, "correct LLR_DB; with this one the router does not start")
        return
    problem = facts.database_problem
    if facts.is_database_missing and facts.running_policy is not None and not problem:
        what = f"the router at port {facts.settings.port} runs, but there is no database at {facts.settings.db}"
        yield Finding(
            "database", "LLR_DB", what, "set LLR_DB here as it is set for the router, so that reports find the rows"
        )
    if not problem:
        return
    fixes = (
        ("unable to open", "make its folder, and give the router's user write permission there"),
        ("readonly", "give the router's user write permission for the file and its folder"),
        ("read-only", "give the router's user write permission for the file and its folder"),
        ("not a database", "the file is no database: name another file in LLR_DB"),
        ("locked", "another program locks it: end that program"),
        ("full", "free space on its disk"),
    )
    fix = next((fix for word, fix in fixes if word in problem), "name a file that the router may write in LLR_DB")
    yield Finding("database", "LLR_DB", f"the router cannot write it: {problem}", fix)


def clock(facts: Facts) -> Iterator[Finding]:
    ahead = (facts.newest_row_ms or 0) - facts.now_ms
    if ahead > _SKEW_MS:
        what = f"its newest row is {_span(ahead)} in the future: a clock was or is wrong"
        fix = "set the clocks of all machines that write to it (`timedatectl set-ntp true`)"
        yield Finding("clock", "LLR_DB", what, fix)


def _span(ms: int) -> str:
    for limit, unit in ((86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes")):
        if ms >= 2 * limit:
            return f"{ms // limit} {unit}"
    return f"{ms // 1000} seconds"


def reload(facts: Facts) -> Iterator[Finding]:
    if facts.running_policy not in (None, facts.policy.version):
        router, file = facts.running_policy, facts.policy.version
        what = f"the router at port {facts.settings.port} uses policy {router}, and the file is {file}"
        yield Finding(
            "reload", facts.settings.policy, what, "send the router SIGHUP (`systemctl reload`), and read its log"
        )


def file_system(facts: Facts) -> Iterator[Finding]:
    """Report a network file system: SQLite's locks do not work between machines, and its write-ahead log needs memory
    that all writers share."""
    if kind := facts.network_file_system:
        what = (
            f"{facts.settings.db} is on a network file system ({kind}), where SQLite can lose rows or damage the file"
        )
        fix = "move it to a disk of this machine, or use PostgreSQL: LLR_DB=postgresql://user:password@host/name"
        yield Finding("file-system", "LLR_DB", what, fix)


def descriptors(facts: Facts) -> Iterator[Finding]:
    limit = facts.descriptors
    if limit is not None and limit < wanted():
        what = f"a worker may open {limit} files and sockets, enough for {connections(limit)} clients at once"
        fix = f"raise the hard limit to {wanted()}: `ulimit -Hn`, under systemd LimitNOFILE, in Docker --ulimit nofile"
        yield Finding("descriptors", "ulimit -n", what, fix)


def proxies(facts: Facts) -> Iterator[Finding]:
    for variable, backends in facts.unused_proxies.items():
        what = f"it names a proxy, but the router uses no proxy: it connects directly to {', '.join(backends)}"
        fix = "unset it for the router, or list these hosts in NO_PROXY; when only a proxy leads out, run a forwarder"
        yield Finding("proxy", variable, what, fix)
