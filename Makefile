# Every target installs what it needs. Only Python 3.11 or newer, make and git have to be there.
# To use a Python other than the first on PATH: make test PYTHON=/usr/bin/python3
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/

.DEFAULT_GOAL := help
.PHONY: help demo stack dashboards docs test smoke soak judge bench tools wheel sbom image compose deb lint lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A virtualenv belongs to one Python, so recreate it when PYTHON changes.
MADE_BY := $(VENV)/.made-by$(shell $(PYTHON) -c 'import platform, sys; print(sys.base_prefix.replace("/", "-"), platform.python_version(), sep="-")')
$(MADE_BY):
	@echo "Creating a virtual environment in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The locked dependencies. pip says either nothing or too much: this prints a dot for each package.
$(VENV)/.runtime: requirements.lock pyproject.toml $(MADE_BY)
	@printf 'Installing %s packages into $(VENV); this takes up to a minute ' "$$(grep -c == requirements.lock)"
	@{ $(RUN)pip install --progress-bar off --disable-pip-version-check --require-hashes -r requirements.lock || echo failed; } | \
	while read -r word _; do case $$word in Collecting|Processing) printf . ;; failed) exit 1 ;; esac; done
	@echo ' done'
	@touch $@

# The locked development dependencies and an editable install of the package.
$(VENV)/.dev: requirements-dev.lock pyproject.toml $(MADE_BY)
	$(RUN)pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(RUN)pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.runtime

demo: $(VENV)/.runtime ## run the exporter against a simulated account; Ctrl-C stops it
	@exec $(RUN)python -m comms_exporter demo

SCENARIO ?= failure-spike
stack: $(VENV)/.runtime tools ## run a failure scenario with Prometheus and Alertmanager; SCENARIO=stuck picks one
	@PYTHONPATH=. exec $(RUN)python tools/stack.py $(SCENARIO)

dashboards: $(VENV)/.dev ## regenerate grafana/dashboards
	$(RUN)python -m grafana.build

docs: $(VENV)/.dev tools ## regenerate the pages that follow from the code, the man page, the shell completions, and docs/messages.md
	$(RUN)python tools/write_docs.py
	$(RUN)python tools/write_cli.py
	PYTHONPATH=tests:. $(RUN)python tools/write_messages.py

test: $(VENV)/.dev tools ## run all tests; PYTEST="-k name" runs some
	$(RUN)python -m pytest $(PYTEST)

smoke: wheel ## install and run the wheel with every other Python on this machine
	$(RUN)python tools/smoke.py dist/comms_exporter-$$($(RUN)hatchling version)-*.whl

soak: $(VENV)/.dev tools ## run the counter and crash tests for many minutes
	SOAK=25 $(RUN)python -m pytest tests/collect/test_counters.py tests/collect/emails tests/store/test_crash.py tests/sharing --timeout=3600 $(PYTEST)

HISTORY ?=
JUDGE ?=
judge: $(VENV)/.dev tools ## play incidents and calm months through the alerts; HISTORY=week.jsonl plays a file
	@PYTHONPATH=tests:. exec $(RUN)python -m alerts.judge $(if $(HISTORY),--history "$(HISTORY)") $(JUDGE)

bench: $(VENV)/.dev ## run the benchmarks and update docs/performance.md
	@tools/fetch-prometheus
	@exec $(RUN)python -m bench $(BENCH)

# Phony: the scripts themselves skip what is already there.
tools: $(VENV)/.dev ## download the programs that the tests use
	@tools/fetch-prometheus
	@$(RUN)python deploy/tools/fetch.py

wheel: $(VENV)/.dev ## build wheel and sdist in dist/
	$(RUN)python -m build --no-isolation --outdir dist

sbom: wheel ## write a CycloneDX SBOM of the wheel and its dependencies to dist/
	rm -rf build/sbom && $(PYTHON) -m venv --without-pip build/sbom
	$(RUN)pip --python build/sbom/bin/python install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	version=$$($(RUN)hatchling version) && sed "s/^dynamic = .*/version = \"$$version\"/" pyproject.toml > build/sbom/pyproject.toml
	$(RUN)cyclonedx-py environment --pyproject build/sbom/pyproject.toml --mc-type application --output-reproducible -o dist/comms-exporter.cdx.json build/sbom/bin/python

image: $(VENV)/.dev ## build, run and check the image with buildah; needs root and Debian
	deploy/image/build-and-test

deb: $(VENV)/.dev ## build, install and check the package for Debian 12; needs root, debhelper and debootstrap
	deploy/debian/build-and-test

compose: tools ## bring the Compose file up with podman and check it; needs root and Debian
	deploy/compose/build-and-test

lint: $(VENV)/.dev ## check style and types
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

lock: ## update the lock files (needs uv)
	uv pip compile pyproject.toml --extra postgres --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o requirements.lock
	uv pip compile pyproject.toml --extra postgres --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o requirements-dev.lock
	echo hatchling | uv pip compile - --constraint requirements-dev.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o deploy/image/build.lock

clean: ## remove virtualenv, tools and caches
	rm -rf $(VENV) .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis
