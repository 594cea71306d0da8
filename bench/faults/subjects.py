"""What is damaged, and what reads it: files people send each other, through the code users run."""

import json
import pickle
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import scipy.io
from click.testing import CliRunner
from safetensors.numpy import save_file

from bench.faults.sound import CLIPS, random_state_dict, write_arrays, write_run
from cache import FeatureCache
from data.errors import FeatError
from data.ffmpeg import find_ffmpeg
from data.videos import find_videos
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from extract.weights.resolve import load_state_dict, usable_folder, user_file
from feat import cli

FRAMES = 12


class WrongError(Exception):
    """The product did what it must not: what it did."""


class Subject(ABC):
    """A kind of file that is damaged.

    Attributes:
        name: what the files are, for the table.
        text: whether words and lines are changed as well as bytes.
    """

    name: ClassVar[str]
    text: ClassVar[bool] = False

    @abstractmethod
    def make(self, folder: Path) -> None:
        """Write sound files to `folder`."""

    def targets(self, folder: Path) -> Sequence[str]:
        """Return the files that are damaged, one at a time, relative to `folder`."""
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())

    def may_accept(self, target: str) -> bool:
        """Return whether `target`, damaged, may still be taken: it is no file with a digest."""
        return True

    @abstractmethod
    def attempt(self, folder: Path, target: str) -> str:
        """Use `folder`, in which `target` is damaged; return how that ended, in a word or two.

        Raises:
            WrongError: it ended as it must not.
            Exception: the product let it through.
        """


