# `make help` lists every chore.
VENV ?= .venv
PYTHON ?= python3.11
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo web web-types web-tools web-test database-tools test lint types bench clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[sample]'
	@touch $@

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.runtime

demo: $(VENV)/.runtime  ## install, click the cat, show where the picture is
	@$(BIN)/anymask predict sample:cat --point 200,150 --point 420,150,- --output demo-output

web/node_modules/.installed: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
	@touch $@

web: web/node_modules/.installed  ## build the browser app into the package; needs Node 20.19 or later
	cd web && npm run --silent build

web-types: web/node_modules/.installed $(STAMP)  ## types of the API for the browser app, from the server's own description
	$(BIN)/python -m anymask.server.openapi > web/openapi.json
	cd web && npm run --silent wire && rm openapi.json

web-tools:  ## Chromium (and Node where there is none) from Debian's packages, for the app and its tests
	@command -v chromium >/dev/null && command -v npm >/dev/null || apt-get update -qq
	@command -v chromium >/dev/null || apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core
	@command -v npm >/dev/null || apt-get install -y -qq --no-install-recommends nodejs npm

database-tools:  ## PostgreSQL from Debian's packages, for the tests of the store
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || (apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql)

web-test: web/node_modules/.installed  ## types and unit tests of the browser app
	cd web && npm run --silent types && npm test

test: $(STAMP)  ## the whole test suite, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadscope

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check src tests benchmarks

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

bench: $(STAMP)  ## every number of the README, ours beside the peer's
	$(BIN)/python benchmarks/predict.py
	$(BIN)/python benchmarks/cli.py
	$(BIN)/python benchmarks/everything.py

clean:  ## remove what was built here
	rm -rf $(VENV) build dist demo-output .pytest_cache .mypy_cache .ruff_cache web/node_modules src/anymask/server/static
