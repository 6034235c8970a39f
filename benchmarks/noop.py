"""Measure the cost of Flask under gunicorn's gevent workers: read the body, and return constant bytes.

gunicorn -k gevent -w 2 benchmarks.noop:app
"""

from __future__ import annotations

from flask import Flask, Response, request

from benchmarks.upstream import _ANSWER

app = Flask(__name__, static_folder=None)


@app.post("/v1/chat/completions")
def chat() -> Response:
    request.get_data()
    return Response(_ANSWER, mimetype="application/json")
