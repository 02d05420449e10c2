"""Data sets, how their samples are shared among clients, augmentation, and a picture of a partition."""

from fedmrn.data.augment import augment
from fedmrn.data.catalogue import DATASETS
from fedmrn.data.partition import PartitionSpec, partition
from fedmrn.data.plots import draw_partition, holdings, plot_partition
from fedmrn.data.records import Arrays, FolderSource, RemoteFile, Source, Task
from fedmrn.data.roles import by_role, subset
from fedmrn.data.sources import Dataset, find_source, load, load_source

__all__ = [
    "DATASETS",
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
