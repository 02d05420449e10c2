"""Who runs the clients."""

from enum import StrEnum


class Engine(StrEnum):
    """This process and its workers, or Flower's simulation engine. The results are the same."""

    PROCESS = "process"
    FLOWER = "flower"
