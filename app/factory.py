"""Create the application: `create_app` is the only place that connects all parts."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Mapping
from functools import partial

from flask import Flask, Request
from werkzeug.routing import MapAdapter

from app import cli, logs, policy, settings, web
from app.backends.base import Backend
from app.background.disconnects import Disconnects
from app.background.life import Background
from app.background.shadows import ShadowCalls
from app.background.thread import WorkerThread
from app.beliefs import Beliefs
from app.beliefs.share_events import SHARES_FD, ShareEvents
from app.circuits import Circuits
from app.conversations import Conversations
from app.errors import PolicyError
from app.metrics.recorder import Recorder
from app.metrics.store import Store
from app.places import PLACES_FD, Places
from app.policy import Loaded
from app.progress import Progress
from app.services import Services, Shadows, Upstream
from app.settings import Settings
from app.storage import now_ms
from app.tool_loops import LOOPS_FD, ToolLoops
from app.types import model_key
from app.web import headers

POLICY_TEXT = "_LLR_POLICY_TEXT"  # the last valid policy of gunicorn's master; absent = read the file


class Router(Flask):
    """Serve every URL with Flask, for every host that access control allows, without the cost of host matching."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None:
            return None
        path = headers.path(request.environ)
        return self.url_map.bind("", request.root_path, default_method=request.method, path_info=path)


def create_app(environ: Mapping[str, str] | None = None) -> Flask:
    """Return the WSGI application.  Starts nothing: gunicorn's worker hooks call `extensions["background"].start()`.

    Raises PolicyError for a wrong policy or LLR_ variable; under the `flask` command the application then has its
    commands and nothing else, so that `flask init` and `flask policy check` can fix it.
    """
    environ = os.environ if environ is None else environ
    app = Router(__name__, static_folder=None)
    cli.register(app)
    is_command = "FLASK_RUN_FROM_CLI" in environ
    try:
        _wire(app, environ, is_command)
    except PolicyError as error:
        if not is_command:
            raise
        app.extensions[cli.PROBLEM] = error
    return app


def _wire(app: Flask, environ: Mapping[str, str], is_command: bool) -> None:
    configured = settings.load(environ)
    logs.set_up("warning" if is_command else configured.log_level)  # a command prints its own report
    text = environ.get(POLICY_TEXT) or policy.read(configured.policy)
    loaded = policy.load(text, configured.policy, configured, environ=environ)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    shadows = ShadowCalls(loaded.policy, random.random)
    services = make_services(configured, loaded, shadows, environ)
    app.extensions["services"] = services
    app.extensions["background"] = Background(services, shadows)
    web.register(app, services)


def make_services(configured: Settings, loaded: Loaded, shadows: Shadows, environ: Mapping[str, str]) -> Services:
    """Return the services of one worker process.  Nothing is opened or started."""
    circuits = Circuits(time.monotonic, configured.cooldown_s)
    places = Places(
        loaded.policy.backends.values(),
        _fd(environ, PLACES_FD),
        loads=partial(_would_load, loaded.backends),
    )
    store = Store(configured.db)
    judges = any(route.verify for route in loaded.policy.routes)
    events = ShareEvents(_fd(environ, SHARES_FD)) if judges else None
    return Services(
        settings=configured,
        policy=loaded.policy,
        detectors=loaded.detectors,
        upstreams={name: Upstream(backend) for name, backend in loaded.backends.items()},
        places=places,
        circuits=circuits,
        beliefs=Beliefs(loaded.policy, loaded.backends, circuits, places, events),
        shadows=shadows,
        disconnects=Disconnects(),
        progress=Progress(),
        tool_loops=ToolLoops(_fd(environ, LOOPS_FD)) if judges else None,
        store=store,
        recorder=Recorder(store, immediate=True),
        conversations=Conversations(configured.db, loaded.policy.responses, now_ms),
        metrics_thread=WorkerThread(),
        state_thread=WorkerThread(),
        log_thread=WorkerThread(),
        started_at=time.time(),
        worker=f"{socket.gethostname()}:{os.getpid()}",
    )


def _fd(environ: Mapping[str, str], name: str) -> int | None:
    """Return a file that the master opened for all workers; None: this process is alone."""
    return int(environ[name]) if name in environ else None


def _would_load(backends: Mapping[str, Backend], backend: str, model: str) -> bool:
    """Return True when a call to this model is known to make the server load it."""
    facts = backends[backend].facts.get(model_key(model))
    return facts is not None and facts.loaded is False
