# What people do with this repository. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
# Tests wait more than they compute; each process has a RabbitMQ of its own. A module
# is run by one process, the slowest ones first (tests/conftest.py).
JOBS ?= 4
PYTEST = $(RUN) pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
# Per cent of lines and branches; a little less than there is.
COVERED ?= 96
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
# Stamps: what .venv is good for.
CAN_RUN := .venv/.can-run
CAN_DEVELOP := .venv/.can-develop
CAN_BENCH := .venv/.can-bench

.PHONY: help run test coverage load bodies fuzz soak kills losses check lint types imports code licences docs format bench lock image compose-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

# The environment, from hash-checked requirements; brought up to date when they
# change. The first `make run` need not wait for linters and the like: what it takes
# to develop is added when it is wanted.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("expected Python 3.11 or newer, got %d.%d; name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" % sys.version_info[:2])'
	@echo "Making the environment in .venv; this takes about a minute, once."
	@$(PYTHON) -m venv .venv

$(CAN_RUN): requirements/runtime-media.lock requirements/build.lock pyproject.toml | $(BIN)/pip
	@$(INSTALL) --no-compile --require-hashes -r requirements/build.lock -r requirements/runtime-media.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(CAN_DEVELOP): requirements/dev.lock pyproject.toml | $(BIN)/pip
	@echo "Installing what tests and checks need."
	@$(INSTALL) --require-hashes -r requirements/dev.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $(CAN_RUN) $@

run: $(CAN_RUN) ## run everything in one process, with the simulated provider
	$(BIN)/pipeline run --simulate

test: $(CAN_DEVELOP) ## all tests, on real servers: RabbitMQ and PostgreSQL, too
	$(PYTEST) $(ARGS)

# Apart from the tests: tracing slows them, and some of them measure time.
coverage: $(CAN_DEVELOP) ## all tests, and how much they run; at least COVERED %
	$(PYTEST) --cov --cov-report term --cov-fail-under $(COVERED) $(ARGS)

load: $(CAN_DEVELOP) ## 10,000 callbacks through the whole pipeline, on both brokers
	PIPELINE_TEST_LOAD=10000 $(RUN) pytest tests/acceptance/test_demo.py -k load $(ARGS)

bodies: $(CAN_DEVELOP) ## read 100,000 made-up JSON values as callbacks; BODIES=1000000 for more
	PIPELINE_TEST_BODIES=$(or $(BODIES),100000) $(RUN) pytest tests/unit/test_callback_properties.py -k every_body --timeout 0 $(ARGS)

fuzz: $(CAN_DEVELOP) ## 200,000 hostile requests to an ingress; ARGS="--seed 2" and the like
	$(RUN) tests.fuzz $(ARGS)

soak: $(CAN_DEVELOP) ## random faults under traffic; ARGS="--short", "--callbacks 5000"
	$(RUN) tests.soak $(ARGS)

kills: $(CAN_DEVELOP) ## kill processes at random places under traffic; KILLS=500 for more than 50
	PIPELINE_TEST_KILLS=$(or $(KILLS),50) $(RUN) pytest tests/acceptance/test_killed_anywhere.py -k again_and_again $(ARGS)

losses: $(CAN_DEVELOP) ## lose 30 % of all callbacks, and find them out by asking; ARGS="--tasks 1000"
	$(RUN) tests.losses $(ARGS)

check: lint types imports code licences docs ## everything that needs no test run

lint: $(CAN_DEVELOP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(CAN_DEVELOP)
	$(BIN)/mypy

imports: $(CAN_DEVELOP)
	$(BIN)/lint-imports

code: $(CAN_DEVELOP)
	$(RUN) tests.check_code

licences: $(CAN_DEVELOP)
	$(RUN) tests.check_licences

docs: $(CAN_DEVELOP)
	$(RUN) tests.check_docs

format: $(CAN_DEVELOP) ## lay out the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(CAN_DEVELOP) $(CAN_BENCH) ## measure beside peers; ARGS="--rounds 3" and the like
	$(RUN) benchmarks $(ARGS)

$(CAN_BENCH): requirements/bench.lock | $(CAN_DEVELOP)
	@$(INSTALL) --require-hashes -r requirements/bench.lock
	@touch $@

COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras
# The first one decides on versions, the others follow it.
FOLLOW := $(COMPILE) --constraint requirements/dev.lock

lock: $(CAN_DEVELOP) ## resolve the requirements anew; UPGRADE=--upgrade for newer ones
	$(COMPILE) $(UPGRADE) pyproject.toml --all-extras --group dev -o requirements/dev.lock
	$(FOLLOW) --group build -o requirements/build.lock
	$(FOLLOW) pyproject.toml --extra speed --extra postgres --extra objectstore -o requirements/runtime.lock
	$(FOLLOW) pyproject.toml --extra speed --extra postgres --extra objectstore --extra media -o requirements/runtime-media.lock
	$(FOLLOW) $(UPGRADE) pyproject.toml --all-extras --group dev --group bench -o requirements/bench.lock

image: ## build the container image callback-pipeline:local
	docker build --tag callback-pipeline:local .

compose-check: ## build, start, play, kill and stop the containers; needs docker
	tests/compose/check.sh

clean: ## remove the environment and what was made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
