# make demo    the whole story on small synthetic input
# make test    lint, format, types and tests: what a change must pass
# make test-all  the same, with the tests and the long counts that are for a night
#
# VENV and PYTHON can be set from outside: make test VENV=/some/where PYTHON=python3.12

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin

# The environment is up to date when the stamp of the present lock and pyproject is in it.
KEY := $(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.osteoray-$(KEY)

# mypy refuses a folder without Python files.
PACKAGES := engine jobs $(if $(wildcard cluster/*.py),cluster)

# As many processes as the machine that must pass it has cores; all tests that use Ray share one of them.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=25

.PHONY: help venv demo test test-all unit lint types picture clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "osteoray needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "building $(VENV): the first time takes some minutes and about 7 GB"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c requirements.lock -e '.[dev]'
	rm -f $(VENV)/.osteoray-*
	touch $(STAMP)

demo: venv
	$(BIN)/osteoray demo

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy $(PACKAGES)

unit: venv
	$(PYTEST) -m "not nightly"

test: venv
	$(MAKE) -j3 lint types unit

test-all: lint types
	OSTEORAY_FUZZ=20000 OSTEORAY_HISTORIES=1000 $(PYTEST)

# The rooms of engine/ and who imports whom.
picture: venv
	$(BIN)/python -m tests.test_architecture

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .coverage htmlcov
	find engine jobs cluster tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
