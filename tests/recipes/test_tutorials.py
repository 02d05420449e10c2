"""The blocks of docs/tutorial, run as they stand."""

import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
from fake_grid import FakeGrid, reply_from
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"


def blocks(page: str, kind: str) -> list[str]:
    """The blocks of this kind, in order."""
    return re.findall(rf"```{kind}\n(.*?)```", (TUTORIAL / page).read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["your-loop.md", "how-many-megabytes.md"])
def test_a_page_is_one_script(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile("\n".join(blocks(page, "python")), page, "exec"), {"__name__": page})  # noqa: S102 - of our own page
    lines = capsys.readouterr().out.splitlines()
    if page == "your-loop.md":
        found = [re.fullmatch(r"round (\d): accuracy (0\.\d+), ([\d,]+) bytes up, ([\d,]+) down", s) for s in lines]
        exact, grid = found[:5], found[5:]
        assert len(grid) == 5
        for rounds in (exact, grid):
            assert float(rounds[-1][2]) > 0.6, "chance is 0.1"  # type: ignore[index]
        for left, right in zip(exact, grid, strict=True):
            assert left[3] == right[3]  # type: ignore[index]
            assert _whole(left[4]) > 3 * _whole(right[4])  # type: ignore[index]
    else:
        up = {line.split(":")[0]: _whole(line.split(": ")[1].split(" bytes")[0]) for line in lines[:2]}
        assert up["fedavg"] / up["fedmrn-s"] > 30
        assert ["\n".join(lines[k : k + 2]) + "\n" for k in (0, 2)] == blocks(page, "text")[:2], "as the page says"
        assert len(lines) == 12


def test_the_flower_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for text in [*blocks("flower.md", "toml"), *blocks("flower.md", "python")]:
        (tmp_path / text.partition("\n")[0].removeprefix("# ")).write_text(text, "utf-8")
    for name, value in {"_task_id": 1, "_run_id": 1, "_node_id": 1}.items():
        monkeypatch.setattr(TaskIdentity, name, value, raising=False)
    monkeypatch.setenv("FEDMRN_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    app = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]
    server, client = (
        getattr(importlib.import_module(name), attribute)
        for name, attribute in (app["components"][f"{side}app"].split(":") for side in ("server", "client"))
    )
    nodes = {
        node: Context(1, node, {"partition-id": node - 1, "num-partitions": 3}, RecordDict(), app["config"])
        for node in (1, 2, 3)
    }

    def answer(message: Message) -> Message:
        return reply_from(message, client(message, nodes[message.metadata.dst_node_id]).content)

    server(FakeGrid(dict.fromkeys(nodes, answer)), Context(1, 0, {}, RecordDict(), app["config"]))
    del sys.modules["one_bit"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round ")]
    assert [line.partition(":")[0] for line in lines] == [f"round {k}" for k in range(1, 6)]
    first, *_, last = (re.findall(r"accuracy (\S+), ([\d,]+) up, ([\d,]+) down", line)[0] for line in lines)
    assert float(last[0]) > 0.6, "chance is 0.1"
    assert _whole(first[2]) > _whole(last[2]), "the downlink is what changed"


def _whole(text: str) -> int:
    return int(text.replace(",", ""))
