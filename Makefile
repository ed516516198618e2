# Every target sets up what it needs: the only thing to install first is Python 3.11 or newer, with make and git.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/

.DEFAULT_GOAL := help
.PHONY: help demo stack dashboards test soak tools lint lock clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# What runs: the locked dependencies and this package.
$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(RUN)pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

# What tests: everything in the development lock, and the package in place of its wheel.
$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	$(RUN)pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(RUN)pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.runtime

demo: $(VENV)/.runtime ## run the exporter on an embedded simulator; Ctrl-C stops it
	@exec $(RUN)python -m comms_exporter demo

SCENARIO ?= failure-spike
stack: $(VENV)/.runtime tools ## watch alerts fire, with Prometheus and Alertmanager; SCENARIO=calm, stuck and so on
	@PYTHONPATH=. exec $(RUN)python tools/stack.py $(SCENARIO)

dashboards: $(VENV)/.dev ## write grafana/dashboards anew
	$(RUN)python -m grafana.build

test: $(VENV)/.dev tools ## pass every test; PYTEST="-k name" passes some
	$(RUN)python -m pytest $(PYTEST)

soak: $(VENV)/.dev tools ## let the proofs of the counters run for many minutes
	SOAK=25 $(RUN)python -m pytest tests/test_counters.py tests/test_crash.py --timeout=3600 $(PYTEST)

# The script knows best whether there is anything to do, and takes no time to see that there is not.
tools: ## fetch the Prometheus servers that tests talk to
	@tools/fetch-prometheus

lint: $(VENV)/.dev ## style and types
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

lock: ## pin the dependencies anew (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o requirements.lock
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o requirements-dev.lock

clean: ## remove what the other targets made
	rm -rf $(VENV) .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis
