"""A client. What fedmrn changes in a PyTorch client of Flower are the lines with `attach`, `reply` and `load`."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmrn.flower.client import attach, load, reply
from finetune_app.task import Batches, Config, load_data, load_model, make_optimizer, samples, test
from finetune_app.task import train as train_epochs

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this node's texts from the server's model, and return one frame."""
    config: Config = dict(context.run_config)
    model, loader = load_model(config), _data(context)[0]
    optimizer = make_optimizer(model, config)
    epochs = config["local-epochs"]
    steps = epochs * len(loader)
    optimizer = attach(model, optimizer, message, context, steps=steps, accept=config["method"])  # fedmrn
    loss = train_epochs(model, loader, optimizer, epochs)
    return reply(optimizer, message, context, weight=samples(loader), metrics={"train_loss": loss})  # fedmrn


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the server's model on this node's test texts."""
    model, loader = load_model(dict(context.run_config)), _data(context)[1]
    load(model, message)  # fedmrn: what is trained; the pretrained part is here already
    loss, accuracy = test(model, loader)
    metrics = MetricRecord({"num-examples": samples(loader), "eval_loss": loss, "eval_acc": accuracy})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def _data(context: Context) -> tuple[Batches, Batches]:
    node: Config = dict(context.node_config)
    return load_data(dict(context.run_config), node["partition-id"], node["num-partitions"])
