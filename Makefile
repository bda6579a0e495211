# make demo    the whole story on small synthetic input
# make test    lint, format, types and tests: what a change must pass
# make test-all  the same, with the tests and the long counts that are for a night
# make picture   the rooms of engine/ and who imports whom
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

PYTEST := $(BIN)/python -m pytest --durations=25
# What is left out; make test-all leaves out nothing.
LESS = and not nightly

.PHONY: help venv demo test test-all test-ray test-plain lint types picture clean
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

test-ray: venv
	$(PYTEST) -m "ray $(LESS)"

test-plain: venv
	$(PYTEST) -m "not ray $(LESS)"

# Two processes for two cores: one starts Ray and tells the story once, the other runs all else beside it.
test: venv
	$(MAKE) -j4 lint types test-ray test-plain

test-all: export OSTEORAY_FUZZ = 20000
test-all: export OSTEORAY_HISTORIES = 1000
test-all: venv
	$(MAKE) -j4 lint types test-ray test-plain LESS=

# The rooms of engine/ and who imports whom.
picture: venv
	$(BIN)/python -m tests.test_architecture

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .coverage htmlcov
	find engine jobs cluster tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
