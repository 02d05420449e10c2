"""What a client and the root of `scale.py` have to do with one update and one broadcast: bytes, and CPU seconds.

    python studies/scale_sizes.py FILE METHOD CODING PARAMETERS DOWN

Sizes are lengths of frames that were made and read here. DOWN is float32, or grid for public models: then one client
has had each model, and is sent a difference, and one is new, and is sent the whole.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scale_frames import FIRST, Case, Clock, encoded, warm_up

from fedmrn.files import write_atomic
from fedmrn.wire.frame import Frame
from fedmrn.wire.held import Held
from fedmrn.wire.messages import read_state

ROUNDS = 3
"""The last of them is measured."""
EXACT = "float32"


def measured(case: Case, down: str) -> dict[str, Any]:
    """Return lengths in bytes, and CPU seconds."""
    warm_up(case)
    server, layout, sizes, held = case.start(down), case.layout, dict[str, int](), Held(case.layout)
    for number in range(1, ROUNDS + 1):
        clock = Clock()
        round_ = server.begin(number, range(FIRST + (number == ROUNDS)))
        with clock.on("write"):
            data = round_.broadcast(0)
        with clock.on("write again"):
            round_.broadcast(0)
        with clock.on("read"):
            asked = Frame.from_bytes(data)
            state = read_state(asked, layout, held)
        vector = case.update(0)
        with clock.on("encode"):
            update = encoded(case, asked, vector, 0).to_bytes()
        sizes |= {"broadcast": len(data), "update": len(update)}
        del asked, state, data, vector
        if number == ROUNDS and down != EXACT:
            with clock.on("write whole"):
                whole = round_.broadcast(FIRST)
            with clock.on("read whole"):
                read_state(Frame.from_bytes(whole), layout, Held(layout))
            sizes["whole"] = len(whole)
            del whole
        round_.add(0, update)
        for client in range(1, FIRST):
            answer = encoded(case, round_.broadcast_frame(client), case.update(client % case.bodies), client)
            round_.add(client, answer.to_bytes())
        with clock.on("finish"):
            round_.finish()
    cpu = {what: round(seconds, 6) for what, seconds in clock.spent.items()}
    return {"case": asdict(case), "down": down, "bytes": sizes, "cpu": cpu}


def main() -> None:
    """Measure, and write the record."""
    path, method, coding, parameters, down = sys.argv[1:]
    case = Case(method, coding, int(parameters), 1)
    write_atomic(Path(path), json.dumps(measured(case, down)).encode())


if __name__ == "__main__":
    main()
