"""What a program says if its kernels are compiled for the plainest processor of this kind: with narrow vectors."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

_PLAIN = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}


def said_on_a_plain_processor(program: ModuleType) -> str:
    """Run the file of a module, and return what it writes, without white space around it."""
    command = [sys.executable, Path(str(program.__file__))]
    environment = os.environ | _PLAIN
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.strip()
