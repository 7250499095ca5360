# Sets itself up in .venv; every target works from a clean checkout.
#   make PYTHON=/path/to/python3.12 ...   chooses the interpreter (3.11 or later)
#   make test-slow DATA=DIR               the slow tests, with MNIST and CIFAR-10 in DIR

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= python3.11 python3.12 python3
DATA ?=
SOURCES := mrc_jax experiments configs docs tests typings

.PHONY: help demo test test-slow test-numpy lint format clean

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

# A shim may be on the path and still start nothing, so each candidate is run before it is taken.
$(STAMP): setup.cfg pyproject.toml $(wildcard constraints/*.txt)
	@set -e; \
	found=; \
	probe='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "$$probe" 2>/dev/null; then \
	  for python in $(PYTHON); do \
	    if $$python -c "$$probe" 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no Python 3.11 or later with venv among: $(PYTHON); name one with PYTHON=" >&2; exit 1; \
	  fi; \
	  $$found -m venv --clear $(VENV); \
	fi; \
	pins=constraints/py$$($(BIN)/python -c 'import sys; print(*sys.version_info[:2], sep="")').txt; \
	pip="$(BIN)/python -m pip install -qq --disable-pip-version-check"; \
	if [ -f $$pins ]; then \
	  echo "make: installing into $(VENV) (versions and hashes: $$pins)"; \
	  $$pip --require-hashes -r $$pins; \
	  $$pip --no-deps --no-build-isolation -e .; \
	else \
	  echo "make: installing into $(VENV) (no $$pins: the newest versions)"; \
	  $$pip -e '.[train,test,dev,slurm]'; \
	fi; \
	touch $@

demo: $(STAMP)  ## Compress a small network in minutes and check its file
	$(BIN)/python -m experiments.demo --workdir=out/demo

# Lint comes first, so that the last line printed is the summary of the tests.
test: lint  ## Lint, type check and all tests but the slow ones
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(STAMP)  ## The slow tests; DATA=DIR gives them the real data sets
	XLA_FLAGS= MRC_DATA='$(if $(DATA),$(abspath $(DATA)))' $(BIN)/python -m pytest -m slow --timeout=7200

# Needs a package index, so it is no test of pytest's, which reach no network.
test-numpy: $(STAMP)  ## Every golden file with the oldest NumPy that setup.cfg allows, and with the newest
	@set -e; oldest=$$(sed -n 's/^ *numpy>=/numpy==/p' setup.cfg); \
	for numpy in $$oldest numpy; do \
	  $(BIN)/python -m venv --clear $(VENV)-numpy; \
	  $(VENV)-numpy/bin/python -m pip install -qq --disable-pip-version-check $$numpy; \
	  PYTHONPATH='$(CURDIR)' $(VENV)-numpy/bin/python tests/decode_golden.py; \
	done; \
	rm -rf $(VENV)-numpy

lint: $(STAMP)  ## Lint, format check and type check
	$(BIN)/ruff check --quiet $(SOURCES)
	$(BIN)/ruff format --check --quiet $(SOURCES)
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)  ## Format the code and sort its imports
	$(BIN)/ruff check --quiet --fix $(SOURCES)
	$(BIN)/ruff format --quiet $(SOURCES)

clean:  ## Remove what make made, but for out/
	rm -rf $(VENV) $(VENV)-numpy build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
