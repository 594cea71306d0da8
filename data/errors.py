"""The errors a user can mend. Each message is one line: what, where, found, expected, next step."""


class FeatError(Exception):
    """Something the user can mend; `feat` prints it as one line and exits with 1."""


class DecodeError(FeatError):
    """A video or frame folder cannot be decoded."""


class NoVideoError(DecodeError):
    """There is no video in a folder."""


class WeightsError(FeatError):
    """Network weights are missing, damaged, or not what they claim to be."""


class ConfigError(FeatError):
    """A configuration is invalid, or differs from the one already in use."""


class CacheError(FeatError):
    """A feature cache as a whole is missing, unreadable, or asked for what it does not hold."""


class StorageError(CacheError):
    """The operating system refused to read or write; that says nothing about a file's content."""


class CheckerError(CacheError):
    """A check could not be done; that says nothing about the file that was to be checked."""


class ShardError(CacheError):
    """One shard of a cache is damaged, hostile, or of another format version."""


class NewerLayoutError(ShardError):
    """One shard was written by a newer build, which can read it."""


class LabelsError(FeatError):
    """A labels file or a dataset's annotation is wrong; the message names file and line."""


class ModelError(FeatError):
    """Training or evaluation cannot go on: no usable windows, a checkpoint that does not fit."""
