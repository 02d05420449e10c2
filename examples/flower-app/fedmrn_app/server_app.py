"""The server: a fedmrn strategy where stock Flower has FedAvg, and a summary of accuracy and bytes."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Result

from fedmrn.errors import ConfigError, WrongMessageError
from fedmrn.flower import FedMRN
from fedmrn.flower.records import broadcast_bytes, update_bytes
from fedmrn.methods import method
from fedmrn.server import PublicGrid
from fedmrn.torch import ModelLayout
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
    view = ModelLayout.of(model)
    # Every node builds the model from the same seed, so that newcomers need what has changed since then alone.
    down = PublicGrid(from_start=True) if config["down"] == "grid" else config["down"]
    checkpoint = _absolute(config, "checkpoint")
    how = {"side": config["side"], "down": down, "calibrate": config["calibrate"], "checkpoint": checkpoint}
    strategy = kind(view, name, options, **how, **sampling)
    if isinstance(strategy, SavingFedMRN) and folder is not None:
        strategy.folder = folder / "frames"
    return strategy


class SavingFedMRN(FedMRN):
    """Saves every frame that is sent or comes: `round-1/sent-NODE.bin`, `round-1/received-NODE.bin`."""

    folder: Path

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Save the broadcasts."""
        messages = super().configure_train(server_round, arrays, config, grid)
        for message in messages:
            data = broadcast_bytes(message.content, self.arrayrecord_key)
            self._save(server_round, f"sent-{message.metadata.dst_node_id}", data)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Save the updates as they come, whether they are folded or refused."""
        return super().aggregate_train(server_round, self._saved(server_round, replies))

    def _saved(self, server_round: int, replies: Iterable[Message]) -> Iterator[Message]:
        for message in replies:
            if not message.has_error():
                with suppress(WrongMessageError):  # the strategy refuses what holds no frame
                    data = update_bytes(message.content, self.arrayrecord_key)
                    self._save(server_round, f"received-{message.metadata.src_node_id}", data)
            yield message

    def _save(self, server_round: int, name: str, data: bytes) -> None:
        folder = self.folder / f"round-{server_round}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.bin").write_bytes(data)


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
    reports = {report.round: report for report in strategy.reports} if isinstance(strategy, FedMRN) else {}
    for number, tested in sorted(result.evaluate_metrics_serverapp.items()):
        line: dict[str, Any] = {"round": number, **tested, **result.train_metrics_clientapp.get(number, {})}
        line |= {f"client-{name}": value for name, value in result.evaluate_metrics_clientapp.get(number, {}).items()}
        if number in reports:
            report = reports[number]
            line |= {"asked": report.asked, "folded": report.folded}
            line |= {"refused": report.refused, "failed": report.failed}
            line |= {"uplink-total-bytes": report.total_up, "downlink-total-bytes": report.total_down}
        rounds.append(line)
    return rounds


def print_summary(summary: dict[str, Any]) -> None:
    """Print a table: accuracy, and bytes of all clients together: of folded frames, and of everything both ways."""
    name = "stock FedAvg" if summary["config"]["stock"] else summary["config"]["method"]
    print(f"{name}: a dense model is {summary['model-bytes']:,} bytes")
    print(
        f"{'round':>5} {'accuracy':>8} {'folded':>6} {'frames up':>12} {'bits/parameter':>14} "
        f"{'all up':>12} {'all down':>12}"
    )
    for line in summary["rounds"]:
        row = f"{line['round']:5} {line['accuracy']:8.4f}"
        if "updates-folded" in line:
            row += f" {line['updates-folded']:6} {line['uplink-frame-bytes']:12,}"
            row += f" {line['uplink-bits-per-parameter']:14.3f}"
            row += f" {line['uplink-total-bytes']:12,} {line['downlink-total-bytes']:12,}"
        print(row)


def _folder(config: Config) -> Path | None:
    folder = _absolute(config, "result-dir")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _absolute(config: Config, name: str) -> Path | None:
    if not config[name]:
        return None
    folder = Path(config[name])
    if not folder.is_absolute():
        raise ConfigError(f"{name} is {str(folder)!r}; give an absolute path: the server has a folder of its own")
    return folder
