"""A client: the loop of fedmrn.http around a training that stays as it is."""

import argparse
import os
from pathlib import Path

import torch
from digits_task import accuracy, make_model, share, train

from fedmrn.http.client import HttpClient


def main() -> None:
    """Parse the command line, and take part until the run is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the server, such as http://127.0.0.1:8000")
    parser.add_argument("share", help="which of the shares of the data, such as 0/5")
    parser.add_argument("--token", default=os.environ.get("FEDMRN_TOKEN", ""), help="by default $FEDMRN_TOKEN")
    parser.add_argument("--authority", type=Path, help="the certificate of whoever signed the server's")
    parser.add_argument("--folder", type=Path, help="what this client keeps lies here")
    args = parser.parse_args()
    client, _, clients = args.share.partition("/")
    mine, held_out = share(int(client), int(clients))
    model = make_model()
    with HttpClient(args.url, args.token, args.folder, authority=args.authority) as server:  # 1
        for task in server.tasks():
            if task.kind == "evaluate":
                task.load(model)
                task.report({"accuracy": accuracy(model, held_out)}, weight=len(held_out[0]))
                continue
            batch, epochs = int(task.config["batch_size"]), int(task.config["epochs"])
            sgd = torch.optim.SGD(model.parameters(), lr=task.config["lr"])
            optimizer = task.attach(model, sgd, steps=epochs * -(-len(mine[0]) // batch))  # 2
            loss = train(model, optimizer, mine, epochs, batch)
            task.reply(optimizer, weight=len(mine[0]), metrics={"train_loss": loss})  # 3


if __name__ == "__main__":
    main()