def run_feat(*arguments: object) -> str:
    """Run a `feat` command in this process; return `accepted` or `refused`."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    last = result.output.strip().rpartition("\n")[2]
    if "internal error" in result.output or "Traceback" in result.output:
        raise WrongError(last)
    if "\x1b" in result.output:
        raise WrongError("escape sequences reach the terminal")
    if result.exit_code not in (0, 1, 2) or (result.exit_code and not last):
        raise WrongError(f"exit code {result.exit_code}, {last!r}")
    return "refused" if result.exit_code else "accepted"


class Videos(Subject):
    """Twelve small videos, decoded to the end as extraction does."""

    name = "videos"
    _CODECS: ClassVar[dict[str, tuple[str, ...]]] = {
        "h264.mp4": ("libx264",),
        "h264.ts": ("libx264",),
        "h264.flv": ("libx264",),
        "raw.h264": ("libx264",),
        "hevc.mkv": ("libx265", "-x265-params", "log-level=error"),
        "mpeg4.avi": ("mpeg4",),
        "mpeg2.mpg": ("mpeg2video", "-r", "25"),
        "vp8.webm": ("libvpx",),
        "vp9.mkv": ("libvpx-vp9",),
        "mjpeg.mov": ("mjpeg", "-pix_fmt", "yuvj420p"),
        "anim.gif": ("gif",),
        "wmv2.wmv": ("wmv2",),
    }

    def make(self, folder: Path) -> None:
        """Write each with ffmpeg's test picture, a title and FRAMES frames."""
        source = f"testsrc2=size=96x64:rate=10:duration={FRAMES / 10}"
        for name, codec in self._CODECS.items():
            command = [find_ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", source]
            command += ["-metadata", "title=a title", "-c:v", *codec, str(folder / name)]
            subprocess.run(command, check=True)

    def attempt(self, folder: Path, target: str) -> str:
        """Decode it."""
        try:
            (source,) = [s for s in find_videos(folder) if s.video_id == target]
            with open_video(source, DecodeConfig(), threads=1) as stream:
                count = 0
                while len(batch := stream.read(64)[0]):
                    count += len(batch)
                times = stream.pts_seconds
        except FeatError as error:
            return refusal(error)
        if count != len(times) or not np.isfinite(times).all():
            raise WrongError(f"{count} frames with {len(times)} times")
        return "partial" if stream.partial else "accepted"


def refusal(error: FeatError) -> str:
    """Return `refused` for an error of one line."""
    text = str(error)
    if "\n" in text or len(text) > 2000 or "\x1b" in text:
        raise WrongError(f"not one clear line: {text[:300]!r}")
    return "refused"


class Labels(Subject):
    """Label files and the annotations of datasets, read by the commands that read them."""

    name = "labels and annotations"
    text = True

    def make(self, folder: Path) -> None:
        """Write one of each format."""
        write_arrays(folder / "arrays", folder / "labels.csv")
        labels = folder / "labels.csv"
        outcome = run_feat(
            *("cache", "import", folder / "arrays", "--cache", folder / "features"),
            *("--stream", "i3d", "--origin", "random", "--labels", labels, "--frames", labels),
        )
        if outcome != "accepted":
            raise WrongError("sound arrays were refused")
        shutil.rmtree(folder / "arrays")
        for kind in ("ucf", "xd", "shanghaitech", "ped2", "avenue", "lad", "lad-mats"):
            (folder / kind).mkdir()
        (folder / "ucf/Anomaly_Train.txt").write_text(
            "Abuse/Abuse001_x264.mp4\nTraining_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n"
        )
        (folder / "ucf/Temporal_Anomaly_Annotation.txt").write_text(
            "Abuse028_x264.mp4  Abuse  165  240  -1  -1\n"
            "Arson011_x264.mp4  Arson  0  90  150  420\n"
            "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n"
        )
        (folder / "ucf/intervals.jsonl").write_text(
            '{"video": "Abuse001_x264", "anomaly_frames": [[10, 20], [31, 40]], "num_frames": 40}\n'
        )
        (folder / "xd/annotations.txt").write_text("v=abc__#1_label_B6-0-0 26 80 210 288\n")
        (folder / "xd/train.list").write_text("loud__#1_label_B1-0-0\ncalm__#1_label_A\n")
        (folder / "xd/test.list").write_text("v=abc__#1_label_B6-0-0\nquiet__#1_label_A\n")
        masks = folder / "shanghaitech/test_frame_mask"
        masks.mkdir()
        np.save(masks / "01_0014.npy", np.array([0, 1, 1, 0], np.uint8))
        np.save(masks / "02_0015.npy", np.array([1, 0, 1], np.uint8))
        (folder / "shanghaitech/SH_Train.txt").write_text("01_0014\n01_002\n")
        (folder / "shanghaitech/SH_Test_NEW.txt").write_text("02_0015,1,-1\n02_003,0,77\n")
        for split in ("Train", "Test"):
            for number in (1, 2):
                frames = folder / f"ped2/{split}/{split}00{number}"
                frames.mkdir(parents=True)
                for frame in range(1, 9):
                    (frames / f"{frame:03d}.tif").write_bytes(b"frame")
        (folder / "ped2/Test/UCSDped2.m").write_text(
            "TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [3:5];\n"
            "TestVideoFile{end+1}.gt_frame = [1:2, 6:8];\n"
        )
        masks = folder / "avenue/ground_truth_demo/testing_label_mask"
        masks.mkdir(parents=True)
        for split, count in (("training", 1), ("testing", 2)):
            (folder / f"avenue/{split}_videos").mkdir()
            for number in range(1, count + 1):
                (folder / f"avenue/{split}_videos/{number:02d}.avi").write_bytes(b"video")
        for number in (1, 2):
            cells = np.empty((1, 5), dtype=object)
            for frame in range(5):
                cells[0, frame] = np.full((4, 6), frame % 2, np.uint8)
            scipy.io.savemat(
                masks / f"{number}_label.mat", {"volLabel": cells}, do_compression=number == 1
            )
        names = {"v_Fire_a_1_x": [0, 1, 1, 0], "v_Fire_n_2_x": [0, 0]}
        for kind in ("lad", "lad-mats"):
            (folder / kind / "train_split.txt").write_text("v_Fire_a_1_x\n")
            (folder / kind / "test_split.txt").write_text("v_Fire_n_2_x\n")
        (folder / "lad/GT").mkdir()
        frames_of = {name: np.array([frames], dtype=float) for name, frames in names.items()}
        (folder / "lad/GT/frame_label_IET.pickle").write_bytes(pickle.dumps(frames_of))
        (folder / "lad/GT/video_label_IET.pickle").write_bytes(
            pickle.dumps(dict.fromkeys(names, 4))
        )
        for name, frames in names.items():
            for place in ("Fire", "all"):
                path = folder / "lad-mats/GT/GT_mat" / place / f"{name.replace('v_', 'gt_')}.mat"
                path.parent.mkdir(parents=True, exist_ok=True)
                scipy.io.savemat(path, {"gt": np.array([frames])})
        (folder / "convert").mkdir()
        (folder / "convert/ucf.txt").write_text("Abuse028_x264.mp4  Abuse  165  240  -1  -1\n")
        (folder / "convert/activitynet.json").write_text(
            json.dumps(
                {
                    "database": {
                        "a": {
                            "duration": 4.0,
                            "subset": "testing",
                            "annotations": [{"segment": [1.0, 2.0], "label": "Fire"}],
                        }
                    }
                }
            )
        )

    def targets(self, folder: Path) -> Sequence[str]:
        """Return the annotations, not the stand-ins for videos or the cache."""
        return [
            target
            for target in super().targets(folder)
            if not target.startswith("features/") and not target.endswith((".tif", ".avi"))
        ]

    def attempt(self, folder: Path, target: str) -> str:
        """Run the command that reads it."""
        kind, _, name = target.partition("/")
        out = folder.parent / "out.csv"
        out.unlink(missing_ok=True)
        if target == "labels.csv":
            return run_feat(
                "data", "check", "--labels", folder / target, "--cache", folder / "features"
            )
        if kind == "convert":
            outcome = run_feat(
                *("data", "convert", folder / target, out, "--from", Path(name).stem),
                *(("--fps", "25") if name.endswith(".json") else ()),
            )
        else:
            command = {"ucf": "ucf-crime", "xd": "xd-violence", "lad-mats": "lad"}.get(kind, kind)
            extra: list[object] = []
            if name == "intervals.jsonl":
                extra = ["--train-intervals", folder / target]
            if kind == "xd":
                for split in ("train", "test"):
                    extra += [f"--{split}-list", folder / f"xd/{split}.list"]
            root = folder / kind
            outcome = run_feat("data", command, "--root", root, "--out", out, "--partial", *extra)
        if (outcome == "accepted") != out.is_file():
            raise WrongError(
                f"{outcome}, but {'a' if out.is_file() else 'no'} labels file is there"
            )
        return outcome


class Runs(Subject):
    """A trained run and the state of one that was killed, read by `feat runs verify`."""

    name = "checkpoints and runs"
    text = True

    def make(self, folder: Path) -> None:
        """Train for a few steps, twice; keep the saved state of the second."""
        write_run(folder)

    def targets(self, folder: Path) -> Sequence[str]:
        """Return the files of the runs, the checkpoints several times: they are what counts."""
        names = ("config.json", "environment.json", "labels.csv")
        tensors = [str(p.relative_to(folder)) for p in folder.glob("*/*.safetensors")]
        files = [f"{run}/{name}" for run in ("run", "killed") for name in names]
        return [*sorted(tensors) * 3, *(f for f in files if (folder / f).is_file())]

    def may_accept(self, target: str) -> bool:
        """Return False of what has a digest: an unfinished run's text files have none yet."""
        return target.startswith("killed/") and not target.endswith(".safetensors")

    def attempt(self, folder: Path, target: str) -> str:
        """Verify both."""
        return run_feat("runs", "verify", folder / "run", folder / "killed")


class Weights(Subject):
    """I3D weights of a user, in the formats in use."""

    name = "weights"

    def make(self, folder: Path) -> None:
        """Write an untrained network in each format."""
        import torch  # which takes two seconds, and the other kinds do not need it

        state = random_state_dict()
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
        torch.save(tensors, folder / "state.pt")
        torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)
        save_file(state, folder / "ours.safetensors")

    def attempt(self, folder: Path, target: str) -> str:
        """Load it as `--rgb-weights` does."""
        converted = folder.parent / "converted"
        shutil.rmtree(converted, ignore_errors=True)
        try:
            with usable_folder(converted):
                weights = user_file(folder / target, "rgb", converted)
            state = load_state_dict(weights)
        except FeatError as error:
            return refusal(error)
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise WrongError(f"{target}: weights that are not finite were accepted")
        return "accepted"


