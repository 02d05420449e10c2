"""Chromium without a screen: a page as it is after loading, its picture, and what it logged."""

import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSED = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]
"""Marks of tests that look at pages in it."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


def browse(
    url: str, folder: Path, width: int, height: int, flags: tuple[str, ...] = ()
) -> tuple[str, NDArray[np.uint8], list[str]]:
    """Open a page; return the document after loading, a screenshot (height, width, 3), and what it logged."""
    picture = folder / "screen.png"
    window = [f"--window-size={width},{height}", f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}"]
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, *flags, *window, "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, np.asarray(Image.open(BytesIO(picture.read_bytes())).convert("RGB")), logged
