"""Checkpoints and saved states: only what was written is read, and older ones are told apart."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from model_cache import SMALLEST, KilledError, demo_rows
from safetensors.numpy import save_file

from data.errors import ModelError
from data.labels import write_labels
from feat import cli
from model.methods.gather import DataOptions
from model.methods.registry import METHODS, choose_method
from model.runs.checkpoint import load_checkpoint, save_checkpoint
from model.runs.folder import CHECKPOINT_NAME
from model.runs.state import STATE_NAME, StateFile
from model.runs.tensor_file import read_arrays, write_arrays
from model.runs.train import resume_training, run_training
from model.runs.trained import load_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def killed(rgb_cache, tmp_path_factory) -> Path:
    """The folder of a training that was killed and can go on."""
    out = tmp_path_factory.mktemp("killed") / "run"

    def die(row):
        if row["step"] == 4:
            raise KilledError

    with pytest.raises(KilledError):
        run_training(rgb_cache, demo_rows(), SMALLEST, out=out, save_seconds=0, on_row=die)
    return out


@pytest.fixture(scope="module")
def run(rgb_cache, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    return run_training(rgb_cache, demo_rows(), SMALLEST, out=out).run


# of how many mutations one is tried
SHARES = pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])


def mutations(whole: bytes, step: int) -> Iterator[tuple[str, bytes]]:
    """Yield one in `step` of these: a file with one bit changed in every byte of its header and
    one in 23 of its arrays; then with a byte of another value, missing or doubled all over it.
    At last the file cut off.
    """
    (length,) = struct.unpack("<Q", whole[:8])
    assert 8 < length < len(whole) - 8
    bits = [*range(8 + length), *range(8 + length, len(whole), 23)]
    for place in [*range(9), *bits[9::step], len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        yield f"bit {place % 8} of byte {place}", bytes(changed)
    rng = np.random.default_rng(0)
    padding = range(len(whole[: 8 + length].rstrip(b" ")), 8 + length)  # a tab says the same
    for place in set(rng.integers(0, len(whole), 400 // step).tolist()) - {*padding}:
        other = bytes([(whole[place] + int(rng.integers(1, 256))) % 256])
        yield f"another byte {place}", whole[:place] + other + whole[place + 1 :]
    for place in rng.integers(0, len(whole), 100 // step).tolist():
        yield f"without byte {place}", whole[:place] + whole[place + 1 :]
        yield f"byte {place} twice", whole[: place + 1] + whole[place:]
    for end in (0, 7, 8, 8 + length, len(whole) - 1):
        yield f"{end} bytes", whole[:end]


@SHARES
def test_no_changed_byte_of_a_checkpoint_is_believed(run, tmp_path, step):
    whole = (run / CHECKPOINT_NAME).read_bytes()
    tried = 0
    for what, content in mutations(whole, step):
        (tmp_path / CHECKPOINT_NAME).write_bytes(content)
        with pytest.raises(ModelError, match=r"not a checkpoint.*run `feat train` again$"):
            pytest.fail(f"{what}: {load_checkpoint(tmp_path).info}")
        tried += 1
    assert tried > 3000 / step
    (tmp_path / CHECKPOINT_NAME).write_bytes(whole)
    assert load_checkpoint(tmp_path).info == load_checkpoint(run).info


@SHARES
def test_no_changed_byte_of_a_saved_state_is_believed(killed, tmp_path, step):
    whole = (killed / STATE_NAME).read_bytes()
    state = StateFile(tmp_path, save_seconds=0)
    tried = 0
    for what, content in mutations(whole, step):
        state.path.write_bytes(content)
        with pytest.raises(ModelError, match=r"resume\.safetensors: cannot go on from it"):
            pytest.fail(f"{what}: {state.read()}")
        tried += 1
    assert tried > 1500 / step
    state.path.write_bytes(whole)
    assert state.read().step == 2


def test_a_damaged_state_can_be_removed_and_the_training_begins_anew(rgb_cache, killed, run):
    path = killed / STATE_NAME
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ModelError, match=r"sha256 differs.*remove this file and use --resume"):
        resume_training(rgb_cache, killed, options=DataOptions())
    path.unlink()
    resume_training(rgb_cache, killed, options=DataOptions())
    assert (killed / CHECKPOINT_NAME).read_bytes() == (run / CHECKPOINT_NAME).read_bytes()


def test_the_same_content_is_the_same_file(tmp_path):
    described = {"one": 1, "two": "zwei", "three": [3.0, None]}
    arrays = {"b": np.arange(3), "a": np.float32([[0.5]]), "c": np.zeros((0, 2))}
    for name in ("one", "two"):
        write_arrays(tmp_path / name, "sample", described, arrays)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found, again = read_arrays(tmp_path / "one", "sample")
    assert found == described
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype
    with pytest.raises(ValueError, match="it is no other sample of this build"):
        read_arrays(tmp_path / "one", "other sample")


@pytest.mark.parametrize("method", METHODS)
def test_what_a_checkpoint_says_comes_back_for_every_method(run, tmp_path, method):
    before = load_checkpoint(run)
    values = {**before.info.to_dict(), "method": method}
    values["settings"] = choose_method(method).to_dict()
    info = type(before.info).from_dict(json.loads(json.dumps(values)))
    save_checkpoint(tmp_path, type(before)(info=info, parameters=before.parameters))
    after = load_checkpoint(tmp_path)
    assert after.info == info
    assert after.info.method == choose_method(method)
    assert after.parameters.keys() == before.parameters.keys()
    assert all(
        np.array_equal(after.parameters[name], before.parameters[name]) for name in after.parameters
    )


def old_run(folder: Path, name: str, described: dict) -> Path:
    """A run folder as builds before this format left it."""
    folder.mkdir()
    save_file(
        {"standardizer.mean": np.zeros(32, np.float32), "network.a": np.ones(3, np.float32)},
        folder / name,
        metadata={"feat": json.dumps({"format": 1, **described})},
    )
    (folder / "config.json").write_text(json.dumps({"format": 1, **described}))
    write_labels(folder / "labels.csv", demo_rows())
    return folder


@pytest.mark.parametrize(
    ("name", "described"),
    [
        (
            "model.safetensors",
            {"model": {"hidden": 8}, "train": {"max_steps": 3, "seed": 0}, "clip_len": 16},
        ),
        ("method.safetensors", {"method": "knn", "settings": {"neighbours": 5}, "seed": 0}),
    ],
)
def test_runs_of_older_builds_are_refused_in_one_line(rgb_cache, tmp_path, name, described):
    folder = old_run(tmp_path / "old", name, described)
    line = f"{folder / name}: not a checkpoint this build can read: it is no feat checkpoint of "
    line += "this build; run `feat train` again"
    with pytest.raises(ModelError) as error:
        load_checkpoint(folder)
    assert str(error.value) == line
    for command in (
        ["eval", "--run", str(folder)],
        ["eval", "--run", str(folder), "--cache", str(rgb_cache.path)],
    ):
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 1
        assert done.stdout == ""
        assert done.stderr.splitlines() == [f"error: {line}"]
    resumed = CliRunner().invoke(
        cli, ["train", "--resume", str(folder), "--cache", str(rgb_cache.path)]
    )
    assert resumed.exit_code == 1
    assert len([text for text in resumed.stderr.splitlines() if text.startswith("error: ")]) == 1
    assert "`feat train` anew" in resumed.stderr or "nothing to go on with" in resumed.stderr


def test_a_killed_training_of_an_older_build_is_refused_in_one_line(rgb_cache, tmp_path):
    folder = old_run(tmp_path / "old", "unused", {"model": {"hidden": 8}, "train": {}})
    with pytest.raises(ModelError, match="format 1, this build reads 2; run `feat train` anew"):
        resume_training(rgb_cache, folder, options=DataOptions())


def test_a_folder_of_seeds_of_an_older_build_is_refused_in_one_line(rgb_cache, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "seeds.json").write_text('{"model": {}, "train": {}, "streams": [], "seeds": 2}')
    with pytest.raises(ModelError, match=r"seeds.json: not a folder of several seeds.*train anew"):
        load_run(folder)
