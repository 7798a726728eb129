# Bitsift: the commands a person types. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is compiled when Bitsift is installed.
KERNELS := shard_worker/native/kernels.c
# `python -m pip`: a script's first line breaks where the folder's path is long or has a space.
PIP := $(BIN)/python -m pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Images of containers set it. Each process would compile all that it imports, a model's libraries twice as long.
unexport PYTHONDONTWRITEBYTECODE
# Test files at a time, in the order of their names: the long ones come early. Most tests wait more than they compute;
# those that start whole servers keep two cores busy by twos. JOBS=0 runs all one by one.
JOBS ?= 4
# The fast ones wait for a third of their time. Each process imports all of them first: 8 s of a processor.
FAST_JOBS ?= $(if $(filter 0 1 2 3,$(JOBS)),$(JOBS),5)
SERVER_JOBS ?= $(if $(filter 0 1,$(JOBS)),$(JOBS),2)
SERVER_TESTS := tests/chaos tests/e2e
# Threads, processes and Ray are at the mercy of a busy machine: a test that fails is tried once more, and listed.
SECOND_TRY := --reruns 1 -r fEsR
PYTEST = $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder $(SECOND_TRY)
# The fast ones write to RAM where there is 1 GiB of it: 14,000 calls of fsync. The others write to the disk.
FAST_ROOT = $(shell df -Pk /dev/shm 2>/dev/null | awk 'END { print ($$4 > 1048576 ? "/dev/shm" : "/tmp") }')
TEST_FAST = PYTEST_DEBUG_TEMPROOT=$(FAST_ROOT) $(PYTEST) -n $(FAST_JOBS) -m "not slow and not long" tests/shard_worker tests/router tests/cluster tests/client tests/config tests/test_*.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo install test test-fast crash-test simulate chaos images rehearse lint format docs bench bench-40m bench-peers constraints clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  The first of them to run makes .venv; PYTHON=/path/to/python3.11 chooses the Python (3.11 or newer)."

demo: $(VENV)/.installed ## search 107,525 words by what they mean, on http://127.0.0.1:8000
	@exec $(BIN)/bitsift demo

install: $(VENV)/.installed-dev ## make .venv: Bitsift and everything to work on it, versions pinned

test: $(VENV)/.installed-dev ## run every test in three parts, the fast ones first, having installed the Debian packages they need
	@sh .ci/packages test
	@sh .ci/packages promtool $(BIN)
	$(TEST_FAST)
	$(PYTEST) -n $(SERVER_JOBS) -m "slow and not long" $(SERVER_TESTS)
	$(PYTEST) -n $(JOBS) -m "slow and not long" tests $(SERVER_TESTS:%=--ignore=%)

test-fast: $(VENV)/.installed-dev ## the tests without Ray, a browser, a model or a sweep; a minute and a half
	$(TEST_FAST)

crash-test: $(VENV)/.installed-dev ## kill a shard 240 times under load and look for what it lost; some minutes
	$(BIN)/python -m tests.crash

LAPTOP_STEPS := "each router deleted" "each shard's pod deleted" "backup, verify and restore" "the head killed"
SEEDS ?= 10000
simulate: $(VENV)/.installed-dev ## replicas on a simulated clock and network, ten thousand histories; SEEDS=n
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --out benchmarks/results/simulation.json

chaos: $(VENV)/.installed-dev ## nodes that end, freeze or are cut off; every process of a server killed, stopped, terminated; an hour
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m pytest -m "hypothesis and not long" --hypothesis-profile thorough
	$(BIN)/python -m tests.chaos.kill_matrix

images: $(VENV)/.installed-dev ## build the two images of the Dockerfile, without Docker, and measure them; as root
	@sh .ci/packages images
	$(BIN)/python -m tests.rehearsal.images

rehearse: images ## run the pods of k8s/overlays/production on this machine, and what docs/kubernetes.md says; as root, half an hour
	$(BIN)/python -m tests.rehearsal
	$(BIN)/python -m tests.rehearsal --overlay laptop --documents 107525 --steps $(LAPTOP_STEPS)
	$(BIN)/python -m tests.rehearsal --overlay laptop --model-on-volume --documents 2000 --steps "each router deleted"

lint: $(VENV)/.installed-dev ## ruff, mypy (strict), import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev ## write docs/configuration.md from the settings
	$(BIN)/python -c "from bitsift.config.docs import markdown; print(markdown(), end='')" > docs/configuration.md

bench: $(VENV)/.installed-dev ## measure this machine; results go to benchmarks/results
	$(BIN)/bitsift bench

bench-40m: $(VENV)/.installed-dev ## the headline run: 40 million x 1,024 here; 60 GB of disk, hours
	$(BIN)/python benchmarks/forty_million.py

bench-peers: $(VENV)/.installed-dev ## compare with FAISS, LanceDB, Qdrant Edge, turbovec, USearch and zvec, in .peers; 15 GB of disk, hours
	$(BIN)/python -m benchmarks.peers --dataset wordnet
	$(BIN)/python -m benchmarks.peers --apart

constraints: ## rewrite constraints.txt from a clean resolution
	@PYTHON="$(PYTHON)" bash .ci/constraints

clean: ## remove .venv, the demo's index and caches, and nothing that make did not make
	@sh .ci/clean

# --no-compile: of 19,600 modules a fraction is ever imported, and Python compiles those then.
# The stamps are written last, so an interrupted installation is taken up again and a finished one costs nothing.
$(VENV)/bin/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "make: no '$(PYTHON)' here. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Bitsift needs Python 3.11 or newer, but $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@sh .ci/packages venv "$(PYTHON)"
	@sh .ci/packages compiler
	"$(PYTHON)" -m venv $(VENV)
	@touch $(VENV)/.made-by-make

$(VENV)/.installed: pyproject.toml constraints.txt $(KERNELS) | $(VENV)/bin/python
	@echo "Installing Bitsift into $(VENV): some minutes the first time"
	$(PIP) install -qq --no-compile -c constraints.txt -e '.[server]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(KERNELS) | $(VENV)/bin/python
	@echo "Installing Bitsift and its development tools into $(VENV): some minutes the first time"
	$(PIP) install -qq --no-compile -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@
