"""A client. What fedmrn changes in a PyTorch client of Flower are the lines that are marked.

Two of them are for batch norm alone: `refresh_statistics` after training, and the function that calibrates.
"""

from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmrn.flower.client import attach, load, reply
from fedmrn.flower.client import calibrate as calibrate_model
from fedmrn.methods import method
from fedmrn_app.task import Batches, Config, load_data, load_model, samples, test
from fedmrn_app.task import train as train_epochs

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this node's images from the server's model, and return one frame."""
    config: Config = dict(context.run_config)
    if config["stock"]:
        return train_stock(message, context)
    model, loader = load_model(config), _data(context)[0]
    optimizer = _optimizer(model, config)
    epochs = config["local-epochs"]
    steps = epochs * len(loader)
    optimizer = attach(model, optimizer, message, context, steps=steps, accept=accepted(context))  # fedmrn
    loss = train_epochs(model, loader, optimizer, epochs)
    optimizer.refresh_statistics(loader)  # fedmrn
    return reply(optimizer, message, context, weight=samples(loader), metrics={"train_loss": loss})  # fedmrn


def accepted(context: Context) -> str:
    """Return what this node is willing to send: what its owner says, or else the method of the run.

    An owner says it where the node is started: `--node-config 'accept="masked"'`. An app of your own would leave
    `accept` out, and so send nothing but masked noise.
    """
    return str(context.node_config.get("accept", context.run_config["method"]))


def train_stock(message: Message, context: Context) -> Message:
    """Do the same with stock Flower: dense arrays in both directions."""
    config: Config = dict(context.run_config)
    model, loader = load_model(config), _data(context)[0]
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    loss = train_epochs(model, loader, _optimizer(model, config), config["local-epochs"])
    metrics = MetricRecord({"num-examples": samples(loader), "train_loss": loss})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the server's model on this node's test images."""
    config: Config = dict(context.run_config)
    model, loader = load_model(config), _data(context)[1]
    if config["stock"]:
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    else:
        load(model, message)  # fedmrn
    loss, accuracy = test(model, loader)
    metrics = MetricRecord({"num-examples": samples(loader), "eval_loss": loss, "eval_acc": accuracy})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


@app.train("calibrate")
def calibrate(message: Message, context: Context) -> Message:
    """Find the statistics of the server's model on this node's images; a model without batch norm is not asked for."""
    config: Config = dict(context.run_config)
    return calibrate_model(load_model(config), message, _data(context)[0])  # fedmrn


def _data(context: Context) -> tuple[Batches, Batches]:
    node: Config = dict(context.node_config)
    return load_data(dict(context.run_config), node["partition-id"], node["num-partitions"])


def _optimizer(model: torch.nn.Module, config: Config) -> torch.optim.Optimizer:
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    return kinds[method(config["method"]).optimizer](model.parameters(), lr=config["learning-rate"])
