"""Programs that tests need and that pip does not install: Debian's PgBouncer, Prometheus and Chromium."""

from __future__ import annotations

import os
import shutil

import pytest


def system_program(*names: str, package: str) -> str:
    """The path of the first of them. Without any, the test is skipped; with CI set it fails, unless CI has none."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    reason = f"there is no {names[0]} on this machine: apt-get install {package}"
    excuse = f"TICKRUNNER_TEST_WITHOUT_{package.upper()}"
    if os.environ.get("CI") and not os.environ.get(excuse):
        pytest.fail(f"{reason} (with CI set, this is a reason to skip only with {excuse} set)")
    pytest.skip(reason)
