"""Privacy is off by default, and costs nothing then: no library is imported, and no byte is added."""

import subprocess
import sys

import numpy as np
import pytest

from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update
from fedmrn.wire.terms import read_terms, terms_section

LAYOUT = Layout.of([TensorSpec("w", (9, 14), Group.CODED), TensorSpec("b", (9,), Group.CODED)])
OPTIONS = {"scale": 0.5, "noise_key": "round"}
WHOLE = """
import sys
import numpy as np
from pathlib import Path
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.private_run import private_run
from fedmrn.http import HttpServer, Plan, Tokens, new_tokens
from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

layout = Layout.of([TensorSpec("w", (9, 14), Group.CODED)])
scheme = method("fedmrn-s").scheme({"scale": 0.5, "noise_key": "round"}, equal=True)
server = Server(layout, scheme, np.zeros(126, np.float32), bytes(16))
assert private_run(scheme, layout, 2) is None
HttpServer(server, Plan(rounds=1, clients_per_round=2), Tokens(new_tokens(2)), Path(sys.argv[1]))
conduct = Conduct(server.begin(1, [0, 1]), layout.trainable)
for client in (0, 1):
    broadcast = Frame.from_bytes(conduct.train(client).content.to_bytes())
    u = np.full(126, 0.1, np.float32)
    conduct.fold(client, encode_update(broadcast, layout, u, weight=1, sampling_key=client).to_bytes())
conduct.finish()
assert "epsilon" not in conduct.report.metrics()
found = {"dp_accounting", "scipy.special"} & set(sys.modules)
print(sorted(found))
"""


def server_of(**options: float) -> Server:
    scheme = method("fedmrn-s").scheme({**OPTIONS, **options}, equal=True)
    return Server(LAYOUT, scheme, np.zeros(LAYOUT.size, np.float32), bytes(16), run=bytes(16))


def test_a_server_without_it_imports_no_account(tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = subprocess.run([sys.executable, "-c", WHOLE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_command_line_and_the_clients_import_none_either() -> None:
    code = "import sys, fedmrn.cli.app, fedmrn.torch, fedmrn.flower.client; print('dp_accounting' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_no_byte_is_added() -> None:
    """Off, a broadcast is that of a run that has never heard of it; on, it is the section of terms longer."""
    plain, off, on = (server_of(**more).begin(1, ["a"]).broadcast("a") for more in ({}, {"theta": 0.0}, {"theta": 0.1}))
    assert plain == off
    assert read_terms(Frame.from_bytes(plain)) == {}
    (section,) = terms_section({"theta": 0.1})
    written = Frame.from_bytes(on).sections
    assert section in written
    assert len(on) - len(plain) == 20 + len(section.params) + len(section.body)
    sizes = set()
    for data in (plain, on):
        frame = encode_update(
            Frame.from_bytes(data), LAYOUT, np.zeros(LAYOUT.size, np.float32), weight=1, sampling_key=7
        )
        sizes.add(len(frame.to_bytes()))
    assert len(sizes) == 1, "a private mask is as long as any"


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedavg", "fedpm"])
def test_no_method_has_it_unasked(name: str) -> None:
    assert method(name).scheme().theta == 0
