"""The server: a fedmrn strategy where stock Flower has FedAvg, and a table of accuracy and bytes."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result
from torch import nn

from fedmrn import ModelLayout
from fedmrn.flower import FedMRN
from fedmrn.methods import method
from finetune_app.task import Config, load_model, load_test_data, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds, and print what came of each."""
    config: Config = dict(context.run_config)
    model, loader = load_model(config), load_test_data(config)

    def accuracy(_: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict(), strict=False)  # the frozen part is not among them
        loss, right = test(model, loader)
        return MetricRecord({"loss": loss, "accuracy": right})

    strategy = make_strategy(model, config)
    initial = trained_arrays(model, strategy)
    result = strategy.start(grid, initial, num_rounds=config["num-server-rounds"], evaluate_fn=accuracy)
    print_table(strategy, result)


def make_strategy(model: nn.Module, config: Config) -> FedMRN:
    """Return the strategy that the configuration asks for."""
    name = config["method"]
    options = {"scale": config["scale"]} if "scale" in method(name).options else {}
    return FedMRN(
        ModelLayout.of(model),
        name,
        options,
        fraction_train=config["fraction-train"],
        fraction_evaluate=config["fraction-evaluate"],
        min_train_nodes=config["min-nodes"],
        min_evaluate_nodes=config["min-nodes"],
        min_available_nodes=config["min-nodes"],
    )


def trained_arrays(model: nn.Module, strategy: FedMRN) -> ArrayRecord:
    """Return the part of the model that training changes: nothing else is kept by the server or sent to clients."""
    travels = strategy.layout.slices
    return ArrayRecord({name: tensor for name, tensor in model.state_dict().items() if name in travels})


def print_table(strategy: FedMRN, result: Result) -> None:
    """Print accuracy, bits of an update a trained parameter, and all bytes both ways, evaluation included, by round."""
    print(f"{strategy.method.name}: {strategy.layout.trainable:,} trained parameters")
    print(f"{'round':>5} {'accuracy':>8} {'folded':>6} {'bits/parameter':>14} {'all up':>12} {'all down':>13}")
    reports = {report.round: report for report in strategy.reports}
    for number, tested in sorted(result.evaluate_metrics_serverapp.items()):
        row = f"{number:5} {tested['accuracy']:8.4f}"
        if number in reports:
            report = reports[number]
            folded = len(report.folded)
            bits = 8 * report.up / max(1, folded * strategy.layout.trainable)
            row += f" {folded:6} {bits:14.3f} {report.total_up:12,} {report.total_down:13,}"
        print(row)
