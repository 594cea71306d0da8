"""The feature cache: HDF5 shards that a team can share. `from cache import FeatureCache`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.keys import config_difference, config_digest, feature_key
    from cache.records import ClipTable, FeatureEntry, FeatureRecord, NameEntry, SourceRecord
    from cache.store import FeatureCache

_WHERE = {
    "ClipTable": "cache.records",
    "FeatureCache": "cache.store",
    "FeatureEntry": "cache.records",
    "FeatureRecord": "cache.records",
    "NameEntry": "cache.records",
    "SourceRecord": "cache.records",
    "config_difference": "cache.keys",
    "config_digest": "cache.keys",
    "feature_key": "cache.keys",
}

__all__ = [
    "ClipTable",
    "FeatureCache",
    "FeatureEntry",
    "FeatureRecord",
    "NameEntry",
    "SourceRecord",
    "config_difference",
    "config_digest",
    "feature_key",
]


def __getattr__(name: str) -> Any:
    # loaded at first use: importing the package must stay cheap for `feat --help`
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
