"""Run a command of fedmrn again and again and kill it (SIGKILL) after given seconds each; then let it end.

`python killing.py SECONDS,SECONDS,... COMMAND ...` - each attempt is forked from this process, which has imported
everything, so that the seconds are of the command itself.
"""

import os
import signal
import sys
import time


def attempt(command: list[str]) -> int:
    """Start the command in a process of its own, and return its id."""
    child = os.fork()
    if child:
        return child
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


def main() -> None:
    """Kill and go on, then come through."""
    import fedmrn.cli.progress  # noqa: PLC0415
    import fedmrn.experiments.report  # noqa: F401, PLC0415

    killed = 0
    for seconds in map(float, sys.argv[1].split(",")):
        child = attempt(sys.argv[2:])
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
    _, status = os.waitpid(attempt(sys.argv[2:]), 0)
    print(f"killed {killed} times")  # noqa: T201
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
