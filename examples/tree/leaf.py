"""A client: it asks its edge server for work, trains, and answers."""

import argparse

import torch
from doors import deliver, fetch
from torch import nn
from tree_task import make_model, share

from fedmrn import attach


def main() -> None:
    """Parse the command line, and take part until all is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("edge", help="address of the edge server")
    parser.add_argument("number", type=int)
    parser.add_argument("clients", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    (x, y), model, number = share(args.number, args.clients), make_model(), 1
    while (broadcast := fetch(f"{args.edge}/broadcast/{args.number}/{number}")) is not None:
        sgd = torch.optim.SGD(model.parameters(), lr=0.3)
        parts = torch.arange(len(x)).split(32)
        optimizer = attach(model, sgd, broadcast, steps=2 * len(parts), accept="any")
        for part in (*parts, *parts):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
        frame = optimizer.finish(weight=len(x))
        deliver(f"{args.edge}/update/{args.number}/{number}", frame.to_bytes())
        number += 1


if __name__ == "__main__":
    main()
