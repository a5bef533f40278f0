# One door for people and CI alike. Each target stands alone: on a machine with Python 3.11+ and a package
# index it makes .venv, installs what it needs, and does its job. `make` alone lists the targets.

VENV := .venv
BIN  := $(VENV)/bin
# PYTHON=/path/to/python chooses the interpreter of a new .venv; otherwise the newest one on the PATH that will do
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v $$p; break; }; done)
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-long lint types bench docs wheel clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       a synthetic EM volume goes in, is versioned, edited, compared and served (about 3 minutes)"
	@echo "make test       ruff, mypy, doctests and the tests"
	@echo "make test-long  the long profiles of the crash, fuzz and scale suites"
	@echo "make bench      the benchmarks"
	@echo "make docs       the documentation, built into site/"
	@echo "make wheel      the wheel, built into dist/"
	@echo "make clean      removes .venv, built files and the demo's store"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer (with venv) found on the PATH: install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

# a stamp for each set of extras: pip runs again only where pyproject.toml changed
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing dvid-dask[$*] into $(VENV)"
	@$(PIP) --editable ".[$*]"
	@touch $@

demo: $(VENV)/.installed-demo
	@$(BIN)/python -m dvid_dask.demo --store demo-output/store --picture docs/images/demo.png

# everything is run even where an early check fails, so that one run tells all; pytest's closing line comes last
test: $(VENV)/.installed-dev $(VENV)/.installed-clients
	@status=0; \
	echo "ruff check"; $(BIN)/ruff check . || status=1; \
	echo "mypy --strict"; $(BIN)/mypy || status=1; \
	$(BIN)/python -m pytest -n auto --dist loadfile --doctest-modules dvid_dask tests || status=1; \
	exit $$status

test-long: $(VENV)/.installed-dev $(VENV)/.installed-clients
	@$(BIN)/python -m pytest -m long tests

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

bench: $(VENV)/.installed-dev $(VENV)/.installed-bench
	@for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

docs: $(VENV)/.installed-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(VENV)/.installed-dev
	@$(BIN)/python -m build --wheel

clean:
	@rm -rf $(VENV) build dist site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
