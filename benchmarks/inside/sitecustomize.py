"""Put on PYTHONPATH of a router: each worker notes the steps that held its event loop for long, in CPU time.

A line of STEPS_FOLDER/PID is when a step ended (CLOCK_MONOTONIC, s) and how long it was (ms).  The processor's time
is counted, not the clock's: a worker that the machine kept waiting is not to blame.
"""

import os
import time
from pathlib import Path

import greenlet

_LONG_S = 0.005
_file = None
_begun = 0.0  # CPU s at the last switch


def _note(*_):
    """At each switch from one greenlet to another, of the thread that serves requests."""
    global _begun
    now = time.thread_time()
    if now - _begun > _LONG_S:
        _file.write(f"{time.monotonic()} {(now - _begun) * 1000:.1f}\n")
        now = time.thread_time()
    _begun = now


def _begin():
    global _file
    _file = Path(os.environ["STEPS_FOLDER"], str(os.getpid())).open("a", buffering=1)  # noqa: SIM115 - as long as it lives
    greenlet.settrace(_note)


os.register_at_fork(after_in_child=_begin)
