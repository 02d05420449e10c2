"""Data sets, how their samples are shared among clients, augmentation, and a picture of a partition.

What needs PyTorch or matplotlib is imported when it is first asked for: the catalogue and the partitions need neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedmrn.data.catalogue import DATASETS, find_source
from fedmrn.data.partition import PARTITIONS, PartitionSpec, holdings, partition
from fedmrn.data.roles import by_role, subset
from fedmrn.data.source import SCORES, Arrays, FolderSource, RemoteFile, Source, Task

if TYPE_CHECKING:
    from fedmrn.data.augmentation import augment
    from fedmrn.data.dataset import Dataset, load, load_source
    from fedmrn.data.plots import draw_partition, plot_partition
else:
    _HEAVY = {
        "Dataset": "dataset",
        "augment": "augmentation",
        "draw_partition": "plots",
        "load": "dataset",
        "load_source": "dataset",
        "plot_partition": "plots",
    }

    def __getattr__(name: str) -> Any:
        if name not in _HEAVY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)


__all__ = [
    "DATASETS",
    "PARTITIONS",
    "SCORES",
    "Arrays",
    "Dataset",
    "FolderSource",
    "PartitionSpec",
    "RemoteFile",
    "Source",
    "Task",
    "augment",
    "by_role",
    "draw_partition",
    "find_source",
    "holdings",
    "load",
    "load_source",
    "partition",
    "plot_partition",
    "subset",
]
