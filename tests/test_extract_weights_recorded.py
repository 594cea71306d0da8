"""Weights found again by the digest that was recorded."""

import dataclasses
from pathlib import Path

import pytest

from data.errors import WeightsError
from extract.i3d.layers import Stream
from extract.weights.resolve import Weights, load_state_dict, resolve_recorded, resolve_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module")
def used(folder: Path, random_rgb_weights: Path) -> dict[Stream, Weights]:
    """What an extraction with a user's RGB file and cross-modality flow used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEAT_WEIGHTS", str(folder))
        return {
            stream: resolve_weights(stream, rgb=str(random_rgb_weights), flow="crossmodal")
            for stream in ("rgb", "flow")
        }


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEAT_WEIGHTS", str(folder))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEAT_WEIGHTS", str(tmp_path))
    return tmp_path


def without_file(weights: Weights) -> Weights:
    return dataclasses.replace(weights, path=Path())


@pytest.mark.usefixtures("in_folder")
def test_a_users_file_and_its_crossmodal_copy_are_found_in_the_folder(used) -> None:
    found = {stream: resolve_recorded(without_file(one)) for stream, one in used.items()}
    assert found == used
    assert found["flow"].kind == "crossmodal"
    kernels = [a.shape[:2] for a in load_state_dict(found["flow"]).values() if a.ndim == 5]
    assert (64, 2) in kernels  # x and y; (64, 3) in the RGB network
    assert (64, 3) not in kernels


def test_the_file_itself_serves_where_the_folder_lacks_it(used, random_rgb_weights, empty):
    for one in used.values():
        weights = resolve_recorded(without_file(one), rgb_file=random_rgb_weights)
        assert weights.digest == one.digest
        assert weights.path.parent == empty


@pytest.mark.usefixtures("empty")
def test_absent_weights_are_named_with_digest_and_option(used) -> None:
    with pytest.raises(WeightsError, match="--rgb-weights") as refused:
        resolve_recorded(without_file(used["rgb"]))
    assert used["rgb"].digest in str(refused.value)
    flow = Weights(stream="flow", kind="file", name="file:f", digest="f" * 64, path=Path())
    with pytest.raises(WeightsError, match=r"f{64}.*--flow-weights"):
        resolve_recorded(flow)


@pytest.mark.usefixtures("in_folder")
def test_another_file_is_refused(used, random_rgb_weights) -> None:
    other = dataclasses.replace(used["rgb"], digest="e" * 64)
    with pytest.raises(
        WeightsError, match=f"found rgb weights.*expected rgb weights of sha256 {'e' * 64}"
    ):
        resolve_recorded(other, rgb_file=random_rgb_weights)


@pytest.mark.usefixtures("in_folder")
def test_a_flow_file_is_no_use_for_crossmodal_flow(used, random_rgb_weights) -> None:
    with pytest.raises(WeightsError, match="cross-modality copy of the RGB network"):
        resolve_recorded(without_file(used["flow"]), flow_file=random_rgb_weights)


def test_a_file_in_the_folder_that_is_not_what_its_name_says_is_refused(used, empty) -> None:
    wanted = dataclasses.replace(used["rgb"], digest="e" * 64, path=Path())
    (empty / f"rgb-{'e' * 16}.safetensors").write_bytes(used["rgb"].path.read_bytes())
    with pytest.raises(WeightsError, match=f"expected rgb weights of sha256 {'e' * 64}"):
        resolve_recorded(wanted)
