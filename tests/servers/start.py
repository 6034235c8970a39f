"""What the tests before real inference servers share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

WINDOW = 2048  # tokens
TOO_LONG = "word " * 1000  # about 5,000 tokens: the model's vocabulary is single characters


def write_model(folder: Path) -> Path:
    """A tiny GGUF file, slow enough to hang up in the middle of an answer."""
    # A process of its own, so that the tests can be collected where gguf is not installed.
    model = folder / "tiny.gguf"
    script = Path(__file__).with_name("tiny_gguf.py")
    size = ["--width", "256", "--layers", "8", "--context", str(WINDOW)]
    subprocess.run([sys.executable, script, model, *size], check=True)
    return model


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (URLError, OSError):
        return False
