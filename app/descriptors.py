"""Read and raise the limit of open files and sockets.

It imports nothing of ours: gunicorn.conf.py loads it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource

MOST_CONNECTIONS = 1000  # clients of one worker at once
_OWN = 124  # for the database, the log, listeners, the event loop, locks and name resolution
_EACH = 3  # for a client, its backend, and an idle connection to another backend
_ENOUGH = 1_048_576  # used when there is no hard limit: Linux's default of a hard limit (fs.nr_open)
NONE_LEFT = (errno.EMFILE, errno.ENFILE)


def limits() -> tuple[int, int]:
    """Return the soft and the hard limit (`ulimit -Sn`, `ulimit -Hn`)."""
    soft, hard = (
        _ENOUGH if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return soft, hard


def raise_limit() -> int:
    """Raise the soft limit to the hard one, and return the new limit.  Processes started later inherit it."""
    wanted = limits()[1]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # macOS allows less than its hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limits()[0]


def connections(limit: int) -> int:
    """Return the number of clients that a worker can serve at the same time with `limit` descriptors."""
    return max(8, min(MOST_CONNECTIONS, (limit - _OWN) // _EACH))


def wanted() -> int:
    """Return the limit with which a worker serves MOST_CONNECTIONS clients."""
    return MOST_CONNECTIONS * _EACH + _OWN


def none_left() -> bool:
    """Return True when no descriptor is left."""
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno in NONE_LEFT
    return False
