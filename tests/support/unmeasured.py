"""The environment of a process that is not measured by coverage."""

import os


def unmeasured() -> dict[str, str]:
    """This process's environment, without what makes coverage start in another."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}
