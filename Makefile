# Bitsift: the commands a person types. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `python -m pip`: a script's first line breaks where the folder's path is long or has a space.
PIP := $(BIN)/python -m pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo install test crash-test lint format bench bench-40m constraints clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  The first of them to run makes .venv; PYTHON=/path/to/python3.11 chooses the Python (3.11 or newer)."

demo: $(VENV)/.installed ## search 107,525 words by what they mean, on http://127.0.0.1:8000
	@exec $(BIN)/bitsift demo

install: $(VENV)/.installed-dev ## make .venv: Bitsift and everything to work on it, versions pinned

test: $(VENV)/.installed-dev ## run every test
	$(BIN)/python -m pytest

crash-test: $(VENV)/.installed-dev ## kill a shard 240 times under load and look for what it lost; some minutes
	$(BIN)/python -m tests.crash

lint: $(VENV)/.installed-dev ## ruff, mypy (strict), import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev ## measure this machine; results go to benchmarks/results
	$(BIN)/bitsift bench

bench-40m: $(VENV)/.installed-dev ## the headline run: 40 million x 1,024 here; 60 GB of disk, hours
	$(BIN)/python benchmarks/forty_million.py

constraints: ## write constraints.txt anew, from a clean resolution
	@PYTHON="$(PYTHON)" bash .ci/constraints

clean: ## remove .venv, the demo's index, builds and caches
	rm -rf $(VENV) .bitsift build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find bitsift.py shard_worker router cluster tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps are written last, so an interrupted installation is taken up again and a finished one costs nothing.
$(VENV)/bin/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "make: no '$(PYTHON)' here. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Bitsift needs Python 3.11 or newer, but $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Bitsift into $(VENV): some minutes the first time"
	$(PIP) install -qq -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Bitsift and its development tools into $(VENV): some minutes the first time"
	$(PIP) install -qq -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@
