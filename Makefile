# What people do with this repository. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
STAMP := .venv/.installed

.PHONY: help run test check lint types imports docs format bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The environment, from hash-checked requirements; made again when they change.
$(STAMP): requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(STAMP) ## run everything in one process, with the simulated provider
	$(BIN)/pipeline run --simulate

test: $(STAMP) ## all tests, on the embedded broker and on a real RabbitMQ
	$(RUN) pytest $(ARGS)

check: lint types imports docs ## everything that needs no test run

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

docs: $(STAMP)
	$(RUN) tests.check_docs

format: $(STAMP) ## lay out the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) .venv/.bench ## measure beside peers; ARGS="--rounds 3" and the like
	$(RUN) benchmarks $(ARGS)

.venv/.bench: requirements/bench.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.lock
	@touch $@

COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate

lock: $(STAMP) ## resolve the requirements anew; UPGRADE=--upgrade for newer ones
	$(COMPILE) $(UPGRADE) --extra postgres --extra objectstore --extra media --extra speed -o requirements/runtime.lock
	$(COMPILE) $(UPGRADE) --all-extras --group dev -o requirements/dev.lock
	$(COMPILE) $(UPGRADE) --all-extras --group dev --group bench -o requirements/bench.lock

clean: ## remove the environment and what was made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
