"""Run one buffered chat under a profiler; print how many functions and modules of the program it passes, as JSON.

A script of its own, because the program that it looks at is the one on PYTHONPATH: see benchmarks/measure.py.
"""

from __future__ import annotations

import http.server
import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import app

_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
).encode()


class _Answerer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(_ANSWER)))
        self.end_headers()
        self.wfile.write(_ANSWER)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing: only the figures are printed."""


def trace_a_chat() -> tuple[int, int]:
    """Run the second of two equal chats under a profiler; return the functions and modules of the program it passes."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answerer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder, "policy.yaml")
        policy.write_text(
            f"backends: {{local: {{type: vllm, endpoint: '{endpoint}', models: [m]}}}}\nroutes: [{{default: local}}]\n"
        )
        application = app.create_app({"LLR_POLICY": str(policy), "LLR_DB": str(Path(folder, "m.db"))})
        running = application.extensions["background"]
        running.start()  # else each request would write its own rows
        client = application.test_client()
        body = {"model": "auto", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
        program = str(Path(app.__file__).parent)
        passed: set[tuple[str, int]] = set()

        def note(frame: Any, event: str, _argument: Any) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(program):
                passed.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

        assert client.post("/v1/chat/completions", json=body).status_code == 200
        sys.setprofile(note)
        try:
            status = client.post("/v1/chat/completions", json=body).status_code
        finally:
            sys.setprofile(None)
            running.stop()
        assert status == 200
    server.shutdown()
    return len(passed), len({file for file, _ in passed})


if __name__ == "__main__":
    print(json.dumps(trace_a_chat()))
