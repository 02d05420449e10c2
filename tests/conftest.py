"""Pytest puts this folder on the path, so that every test can import `oracle`; and the order for several processes."""

from pathlib import Path

import pytest

QUICK = (
    "conformance",
    "golden",
    "property",
    *(f"unit/{d}" for d in ("numerics", "wire", "codecs", "methods", "server")),
)
"""Folders of thousands of tests that take milliseconds: to hand them out one by one would take longer."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For xdist: what must stay together first (it takes minutes), then whole files of quick tests, then the others."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    here, order = Path(__file__).parent, {}
    for item in items:
        file = item.path.relative_to(here).as_posix()
        order[item] = 0 if item.get_closest_marker("xdist_group") else 1 if file.startswith(QUICK) else 2
        if order[item] == 1:
            item.add_marker(pytest.mark.xdist_group(file))
    items.sort(key=order.__getitem__)
