"""One rank of a client that trains under DDP, as a process: RECIPE RANK WORLD FOLDER; reads `broadcast.bin` there.

Writes `frame-RANK.bin` and `values-RANK.npy`, the model after `finish`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from fedmrn.torch import ModelLayout
from recipes import images, loader_of, run_block, small_net


def main(heading: str, rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    data = images(192, 10)
    own = TensorDataset(*(t[rank::world] for t in data.tensors))
    net = small_net()
    space = run_block(
        heading,
        {
            "net": net,
            "DistributedDataParallel": DistributedDataParallel,
            "broadcast": (folder / "broadcast.bin").read_bytes(),
            "data": data,
            "loader": loader_of(own, seed=rank),
            "epochs": 4,
        },
    )
    (folder / f"frame-{rank}.bin").write_bytes(space["frame"].to_bytes())
    np.save(folder / f"values-{rank}.npy", ModelLayout.of(net).read())
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
