"""Run a minimal proxy under the same workers: Flask forwards the body to the upstream with requests.  It does not
route, check, record or retry.
"""

import os

import requests
from flask import Flask, Response, request
from requests.adapters import HTTPAdapter

app = Flask(__name__)
_URL = os.environ["BENCH_UPSTREAM"] + "/v1/chat/completions"
_session = requests.Session()
_session.trust_env = False
_session.mount("http://", HTTPAdapter(pool_maxsize=1000))


@app.post("/v1/chat/completions")
def forward() -> Response:
    answer = _session.post(_URL, data=request.get_data(), headers={"Content-Type": "application/json"})
    return Response(answer.content, answer.status_code, mimetype="application/json")
