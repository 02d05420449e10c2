"""Run a command of fedmrn again and again and kill it (SIGKILL) each time; then let it end.

`python killing.py FOLDER WHEN,WHEN,... COMMAND ...` - WHEN is a number of seconds from the start, or after the next
round that is written below FOLDER: `0.5` or `+0.5`; `^0.5` is the latter with Ctrl-C. Each attempt is forked from this
process, which has imported everything, so that the seconds are of the command itself.
"""

import os
import signal
import sys
import time
from pathlib import Path


def attempt(command: list[str]) -> int:
    """Start the command in a process of its own, and return its id."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)  # as a shell does: Ctrl-C is for all of its processes
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["fedmrn", *command]
    try:
        from fedmrn.cli import main  # noqa: PLC0415

        main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)
    except BaseException:  # a traceback, as of any process
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        os._exit(1)
    os._exit(0)


def rounds(folder: Path) -> int:
    """How many rounds are on record below a folder."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("rounds.jsonl"))


def main() -> None:
    """Kill and go on, then come through."""
    import fedmrn.cli.sweep  # noqa: F401, PLC0415

    folder, command, ends = Path(sys.argv[1]), sys.argv[3:], []
    for when in sys.argv[2].split(","):
        before = rounds(folder)
        child = attempt(command)
        ended = 0
        while when[0] in "+^" and rounds(folder) <= before and not ended:
            time.sleep(0.02)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(float(when.lstrip("+^")))
            if when[0] == "^":
                os.killpg(child, signal.SIGINT)
            else:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        ends.append(os.waitstatus_to_exitcode(status))
    _, status = os.waitpid(attempt(command), 0)
    print("ends:", *ends)  # noqa: T201
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
