# The few commands. `make demo` and `make test` set up .venv themselves.

PYTHON ?= python3
BIN := .venv/bin
DEMO := --config=configs/demo.py --workdir=runs/demo
# The CPU build of JAX unless a GPU answers: nobody else should download gigabytes of CUDA.
EXTRAS := $(shell nvidia-smi >/dev/null 2>&1 && echo dev,cuda12 || echo dev)

.PHONY: help setup setup-torch demo test test-slow check clean

help:            ## list the commands
	@grep -E '^[a-z-]+: .*##' Makefile | sed 's/:.*##/\t/'

.venv/.done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	touch .venv/.done

setup: .venv/.done   ## make .venv with everything but PyTorch

.venv/.torch: .venv/.done
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS),torch]'
	touch .venv/.torch

setup-torch: .venv/.torch   ## PyTorch as well, for conversion and the baseline

demo: setup      ## render dives, build them with TFDS, train, evaluate, show the result
	$(BIN)/python launch.py render --config=configs/demo.py
	$(BIN)/python launch.py build --config=configs/demo.py --overwrite
	$(BIN)/python launch.py train $(DEMO)
	$(BIN)/python launch.py evaluate $(DEMO) --checkpoint=latest

test: setup-torch   ## the tests, full-size ones left out
	$(BIN)/python -m pytest -q -n auto -m 'not slow'

test-slow: setup-torch   ## the full-size tests
	$(BIN)/python -m pytest -q -m slow

check: setup-torch  ## lint, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports --no-cache

clean:           ## remove the environment and what the demo made
	rm -rf .venv runs/demo data/rendered data/rendered_tfds
