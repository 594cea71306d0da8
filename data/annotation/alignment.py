"""Do labels and features belong together? What must be known before any training.

Takes plain facts about the decoded videos, so that it can be asked about a cache, a folder or a
table alike. Every finding has a kind, and the kinds of misalignment are told apart by their cause:
one frame more or less (decoders count differently), another frame rate, a video cut short.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data.errors import LabelsError
from data.labels import END_SECONDS, MAX_NAMES_SHOWN, SPLITS, VideoLabel
from data.names import nearest_names
from data.splits.leaks import find_leaks
from data.times import clock_text, end_of_video

Level = Literal["error", "warning"]
# Frame rates that videos are recorded at and resampled to, the likeliest first.
FRAME_RATES = (30.0, 25.0, 24.0, 15.0, 10.0, 20.0, 50.0, 60.0, 12.5, 12.0)
# A part or category this many times smaller than another is worth a warning.
UNBALANCED = 10


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What is known of a decoded video.

    Attributes:
        num_frames: frames the decoder delivered; 0: nobody counted them.
        sha256: of the content, "" if unknown.
        partial: why decoding stopped early, "" if it did not.
        resampled_to: frames a second, if the video was resampled on purpose.
        frame_seconds: (T,) the time of each frame; None if it is unknown or was not asked for.
    """

    num_frames: int
    sha256: str = ""
    partial: str = ""
    resampled_to: float | None = None
    frame_seconds: npt.NDArray[np.float64] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found: an error makes training wrong, a warning may."""

    level: Level
    kind: str
    video: str  # "" if it is not about one video
    message: str  # what, found, expected, what to do

    @property
    def text(self) -> str:
        """Which video, and what of it."""
        return f"{self.video}: {self.message}" if self.video else self.message

    def __str__(self) -> str:
        return f"{self.level} ({self.kind}): {self.text}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings about a set of labels.

    Attributes:
        labels: the labels, their times turned into frames where the frames' times are known.
        num_aligned: videos without an error.
        findings: what was found.
    """

    labels: tuple[VideoLabel, ...]
    num_aligned: int
    findings: tuple[Finding, ...]

    @property
    def num_videos(self) -> int:
        """Rows of the labels."""
        return len(self.labels)

    @property
    def errors(self) -> list[Finding]:
        """The findings that make training wrong."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that may."""
        return [finding for finding in self.findings if finding.level == "warning"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "videos": self.num_videos,
            "aligned": self.num_aligned,
            "errors": [_plain(finding) for finding in self.errors],
            "warnings": [_plain(finding) for finding in self.warnings],
        }


def _plain(finding: Finding) -> dict[str, str]:
    return {"kind": finding.kind, "video": finding.video, "message": finding.message}


def check_alignment(
    labels: Sequence[VideoLabel],
    facts: Mapping[str, VideoFacts],
    *,
    categories: Collection[str] | None = None,
) -> Report:
    """Return what is wrong between the labels and the videos they are for.

    Args:
        labels: the rows of a labels file.
        facts: video -> what was decoded.
        categories: the names that are allowed, if they are known; "" always is.
    """
    ratios = _common_ratios(labels, facts)
    findings: list[Finding] = []
    rows: list[VideoLabel] = []
    unlabelled = facts.keys() - {label.video for label in labels}
    num_missing = 0
    for label in labels:
        fact = facts.get(label.video)
        rows.append(label)
        if fact is None:
            num_missing += 1  # comparing names takes long where all are called otherwise
            is_shown = num_missing <= MAX_NAMES_SHOWN
            near = nearest_names(label.video, unlabelled, count=1) if is_shown else []
            findings.append(
                _error(
                    "missing",
                    label,
                    "no features; extract it or remove it from the labels"
                    + (f"; did you mean {near[0]}?" if near else ""),
                )
            )
        elif fact.num_frames:
            if label.times:
                rows[-1], told = _in_frames(label, fact)
                findings += told
            if fact.resampled_to is None or not _is_in_seconds(label):
                findings += _check_length(rows[-1], fact, ratios)
    num_aligned = len(labels) - len({x.video for x in findings if x.level == "error"})
    findings += _uncounted(labels, facts)
    findings += _unlabelled(labels, facts)
    findings += _check_leaks(labels, facts)
    findings += _check_categories(labels, categories)
    findings += _check_balance(labels)
    return Report(labels=tuple(rows), num_aligned=num_aligned, findings=tuple(findings))


def _error(kind: str, label: VideoLabel, message: str) -> Finding:
    return Finding(level="error", kind=kind, video=label.video, message=message)


def _warning(kind: str, video: str, message: str) -> Finding:
    return Finding(level="warning", kind=kind, video=video, message=message)


def _is_in_seconds(label: VideoLabel) -> bool:
    """Return whether resampling a video leaves its label right."""
    return not label.intervals and bool(label.times or label.num_seconds is not None)


