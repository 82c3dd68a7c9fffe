# Two commands do everything on a fresh machine:  make sweep   and   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What to sweep:  make sweep SWEEP="axis=stages seeds=5"
SWEEP ?= axis=image_resize
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help install sweep test test-slow lint format bench wheel clean

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

test: $(INSTALLED) lint ## lint and the fast tests
	@$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED) ## whole sweeps, killed and resumed
	@$(BIN)/python -m pytest -m slow

lint: $(INSTALLED) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED) ## rewrite the sources in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(INSTALLED) ## speed, as ratios measured in this run
	@$(BIN)/python tests/perf/bench.py
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/perf/bench_stats.py

wheel: $(INSTALLED) ## build a wheel and try it outside the checkout
	@rm -rf dist build/wheel-try
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@$(BIN)/python -m pip install --quiet --no-deps --target build/wheel-try dist/*.whl
	@cd / && PYTHONPATH=$(CURDIR)/build/wheel-try VLMABLATE_HOME=$(CURDIR)/build/wheel-home \
		$(CURDIR)/$(BIN)/python -m vlmablate.sweep axis=stages scale=smoke mode=plan
	@ls -1 dist/*.whl

clean: ## remove the environment, caches and builds (results in outputs/ stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
