"""What a run imports before its first round is complete: the libraries that it needs until then."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[3]
RUN = """
import sys
from pathlib import Path
from fedmrn.experiments.run.runner import run
from fedmrn.experiments.settings import load_setting
from silent import Silent

class Told(Silent):
    def round(self, record):
        if record.round == 1:
            print(*{name for name in sys.modules if name.count(".") < 2})

small = ["train.rounds=2", "train.local_epochs=1", "train.clients_per_round=1"]
run(load_setting("digits", small).experiment(sys.argv[1], 1), Path("r"), data_dir=Path(), resume=False, progress=Told())
"""


@pytest.mark.parametrize("method", ["fedmrn", "fedavg"])
def test_a_run_loads_what_its_rounds_need(method: str, tmp_path: Path) -> None:
    """The compiler of torch and the library that draws take seconds to import."""
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{RUN}"
    command = [sys.executable, "-c", code, method]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"torch", "numba"} <= loaded
    assert not loaded & {"torch._dynamo", "matplotlib", "sklearn", "pandas", "flwr", "ray"}
    assert (tmp_path / "r" / "partition.png").stat().st_size > 0
