"""Everything that a worker makes of a policy and that can fail.

`policy.load` makes it, for the check as for a worker: so a policy that passes the check cannot stop a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.routing.detect import Detectors
from app.types import Policy


@dataclass(frozen=True, slots=True)
class Services:
    """A policy, and what is made of it.  Nothing is opened or started yet."""

    policy: Policy
    detectors: Detectors
    backends: Mapping[str, Backend]


def make_services(policy: Policy, environ: Mapping[str, str]) -> Services:
    """Return the services of `policy`; keys come from `environ`.  Raises PatternError when the patterns cannot be
    compiled together."""
    return Services(
        policy,
        Detectors(policy.sensitivity),
        {name: BACKEND_TYPES[config.type](config, environ) for name, config in policy.backends.items()},
    )
