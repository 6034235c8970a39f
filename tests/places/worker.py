"""The program of a worker process (workers.py): reads commands from its standard input, a line each.

take BACKEND MODEL -> true | false      release -> "released" (the oldest call)
wait NAME LANE SECONDS [[BACKEND, MODEL] ...] -> "waits"; then, on an event, {"name", "backend", "error"}
gone NAME -> "left": the client of a waiting call disconnects
run PATH CALLS -> "ran": so many calls, 20 at once, each with a connection to the socket at PATH while it has its place
clock SECONDS -> "set": how much the clock is ahead
fork -> what a child takes: [its own calls, "gpu" | null]
calls BACKEND -> calls of all workers    own BACKEND -> of this one, running and waiting
"""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import gevent.pool  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402

from app.errors import ClientGone, NoPlace  # noqa: E402
from app.places import Place, Places  # noqa: E402
from app.types import BackendConfig, Lane, Target, Timeouts  # noqa: E402


class Program:
    def __init__(self, fd: int, backends: dict[str, dict[str, Any]], ahead_s: float) -> None:
        configs = [
            BackendConfig(name=name, type="ollama", timeouts=Timeouts(1, 1, 1), **{"endpoint": "http://x", **fields})
            for name, fields in backends.items()
        ]
        self.ahead_ns = int(ahead_s * 1e9)
        self.places = Places(configs, fd, clock_ns=lambda: time.monotonic_ns() + self.ahead_ns)
        self.held: list[Place] = []
        self.waiting: dict[str, gevent.Greenlet] = {}

    def say(self, answer: Any) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    def take(self, *targets: list[str]) -> None:
        place = self.places.take([Target(*target) for target in targets])
        if place:
            self.held.append(place)
        self.say(place.target.backend if place else None)

    def release(self) -> None:
        self.places.release(self.held.pop(0))
        self.say("released")

    def wait(self, name: str, lane: str, wait_s: float, targets: list[list[str]]) -> None:
        def wait() -> None:
            try:
                place = self.places.wait([Target(*target) for target in targets], Lane(lane), wait_s)
            except ClientGone:
                self.say([name, "left"])
            except NoPlace as error:
                self.say([name, error.message])
            else:
                self.held.append(place)
                self.say([name, place.target.backend])

        self.waiting[name] = gevent.spawn(wait)
        gevent.sleep(0)
        self.say("waits")

    def run(self, path: str, calls: int) -> None:
        rng = random.Random(self.places.own("gpu")[0] + os.getpid())

        def call() -> None:
            wanted = [Target("gpu", rng.choice("ab"))]
            place = self.places.take(wanted) or self.places.wait(wanted, rng.choice(list(Lane)), 60)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                connection.recv(1)  # the server has counted it
                gevent.sleep(rng.random() / 1000)
            self.places.release(place)

        pool = gevent.pool.Pool(20)
        for _ in range(calls):
            pool.spawn(call)
        pool.join(raise_error=True)
        self.say("ran")

    def fork(self) -> None:
        child = os.fork()
        if child == 0:
            place = self.places.take([Target("gpu", "m")])
            self.say([self.places.own("gpu")[0], place and place.target.backend])
            os._exit(0)
        os.waitpid(child, 0)

    def gone(self, name: str) -> None:
        self.waiting[name].kill(ClientGone)

    def calls(self, backend: str) -> None:
        self.say(self.places.in_flight(backend))

    def own(self, backend: str) -> None:
        self.say(self.places.own(backend))

    def clock(self, ahead_s: float) -> None:
        self.ahead_ns = int(ahead_s * 1e9)
        self.say("set")


def main() -> None:
    program = Program(int(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3]))
    program.say("ready")
    for line in FileObject(sys.stdin.buffer, "rb"):
        name, *arguments = json.loads(line)
        getattr(program, name)(*arguments)


if __name__ == "__main__":
    main()
