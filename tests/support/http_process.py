"""A server over HTTP in a process of its own, to be killed: python http_process.py FOLDER PORT METHOD ROUNDS."""

import sys
from pathlib import Path

from http_federation import of_many, plan_of, server_of

from fedmrn.http import HttpServer, read_tokens


def main() -> None:
    folder, port, name, rounds = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    tokens = read_tokens(folder / "tokens.txt")
    setting = of_many(len(tokens.clients), name, rounds=rounds, local_epochs=1)
    server = HttpServer(server_of(setting, folder), plan_of(setting), tokens, folder, linger=2.0, max_wait=5)
    server.run(port=port)


if __name__ == "__main__":
    main()
