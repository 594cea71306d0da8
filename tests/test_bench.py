"""The benchmarks can at least be started: nothing else runs them but `make bench`."""

import importlib
import pkgutil

import pytest

import bench

MODULES = [module.name for module in pkgutil.iter_modules(bench.__path__) if module.name[0] != "_"]


@pytest.mark.parametrize("name", MODULES)
def test_module_can_be_imported(name):
    importlib.import_module(f"bench.{name}")
