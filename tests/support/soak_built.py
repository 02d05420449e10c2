"""What soaks on the small federation run, where Ray's processes find it: they unpickle it by the module's name."""

from dataclasses import replace

import small_federation

from fedmrn.federation.setting import Federation
from fedmrn.methods import method


def setting_of(rounds: int, name: str, down: str) -> Federation:
    """The small federation for so many rounds."""
    setting = small_federation.federation(name, rounds=rounds, local_epochs=1)
    return replace(setting, scheme=method(name).scheme(down=down))


class Built:
    """What a process of Ray's builds: masks whose scales clients choose, and public models."""

    def __init__(self, rounds: int) -> None:
        self.federation, self.model = setting_of(rounds, "fedmrn-s", "grid"), small_federation.small_model()
