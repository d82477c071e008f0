# make demo   the shortest way in: install into .venv, then compare the families on the bundled digits
# make test   what every change must pass: style, types, fast tests (under 10 minutes on 2 cores)
# Nothing outside this folder is changed: everything goes through .venv/bin.

VENV   := .venv
BIN    := $(VENV)/bin
# The first interpreter that is new enough; if there is none, python3, and the check below says what to do.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
# Set-up runs again only when one of these changes; the stamps live in .venv and go with it.
INPUTS := pyproject.toml constraints.txt
MADE   := $(VENV)/.made
USER   := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev
# pytest runs one process per core, so each process gets one thread.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test test-all lint bench docs clean
.DELETE_ON_ERROR:

demo: $(USER)
	$(BIN)/pofx compare digits --resume

test: lint
	$(PYTEST) -m "not slow and not data"

test-all: lint
	$(PYTEST)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every benchmarks/*.py is a script; a leading underscore marks a helper.
bench: $(DEV)
	@set -e; for f in benchmarks/[!_]*.py; do [ -e "$$f" ] || { echo "benchmarks/ holds no script yet."; break; }; \
		echo "== $$f"; $(BIN)/python "$$f"; done

docs: $(DEV)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# A whole .venv is kept; a missing, broken or too old one is made anew.
$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "pofx needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
		echo "Install one and name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		$(PYTHON) -m venv --clear $(VENV) || { \
		echo "Could not make $(VENV). On Debian or Ubuntu the module is a package: apt install python3-venv"; exit 1; }
	@touch $@

$(USER): $(INPUTS) | $(MADE)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(DEV): $(INPUTS) | $(MADE)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $(USER) $@
