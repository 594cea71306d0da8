"""What shells are told when a user presses Tab: by real calls, as docs/CONFIGURATION.md shows."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# what takes long to load, and no completion needs
HEAVY = ("torch", "numba", "numpy", "h5py", "scipy", "matplotlib", "rich")
# PATHs of feat's own, which a user has not: the script that pip installs is this
SCRIPT = (
    "import sys, feat\n"
    "try: feat.main()\n"
    f"finally: print(*sorted({{*{HEAVY}}} & sys.modules.keys()), file=sys.stderr)"
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, file in (("knn", "config.json"), ("five", "seeds.json"), ("notes", "todo.txt")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / file).touch()
    return tmp_path


def completed(folder: Path, line: str, shell: str = "bash") -> list[str]:
    """Return what a shell is offered for the last word of a line; an empty one after a blank."""
    words = line.split(" ")
    told = {"COMP_WORDS": line.rstrip(), "COMP_CWORD": str(len(words) - 1)}
    if shell == "fish":  # which hands over the word itself
        told["COMP_CWORD"] = words[-1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "_FEAT_COMPLETE": f"{shell}_complete", **told},
    )  # fmt: skip
    assert done.stderr == "\n", "loaded without need"
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("feat ex", ["extract"]),
        ("feat cache ver", ["verify"]),
        ("feat data ucf", ["ucf-crime"]),
        ("feat train --see", ["--seed", "--seeds"]),
        ("feat train --method kn", ["knn"]),
        ("feat compare --methods kn", ["knn"]),
        ("feat compare --methods knn,ur", ["knn,ur-dmu"]),
        ("feat extract --precision float", ["float32", "float16"]),
        ("feat predict --run ", ["runs/five", "runs/knn"]),
        ("feat runs verify runs/k", ["runs/knn"]),
        ("feat config cache pu", ["pull", "push"]),
    ],
)
def test_bash_is_offered_what_fits(runs: Path, line: str, offered: list[str]) -> None:
    assert sorted(completed(runs, line)) == sorted(f"plain,{word}" for word in offered)


def test_paths_are_left_to_the_shell(runs: Path) -> None:
    assert completed(runs, "feat eval --runs ru") == ["dir,ru"]
    assert completed(runs, "feat eval --run other/") == ["dir,other/"]
    assert completed(runs, "feat extract cl") == ["file,cl"]


def test_zsh_and_fish_are_offered_the_same(runs: Path) -> None:
    assert completed(runs, "feat eval --run runs/f", "zsh") == ["plain", "runs/five", "_"]
    assert completed(runs, "feat eval --run runs/f", "fish") == ["plain,runs/five"]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_the_line_of_the_docs_sets_bash_up(runs: Path) -> None:
    script = runs / "bin" / "feat"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m feat "$@"\n')
    script.chmod(0o755)
    line = 'eval "$(_FEAT_COMPLETE=bash_source feat)"'
    assert line in (ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")
    done = subprocess.run(
        ["bash", "-c", f"{line}\nCOMP_WORDS=(feat weights fet) COMP_CWORD=2\n"
         "_feat_completion feat fet weights\necho ${COMPREPLY[@]}"],
        cwd=runs, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT),
             "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout == "fetch\n", done.stderr
