"""Node, if there is one that is new enough for the client in JavaScript."""

import shutil
import subprocess

import pytest

OLDEST = 20


def find_node() -> str | None:
    """The path of a node of version 20 or newer."""
    path = shutil.which("node")
    if path is None:
        return None
    version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    major = version.strip().removeprefix("v").partition(".")[0]
    return path if major.isdecimal() and int(major) >= OLDEST else None


NODE = find_node()
needs_node = pytest.mark.skipif(NODE is None, reason=f"no node {OLDEST} or newer here: apt-get install nodejs")
