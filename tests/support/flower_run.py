"""A Flower app on its simulation engine, as a script: `good` clients send frames, `stock` ones answer by arrays."""

import json
import sys

import torch
from flower_clients import initial, samples, small_model, strategy
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from torch.nn import functional as F

from fedmrn.flower.client import attach, load, reply

NODES, ROUNDS = 2, 4


def client_app(how: str) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, (x, y) = small_model(), samples(11)
        if how == "stock":
            metrics = MetricRecord({"num-examples": len(y)})
            arrays = ArrayRecord(model.state_dict())
            return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
        optimizer = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), message, context, steps=1)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        return reply(optimizer, message, context, weight=len(y))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        model, (_, y) = small_model(), samples(11)
        load(model, message)
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": len(y), "ok": 1.0})}), reply_to=message)

    return app


def server_app(how: str) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        plan = strategy(down="eden4", fraction_evaluate=0.0 if how == "stock" else 1.0)
        plan.start(grid, initial(), num_rounds=ROUNDS)
        last = plan.reports[-1]
        sys.stdout.write(json.dumps({**last.metrics(), **last.evaluation_metrics()}) + "\n")

    return app


if __name__ == "__main__":
    words = sys.argv[1]
    settings = {"init_args": {"num_cpus": 2, "include_dashboard": False}, "client_resources": {"num_cpus": 1}}
    run_simulation(server_app(words), client_app(words), NODES, backend_config=settings)  # type: ignore[arg-type]
