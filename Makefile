# Every target sets up what it needs: the only thing to install first is Python 3.11 or newer, with make and git.
# Another Python than the first on PATH: make test PYTHON=/usr/bin/python3
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/

.DEFAULT_GOAL := help
.PHONY: help demo stack dashboards docs test smoke soak bench tools wheel sbom image lint lock clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A virtualenv belongs to one Python: another PYTHON gets a new one.
MADE_BY := $(VENV)/.made-by$(shell $(PYTHON) -c 'import platform, sys; print(sys.base_prefix.replace("/", "-"), platform.python_version(), sep="-")')
$(MADE_BY):
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# What runs: the locked dependencies and this package.
$(VENV)/.runtime: requirements.lock pyproject.toml $(MADE_BY)
	$(RUN)pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

# What tests: everything in the development lock, and the package in place of its wheel.
$(VENV)/.dev: requirements-dev.lock pyproject.toml $(MADE_BY)
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

docs: $(VENV)/.dev ## write docs/configuration.md and docs/metrics.md anew
	$(RUN)python tools/write_docs.py

test: $(VENV)/.dev tools ## pass every test; PYTEST="-k name" passes some
	$(RUN)python -m pytest $(PYTEST)

smoke: wheel ## install the wheel with every other Python here, and see it run
	$(RUN)python tools/smoke.py dist/comms_exporter-$$($(RUN)hatchling version)-*.whl

soak: $(VENV)/.dev tools ## let the proofs of the counters run for many minutes
	SOAK=25 $(RUN)python -m pytest tests/test_counters.py tests/test_crash.py --timeout=3600 $(PYTEST)

bench: $(VENV)/.dev ## measure the exporter beside nginx, prometheus_client and Prometheus, and write docs/performance.md anew
	@tools/fetch-prometheus
	@exec $(RUN)python -m bench $(BENCH)

# The scripts know best whether there is anything to do, and take no time to see that there is not.
tools: $(VENV)/.dev ## fetch the programs that tests talk to
	@tools/fetch-prometheus
	@$(RUN)python deploy/tools/fetch.py

wheel: $(VENV)/.dev ## build wheel and source package into dist/
	$(RUN)python -m build --no-isolation --outdir dist

sbom: wheel ## say in CycloneDX what the wheel runs with, in dist/
	rm -rf build/sbom && $(PYTHON) -m venv --without-pip build/sbom
	$(RUN)pip --python build/sbom/bin/python install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	version=$$($(RUN)hatchling version) && sed "s/^dynamic = .*/version = \"$$version\"/" pyproject.toml > build/sbom/pyproject.toml
	$(RUN)cyclonedx-py environment --pyproject build/sbom/pyproject.toml --mc-type application --output-reproducible -o dist/comms-exporter.cdx.json build/sbom/bin/python

image: $(VENV)/.dev ## build the image with buildah, run it and look at it; as root, on a Debian
	deploy/image/build-and-test

lint: $(VENV)/.dev ## style and types
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

lock: ## pin the dependencies anew (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o requirements.lock
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o requirements-dev.lock
	echo hatchling | uv pip compile - --constraint requirements-dev.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o deploy/image/build.lock

clean: ## remove what the other targets made
	rm -rf $(VENV) .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis
