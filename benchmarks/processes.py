"""Start the processes of a benchmark, and read their use of CPU and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.server import ROOT, Router, free_port, processes, wait_until

WORKERS = 2
_HERE = Path(__file__).resolve().parent  # the project folder has a gunicorn.conf.py, which is not the noop's
_TICKS = os.sysconf("SC_CLK_TCK")


def policy(upstream: int) -> dict[str, Any]:
    """Return a policy with routes, a budget and detectors, so that every stage has work.  The backends `drip…` set
    the rate of streams."""
    base = f"http://127.0.0.1:{upstream}"
    cloud = {"type": "openai", "local": True, "apiKeyEnv": "BENCH_KEY", "models": ["m"], "p50Ms": 900}
    return {
        "backends": {
            "local": {"type": "ollama", "endpoint": base, "models": ["m"], "p50Ms": 1800},
            "frontier": {**cloud, "endpoint": f"{base}/v1", "price": {"input": 2.5, "output": 10}},
            "drip500": {"type": "ollama", "endpoint": f"{base}/drip/30/500", "models": ["d"]},
            "drip50": {"type": "ollama", "endpoint": f"{base}/drip/100/50", "models": ["d"]},
            **{
                f"drip{ms}": {"type": "ollama", "endpoint": f"{base}/drip/{4000 // ms}/{ms}", "models": ["d"]}
                for ms in (100, 67, 40, 33, 25, 20)
            },
        },
        "routes": [
            {"match": {"sensitivity": "high"}, "backend": "local"},
            {"match": {"task": "code", "complexity": "high"}, "backend": "frontier", "fallback": "local"},
            {"match": {"task": ["vision"], "tokens": {"max": 4000}}, "backend": "local", "fallback": "frontier"},
            {"default": "local", "fallback": "frontier", "latencyBudgetMs": 4000},
        ],
        "sensitivity": {"detect": ["api_key", "private_key", "credit_card", "iban", "us_ssn", "email", "phone"]},
    }


@contextmanager
def upstream() -> Iterator[int]:
    """Return the port of a server with constant responses."""
    with _process([sys.executable, "-m", "benchmarks.upstream"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextmanager
def bare(module: str, upstream: int) -> Iterator[tuple[int, list[int]]]:
    """Return the port and the worker ids of benchmarks/noop.py or forward.py."""
    port = free_port()
    command = ["-m", "gunicorn", "-k", "gevent", "-w", str(WORKERS), "-b", f"127.0.0.1:{port}", "--log-level", "error"]
    command = [sys.executable, *command, "--no-control-socket", f"benchmarks.{module}:app"]
    with _process(command, {"BENCH_UPSTREAM": f"http://127.0.0.1:{upstream}"}) as process:
        wait_until(lambda: len(children(process.pid)) == WORKERS, 20, f"the workers of {module}")
        time.sleep(1)
        yield port, children(process.pid)


@contextmanager
def router(upstream: int, root: Path = ROOT, database: str | None = None) -> Iterator[Router]:
    """Start the router at `root` (or another checkout, to compare) with its default log."""
    env = {"BENCH_KEY": "sk-bench"} | ({"LLR_DB": database} if database else {})
    with tempfile.TemporaryDirectory() as folder:
        options = {"folder": Path(folder), "workers": WORKERS, "env": env, "root": root}
        with Router(policy(upstream), **options) as running:
            yield running


@contextmanager
def _process(
    command: list[str], environ: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})}
    process = subprocess.Popen(command, cwd=_HERE, env=environment, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def children(pid: int) -> list[int]:
    return sorted(child for child, process in processes().items() if process.parent == pid)


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of these processes so far: all threads, user and system."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def resident_mib(pids: Iterable[int]) -> list[float]:
    """Return the resident memory of each process in MiB."""
    found = []
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found.append(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")))
    return found
