"""Find the local backends, by the addresses of their host names."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence

from app.routing.locality import host_name, is_loopback_name, judge_config
from app.types import BackendConfig

log = logging.getLogger("llr.background")


class LocalBackends:
    """Hold the names of the local backends.  Their host names are resolved regularly."""

    def __init__(self, configs: Mapping[str, BackendConfig]) -> None:
        self._configs = configs
        self.names = frozenset(name for name, config in configs.items() if config.local)

    def refresh(self, resolve: Callable[[str], Sequence[str]]) -> None:
        """Judge each backend again.  Each verdict counts at once, and loopback names come first, so that a slow name
        does not delay other backends.  Blocks."""
        before = self.names
        for name, config in sorted(self._configs.items(), key=lambda item: not _is_loopback(item[1])):
            addresses = resolve(host_name(config.endpoint)) if config.local is None else ()
            is_local = judge_config(config, addresses).local is True
            if is_local != (name in self.names):
                self.names ^= {name}
        if self.names != before:
            log.info("local backends now: %s", ", ".join(sorted(self.names)) or "none")


def _is_loopback(config: BackendConfig) -> bool:
    return is_loopback_name(host_name(config.endpoint))


def resolve(host: str) -> list[str]:
    """Return the addresses of a host; [] when it does not resolve.  Blocks."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []
