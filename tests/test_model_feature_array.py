"""Features that do not fit into memory: where they go, and that nothing else changes."""

import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from model_cache import demo_rows, label, make_cache

from data.errors import ModelError
from model.features.array import available_memory, empty_features
from model.features.load import load_features
from model.features.standardize import Standardizer

MB = 1 << 20


def test_small_features_are_in_memory_and_large_ones_in_a_file_without_a_name(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    small = empty_features((4, 8), memory_bytes=4 * 8 * 4)
    large = empty_features((4, 8), memory_bytes=4 * 8 * 4 - 1)
    assert type(small) is np.ndarray
    assert isinstance(large, np.memmap)
    assert not list(tmp_path.iterdir())
    for array in (small, large):
        array[...] = np.arange(32).reshape(4, 8)
        assert array.dtype == np.float32
        assert array.sum() == 31 * 32 / 2


def test_a_cache_reads_the_same_in_memory_and_from_a_file(tmp_path):
    rows = demo_rows()
    cache = make_cache(tmp_path / "features", rows)
    inside = load_features(cache, rows, streams=("rgb", "flow"))
    outside = load_features(cache, rows, streams=("rgb", "flow"), memory_bytes=0)
    assert isinstance(outside.features, np.memmap)
    assert not isinstance(inside.features, np.memmap)
    np.testing.assert_array_equal(inside.features, outside.features)
    assert outside.features[outside.rows(0)].any()


def test_no_room_in_memory_and_none_on_the_disk_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    too_much = 1 << 60  # values; no file system has four exabytes
    nowhere = rf"neither into memory .* nor into {re.escape(str(tmp_path))}: .*; set TMPDIR"
    with pytest.raises(ModelError, match=nowhere):
        empty_features((1, too_much), memory_bytes=0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ModelError, match="File too large"):
            empty_features((1024, 1024), memory_bytes=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def control_group():
    """A real memory group of version 1 or 2 for a child process, removed afterwards."""
    name = f"feat-test-{os.getpid()}"
    for mount, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = mount / name
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            yield group, group / limit
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("this user cannot make a control group with a memory limit")


def in_group(group: Path, program: str, *arguments: object) -> str:
    enter = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
    done = subprocess.run(
        [sys.executable, "-c", enter + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def test_a_control_groups_limit_is_what_is_available(control_group):
    group, limit = control_group
    limit.write_text(str(300 * MB))
    found = int(
        in_group(
            group,
            "from model.features.array import available_memory\n"
            "held = bytearray(100 << 20)\n"
            "print(available_memory())\n",
        )
    )
    assert 20 * MB < found < 200 * MB
    assert available_memory() > 300 * MB


@pytest.mark.slow
def test_features_larger_than_the_limit_can_be_trained_on_all_the_same(control_group, tmp_path):
    rows = [
        label(f"{kind}/{number}.mp4", "train", "all" if kind == "bad" else "")
        for kind in ("good", "bad")
        for number in range(4)
    ]
    cache = make_cache(tmp_path / "features", rows, num_frames=1500 * 16, streams={"rgb": 8192})
    group, limit = control_group
    limit.write_text(str(700 * MB))  # 390 MB of features, and PyTorch
    out = in_group(
        group,
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np, torch\n"
        "from cache import FeatureCache\n"
        "from data.labels import read_labels\n"
        "from model.methods.convlstm import ConvLSTMMethod\n"
        "from model.methods.gather import gather\n"
        "from model.runs.train import run_training\n"
        "torch.set_num_threads(1)\n"
        "cache, labels, out = FeatureCache(Path(sys.argv[1])), *map(Path, sys.argv[2:])\n"
        "method = ConvLSTMMethod(hidden=4, head_widths=(8,), readout='each',\n"
        "    steps=10, eval_every=10, batch_size=8, val_fraction=0)\n"
        "_, found = gather(method, cache, read_labels(labels))\n"
        "print(type(found.train.features).__name__)\n"
        "del found\n"
        "report = run_training(cache, read_labels(labels), method,\n"
        "    out=out / 'run', device='cpu')\n"
        "print(report.info.result['steps'])\n",
        cache.path,
        cache.path / "labels.csv",
        tmp_path,
    )
    assert out.split() == ["memmap", "10"]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("place", ["own", "parent", "mount"])
def test_the_tightest_group_counts_wherever_it_is_mounted(tmp_path, version, place):
    own = tmp_path / "self"
    own.write_text("4:cpu,memory:/a/b\n0::/a/b\n" if version == 1 else "0::/a/b\n")
    mount = tmp_path / "memory" if version == 1 else tmp_path
    folder = {"own": mount / "a/b", "parent": mount / "a", "mount": mount}[place]
    folder.mkdir(parents=True, exist_ok=True)
    limit, usage, cache = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / limit).write_text(f"{50 * MB}\n")
    (folder / usage).write_text(f"{40 * MB}\n")
    (folder / "memory.stat").write_text(f"anon 12\n{cache} {5 * MB}\n")
    assert available_memory(cgroups=tmp_path, own_groups=own) == 15 * MB
    (folder / limit).write_text("max\n" if version == 2 else f"{(1 << 63) - 4096}\n")
    free = psutil.virtual_memory().available
    assert 0.5 * free < available_memory(cgroups=tmp_path, own_groups=own) < 2 * free


def test_of_two_limits_the_tighter_one_counts(tmp_path):
    own = tmp_path / "self"
    own.write_text("0::/a/b\n")
    for folder, limit in ((tmp_path / "a/b", 90 * MB), (tmp_path / "a", 50 * MB)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{10 * MB}\n")
        (folder / "memory.stat").write_text("inactive_file 0\n")
    assert available_memory(cgroups=tmp_path, own_groups=own) == 40 * MB


def test_a_folder_for_scratch_files_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(ModelError, match=r"nor into .*gone: No such file"):
        empty_features((1, 1), memory_bytes=0)


def test_without_tmpdir_the_file_is_not_where_memory_may_be(monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)
    with pytest.raises(ModelError, match=rf"nor into ({Path.home()}|/var/tmp):"):
        empty_features((1, 1 << 60), memory_bytes=0)


def test_no_clips_cannot_be_measured():
    with pytest.raises(ModelError, match="no clip to train on"):
        Standardizer.fit(np.empty((0, 3), np.float32))


def test_without_control_groups_the_machines_memory_counts(tmp_path):
    free = psutil.virtual_memory().available
    found = available_memory(cgroups=tmp_path, own_groups=tmp_path / "none")
    assert 0.5 * free < found < 2 * free


@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 5)),
        elements=st.floats(-1000, 1000, width=32),
    ),
    st.sampled_from([0.0, 1.0, 5.0]),
)
def test_rows_picked_are_rows_of_all_standardised(features, limit):
    found = Standardizer.fit(features, limit=limit)
    rows = torch.arange(len(features)).flip(0).repeat(2).reshape(2, -1)
    picked = found.inputs(features).pick(rows)
    np.testing.assert_array_equal(picked.numpy(), found.apply(features)[rows.numpy()])


def test_many_rows_are_measured_as_few(monkeypatch):
    features = np.random.default_rng(0).gamma(2, 3, size=(1000, 7)).astype(np.float32) + 100
    monkeypatch.setattr("model.features.standardize.BLOCK_ROWS", 64)
    found = Standardizer.fit(features)
    np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(found.std, features.astype(np.float64).std(axis=0), rtol=1e-6)


def test_picking_leaves_the_features_as_they_are():
    features = np.ones((3, 2), np.float32)
    inputs = replace(Standardizer.identity(2), mean=np.full(2, 9, np.float32)).inputs(features)
    inputs.pick(torch.tensor([0, 1, 2]))
    assert (features == 1).all()
