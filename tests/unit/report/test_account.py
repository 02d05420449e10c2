"""The byte account, worked out by hand; and the curves of accuracy against traffic."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from small_federation import federation, run

from fedmrn.experiments.run.record import Record, Sizes, to_record
from fedmrn.methods import method
from fedmrn.report.account import (
    ACCOUNT_HEADER,
    DIRECTIONS,
    SECTIONS,
    Amount,
    account,
    account_cells,
    traffic_line,
)
from fedmrn.report.curves import bytes_so_far
from fedmrn.report.summary import summarise

PARAMETERS = 100
SHOWN = [section for section in SECTIONS if section not in ("keys", "shares", "unmasking")]  # of runs that have none


def parts(coded: int, dense: int, stats: int, header: int) -> dict[str, int]:
    total = coded + dense + stats + header + 4
    side = {"dense": dense, "stats": stats - 2, "variance": 2}
    return {"coded": coded, **side, "header": header, "checksum": 4, "total": total}


def record(number: int, clients: int, up: dict[str, int], down: dict[str, int], raw: Any) -> Record:
    bits = 8 * up["total"] / (clients * PARAMETERS)
    found: dict[str, Any] = {"round": number, "clients": list(range(clients)), "up": up, "down": down}
    found |= {"bits_per_parameter": bits, "accuracy": 0.1 * number, "loss": 1.0, "train_loss": 1.0, "seconds": 1.0}
    return Record.of_line(json.dumps(found | {"raw": raw}))


RAW = {"up": parts(60, 20, 12, 104), "down": parts(3000, 20, 12, 164)}
RUNS = [
    [
        record(1, 4, parts(40, 10, 6, 140), parts(400, 10, 6, 180), RAW),
        record(2, 2, parts(20, 10, 6, 60), parts(200, 10, 6, 80), RAW),
    ],
    [
        record(1, 4, parts(44, 10, 6, 140), parts(400, 10, 6, 180), RAW),
        record(2, 2, parts(24, 10, 6, 60), parts(200, 10, 6, 80), RAW),
    ],
]


def line(way: str, section: str, runs: Any = RUNS) -> Any:
    return next(x for x in account(runs) if (x.way, x.section) == (way, section))


def test_the_mask_up_by_hand() -> None:
    """Rounds of 40 and 20 bytes, and of 44 and 24; four clients, then two; 100 parameters."""
    found = line("up", "mask")
    assert found.coded == Amount(
        client=10.75, round=32, total=64, bits=pytest.approx(0.86), last_bits=pytest.approx(0.88)
    )
    assert found.raw == Amount(
        client=(15 + 30) / 2, round=60, total=120, bits=pytest.approx(1.8), last_bits=pytest.approx(2.4)
    )
    assert found.ratio == 64 / 120


def test_side_data_is_dense_and_statistics() -> None:
    assert line("down", "side data").coded.total == 2 * (10 + 6)
    assert line("down", "side data").raw.total == 2 * (20 + 12)


@pytest.mark.parametrize("kind", ["coded", "raw"])
def test_sections_add_up_to_the_total_and_ways_to_both(kind: str) -> None:
    for name in ("client", "round", "total", "bits", "last_bits"):

        def value(way: str, section: str, name: str = name) -> float:
            return float(getattr(getattr(line(way, section), kind), name))

        for way in DIRECTIONS:
            assert value(way, "total") == pytest.approx(sum(value(way, s) for s in SHOWN if s != "total"))
        for section in SHOWN:
            assert value("both", section) == pytest.approx(value("up", section) + value("down", section))


def test_bits_of_the_uplink_are_those_of_the_records() -> None:
    found = line("up", "total").coded
    assert found.last_bits == pytest.approx(np.mean([records[-1].bits_per_parameter for records in RUNS]))
    assert found.bits == pytest.approx(summarise("x", 0.1, RUNS).bits_per_parameter)


def test_records_without_raw_are_read() -> None:
    old = [[replace(r, raw=None) for r in records] for records in RUNS]
    for runs in (old, [[RUNS[0][0], old[0][1]]]):
        lines = account(runs)
        assert all(x.raw is None and x.ratio is None for x in lines)
        assert all(row[2] == row[4] == row[6] == row[7] == row[10] == "-" for row in account_cells(lines))
        assert "raw not known" in traffic_line(lines, 0)
    assert [x.coded for x in account(old)] == [x.coded for x in account(RUNS)]


def test_cells_and_the_line() -> None:
    rows = account_cells(account(RUNS))
    assert len(rows) == len(DIRECTIONS) * len(SHOWN)
    assert {len(row) for row in rows} == {len(ACCOUNT_HEADER)}
    by_name = dict(zip((row[0] for row in rows), rows, strict=True))
    assert by_name["down, mask"] == (
        *("down, mask", "100", "1,125", "300", "3,000", "600", "6,000"),
        *("0.1000", "8.0000", "8.0000", "120.0000"),
    )

    def larger(r: Record) -> Record:
        return replace(r, up=Sizes(**{k: 1_000_000 * v for k, v in asdict(r.up).items() if v is not None}))

    many = [[larger(r) for r in s] for s in RUNS]
    assert traffic_line(account(many), 0).startswith("MB up 304.00 (raw 0.00), down 0.00")
    last = "last round 4.080 bits a parameter up, 12.000 down"
    assert traffic_line(account(RUNS), 0).endswith(last)
    assert traffic_line(account(RUNS), 1.5e6).endswith(f"{last}; calibration 1.50 MB more")


def test_a_record_lists_each_client_and_adds_up() -> None:
    scheme = method("fedmrn").scheme({"coding": "entropy"}, side="float16", down="eden4")
    for result in run(federation(scheme=scheme)):
        found = json.loads(to_record(result).as_line())
        for way in ("up", "down"):
            each = found["by_client"][way]
            assert len(each["coded"]) == len(each["total"]) == len(found["clients"])
            assert (sum(each["coded"]), sum(each["total"])) == (found[way]["coded"], found[way]["total"])
            for counted in (found[way], found["raw"][way]):
                assert list(counted) == ["coded", "dense", "stats", "variance", "header", "checksum", "total"]
                assert sum(counted.values()) == 2 * counted["total"]
        assert found["by_client"]["up"]["total"][-1] == len(result.sample)
        assert found["raw"]["up"]["total"] == sum(sum(e.raw_up.values()) for e in result.exchanges)
        assert found["raw"]["down"]["total"] == sum(sum(e.raw_down.values()) for e in result.exchanges)
        assert found["raw"]["up"] != found["up"]


def test_the_curve_against_traffic_stands_at_all_bytes_so_far() -> None:
    assert [r.up.total for r in RUNS[0]] == [200, 100]
    assert [r.down.total for r in RUNS[0]] == [600, 300]
    assert bytes_so_far(RUNS, ("up",)).tolist() == [202, 304]
    assert bytes_so_far(RUNS, ("up", "down")).tolist() == [802, 1204]


def test_a_compressed_broadcast_moves_the_curve_by_what_it_saves() -> None:
    exact, less = (
        [[to_record(r) for r in run(federation(scheme=method("fedmrn").scheme(down=down)))]]
        for down in ("float32", "eden4")
    )
    saved = np.cumsum([a.down.total - b.down.total for a, b in zip(exact[0], less[0], strict=True)])
    assert (saved > 0).all()
    gap = bytes_so_far(exact, ("up", "down")) - bytes_so_far(less, ("up", "down"))
    assert gap.tolist() == saved.tolist()
    assert bytes_so_far(exact, ("up",)).tolist() == bytes_so_far(less, ("up",)).tolist()
