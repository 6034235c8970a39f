"""Define gunicorn's settings and hooks.  gunicorn reads every global of this file as a setting, so helpers begin
with an underscore.  This file imports only modules of the project that import no others, because other packages
would load ssl before the gevent worker patches it.  For the same reason, a separate process checks the policy.
"""

import contextlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))  # gunicorn may be started from any folder

from app import descriptors as _descriptors  # noqa: E402
from app import tuning as _tuning  # noqa: E402
from app.server import worker as _worker  # noqa: E402

_POLICY_TEXT = "_LLR_POLICY_TEXT"  # read by app/factory.py
_PLACES_FD = "_LLR_PLACES_FD"  # read by app/places/__init__.py
_LOOPS_FD = "_LLR_LOOPS_FD"  # read by app/tool_loops.py
_SHARES_FD = "_LLR_SHARES_FD"  # read by app/beliefs/share_events.py
_UNREAD_MS = 120_000  # a client that reads nothing for this time counts as disconnected
_POLICY_BYTES = 1_000_000  # more than the check allows; LLR_POLICY may name an endless file
_LOOPBACK = ("127.", "localhost", "::1", "[::1]")


def _number(name, default, low, high):
    """Return a number of a variable.  The check in on_starting reports a wrong value, together with all others."""
    raw = os.environ.get(name, "").strip()
    return int(raw) if raw.isascii() and raw.isdigit() and len(raw) <= 20 and low <= int(raw) <= high else default


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_host = os.environ.get("LLR_HOST", "").strip() or "127.0.0.1"
_port = _number("LLR_PORT", 3030, 1, 65535)

bind = f"[{_host}]:{_port}" if ":" in _host and not _host.startswith("[") else f"{_host}:{_port}"
workers = _number("LLR_WORKERS", min(4, _cores()), 1, 64)
worker_class = _worker.Worker
worker_connections = _descriptors.connections(_descriptors.raise_limit())  # workers inherit the limit
_grace_s = _number("LLR_GRACEFUL_TIMEOUT", 30, 1, 3600)
graceful_timeout = _grace_s + 8  # then the master kills the workers; they end sooner (post_fork) and write their rows
timeout = 120  # seconds without a sign of life from a worker's event loop
keepalive = 5
chdir = str(_HERE)
errorlog = "-"
loglevel = "warning"  # requests are logged by the router itself
proc_name = "local-llm-router"
http_parser = "python"  # gunicorn_h1c, if it is installed, accepts folded headers and bare line feeds
control_socket_disable = True  # gunicorn would open one in the home folder
# Header names with underscores are kept, so that X_LLR_Sensitivity is not lost: it counts together with
# X-LLR-Sensitivity.  No header of the router gives a right, so none can be abused.
header_map = "dangerous"


def _has_room(_record=None):
    """Return True when a line on standard error would not block: it may be a pipe that no program reads."""
    try:
        return bool(select.select([], [sys.stderr], [], 0)[1])
    except (OSError, ValueError):
        return True


def _say(line):
    """Write a line to standard error, unless this would block or fail: the disk may be full, or the reader may have
    gone."""
    with contextlib.suppress(OSError, ValueError):
        if _has_room():
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


def _policy_text(path):
    """Return the policy text for the check and for all workers, which is read once; None when it cannot be read (the
    check says why)."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_POLICY_BYTES).decode("utf-8")
    except (OSError, ValueError):
        return None


def _check(log):
    """Check the variables and the policy.  Return True when they are valid; then workers get this policy."""
    environ = {name: value for name, value in os.environ.items() if name != _POLICY_TEXT}
    environ["PYTHONIOENCODING"] = "utf-8"  # whatever the locale is
    text = _policy_text(environ.get("LLR_POLICY", "").strip() or "./policy.yaml")
    run = "import sys; from app.policy.check import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", run, *(["-"] if text is not None else [])]
    done = subprocess.run(
        command, input=text or "", capture_output=True, encoding="utf-8", cwd=_HERE, env=environ, check=False
    )
    lines = done.stderr.strip().splitlines()[-41:]
    if done.returncode == 0 and text is not None:
        os.environ[_POLICY_TEXT] = text
        for line in lines:
            log.warning("%s", line)
        return True
    for line in lines:
        log.error("%s", line)
    return False


def _port_is_taken():
    if "GUNICORN_FD" in os.environ or "LISTEN_FDS" in os.environ:
        return False
    family = socket.AF_INET6 if ":" in _host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_host.strip("[]"), _port))
        except OSError as error:
            return error.strerror
    return False


def on_starting(server):
    for handler in server.log.error_log.handlers:  # gunicorn's own; workers inherit them
        handler.addFilter(_has_room)
    if not _check(server.log):
        sys.exit(3)
    problem = _port_is_taken()
    if problem:
        server.log.error("cannot listen on %s: %s. Choose another LLR_PORT or LLR_HOST.", bind, problem)
        sys.exit(1)
    if not _host.startswith(_LOOPBACK) and not os.environ.get("LLR_API_KEYS", "").strip():
        server.log.warning(
            "LISTENING ON %s WITHOUT KEYS: everybody who can reach it uses your GPU and accounts. Set LLR_API_KEYS.",
            bind,
        )
    if worker_connections < _descriptors.MOST_CONNECTIONS:
        limit, enough = _descriptors.limits()[0], _descriptors.wanted()
        server.log.warning(
            "only %d file descriptors (ulimit -Hn): a worker serves %d clients at once; %d would do for %d",
            *(limit, worker_connections, enough, _descriptors.MOST_CONNECTIONS),
        )
    # Workers share the places of `maxConcurrency` in this file (app/places/).  It is in memory, so no disk can be full.
    os.environ[_PLACES_FD] = str(os.memfd_create("places"))  # open as long as the master lives
    os.environ[_LOOPS_FD] = str(os.memfd_create("tool_loops"))
    os.environ[_SHARES_FD] = str(os.memfd_create("shares"))
    _say(f"local-llm-router listens on http://{bind} (PID {os.getpid()})")


def when_ready(server):
    """Set an option of the listening sockets, which accepted sockets inherit.  Only Linux has it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        for listener in server.LISTENERS:
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)


def on_reload(server):
    """Handle SIGHUP: new workers get the new policy when it is valid, else the last valid one."""
    try:
        good = _check(server.log)
    except OSError as error:  # no process can be started now; an exception in a hook would end the master
        server.log.error("the policy cannot be checked: %s", error)
        good = False
    if good:
        _say("policy reloaded")
    else:
        server.log.error("the policy was NOT reloaded; the old one keeps serving")


def post_fork(server, worker):
    _tuning.keep_freed_memory()
    worker.cfg.set("graceful_timeout", _grace_s)  # in this process: the time after which it cuts off current requests


def post_worker_init(worker):
    _tuning.collect_garbage_less()
    worker.wsgi.extensions["background"].start()


def child_exit(server, worker):
    worker.shares.remove(worker.age)  # in the master: it may have been killed


def worker_exit(server, worker):
    application = getattr(worker, "wsgi", None)
    if application is not None:
        application.extensions["background"].stop()
