"""What `flask doctor` knows: each check looks at what was seen and yields what is wrong, with the fix.  Pure.

A module a subject; the table below names every check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from app.cli.checks import backends, history, policy, process
from app.cli.checks.seen import Answer, Finding, Seen

__all__ = ["CHECKS", "Answer", "Finding", "Seen", "findings"]

CHECKS: tuple[Callable[[Seen], Iterator[Finding]], ...] = (
    backends.keys,
    backends.key_forms,
    backends.reachable,
    backends.models,
    backends.aliases,
    backends.locality,
    backends.cloud_models,
    backends.windows,
    backends.exposed,
    policy.private_requests,
    policy.budgets,
    policy.echo,
    history.failing,
    history.cooling,
    history.spilling,
    history.pins,
    history.unpriced,
    history.refusals,
    process.door,
    process.database,
    process.file_system,
    process.clock,
    process.serving,
    process.descriptors,
    process.proxies,
)


def findings(seen: Seen) -> list[Finding]:
    """Return what all checks find, in the order of the table."""
    return [finding for check in CHECKS for finding in check(seen)]
