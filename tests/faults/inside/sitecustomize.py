"""Put on PYTHONPATH of a router: each worker writes how many greenlets it has into a file named after its process.

Greenlets are noticed when they are switched to.  Asking the garbage collector for all objects would be simpler, but
it also hands out tuples that are still being made, and those who make them fail for it (SystemError).
"""

import _thread
import contextlib
import os
import time
import weakref
from pathlib import Path

import greenlet

_sleep = time.sleep  # before gevent replaces it
_folder = Path(os.environ["COUNTS_FOLDER"])
_seen = weakref.WeakSet()


def _note(event, greenlets):
    if event in ("switch", "throw"):
        _seen.add(greenlets[1])


def _count():
    while True:
        _sleep(1)
        with contextlib.suppress(RuntimeError):  # it changed meanwhile: next time
            alive = sum(not each.dead for each in list(_seen))
            (_folder / f"{os.getpid()}.part").write_text(str(alive))
            (_folder / f"{os.getpid()}.part").rename(_folder / str(os.getpid()))


def _begin():
    greenlet.settrace(_note)
    _thread.start_new_thread(_count, ())


os.register_at_fork(after_in_child=_begin)
