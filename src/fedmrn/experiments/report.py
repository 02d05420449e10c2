"""The report: tables, plots and one self-contained page, made from run folders alone."""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import tomli_w

from fedmrn.data import find_source
from fedmrn.errors import RunError
from fedmrn.experiments.account import ACCOUNT_HEADER, ACCOUNT_LEGEND, account_cells, traffic_line
from fedmrn.experiments.codec_error import measure_codecs, plot_codec_error
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.plots import plot_bytes, plot_rounds
from fedmrn.experiments.records import Record
from fedmrn.experiments.runner import read_experiment, read_records
from fedmrn.experiments.summary import HEADER, LEGEND, Summary, as_dicts, cells, markdown, reference_of, summarise
from fedmrn.experiments.tune import Tuning, is_of, read_tuning, tuning_cells, tuning_title
from fedmrn.files import write_atomic
from fedmrn.layout import Group
from fedmrn.methods import method
from fedmrn.torch.objectives import OBJECTIVES

CODECS = "codec-error.png"
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#2e3440}
h1{font-size:1.4rem}h2{font-size:1.1rem}div{overflow:auto;font-size:.8rem;white-space:nowrap}img{max-width:100%}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #d8dee9}
th:first-child,td:first-child{text-align:left}
pre{background:#f4f6f9;padding:.8rem;overflow:auto;font-size:.85rem}p{color:#4c566a}"""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says: a title, a row a method, and how an option was tuned, if it was."""

    title: str
    rows: list[Summary]
    tuning: Tuning | None


def write_report(folder: Path, runs: Sequence[Path]) -> Report:
    """Write summary.json, summary.md, the plots and report.html into `folder`, and return what they say.

    A tuning.json in the folder is reported too, if the runs are of what it chose.

    Args:
        folder: where to; may be one of the runs.
        runs: run folders of one setting, at least one; methods appear in the order of their first run.

    Raises:
        RunError: a folder cannot be read, or holds no finished round.
    """
    if not runs:
        raise RunError("there is no finished run to report")
    experiments = [read_experiment(path) for path in runs]
    grouped: dict[str, list[list[Record]]] = {}
    for experiment, path in zip(experiments, runs, strict=True):
        records = read_records(path)[: experiment.train.rounds]
        if not records:
            raise RunError(f"{path} holds no finished round yet; run it with --resume")
        grouped.setdefault(experiment.method, []).append(records)
    first = {e.method: e for e in reversed(experiments)}
    rows = [summarise(name, first[name].options.lr, records) for name, records in grouped.items()]
    title = _title(experiments[0])
    write_atomic(folder / "summary.json", json.dumps(as_dicts(rows), indent=1).encode())
    tuning = read_tuning(folder)
    if tuning is not None and not all(is_of(tuning, e) for e in experiments):
        tuning = None
    text = markdown(HEADER, [cells(row, reference_of(rows)) for row in rows])
    if tuning is not None:
        text += f"\n{tuning_title(tuning)}\n\n{markdown(*tuning_cells(tuning))}"
    text += f"\n## Bytes\n\n{ACCOUNT_LEGEND}\n"
    for row in rows:
        text += f"\n### {row.method}\n\n{traffic_line(row.account)}\n\n"
        text += markdown(ACCOUNT_HEADER, account_cells(row.account))
    write_atomic(folder / "summary.md", text.encode())
    plot_rounds(grouped, folder / "accuracy-rounds.png", title)
    plot_bytes(grouped, folder / "accuracy-bytes.png", title)
    plot_bytes(grouped, folder / "accuracy-traffic.png", title, down=True)
    names = ("accuracy-rounds.png", "accuracy-bytes.png", "accuracy-traffic.png")
    pictures = [*(folder / name for name in names), runs[0] / "partition.png"]
    if len(first) > 1 and _plot_codecs([first[name] for name in grouped], folder / CODECS):
        pictures.insert(len(names), folder / CODECS)
    write_atomic(folder / "report.html", _page(title, rows, experiments, pictures, tuning).encode())
    return Report(title, rows, tuning)


def _plot_codecs(experiments: Sequence[Experiment], path: Path) -> bool:
    """Draw the codecs' error against their bits; False if none of them has an error to draw."""
    codecs = {e.method: method(e.method).scheme(e.options.options).codecs[Group.CODED] for e in experiments}
    rows = measure_codecs({name: c for name, c in codecs.items() if c.any_vector})
    if any(row.nmse for row in rows):
        plot_codec_error(rows, path)
        return True
    return False


def _title(experiment: Experiment) -> str:
    data, train = experiment.data, experiment.train
    clients = f"{train.clients_per_round} of {data.clients} clients a round"
    score = OBJECTIVES[find_source(data.name).task].score
    return f"{data.name}, {data.partition}, {clients}, {train.rounds} rounds" + f", {score}" * (score != "accuracy")


def _page(
    title: str,
    rows: Sequence[Summary],
    experiments: Sequence[Experiment],
    pictures: Sequence[Path],
    tuning: Tuning | None,
) -> str:
    reference = reference_of(rows)
    body = [f"<h1>{escape(title)}</h1>", _table(HEADER, [cells(row, reference) for row in rows])]
    body.append(
        "<p>Accuracies are of the global model on the test images, in percent: after the last round, in the best, "
        "and the mean of the last ten. Bytes are lengths of frames that were written, sent and parsed, headers and "
        f"checksums included. {escape(LEGEND)}</p>"
    )
    if tuning is not None:
        body.append(f"<p>{escape(tuning_title(tuning))}.</p>{_table(*tuning_cells(tuning))}")
    body.append(f"<h2>Bytes</h2><p>{escape(ACCOUNT_LEGEND)}</p>")
    for row in rows:
        table = _table(ACCOUNT_HEADER, account_cells(row.account))
        line = escape(f"{row.method}: {traffic_line(row.account)}")
        body.append(f"<details{' open' * (len(rows) == 1)}><summary>{line}</summary><div>{table}</div></details>")
    for picture in pictures:
        if picture.exists():
            data = b64encode(picture.read_bytes()).decode()
            body.append(f'<img alt="{escape(picture.stem)}" src="data:image/png;base64,{data}">')
    for experiment in experiments:
        name = f"{experiment.method}, seed {experiment.seed}"
        config = escape(tomli_w.dumps(experiment.as_dict()))
        body.append(f"<details><summary>{escape(name)}</summary><pre>{config}</pre></details>")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"
