"""`make soak MINUTES=20`: traffic with 1 % of every fault, and what each worker holds, minute by minute.

Memory, descriptors and greenlets must be flat after the warm-up; the exit status says whether they were.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.e2e.server import Router, wait_until
from tests.faults.scenes import FAULTS, HASTY, SENSITIVITY, Fakes, running

CLIENTS = 8
WARM_UP_MINUTES = 3
INSIDE = Path(__file__).parent / "inside"
Client = Callable[[Router, random.Random], str]


def policy(fakes: Fakes) -> dict[str, Any]:
    ollama = {"type": "ollama", "timeouts": HASTY}
    cloud = {"type": "openai", "apiKeyEnv": "CLOUD_KEY", "timeouts": HASTY}
    return {
        "backends": {
            "home": {**ollama, "endpoint": fakes.home.url, "models": ["m:1"], "maxConcurrency": 40},
            "den": {**ollama, "endpoint": fakes.den.url, "models": ["d:1"]},
            "cloud": {**cloud, "endpoint": f"{fakes.clouds['cloud'].url}/v1", "models": ["c-1"]},
            "mirror": {**cloud, "endpoint": f"{fakes.clouds['mirror'].url}/v1", "models": ["c-1"]},
        },
        "routes": [{"default": "home", "fallback": ["den", "cloud"]}],
        "ab": {"enabled": True, "sampleRate": 0.05, "candidates": {"home": "mirror"}},
        "sensitivity": SENSITIVITY,
        "responses": {"maxRows": 500},
    }


# --- clients: each makes one request and says what came of it ------------------------------------


def prompt(chance: random.Random) -> str:
    """1 % of every fault of the backend."""
    draw = chance.randrange(100)
    names = [name for name in FAULTS if name != "none"]
    fault = names[draw] if draw < len(names) else "none"
    return f"fault-{fault} " + "word " * chance.choice((1, 10, 100, 2000))


def headers(chance: random.Random) -> dict[str, str]:
    return {"X-LLR-Sensitivity": "high"} if chance.random() < 0.1 else {}


def chat(router: Router, chance: random.Random) -> str:
    return str(router.chat(prompt(chance), headers=headers(chance)).status)


def stream(router: Router, chance: random.Random) -> str:
    with router.stream(prompt(chance), headers=headers(chance)) as opened:
        opened.read()
        return str(opened.status)


def responses(router: Router, chance: random.Random) -> str:
    document: dict[str, Any] = {"model": "auto", "input": prompt(chance), "stream": chance.random() < 0.5}
    if document["stream"]:
        with router.stream(json=document, path="/v1/responses") as opened:
            opened.read()
            return str(opened.status)
    answer = router.post("/v1/responses", document)
    if answer.status == 200:
        answer = router.post("/v1/responses", {**document, "previous_response_id": answer.json["id"]})
    return str(answer.status)


def hang_up(router: Router, chance: random.Random) -> str:
    with router.stream(prompt(chance)) as opened:
        for _ in opened:
            break
    return "left"


def hang_up_at_once(router: Router, chance: random.Random) -> str:
    raw = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\n"
    router.raw(raw[: chance.randrange(len(raw) + 1)]).close()
    return "left"


def nonsense(router: Router, chance: random.Random) -> str:
    body = chance.choice((b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"messages": 1}', b"x" * 1_500_000))
    return str(router.post(chance.choice(("/v1/chat/completions", "/v1/responses")), body).status)


def no_http(router: Router, chance: random.Random) -> str:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    bad = (
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b" folded\r\n\r\n",
    )
    with router.raw(head + chance.choice(bad)) as sock:
        return sock.recv(20)[9:12].decode()


def look(router: Router, chance: random.Random) -> str:
    paths = ("/health", "/v1/models", "/v1/metrics", "/metrics", "/v1/ab", "/v1/egress", "/", "/nothing")
    return str(router.get(chance.choice(paths)).status)


CLIENT_KINDS: dict[Client, int] = {
    chat: 40,
    stream: 40,
    responses: 10,
    look: 5,
    hang_up: 1,
    hang_up_at_once: 1,
    nonsense: 1,
    no_http: 1,
}


class Traffic(AbstractContextManager["Traffic"]):
    """Clients that ask on until the end of the `with`."""

    def __init__(self, router: Router, seed: int) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self._router = router
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(random.Random(seed + n),)) for n in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def _run(self, chance: random.Random) -> None:
        while not self._over.is_set():
            (client,) = chance.choices(list(CLIENT_KINDS), list(CLIENT_KINDS.values()))
            try:
                outcome = client(self._router, chance)
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
            self.outcomes[outcome] += 1

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


# --- what the workers hold ----------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    rss_mb: float
    descriptors: int
    greenlets: int

    def __str__(self) -> str:
        return f"{self.rss_mb:7.1f} MB {self.descriptors:4d} fds {self.greenlets:4d} greenlets"


def held(pid: int, counts: Path) -> Held:
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    greenlets = 0
    with contextlib.suppress(OSError, ValueError):
        greenlets = int((counts / str(pid)).read_text())
    return Held(rss, len(list(Path(f"/proc/{pid}/fd").iterdir())), greenlets)


def soak(router: Router, counts: Path, minutes: int, seed: int) -> list[str]:
    """Prints the table; what was not flat."""
    pids = router.worker_pids()
    table: dict[int, list[Held]] = {pid: [] for pid in pids}
    print("minute  requests  " + "".join(f"worker {pid:<32d}" for pid in pids))
    with Traffic(router, seed) as traffic:
        for minute in range(1, minutes + 1):
            time.sleep(60)
            for pid in pids:
                table[pid].append(held(pid, counts))
            row = "  ".join(str(table[pid][-1]) for pid in pids)
            print(f"{minute:6d}  {traffic.outcomes.total():8d}  {row}", flush=True)
    time.sleep(12)  # what was left behind is noticed and closed; the counters count again
    idle = {pid: held(pid, counts) for pid in pids}
    print("  idle            " + "  ".join(str(idle[pid]) for pid in pids))
    print("outcomes: " + ", ".join(f"{count} x {name}" for name, count in traffic.outcomes.most_common()))
    problems = [] if router.worker_pids() == pids else ["a worker died"]
    for pid, rows in table.items():
        after = rows[min(WARM_UP_MINUTES, len(rows) - 1) :]
        problems += not_flat(pid, after, idle[pid])
    told = [line for line in router.log_text().splitlines() if "refused a request" not in line]
    bad = [place for place, line in enumerate(told) if "Traceback" in line or " unexpected " in line]
    if traffic.outcomes["500"] or bad:
        shown = [line for place in bad[:5] for line in ["…", *told[max(0, place - 3) : place + 40]]]
        problems.append("errors of our own:\n" + "\n".join(shown))
    return problems


def not_flat(pid: int, rows: list[Held], idle: Held) -> list[str]:
    """Flat: the last third holds no more memory than the first third, but for a tenth; idle, nothing is left over."""
    third = max(1, len(rows) // 3)
    before, after = (max(row.rss_mb for row in part) for part in (rows[:third], rows[-third:]))
    problems = [f"worker {pid}: memory grew from {before:.1f} to {after:.1f} MB"] if after > before * 1.1 else []
    if idle.descriptors > rows[0].descriptors + 20:
        problems.append(f"worker {pid}: {idle.descriptors} descriptors are left open")
    if idle.greenlets > 60:
        problems.append(f"worker {pid}: {idle.greenlets} greenlets are left over")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running() as fakes:
        counts = Path(name) / "counts"
        counts.mkdir()
        for up in (fakes.home, fakes.den, *fakes.clouds.values()):
            up.recording = up.eavesdropping = False
        env = {
            "CLOUD_KEY": "sk-cloud-0123456789abcdefghij",
            "PYTHONPATH": str(INSIDE),
            "COUNTS_FOLDER": str(counts),
            "LLR_MAX_BODY_BYTES": "1000000",
            "LLR_COOLDOWN": "0.5",
            "LLR_LOG_LEVEL": "warning",
        }
        with Router(policy(fakes), folder=Path(name) / "router", workers=2, env=env) as router:
            wait_until(lambda: router.chat().status == 200, 10, "the first answer")
            problems = soak(router, counts, args.minutes, args.seed)
    print("\n".join(problems) or "flat")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
