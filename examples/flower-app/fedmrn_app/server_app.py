"""The server: a fedmrn strategy where stock Flower has FedAvg, and a summary of accuracy and bytes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Result

from fedmrn.errors import ConfigError
from fedmrn.flower import FedMRN
from fedmrn.methods import method
from fedmrn.torch import ModelLayout
from fedmrn.wire.frame import Frame
from fedmrn_app.task import Config, load_model, load_test_data, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds, then print and save what came of them."""
    config: Config = dict(context.run_config)
    folder = _folder(config)
    model, loader = load_model(config), load_test_data(config)
    initial = ArrayRecord(model.state_dict())

    def accuracy(_: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict())
        loss, right = test(model, loader)
        return MetricRecord({"loss": loss, "accuracy": right})

    strategy = make_strategy(config, model, folder)
    result = strategy.start(
        grid,
        initial,
        num_rounds=config["num-server-rounds"],
        timeout=config["round-timeout"],
        evaluate_fn=accuracy,
    )
    final = result.arrays if len(result.arrays) else initial  # no arrays: no update was folded in any round
    summary = {"config": config, "model-bytes": dense_bytes(final), "rounds": rounds_of(strategy, result)}
    print_summary(summary)
    if folder is not None:
        torch.save(final.to_torch_state_dict(), folder / "model.pt")
        (folder / "result.json").write_text(json.dumps(summary, indent=1))  # last: who sees it sees all


def make_strategy(config: Config, model: torch.nn.Module, folder: Path | None) -> FedAvg:
    """Return stock FedAvg or a fedmrn strategy, with the same sampling."""
    sampling = {
        "fraction_train": config["fraction-train"],
        "fraction_evaluate": config["fraction-evaluate"],
        "min_train_nodes": config["min-nodes"],
        "min_evaluate_nodes": config["min-nodes"],
        "min_available_nodes": config["min-nodes"],
    }
    if config["stock"]:
        return FedAvg(**sampling)
    name = config["method"]
    follow = {"rounds": config["num-server-rounds"], "seed": config["seed"]}  # unless the options say otherwise
    known = {key: value for key, value in follow.items() if key in method(name).options}
    options = known | parse_options(config["options"])
    kind = SavingFedMRN if folder is not None and config["save-frames"] else FedMRN
    strategy = kind(ModelLayout.of(model), name, options, side=config["side"], down=config["down"], **sampling)
    if isinstance(strategy, SavingFedMRN) and folder is not None:
        strategy.folder = folder / "frames"
    return strategy


class SavingFedMRN(FedMRN):
    """Keeps every frame that was sent or folded: `round-1/sent-NODE.bin`, `round-1/folded-NODE.bin`."""

    folder: Path

    def sent(self, node: int, frame: Frame) -> None:
        """Save a broadcast."""
        self._save("sent", node, frame)

    def folded(self, node: int, message: Message, frame: Frame) -> None:
        """Save an update."""
        self._save("folded", node, frame)

    def _save(self, what: str, node: int, frame: Frame) -> None:
        folder = self.folder / f"round-{frame.round}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{what}-{node}.bin").write_bytes(frame.to_bytes())


def parse_options(text: str) -> dict[str, Any]:
    """Return a method's options from words such as "scale=0.005 coding=entropy"."""
    found: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"options: {word!r} is not name=value; write 'options=\"scale=0.005 coding=entropy\"'")
        found[name] = _number(value)
    return found


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def dense_bytes(arrays: ArrayRecord) -> int:
    """Return the bytes of one dense model: what stock Flower sends to each client and back."""
    return sum(len(array.data) for array in arrays.values())


def rounds_of(strategy: FedAvg, result: Result) -> list[dict[str, Any]]:
    """Return what is known of each round, from 0: the server's test, the clients' means, the strategy's report."""
    rounds = []
    reports = {report.round: asdict(report) for report in getattr(strategy, "reports", [])}
    for number, tested in sorted(result.evaluate_metrics_serverapp.items()):
        line = {"round": number, **tested, **result.train_metrics_clientapp.get(number, {})}
        line |= {f"client-{name}": value for name, value in result.evaluate_metrics_clientapp.get(number, {}).items()}
        report = reports.get(number, {})
        rounds.append(
            line | {name: report[name] for name in ("asked", "folded", "refused", "failed") if name in report}
        )
    return rounds


def print_summary(summary: dict[str, Any]) -> None:
    """Print a table: accuracy, and bytes of the frames of all clients together."""
    name = "stock FedAvg" if summary["config"]["stock"] else summary["config"]["method"]
    print(f"{name}: a dense model is {summary['model-bytes']:,} bytes")
    print(f"{'round':>5} {'accuracy':>8} {'folded':>6} {'bytes up':>12} {'bytes down':>12} {'bits/parameter':>14}")
    for line in summary["rounds"]:
        row = f"{line['round']:5} {line['accuracy']:8.4f}"
        if "updates-folded" in line:
            row += f" {line['updates-folded']:6} {line['uplink-frame-bytes']:12,} {line['downlink-frame-bytes']:12,}"
            row += f" {line['uplink-bits-per-parameter']:14.3f}"
        print(row)


def _folder(config: Config) -> Path | None:
    if not config["result-dir"]:
        return None
    folder = Path(config["result-dir"])
    if not folder.is_absolute():
        raise ConfigError(f"result-dir is {str(folder)!r}; give an absolute path: the server has a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
