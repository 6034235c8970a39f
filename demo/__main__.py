"""Run the router with a small real model, on a machine without one.

make demo       # or: .venv/bin/python -m demo

It starts `demo.model_server` on a free port, writes a policy for it and runs gunicorn until Ctrl-C.  Policy, metrics
and the log of the model server are in build/demo.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from demo.model_server import MODEL

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "demo"
LOG = FOLDER / "model_server.log"
MODEL_PYTHON = ROOT / ".venv-model" / "bin" / "python"
_WINDOW = 4096  # tokens

_POLICY = """\
# Written by `make demo`.  SmolLM2 has 135 million parameters: it talks, and knows little.
backends:
  local:
    type: llamacpp
    endpoint: {endpoint}
    models: ["{model}"]
    contextWindow: {window}
routes:
  - default: local
"""
_FIRST_REQUEST = """
The router serves http://127.0.0.1:{port} before {model} on this machine.  Ask it from another terminal:

  curl -i http://127.0.0.1:{port}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "Why is the sky blue?"}}], "max_tokens": 60}}'

The page is http://127.0.0.1:{port}/.  Ctrl-C ends both.
"""


def run(server: subprocess.Popen[str]) -> int:
    """Run the router with the model server until Ctrl-C. Return its exit status."""
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    if not address:
        sys.exit(f"The model server did not start: {LOG} says why.")
    policy = FOLDER / "policy.yaml"
    policy.write_text(_POLICY.format(endpoint=address, model=MODEL, window=_WINDOW), "utf-8")
    environ = os.environ | {"LLR_POLICY": str(policy), "LLR_DB": str(FOLDER / "metrics.db")}
    print(_FIRST_REQUEST.format(port=environ.get("LLR_PORT", "3030"), model=MODEL), flush=True)
    gunicorn = [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn.conf.py", "wsgi:app"]
    router = subprocess.Popen(gunicorn, cwd=ROOT, env=environ)
    try:
        return router.wait()
    except KeyboardInterrupt:
        router.terminate()
        return router.wait()


def main() -> None:
    """Serve until Ctrl-C or SIGTERM, then end both processes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = [str(MODEL_PYTHON), "-m", "demo.model_server", "--window", str(_WINDOW)]
    log = LOG.open("wb")
    with log, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        try:
            status = run(server)
        finally:
            server.terminate()
    sys.exit(status)


if __name__ == "__main__":
    main()
