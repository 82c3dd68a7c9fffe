# Two commands do everything on a fresh machine:  make sweep   and   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What to sweep:  make sweep SWEEP="axis=stages seeds=5"
SWEEP ?= axis=image_resize
# Which small clusters:  make slurm-up PROFILE=bare
PROFILE ?= accounting bare
# Which tests on them:  make slurm-test TESTS="tests/slurm -k preemption"
TESTS ?=
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help install sweep test test-slow test-long slurm-up slurm-down slurm-test faults browser docs bench-slurm bench-study lint format bench wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(INSTALLED) ## the virtual environment with everything that the other targets need

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vlmablate needs Python 3.11 or newer; name one with  make PYTHON=python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (torch is large; one to three minutes)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

sweep: $(INSTALLED) ## fetch pretrained parts and pictures, train, evaluate, test and report  (SWEEP="axis=…")
	@$(BIN)/python -m vlmablate.sweep $(SWEEP)

test: $(INSTALLED) lint ## lint and the fast tests, on two cores
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not slurm and not long"

test-slow: $(INSTALLED) ## whole sweeps, killed and resumed
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "slow and not slurm and not long"

test-long: $(INSTALLED) ## every axis at scale=tiny, cut short (all arms, one seed), compiled layers, more simulated studies; about 25 minutes of two cores
	@$(BIN)/python -m pytest -m long

slurm-up: ## a real Slurm on this machine, with and without accounting  (Debian, root; PROFILE=…)
	@slurm/mini/up.sh $(PROFILE)

slurm-down: ## stop it and remove its files
	@slurm/mini/down.sh $(PROFILE)

slurm-test: $(INSTALLED) ## sweeps on a real Slurm, on clusters brought up for them  (TESTS="…")
	@slurm/mini/test.sh $(BIN)/python -m pytest -m slurm $(or $(TESTS),tests/slurm)

faults: $(INSTALLED) ## sweeps on a real Slurm, disturbed in every way that loses work elsewhere
	@slurm/mini/test.sh $(BIN)/python -m pytest -m slurm tests/faults

browser: ## Chromium for the tests of pages  (Debian, root)
	@command -v chromium >/dev/null || apt-get install --yes --no-install-recommends chromium

docs: $(INSTALLED) ## the guide as a site, in build/docs; a broken link is an error
	@$(BIN)/python -m sphinx -W --keep-going -q -c docs -d build/doctrees . build/docs
	@echo build/docs/index.html

lint: $(INSTALLED) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED) ## rewrite the sources in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(INSTALLED) ## speed, as ratios measured in this run
	@$(BIN)/python tests/perf/bench.py
	@$(BIN)/python tests/perf/bench_plan.py
	@$(BIN)/python tests/perf/bench_training.py
	@$(BIN)/python tests/perf/bench_generation.py
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/perf/bench_stats.py
	@$(BIN)/python tests/perf/bench_records.py
	@$(BIN)/python tests/perf/bench_data.py
	@OMP_NUM_THREADS=1 $(BIN)/python tests/perf/bench_scorers.py
	@$(BIN)/python tests/perf/bench_local.py
	@$(BIN)/python tests/perf/bench_status.py

bench-slurm: $(INSTALLED) ## speed on Slurm, against a raw array of the same cluster
	@slurm/mini/test.sh $(BIN)/python tests/perf/bench_slurm.py

bench-study: $(INSTALLED) ## what sharing steps is worth: a study of three axes against every run alone; minutes
	@$(BIN)/python tests/perf/bench_study.py

wheel: $(INSTALLED) ## build a wheel and try it outside the checkout
	@rm -rf dist build/wheel-try
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@$(BIN)/python -m pip install --quiet --no-deps --target build/wheel-try dist/*.whl
	@cd / && PYTHONPATH=$(CURDIR)/build/wheel-try VLMABLATE_HOME=$(CURDIR)/build/wheel-home \
		$(CURDIR)/$(BIN)/python -m vlmablate.sweep axis=stages scale=smoke mode=plan; \
		test $$? -eq 10 # a plan with work to do
	@ls -1 dist/*.whl

clean: ## remove the environment, caches and builds (results in outputs/ stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
