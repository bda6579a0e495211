"""The programs that measure speed are run by hand: here only that each is still in step with the engine."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest

from tests.test_architecture import Module, imports, is_within, modules

PROGRAMS = [module for module in modules("benchmarks") if module.name != "benchmarks"]


def test_there_are_programs() -> None:
    assert len(PROGRAMS) > 10


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_benchmark_finds_all_that_it_imports(program: Module) -> None:
    """In functions, too."""
    assert import_module(program.name).__doc__
    for name, node in imports(program):
        if any(is_within(name, package) for package in ("engine", "jobs", "benchmarks", "tests")):
            parent, _, last = name.rpartition(".")
            assert hasattr(import_module(parent), last) or find_spec(name), program.at(node)