def _in_frames(label: VideoLabel, fact: VideoFacts) -> tuple[VideoLabel, list[Finding]]:
    """Return the label in frames, and what is wrong with its times: then it may stay as it is."""
    seconds = fact.frame_seconds
    if seconds is None:
        return label, [
            _error(
                "no times",
                label,
                f"anomaly '{label.anomaly}' is in seconds, but when each frame appears is not"
                " known: label frames, import it with --fps, or remove it (`feat cache rm`) and"
                " extract it again",
            )
        ]
    if fact.resampled_to is not None and _is_in_seconds(label):
        label = replace(label, num_frames=fact.num_frames)  # it was for the frames before
    try:
        converted = label.in_frames(seconds)
    except LabelsError as error:
        return label, [_error("outside", label, str(error).removeprefix(f"{label.video}: "))]
    end = end_of_video(seconds)
    if label.times[-1].end <= end + END_SECONDS:
        return converted, []
    return converted, [
        _error(
            "outside",
            label,
            f"'{label.times[-1].text}' ends after the video, at {clock_text(end)}: it is cut, or"
            " the label is another video's",
        )
    ]


def _check_length(
    label: VideoLabel, fact: VideoFacts, ratios: Mapping[tuple[float, float], bool]
) -> list[Finding]:
    """Compare the frames that were labelled with those that were decoded."""
    decoded = fact.num_frames
    last = label.intervals[-1][1] if label.intervals else 0
    labelled = label.num_frames
    if labelled is None:
        return _check_end(label, fact, last)
    if labelled == decoded:
        return []
    seen = f"labels for {labelled} frames, {decoded} decoded"
    if fact.resampled_to is not None:
        return [
            _error(
                "resampled",
                label,
                f"{seen}: the video was resampled to {fact.resampled_to:g} frames a second;"
                " extract it at its own rate, or label the resampled frames",
            )
        ]
    if abs(labelled - decoded) == 1:
        if last > decoded:
            return [_error("off by one", label, f"{seen}, and the last interval ends at {last}")]
        return [
            _warning(
                "off by one",
                label.video,
                f"{seen}: decoders count differently; the last frame counts as the label says or as"
                " normal",
            )
        ]
    if fact.partial:
        return [_error("truncated", label, f"{seen}: {fact.partial}; mend or replace the video")]
    rates = _rates_of(labelled, decoded)
    if rates is not None and ratios.get(rates, False):
        return [
            _error(
                "resampled",
                label,
                f"{seen}: as if {rates[0]:g} frames a second had become {rates[1]:g}; use the video"
                " at the rate it was labelled at",
            )
        ]
    if decoded < labelled:
        return [_error("truncated", label, f"{seen}: the video is cut; use the whole one")]
    return [
        _error("longer", label, f"{seen}: the labels are for a cut or other video; find their own")
    ]


def _check_end(label: VideoLabel, fact: VideoFacts, last: int) -> list[Finding]:
    """Judge a label that does not say how many frames it is for: only its last interval tells."""
    findings = []
    if fact.partial:
        findings.append(_warning("partial", label.video, f"decoding stopped early: {fact.partial}"))
    past = last - fact.num_frames
    if fact.resampled_to is not None and label.intervals and past <= 0:
        findings.append(
            _warning(
                "resampled",
                label.video,
                f"the video was resampled to {fact.resampled_to:g} frames a second: the intervals"
                " must count those frames",
            )
        )
    if past == 1:
        findings.append(
            _error(
                "off by one",
                label,
                f"anomaly '{label.anomaly}' ends one frame after the last of {fact.num_frames};"
                " frames count from 0 and the end is excluded",
            )
        )
    elif past > 1:
        why = "the video is cut or resampled, or the label is another video's"
        if fact.partial:
            why = f"the video is cut ({fact.partial})"
        elif fact.resampled_to is not None:
            why = f"the video was resampled to {fact.resampled_to:g} frames a second"
        findings.append(
            _error(
                "outside",
                label,
                f"anomaly '{label.anomaly}' goes to frame {last}, {fact.num_frames} decoded: {why}",
            )
        )
    return findings


def _rates_of(labelled: int, decoded: int) -> tuple[float, float] | None:
    """Return the two frame rates whose ratio turns one length into the other, to a frame."""
    best = None
    for old in FRAME_RATES:
        for new in FRAME_RATES:
            error = abs(labelled * new / old - decoded)
            if old != new and error <= 1 and (best is None or error < best[0] - 1e-9):
                best = (error, (old, new))
    return None if best is None else best[1]


