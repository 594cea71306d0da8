"""What an extraction did: one result a video, and their summary."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["done", "skipped", "busy", "failed", "long", "piece"]
STAGES = ("decode", "flow", "network", "write")


@dataclass(frozen=True, kw_only=True)
class VideoOutcome:
    """What became of one video.

    Attributes:
        status: `done` extracted now; `skipped` already in the cache; `busy` another process is
            at it; `failed` see `error`; `long` it is to be cut into pieces, it has about
            `num_clips`; `piece` these clips of it are in its checkpoint.
        partial: why decoding stopped early, empty if it did not. A partial video has features
            of the frames that were delivered.
        seconds: from its hash to its shard.
        stage_seconds: of `STAGES`: seconds waited for decoding and writing, and seconds that flow
            and network kept all threads busy.
        clips: the piece of it that was worked on; None for all of it.
    """

    video_id: str
    status: Status
    sha256: str = ""
    size: int = 0
    mtime_ns: int = 0
    num_clips: int = 0
    num_frames: int = 0
    partial: str = ""
    error: str = ""
    seconds: float = 0.0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    clips: range | None = None


@dataclass(kw_only=True)
class ExtractPlan:
    """What a run over a folder would do, video by video: `feat extract --dry-run` prints it."""

    cache: str
    new: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    thumbnails: list[str] = field(default_factory=list)
    """Videos that lack nothing but the pictures that were asked for."""
    refused: list[dict[str, str]] = field(default_factory=list)
    left: int = 0
    """Videos that are missing too, but beyond the limit."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON."""
        return {"dry_run": True, **asdict(self)}

    def to_text(self) -> str:
        """Return a line a video that is not there, then the numbers."""
        lines = [f"new: {video}" for video in self.new]
        lines += [f"thumbnails: {video}" for video in self.thumbnails]
        lines += [f"refused: {each['video']}: {each['error']}" for each in self.refused]
        pictures = f"make thumbnails of {len(self.thumbnails)}, " if self.thumbnails else ""
        lines.append(
            f"would extract {len(self.new)}, {pictures}{len(self.there)} already there, "
            f"{len(self.refused)} refused{_left_text(self.left)} -> {self.cache}; nothing was done"
        )
        return "\n".join(lines)


def _left_text(left: int) -> str:
    return f", {left} more left by --limit" if left else ""


@dataclass(kw_only=True)
class ExtractReport:
    """The summary of one run over a folder; `to_json` is what `feat extract --json` prints."""

    cache: str
    configs: Mapping[str, Mapping[str, Any]]
    done: int = 0
    skipped: int = 0
    partial: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    clips: int = 0
    frames: int = 0
    left: int = 0
    """Videos that are missing but were beyond the limit."""
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, result: VideoOutcome) -> None:
        """Count one video's final result."""
        if result.status == "failed":
            self.failed.append({"video": result.video_id, "error": result.error})
            return
        if result.status == "done":
            self.done += 1
            self.clips += result.num_clips
            self.frames += result.num_frames
        else:
            self.skipped += 1
        if result.partial:
            self.partial.append({"video": result.video_id, "error": result.partial})
        for stage, seconds in result.stage_seconds.items():
            self.stage_seconds[stage] += seconds

    @property
    def flow_weights_kind(self) -> str:
        """`published`, `crossmodal` or `file`; empty if no flow was extracted."""
        flow = self.configs.get("flow")
        return flow["weights"]["kind"] if flow else ""

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {
            "done": self.done,
            "skipped": self.skipped,
            "partial": self.partial,
            "failed": self.failed,
            "clips": self.clips,
            "frames": self.frames,
            "left": self.left,
            "seconds": round(self.seconds, 3),
            "cache": self.cache,
            "stage_seconds": {stage: round(s, 3) for stage, s in self.stage_seconds.items()},
            "weights": {name: config["weights"] for name, config in self.configs.items()},
        }

    def to_text(self) -> str:
        """Return the summary as a person reads it."""
        clips = f"{self.clips} clips of " if self.clips or not self.frames else ""
        lines = [
            f"{self.done} done, {self.skipped} already there, {len(self.partial)} partial, "
            f"{len(self.failed)} failed{_left_text(self.left)}; {clips}"
            f"{self.frames} frames in {self.seconds:.1f} s -> {self.cache}"
        ]
        if self.done:
            spent = {stage: f"{seconds:.1f} s" for stage, seconds in self.stage_seconds.items()}
            lines.append(
                f"where the time went: flow {spent['flow']}, network {spent['network']}; waited "
                f"{spent['decode']} for decoding, {spent['write']} for writing"
            )
        lines += [f"partial: {each['video']}: {each['error']}" for each in self.partial]
        lines += [f"failed: {each['video']}: {each['error']}" for each in self.failed]
        if self.flow_weights_kind == "crossmodal":
            lines.append(
                "warning: the flow features come from cross-modality weights, which were never "
                "trained on flow; `feat weights ls` shows where the published network is looked for"
            )
        return "\n".join(lines)
