"""The transports that a run can use, by the name that `--engine` takes; each is imported when it is asked for."""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from fedmrn.errors import ConfigError
from fedmrn.text import nearest

if TYPE_CHECKING:
    from fedmrn.experiments.run.prepare import Prepared
    from fedmrn.federation.transport import Transport


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a transport is started with.

    Attributes:
        prepared: the experiment, built in this process.
        make: builds the same in any process; it can be pickled.
        workers: processes that train clients at the same time.
        wait: entered with a text while something takes seconds.
    """

    prepared: "Prepared"
    make: "Callable[[], Prepared]"
    workers: int
    wait: Callable[[str], AbstractContextManager[None]]


Start = Callable[[Setup], "AbstractContextManager[Transport]"]
"""Starts a transport; it ends with the context."""


def _process() -> Start:
    """This process and its workers."""
    return lambda setup: setup.prepared.federation.in_process(setup.prepared.model, setup.workers)


def _flower() -> Start:
    """Flower's simulation engine."""
    # Read when Flower and Ray are imported: no telemetry, no advice on what Ray will do in future.
    for switch in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ.setdefault(switch, "0")
    try:
        from fedmrn.flower.simulation import check_ray, on_flower  # noqa: PLC0415 - an extra, and seconds to import
    except ModuleNotFoundError as error:
        raise ConfigError('--engine flower needs Flower: pip install "fedmrn[flower]" "flwr[simulation]"') from error
    check_ray()

    def start(setup: Setup) -> "AbstractContextManager[Transport]":
        clients = len(setup.prepared.federation.parts)
        starting = setup.wait("starting Flower's simulation engine")
        return on_flower(setup.make, clients, workers=setup.workers, starting=starting)

    return start


TRANSPORTS: Mapping[str, Callable[[], Start]] = MappingProxyType({"process": _process, "flower": _flower})
"""Name -> what imports a transport and returns its start. The results of a run are the same with each."""


def find_transport(name: str) -> Start:
    """Return what starts a transport.

    Raises:
        ConfigError: there is none of this name, or what it needs is not installed.
    """
    if name not in TRANSPORTS:
        raise ConfigError(f"--engine {name!r} does not exist{nearest(name, TRANSPORTS)}")
    return TRANSPORTS[name]()
