# On a fresh machine with Python 3.11 or later, pip and make: `make demo` or `make test`.
# Both create .venv and install slt there; nothing is reinstalled until pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
PYTEST_ARGS ?=
GALLERY ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo gallery test statistics faults lint types imports format clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        install, run superposition/demo, say where the figures are"
	@echo "make gallery     run every demo and rebuild docs/gallery.md (GALLERY='landau tanh': these alone)"
	@echo "make test        install, run the default test suite"
	@echo "make statistics  the long statistical tests"
	@echo "make faults      kills, full disks, damaged files, fuzzed input"
	@echo "make lint | types | imports    ruff, basedpyright, import contracts"
	@echo "make format      let ruff mend what it can"
	@echo "make clean       remove .venv and all caches (runs/ stays)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "slt needs Python 3.11 or later, and $(PYTHON) is older or missing; try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment; on Debian install python3-venv" >&2; exit 1; }

# Stamps: .slt for what runs need, .dev for what tests and checks need besides.
$(VENV)/.slt: pyproject.toml | $(BIN)/python
	@echo "installing slt into $(VENV) (a minute or two the first time)"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing slt and its development tools into $(VENV) (a minute or two the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(VENV)/.slt $@

install: $(VENV)/.dev

demo: $(VENV)/.slt
	$(BIN)/slt run superposition/demo

gallery: $(VENV)/.slt
	$(BIN)/python scripts/gallery.py $(GALLERY)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

statistics: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m "statistics or slow" --timeout 3600 $(PYTEST_ARGS)

faults: $(VENV)/.dev
	$(BIN)/python -m pytest -m faults --timeout 1800 $(PYTEST_ARGS) tests/faults

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/basedpyright

imports: $(VENV)/.dev
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find slt experiments configs tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
