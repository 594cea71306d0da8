"""`feat preview`: the clip of a time as the networks get it, with the flow in colours."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.numpy import load_file

from data.errors import WeightsError
from data.number_option import Time
from data.videos import VideoSource
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.preview import CLASSES, clip_flow, color_flow, read_clip, top_classes
from extract.weights.convert import write_weights
from extract.weights.fetch import RGB_SHA256, weights_file
from extract.weights.resolve import read_entry, resolve_weights
from feat import cli

pytestmark = pytest.mark.usefixtures("one_thread")

FLOW_ONLY = ExtractConfig(streams=("flow",))


def preview(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["preview", *map(str, arguments)])


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> Path:
    """Twenty frames, ten a second, of a texture that moves two pixels to the right each."""
    folder = tmp_path_factory.mktemp("moving") / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (20, 40), np.uint8))
    texture = np.asarray(small.resize((448, 224), Image.Resampling.BICUBIC))
    for index in range(20):
        left = 100 - 2 * index
        Image.fromarray(texture[:, left : left + 224]).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    ("turn", "color"),
    [((1, 0), "red"), ((0, 1), "yellow"), ((-1, 0), "cyan"), ((0, -1), "blue")],
)
def test_directions_have_the_colours_of_the_middlebury_wheel(turn, color) -> None:
    # by hand after the benchmark's colorcode.cpp: its 55 colours at 0, 13.5, 27 and 40.5
    near = {"red": (255, 0, 0), "yellow": (255, 229.5, 0), "cyan": (0, 209, 255),
            "blue": (88, 0, 255)}  # fmt: skip
    found = color_flow(np.array(turn, np.float32), full=1.0)
    np.testing.assert_allclose(found, near[color], atol=1)
    half = color_flow(np.array(turn, np.float32) / 2, full=1.0)
    np.testing.assert_allclose(half, (255 + found.astype(float)) / 2, atol=1)
    assert color_flow(np.zeros(2, np.float32), full=1.0).tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12.5", 12.5), ("12.5s", 12.5), ("0:01", 1), ("0:01:02.5", 62.5), ("1:00:00", 3600), (3, 3)],
)
def test_a_moment_is_told_as_in_labels(text, seconds) -> None:
    assert Time().convert(text, None, None) == seconds


@pytest.mark.parametrize(
    ("text", "told"),
    [("x", "not a valid time, expected"), ("0:75", "below 60"), ("-1", "range"), ("nan", "finite")],
)
def test_what_is_no_moment_is_refused(moving: Path, text: str, told: str) -> None:
    refused = preview(moving, "--at", text)
    assert refused.exit_code == 2
    assert told in " ".join(refused.stderr.split())


def test_the_clip_is_the_one_that_holds_the_moment(moving: Path) -> None:
    source = VideoSource(video_id="frames", path=moving, kind="frames")
    for at, start, num_real in ((0.0, 0, 16), (1.55, 0, 16), (1.6, 16, 4), (1.95, 16, 4)):
        clip, times = read_clip(source, at, FLOW_ONLY, folder_fps=10)
        assert (clip.start_frame, clip.num_real) == (start, num_real)
        assert times[0] == pytest.approx(start / 10)
    clip, _ = read_clip(source, 0, FLOW_ONLY, folder_fps=10)
    flow = clip_flow(clip, FLOW_ONLY)
    assert flow.shape == (16, 224, 224, 2)
    inner = flow[:, 30:-30, 30:-30].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(inner, (2, 0), atol=0.2)


def test_the_picture_is_written_and_a_time_beyond_the_end_is_one_line(
    moving: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEAT_WEIGHTS", str(tmp_path / "none"))
    done = preview(moving, "--at", 1.6, "--folder-fps", 10)
    assert done.exit_code == 0, done.output
    assert "frames 16 to 19, 1.60 s to 1.90 s, the last one repeated 12 times" in done.stdout
    assert "no Kinetics classes without the RGB weights: run feat weights fetch" in done.stdout
    assert done.stdout.splitlines()[-1] == "written: frames-1.6s.png"
    with Image.open("frames-1.6s.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    reddish = (pixels[:, 0] > 200) & (pixels[:, 1:].max(axis=1) < 140)
    assert reddish.mean() > 0.01  # it moves to the right
    late = preview(moving, "--at", "0:02", "--folder-fps", 10)
    assert late.exit_code == 1
    assert "nothing is shown at 2 s, the video ends at 2.00 s" in late.stderr
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        (tmp_path / "two" / f"{name}.mp4").write_bytes(b"")
    assert "holds 2 videos: name one" in preview(tmp_path / "two").stderr


@pytest.mark.slow
def test_classes_are_those_of_the_features_and_the_last_layer(
    moving: Path, tmp_path: Path, random_rgb_weights: Path
) -> None:
    """The features come from the network that extraction uses, prepared in another way."""
    state = load_file(random_rgb_weights)
    path = weights_file(tmp_path, "rgb", RGB_SHA256)
    header = {"stream": "rgb", "kind": "published", "name": "rgb", "digest": RGB_SHA256}
    write_weights(path, state, header)
    source = VideoSource(video_id="frames", path=moving, kind="frames")
    clip, _ = read_clip(source, 0, FLOW_ONLY, folder_fps=10)
    found = top_classes(clip.frames[:-1], read_entry(path))
    network = BACKBONES["rgb"].load(
        read_entry(path), device=torch.device("cpu"), precision="float32"
    )
    features = network(torch.from_numpy(clip.frames[None, :-1].copy()))[0].numpy()
    logits = state["logits_layer.weight"] @ features + state["logits_layer.bias"]
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    names = CLASSES.read_text().splitlines()
    assert [names.index(name) for name, _ in found] == np.argsort(-shares)[:5].tolist()
    np.testing.assert_allclose([share for _, share in found], np.sort(shares)[:-6:-1], rtol=0.02)


@pytest.mark.realdata
def test_the_published_network_names_what_the_published_sample_shows(shared_data, tmp_path) -> None:
    try:
        resolve_weights("rgb")
    except WeightsError as error:
        pytest.skip(f"the published weights cannot be had: {error}")
    assert CLASSES.read_text() == (shared_data / "i3d" / "label_map.txt").read_text()
    done = preview(
        shared_data / "i3d" / "v_CricketShot_g04_c01_rgb.gif",
        "--at",
        1,
        "--out",
        tmp_path / "a.png",
    )
    assert done.exit_code == 0, done.output
    assert "Kinetics-400 classes: playing cricket (" in done.stdout
