"""What the entry points set up for a whole process, and what imports leave as it is."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from data.process import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import ctypes, sys
from pathlib import Path
from data.process import release_freed_memory, set_up_process

if sys.argv[1] != "let go":
    set_up_process()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])  # pages

before = resident()
block = ctypes.c_void_p(libc.malloc(24_000_000))
ctypes.memset(block, 1, 24_000_000)
used = resident() - before
libc.free(block)
if sys.argv[1] == "keep, release":
    release_freed_memory()
print((resident() - before) / used)
"""


def share_kept(mode: str, *, before: str = "") -> float:
    """Return the share of a block's pages that a process still has after freeing it."""
    done = subprocess.run(
        [sys.executable, "-c", before + SCRIPT, mode],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_kept():
    assert share_kept("keep") > 0.95
    assert share_kept("keep, release") < 0.05
    assert share_kept("let go") < 0.05  # or the test shows nothing


LETTERS = """
import sys
from pathlib import Path
from data.process import set_up_process

if sys.argv[2] == "set up":
    set_up_process()
from model.evaluation.plots import new_figure, save_figure

figure = new_figure(2, 1)
figure.suptitle("\u4e2d\u6587")
save_figure(figure, Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("mode", "warned"), [("set up", False), ("not", True)])
def test_a_name_in_letters_that_no_font_has_is_drawn_without_a_warning(tmp_path, mode, warned):
    picture = tmp_path / "picture.png"
    done = subprocess.run(
        [sys.executable, "-c", LETTERS, str(picture), mode],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("Glyph" in done.stderr) == warned
    assert picture.stat().st_size > 0


HUGE = """
import re, sys
from pathlib import Path
from feat import main
if sys.argv[1:]:
    sys.argv += ["--cache", "/nowhere", "--labels", "/nowhere"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 1, end.code
import torch
kept = torch.ones(16_000_000)
huge = re.search(r"AnonHugePages: +([0-9]+) kB", Path("/proc/self/smaps_rollup").read_text())
print(int(huge[1]) * 1024 / (kept.numel() * 4))
"""
PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def run_command(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run HUGE with no settings but these; OpenMP says its own on stderr as it is loaded."""
    plain = {n: v for n, v in os.environ.items() if n not in ENVIRONMENT}
    return subprocess.run(
        [sys.executable, "-c", HUGE, *command],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**plain, "OMP_DISPLAY_ENV": "true", **environment},
    )


def share_in_huge_pages(done: subprocess.CompletedProcess[str]) -> float:
    return float(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how OpenMP and the kernel say it differs")
def test_threads_of_a_command_sleep_and_its_memory_has_huge_pages_unless_the_user_chose() -> None:
    usual = run_command("train")
    chosen = run_command("train", OMP_WAIT_POLICY="ACTIVE", THP_MEM_ALLOC_ENABLE="0")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in usual.stderr
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in chosen.stderr
    if not PAGES.exists() or "[madvise]" not in PAGES.read_text():
        return  # the kernel gives huge pages to all or to none
    if share_in_huge_pages(run_command(THP_MEM_ALLOC_ENABLE="1")) > 0.5:  # else it has none left
        assert share_in_huge_pages(usual) > 0.5
        assert share_in_huge_pages(chosen) < 0.5


IMPORTS = """
import importlib, os, pkgutil
from data.process import ENVIRONMENT
before = [os.environ.get(name) for name in ENVIRONMENT]
import torch
threads = torch.get_num_threads()
import cache, data, extract, model, feat, predict
for package in (cache, data, extract, model, predict):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
assert [os.environ.get(name) for name in ENVIRONMENT] == before
assert torch.get_num_threads() == threads
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_imports_leave_the_process_as_it_is() -> None:
    assert share_kept("let go", before=IMPORTS) < 0.05


# as an extension does that has Python run text of its own; PyTorch while it is loaded
STOPPED = """
import ctypes, sys
from data.process import end_in_order_when_stopped
end_in_order_when_stopped()
text = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
assert ctypes.pythonapi.PyRun_SimpleString(text.encode()) == -1
sys.exit(130)
"""


def test_the_exit_code_of_ctrl_c_is_ours_wherever_it_came() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130, done.stderr
    assert "CancelledError" in done.stderr


def test_a_command_in_the_background_goes_on_ignoring_ctrl_c() -> None:
    code = (
        "import os, signal; from data.process import end_in_order_when_stopped as prepare\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); prepare(); os.kill(os.getpid(), 2)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
