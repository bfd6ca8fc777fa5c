# `make help` lists what there is to do. Needs Python 3.11 or newer; everything else is set up here.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Linux without a GPU: the address of PyTorch's CPU builds (README), or torch comes with CUDA.
TORCH_INDEX ?=
PORT ?= 8000
# Outputs of chapters from a release in place of running them here: a file or an https address, which
# may end in #sha256=...; VERIFY=2 runs two of the chapters anyway.
OUTPUTS ?=
OUTPUTS_SHA256 ?=
VERIFY ?=

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
READY := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help book outputs print serve test quick fuzz check replicate bench experiments export gettext
.PHONY: ledger edition lock assets linkcheck clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(READY) ## run the chapters that are stale and build the book
	@$(PY) -m tools.build $(if $(OUTPUTS),--outputs '$(OUTPUTS)') \
	  $(if $(OUTPUTS_SHA256),--outputs-sha256 $(OUTPUTS_SHA256)) $(if $(VERIFY),--verify $(VERIFY))

outputs: $(READY) ## pack the outputs of the last build, for a release
	@$(PY) -m tools.outputs

print: book ## put all pages on one, and print it to a PDF where Chromium is installed
	@$(PY) -m tools.paper

serve: book ## build the book and serve it at http://localhost:8000 (PORT=...)
	@$(PY) -m http.server $(PORT) --bind localhost --directory _build/html

# Two at a time, file by file: more would fill the memory of a small machine, as some load TensorFlow
test: $(READY) ## run the tests
	@$(PY) -m pytest --numprocesses=2 --dist=loadfile

quick: $(READY) ## run the tests without those marked slow (over ten seconds each)
	@$(PY) -m pytest -m "not slow" --numprocesses=2 --dist=loadfile

# FUZZ=1000: so many cases of each invariant; the default takes about ten minutes
FUZZ ?= 6000
fuzz: $(READY) ## try the checks of arguments and the splits on random input, for about ten minutes
	@FUZZ=$(FUZZ) $(PY) -m pytest tests/test_fuzz.py --numprocesses=2 --dist=load --hypothesis-show-statistics

check: $(READY) ## lint, formatting, exported notebooks, links, ids, form of the ledger, pages
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m tools.check

replicate: $(READY) ## does what the last build measured contradict the record? (a report)
	@$(PY) -m tools.replicate

bench: .venv/.bench ## run the benchmarks, each against its peers
	@set -e; for file in benchmarks/[a-z]*.py; do \
	  $(PY) -m benchmarks.$$(basename $$file .py); done

experiments: $(READY) ## run what is longer than a chapter may be (hours; NAMES="one two", EXTEND=1)
	@$(PY) -m tools.experiments $(if $(EXTEND),--extend) $(NAMES)

export: $(READY) ## write chapters/*.ipynb from chapters/*.md
	@$(PY) -m tools.export

gettext: $(READY) ## write the texts for translators to _build/gettext, a file a page
	@$(PY) -m tools.export --gettext

ledger: $(READY) ## accept the findings of the last build as the record
	@$(PY) -m tools.ledger

edition: $(READY) ## keep the verdicts of a release, to say later what changed since
	@$(PY) -m tools.editions

lock: $(READY) ## write constraints.txt from pyproject.toml (UPGRADE=1: newest versions)
	@$(PY) -m tools.lock $(if $(UPGRADE),--upgrade)

assets: $(READY) ## fetch every asset, to work without a network
	@$(PY) -m tlbook assets fetch --all

linkcheck: book ## check the links that lead out of the book
	@.venv/bin/jupyter-book build . --builder linkcheck

clean: ## remove what was built (not .venv, not the fetched assets)
	rm -rf _build build dist .pytest_cache .ruff_cache

# The mark goes first and comes back last: after an interrupted installation the environment
# starts from nothing.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found. Install Python 3.11 or newer."; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer \
	is needed; $(PYTHON) is %d.%d. Name another one: make PYTHON=/path/to/python3.11" % v[:2])'
	@echo "Setting up .venv (the first time about 5 minutes and 4 GB) ..."
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	@rm -f .venv/.installed .venv/.bench
	$(if $(TORCH_INDEX),$(PIP) install --no-deps --index-url $(TORCH_INDEX) -c constraints.txt torch)
	$(PIP) install -c constraints.txt -e '.[all]'
	@touch $@

.venv/.bench: $(READY)
	$(PIP) install -c constraints.txt -e '.[bench]'
	@touch $@
