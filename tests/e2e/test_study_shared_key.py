"""The measurement of a shared noise key: sizes are those of packed integers, and its figures fit together."""

import re
import subprocess
import sys
from math import ceil, log2
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "studies" / "shared_key.py"


def test_sizes_and_errors(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT), "--elements", "4001"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "│"]
    sizes, errors = [r for r in rows if len(r) == 6], [r for r in rows if len(r) == 8]
    assert [(r[0], r[1]) for r in sizes] == [(k, w) for k in ("10", "100") for w in ("1", "15", "1000")]
    for clients, most, bits, size, each, small in sizes:
        assert int(bits) == ceil(log2(int(clients) * int(most) + 1))
        assert int(size) == ceil(4001 * int(bits) / 8)
        assert re.fullmatch(rf"{bits}\.00\d\d", each)
        assert int(small) > int(size), "uniform integers have no redundancy"
    assert len(errors) == 12
    for method, noise, clients, agreement, *cells in errors:
        slope, slope1, error, error1 = map(float, cells)
        assert abs(slope - slope1) < 0.1 * slope
        # A kick that does not average out: of the size of the signal, where keys of one's own leave a tenth or less.
        if method == "fedmrn":
            assert error1 > 2.5 * error, (clients, agreement)
        elif noise == "bernoulli":  # the same law; the mean of 32,000 squares, whose error is a few per cent at most
            assert abs(error1 - error) < 0.1 * error