class Arrays(Subject):
    """Features of others, as arrays: all of a folder comes in or nothing does."""

    name = "arrays"
    text = True

    def make(self, folder: Path) -> None:
        """Write a folder of each format."""
        rng = np.random.default_rng(0)
        for kind in ("npy", "npz", "csv", "txt", "h5"):
            (folder / kind).mkdir()
        for video in ("a", "b"):
            array = rng.random((CLIPS, 8), dtype=np.float32)
            np.save(folder / f"npy/{video}.npy", array)
            np.savez(folder / f"npz/{video}.npz", features=array)
            np.savetxt(folder / f"csv/{video}.csv", array, delimiter=",", fmt="%.6f")
            np.savetxt(folder / f"txt/{video}.txt", rng.random((32, 8)), fmt="%.6f")
        import h5py

        with h5py.File(folder / "h5/features.h5", "w") as file:
            for video in ("a", "b"):
                file[video] = rng.random((CLIPS, 8), dtype=np.float32)

    def attempt(self, folder: Path, target: str) -> str:
        """Import its folder into a cache of its own."""
        cache = folder.parent / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        kind = target.split("/")[0]
        outcome = run_feat(
            *("cache", "import", folder / kind, "--cache", cache, "--stream", "i3d"),
            *("--origin", "random"),
        )
        there = len(list(FeatureCache(cache).entries())) if cache.is_dir() else 0
        if there != (0 if outcome == "refused" else 2):
            raise WrongError(f"{target}: {outcome}, and {there} of 2 videos are in the cache")
        return outcome


SUBJECTS: dict[str, type[Subject]] = {
    "videos": Videos,
    "labels": Labels,
    "runs": Runs,
    "weights": Weights,
    "arrays": Arrays,
}
