"""Records in a cache which content each extracted video's name stands for."""

import dataclasses
import logging
import time
from collections.abc import Collection

from cache import FeatureCache, NameEntry
from data.errors import StorageError
from extract.run.report import VideoOutcome

logger = logging.getLogger(f"feat.{__name__}")

NAMES_SECONDS = 10.0
MAX_TOLD = 5


class NameRecorder:
    """Records which content each video's name stands for, some seconds' worth at a time.

    A name that a kill keeps from being recorded costs no features, only hashing its video again.
    """

    def __init__(self, cache: FeatureCache, origin: str) -> None:
        self._cache = cache
        self._origin = origin
        self._known = cache.names()
        self._pending: dict[str, NameEntry] = {}
        self._named: dict[str, str] = {}  # content -> the name that it has now
        self._is_new = False
        self._last = time.monotonic()

    def __enter__(self) -> "NameRecorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, result: VideoOutcome) -> VideoOutcome:
        """Take one video's final result and return what is to be reported of it."""
        known = self._known.get(result.video_id)
        if result.sha256:
            self._named[result.sha256] = result.video_id
            if known and known.origin not in ("", self._origin):
                if known.sha256 == result.sha256:
                    return result  # the name is another folder's, and stays so
                # as large and as old as the other one, so that nobody compared the contents
                return dataclasses.replace(
                    result,
                    status="failed",
                    error=f"its name is that of another video in {self._cache.path}; its features "
                    "are kept: run again with --prefix NAME/",
                )
            if known and known.sha256 != result.sha256:
                logger.warning(
                    "%s: changed since it was extracted, its name now stands for the new content",
                    result.video_id,
                )
            entry = NameEntry(
                sha256=result.sha256,
                size=result.size,
                mtime_ns=result.mtime_ns,
                origin=self._origin,
            )
            is_same = known and dataclasses.replace(entry, origin=known.origin) == known
            if not is_same:
                self._pending[result.video_id] = entry
                self._is_new |= result.status == "done"
        if time.monotonic() - self._last > NAMES_SECONDS:
            self._flush()
        return result

    def tell_renamed(self, present: Collection[str]) -> None:
        """Say which names of this folder's videos are of videos that have another name now.

        Args:
            present: the names of all videos that the folder has.
        """
        old = sorted(
            name
            for name, entry in self._known.items()
            if entry.origin == self._origin and name not in present and entry.sha256 in self._named
        )
        if old:
            pairs = [
                f"{name} is {self._named[self._known[name].sha256]}" for name in old[:MAX_TOLD]
            ]
            logger.info(
                "names that the cache keeps of renamed videos: %d (%s%s); feat cache rm NAME gives "
                "one up, the features stay",
                len(old), ", ".join(pairs), ", ..." if len(old) > MAX_TOLD else "",
            )  # fmt: skip

    def _flush(self) -> None:
        try:
            if self._pending:
                self._cache.set_names(self._pending)
        except StorageError as error:
            if self._is_new:
                raise
            # a complete cache that may only be read: nothing of it is missing
            logger.info("%s; the next run compares these videos again", error)
        self._pending = {}
        self._last = time.monotonic()
