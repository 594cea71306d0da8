"""Compiled kernels where their code can be kept, where not, and when what they call changes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOWHERE = {"NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}  # which a program never suits


def run(program: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["extract.flow.pair", "extract.kernels.products"])
def test_kernels_of_extraction_need_no_place_to_keep_compiled_code_in(module, tmp_path):
    """As in a container whose user can write neither the package's folder nor a home."""
    run(f"import {module}", tmp_path, **NOWHERE)


@pytest.mark.slow
def test_kernel_is_compiled_anew_when_a_module_it_calls_has_changed(tmp_path):
    helper, kernel = tmp_path / "helper.py", tmp_path / "kernel.py"
    kernel.write_text(
        "import helper\n"
        "from extract.kernels.compiling import compiled, stamp\n"
        "STAMP = stamp(helper)\n"
        "@compiled()\n"
        "def answer(stamp=STAMP): return helper.value()\n"
    )
    program = "import kernel; print(kernel.answer(), *kernel.answer.stats.cache_hits.values())"
    found = []
    for value in (1, 1, 20000):  # the last file is longer: Python's own cache must see it, too
        helper.write_text(f"from numba import njit\n@njit\ndef value(): return {value}\n")
        found.append(run(program, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "kept")).split())
    assert found == [["1"], ["1", "1"], ["20000"]]
