# Every target that needs .venv makes it first (scripts/setup); all state lies in .venv, .state and .sandbox.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test tests durations unit cluster cluster-test faults bench quick-bench lint style types audit format clean
BIN := .venv/bin
# Files or folders that `make unit` runs the tests of.
TESTS := tests
# One more than there are cores: many tests wait for servers.
PROCESSES := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# Debian keeps mariadbd where users have no PATH to.
export PATH := $(PATH):/usr/sbin
# Each test process, and each part of Airflow that tests start, would compile the project and the tests anew.
export PYTHONDONTWRITEBYTECODE :=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## make .venv from the lock, and install what it needs (all others do so themselves)
	@scripts/setup

demo: setup ## run both jobs on private servers, prove the results, and let each fail once
	@$(BIN)/python -m sandbox demo

# Types are checked beside the tests, which wait for servers half of their time.
test: style ## check style and types, run all tests
	@scripts/setup chromium
	@$(MAKE) --no-print-directory --jobs=2 types tests

tests:
	$(BIN)/python -m pytest -q --durations=10 --numprocesses=$(PROCESSES) --maxprocesses=4 \
		--dist=loadfile --no-loadscope-reorder $(OPTIONS)

durations: setup ## run all tests, and record how long each file takes: the longest are begun first
	@scripts/setup chromium
	@$(MAKE) --no-print-directory tests OPTIONS=--record-durations

# With fewer examples than otherwise, and without the folder that has no such test, as its imports take long.
unit: setup ## run the tests that need no server
	REINDEX_TEST_EXAMPLES=0.1 $(BIN)/python -m pytest -q -m unit --ignore=tests/system --numprocesses=auto $(TESTS)

cluster: setup ## run Airflow with Celery workers on this machine, and all its servers, until Ctrl-C
	@scripts/setup redis-server
	@$(BIN)/python -m sandbox cluster

cluster-test: setup ## run both jobs on that deployment, and kill its parts (ten minutes)
	@scripts/setup redis-server
	$(BIN)/python -m pytest -q -m cluster tests/cluster

faults: setup ## run all tests that kill and break things, the long ones, too
	$(BIN)/python -m pytest -q -m "slow_fault or not cluster" --numprocesses=$(PROCESSES) --maxprocesses=4 \
		--dist=loadfile tests/faults

bench: setup ## measure both jobs against what bounds them (half an hour)
	@status=0; for job in director collection; do $(BIN)/python -m benchmarks.$$job || status=1; done; exit $$status

quick-bench: setup ## measure the first job at a tenth of the size (under three minutes)
	$(BIN)/python -m benchmarks.director --quick

lint: style types ## check style and types

style: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/lint-imports --no-cache

types: setup
	nice $(BIN)/mypy

audit: setup ## look for security mistakes in the code, and for known holes in the dependencies
	@scripts/audit

format: setup ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## stop the sandbox's servers, and remove .venv, all state and caches
	@scripts/clean
