"""The project as it is installed: what `feat` needs of its surroundings, and what it imports."""

import os
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("predict", "extract", "model", "cache", "data")
LABELS = """video,split,category,anomaly
a.mp4,train,fall,0:16
b.mp4,train,run,2:8
t.mp4,test,,0:9
"""
QUICK = ("--set", "steps=2", "--set", "hidden=4", "--set", "val_fraction=0")


def test_no_help_imports_what_is_slow_to_load() -> None:
    heavy = {"torch", "numba", "numpy", "h5py", "scipy", "sklearn", "matplotlib", "joblib", "rich"}
    heavy |= {"PIL", "requests", "psutil", "pooch", "pandas"}
    code = f"""
import sys, click
from data.configuration import walk_commands
from feat import cli

with click.Context(cli) as ctx:
    words = [words for words, _ in walk_commands(ctx, cli)]
assert ("data", "lad") in words
for line in ((), ("data",), ("cache",), *words):
    try: cli([*line, "--help"], prog_name="feat")
    except SystemExit as end: assert not end.code
    heavy = {heavy} & sys.modules.keys(); assert not heavy, (line, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of somebody's project, whose packages have the names of ours and must not be run."""
    folder = tmp_path / "project"
    for name in PACKAGES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('own {name}')\n")
    return folder


def test_python_m_feat_finds_its_packages_before_those_of_the_current_folder(project) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", "feat", "cache", "verify", "none"],
        cwd=project, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: none: no feature cache here"), done.stderr


def test_import_feat_lets_a_script_in_such_a_folder_open_a_cache(project) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), str(ROOT)])}
    code = "import feat\nfrom cache import FeatureCache\nFeatureCache.create('features')"
    subprocess.run([sys.executable, "-c", code], cwd=project, env=environment, check=True)
    assert (project / "features" / "shards").is_dir()


def test_the_order_of_the_path_is_kept_where_nothing_hides_our_packages(tmp_path) -> None:
    code = "import sys; before = list(sys.path); import feat; assert sys.path == before, sys.path"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


def test_a_package_that_was_loaded_already_is_named_in_one_line(project) -> None:
    (project / "data" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", "import data, feat"],
        cwd=project, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: feat: the module data was loaded from {project / 'data'}")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `feat` script of a wheel in an environment of its own, which sees our dependencies."""
    home = tmp_path_factory.mktemp("installed")
    # of a copy: setuptools puts what an older build left in build/ into the wheel
    shutil.copytree(ROOT, home / "source", ignore=lambda folder, names: (
        set(names) - {*PACKAGES, "arithmetic", "feat.py", "pyproject.toml",
                      "README.md", "LICENSE", "NOTICE"}
        if Path(folder) == ROOT else {"__pycache__"}
    ))  # fmt: skip
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", home, home / "source"],
        check=True,
    )
    (wheel,) = home.glob("*.whl")
    venv.create(home / "venv", symlinks=True)
    (folder,) = (home / "venv" / "lib").glob("python*/site-packages")
    (folder / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    python = home / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    return home / "venv" / "bin" / "feat"


@pytest.mark.slow
def test_every_stage_runs_in_a_folder_with_packages_of_the_same_names(
    installed: Path,
    project: Path,
    make_video: Callable[..., Path],
    random_rgb_weights: Path,
) -> None:
    # an installation of its own would compile the kernels anew, for minutes
    environment = {**os.environ, "FEAT_KERNELS": "0"}
    environment.pop("PYTHONPATH", None)

    def feat(*arguments: object) -> str:
        done = subprocess.run(
            [installed, *map(str, arguments)],
            cwd=project, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    for name, num_frames in (("a", 17), ("b", 8), ("t", 18)):
        make_video(project / "videos" / f"{name}.mp4", num_frames=num_frames)
    (project / "videos" / "labels.csv").write_text(LABELS)
    weights = ("--rgb-weights", random_rgb_weights)
    assert "feat extract" in feat("--help")
    environment["PYTHONPATH"] = "."  # ahead of where feat is installed
    assert "feat extract" in feat("--help")
    feat("sample", "clips", "--num-videos", "6", "--size", "64x48")
    assert len(list((project / "clips").glob("*.mp4"))) == 6
    feat("extract", "--videos", "videos", "--streams", "rgb", *weights, "--workers", "2")
    assert "all is well" in feat("cache", "verify")
    feat("train", *QUICK)
    feat("eval")
    page = project / feat("report").strip()
    assert "t.mp4" in page.read_text()  # its template is part of the wheel
    assert "t.mp4" in feat("predict", "videos/t.mp4", "--cache", "features", *weights)