def _common_ratios(
    labels: Sequence[VideoLabel], facts: Mapping[str, VideoFacts]
) -> dict[tuple[float, float], bool]:
    """Return which changes of frame rate are the rule among the videos whose length differs.

    A single cut video may by chance have four fifths of its frames. A resampled set has them in
    every video: a change of rate is believed if at least half of the differing videos show it.
    """
    differing = 0
    seen: Counter[tuple[float, float]] = Counter()
    for label in labels:
        fact = facts.get(label.video)
        if fact is None or not fact.num_frames or label.num_frames is None:
            continue
        if abs(fact.num_frames - label.num_frames) < 2:
            continue
        differing += 1
        rates = _rates_of(label.num_frames, fact.num_frames)
        if rates is not None:
            seen[rates] += 1
    return {rates: 2 * count >= differing for rates, count in seen.items()}


def _uncounted(labels: Sequence[VideoLabel], facts: Mapping[str, VideoFacts]) -> list[Finding]:
    videos = [x.video for x in labels if x.video in facts and not facts[x.video].num_frames]
    if not videos:
        return []
    names = ", ".join(videos[:3]) + (", ..." if len(videos) > 3 else "")
    message = (
        f"{len(videos)} videos were imported without a frame count, so that no frame of them can be"
        f" scored: {names}; import them again with --frames"
    )
    return [_warning("uncounted", "", message)]


def _unlabelled(labels: Sequence[VideoLabel], facts: Mapping[str, VideoFacts]) -> list[Finding]:
    extra = sorted(facts.keys() - {label.video for label in labels})
    if not extra:
        return []
    names = ", ".join(extra[:3]) + (", ..." if len(extra) > 3 else "")
    return [_warning("unlabelled", "", f"{len(extra)} videos have features but no label: {names}")]


def _check_leaks(labels: Sequence[VideoLabel], facts: Mapping[str, VideoFacts]) -> list[Finding]:
    content = {x.video: facts[x.video].sha256 for x in labels if x.video in facts}
    content = {video: sha256 for video, sha256 in content.items() if sha256}
    findings = [
        Finding(level="error", kind="leak", video="", message=leak)
        for leak in find_leaks(labels, content=content, scenes=False)
    ]
    findings += [
        _warning("shared scene", "", leak)
        for leak in find_leaks(labels)
        if leak.startswith("the same scene")
    ]
    names = defaultdict(list)
    for video, sha256 in content.items():
        names[sha256].append(video)
    twice = [videos for videos in names.values() if len(videos) > 1]
    if twice:
        findings.append(
            _warning(
                "duplicate",
                "",
                f"{len(twice)} videos are there under several names:"
                f" {twice[0][0]} is {twice[0][1]}; remove the copies",
            )
        )
    return findings


def _check_categories(
    labels: Sequence[VideoLabel], categories: Collection[str] | None
) -> list[Finding]:
    findings = []
    used = {split: Counter(x.category for x in labels if x.split == split) for split in SPLITS}
    everywhere = {name for counter in used.values() for name in counter if name}
    if categories is not None:
        for name in sorted(everywhere - set(categories)):
            known = ", ".join(sorted(categories))
            findings.append(_warning("category", "", f"unknown category '{name}', known: {known}"))
    if used["train"]:
        for name in sorted(
            (used["test"].keys() | used["val"].keys()) - used["train"].keys() - {""}
        ):
            findings.append(
                _warning(
                    "category", "", f"category '{name}' has no training video; none can learn it"
                )
            )
    spelt = defaultdict(set)
    for name in everywhere:
        spelt["".join(char for char in name.casefold() if char.isalnum())].add(name)
    for names in spelt.values():
        if len(names) > 1:
            alike = "' and '".join(sorted(names))
            findings.append(
                _warning("category", "", f"'{alike}' look like one category; choose one")
            )
    return findings


def _check_balance(labels: Sequence[VideoLabel]) -> list[Finding]:
    findings = []
    for split in SPLITS:
        rows = [label for label in labels if label.split == split]
        if not rows:
            if split != "val":
                findings.append(_warning("split", "", f"no video in split {split}"))
            continue
        abnormal = sum(label.is_abnormal for label in rows)
        numbers = f"{abnormal} abnormal and {len(rows) - abnormal} normal videos in {split}"
        if abnormal in (0, len(rows)) and split != "val":
            findings.append(_warning("balance", "", f"{numbers}: only one kind"))
        elif max(abnormal, len(rows) - abnormal) >= UNBALANCED * min(
            abnormal, len(rows) - abnormal
        ):
            findings.append(_warning("balance", "", f"{numbers}: unbalanced"))
        weak = sum(label.is_weak for label in rows)
        if weak and split != "train":
            findings.append(
                _warning("weak", "", f"{weak} videos in {split} have unknown frames ('?')")
            )
    sizes = Counter(x.category for x in labels if x.split == "train" and x.category)
    if sizes and max(sizes.values()) >= UNBALANCED * min(sizes.values()):
        large, small = max(sizes, key=lambda x: sizes[x]), min(sizes, key=lambda x: sizes[x])
        findings.append(
            _warning(
                "balance",
                "",
                f"category '{large}' has {sizes[large]} training videos, '{small}' {sizes[small]}",
            )
        )
    return findings
