# The few commands. `make demo` and `make test` set up an environment themselves.

# Another Python gets an environment of its own: make test PYTHON=python3.13
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$(if $(VERSION),,$(error PYTHON=$(PYTHON) does not run: give the path of a Python 3.11 or newer))
DEFAULT := $(shell python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv$(if $(filter-out $(DEFAULT),$(VERSION)),-$(VERSION))
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check
FEW := --config=configs/rendered.py:few
TRAIN := --config=configs/demo.py --workdir=runs/demo_train
# The CPU build of JAX unless a GPU answers: nobody else should download gigabytes of CUDA.
EXTRAS := $(shell nvidia-smi >/dev/null 2>&1 && echo dev,cuda12 || echo dev)
# PyTorch for Python 3.11 is a small CPU build; for others it is gigabytes of CUDA, and left out.
TORCH := $(filter 3.11,$(VERSION))

.PHONY: help setup setup-torch demo demo-train test test-pages test-slow reliability check clean

help:            ## list the commands
	@grep -E '^[a-z-]+: .*##' Makefile | sed 's/:.*##/\t/'

$(VENV)/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --editable '.[$(EXTRAS)]'
	touch $@

setup: $(VENV)/.done   ## make the environment, without PyTorch

$(VENV)/.torch: $(VENV)/.done
	$(if $(TORCH),$(PIP) install --editable '.[$(EXTRAS)$(comma)torch]',@echo "no PyTorch for Python $(VERSION): it would be gigabytes of CUDA; tests that need it are skipped")
	touch $@
comma := ,

setup-torch: $(VENV)/.torch   ## PyTorch as well where it is small, for conversion and the baseline

demo: setup      ## render a few dives and score them with the weights that come along, in minutes
	$(BIN)/python launch.py render $(FEW)
	$(BIN)/python launch.py build $(FEW) --overwrite
	$(BIN)/python launch.py evaluate $(FEW) --weights=rendered --workdir=runs/demo --masks \
	  --truth=data/rendered_few
	$(BIN)/python launch.py explain $(FEW) --weights=rendered --workdir=runs/demo \
	  --truth=data/rendered_few

demo-train: setup  ## train a small network from nothing on rendered dives, and score others with it
	$(BIN)/python launch.py render --config=configs/demo.py
	$(BIN)/python launch.py build --config=configs/demo.py --overwrite
	$(BIN)/python launch.py train $(TRAIN)
	$(BIN)/python launch.py evaluate $(TRAIN) --checkpoint=latest

test: setup-torch   ## the tests, full-size ones left out; PYTHON=python3.13 for another Python
	$(BIN)/python -m pytest -q -n auto -m 'not slow and not browser'

test-pages: setup   ## looks at pages in Chromium; needs Debian's package chromium
	$(BIN)/python -m pytest -q -m browser

test-slow: setup-torch   ## the full-size tests
	$(BIN)/python -m pytest -q -m slow

reliability: setup-torch   ## damaged and hostile files, kills and signals; into docs/reliability.md
	$(BIN)/python -m tests.reliability --output=docs/reliability.md

check: setup-torch  ## lint, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports --no-cache

clean:           ## remove the environments and what the demo made
	rm -rf .venv .venv-* runs/demo runs/demo_train data/rendered data/rendered_tfds \
	  data/rendered_few data/rendered_few_tfds
