"""Commands that obey the modes of files, whoever runs the tests."""

import os
import shutil

import pytest


def as_a_user() -> list[str]:
    """Return what to put before a command so that root, too, may read only what modes allow."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root reads every file, and there is no setpriv")
    dropped = "-dac_override,-dac_read_search,-fowner"
    return ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]
