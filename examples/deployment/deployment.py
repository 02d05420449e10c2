"""A SuperLink and SuperNodes on this machine's loopback: TLS, each node known by its key, nothing left running."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TextIO

from certificates import NodeKey, make_certificates, make_node_key

LINK = "lab"
"""The name of the SuperLink in Flower's configuration."""
_MARK = "FEDMRN_DEPLOYMENT"
"""In the environment of everything that is started, so that it can be found again."""
_SWITCHES = {
    # Without it, each run installs the app's dependencies anew, torch among them, ahead of those that are installed.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "PYTHONUNBUFFERED": "1",
}


class DeploymentError(Exception):
    """Something did not start or did not end well; the message says what, and what to do."""


@dataclass
class Node:
    """A SuperNode: its place among the nodes, its keys, Flower's number for it, and its process."""

    index: int
    key: NodeKey
    id: str = ""
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Of its key and its log."""
        return f"node-{self.index}"

    def kill(self) -> None:
        """End it with all its children at once, as a power cut would."""
        if self.process is not None:
            _kill_group(self.process)


class Deployment:
    """A SuperLink and SuperNodes on loopback; a context manager that leaves nothing running.

        with Deployment(3, folder) as deployment:
            run = deployment.submit(app, ["num-server-rounds=3"])
            deployment.follow(run)

    Args:
        nodes: how many SuperNodes.
        folder: for certificates, keys, logs and Flower's own files; made if absent.
        through: SuperLink's port -> the port that nodes connect to, if something stands between.
        timeout: seconds to wait for each thing that starts.

    Raises:
        DeploymentError: on entering: something did not start.
    """

    def __init__(
        self, nodes: int, folder: Path, *, through: Callable[[int], int] = lambda port: port, timeout: float = 120
    ) -> None:
        self.folder, self.timeout, self.through = folder.resolve(), timeout, through
        self.count = nodes
        self.nodes: list[Node] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self, name: str) -> str:
        """Return the log so far of `superlink` or `node-N`."""
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def submit(self, app: Path, config: Sequence[str] = ()) -> str:
        """Start a run of an app, and return Flower's number for it.

        Args:
            app: its folder.
            config: what differs from its pyproject.toml: "key=value" as in TOML.

        Raises:
            DeploymentError: Flower refuses the app or its configuration.
        """
        overrides = [word for change in config for word in ("-c", change)]
        try:
            return str(self._flwr("run", str(app), LINK, *overrides)["run-id"])
        except DeploymentError as error:
            known = f"keys of -c are those of [tool.flwr.app.config] in {app / 'pyproject.toml'}"
            raise DeploymentError(f"{error}\n{known}; words need quotes, as in TOML") from error

    def follow(self, run: str, out: TextIO | None = None) -> None:
        """Show the log of a run until it ends."""
        subprocess.run([_tool("flwr"), "log", run, LINK, "--stream"], env=self._env("cli"), stdout=out, check=False)

    def run_log(self, run: str) -> str:
        """Return what the server's app of a run has printed and logged so far, its exception if it failed."""
        command = [_tool("flwr"), "log", run, LINK, "--show"]
        done = subprocess.run(command, env=self._env("cli"), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def status(self, run: str) -> str:
        """Return what Flower says of a run: "running", "finished:completed", "finished:failed", ..."""
        return str(self._flwr("ls", LINK, "--run-id", run)["runs"][0]["status"])

    def stop(self) -> None:
        """Stop everything that was started: ask first, then kill."""
        for processes in (  # nodes first, so that they can still take leave
            [node.process for node in self.nodes if node.process is not None],
            list(self._processes.values()),
        ):
            for process in processes:
                process.terminate()
            deadline = time.monotonic() + 10
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        for process in self._processes.values():
            _kill_group(process)
        patience = time.monotonic() + 5  # children watch their parent, and end a moment after it
        while (left := self.left_over()) and time.monotonic() < patience + 30:
            for pid in left if time.monotonic() > patience else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def left_over(self) -> list[int]:
        """Return the processes of this deployment that still run (where there is /proc; elsewhere none is found)."""
        mark = f"{_MARK}={self.folder}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                    found.append(int(path.parent.name))
            except OSError:
                continue  # it has ended, or is another user's
        return found

    def _start(self) -> None:
        files = make_certificates(self.folder / "certificates", ["localhost", "127.0.0.1"])
        server = ["--ssl-ca-certfile", files.authority, "--ssl-certfile", files.server, "--ssl-keyfile", files.key]
        link, *ports = free_ports(1 + self.count)
        self._spawn("superlink", "flower-superlink", *server, *_at(link), "--enable-supernode-auth")
        self._wait_for("the SuperLink", lambda: _answers(link), "superlink")
        home = self.folder / "home" / "cli"
        home.mkdir(parents=True)
        authority = json.dumps(str(files.authority))
        (home / "config.toml").write_text(
            f'[superlink.{LINK}]\naddress = "127.0.0.1:{link}"\nroot-certificates = {authority}\n'
        )
        port_for_nodes = self.through(link)
        for index, port in enumerate(ports):
            node = Node(index, make_node_key(self.folder / "keys", f"node-{index}"))
            node.id = str(self._flwr("supernode", "register", str(node.key.public), LINK)["node-id"])
            node.process = self._spawn(
                node.name,
                "flower-supernode",
                *("--root-certificates", files.authority, "--superlink", f"127.0.0.1:{port_for_nodes}"),
                *("--auth-supernode-private-key", node.key.private),
                *("--node-config", f"partition-id={index} num-partitions={self.count}"),
                *server,
                *_at(port),
            )
            self.nodes.append(node)
        self._wait_for(f"{self.count} SuperNodes", self._all_online, *(node.name for node in self.nodes))

    def _all_online(self) -> bool:
        online = {n["node-id"] for n in self._flwr("supernode", "list", LINK)["nodes"] if n["status"] == "online"}
        return online >= {node.id for node in self.nodes}

    def _spawn(self, name: str, *command: object) -> "subprocess.Popen[bytes]":
        tool, *rest = map(str, command)
        path = self.folder / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as log:
            process = subprocess.Popen(
                [_tool(tool), *rest],
                env=self._env(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own: Ctrl-C is ours to pass on, and it dies as a whole
            )
        self._processes[name] = process
        return process

    def _wait_for(self, what: str, ready: Callable[[], bool], *names: str) -> None:
        deadline = time.monotonic() + self.timeout
        while not ready():
            for name in names:
                if (code := self._processes[name].poll()) is not None:
                    raise DeploymentError(f"{name} ended with code {code} while starting:\n{self._end_of(name)}")
            if time.monotonic() > deadline:
                ends = "\n".join(map(self._end_of, names))
                raise DeploymentError(f"{what} did not start within {self.timeout:.0f} s; see the logs:\n{ends}")
            time.sleep(0.3)

    def _end_of(self, name: str) -> str:
        lines = "\n".join(self.log(name).splitlines()[-8:])
        return f"--- {self.folder / 'logs' / name}.log\n{lines}"

    def _flwr(self, *words: str) -> dict[str, Any]:
        """Call Flower's command line, and return the JSON that it prints."""
        command = [_tool("flwr"), *words, "--format", "json"]
        done = subprocess.run(command, env=self._env("cli"), capture_output=True, text=True, check=False)
        said = f"{done.stdout.strip()}\n{done.stderr.strip()}".strip()
        try:
            answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            answer = {}
        if done.returncode or not answer.get("success"):
            raise DeploymentError(f"flwr {' '.join(words)} failed: {answer.get('error-message') or said}")
        return answer

    def _env(self, name: str) -> dict[str, str]:
        """Flower's programs find each other on the path; each gets a home of its own, as on a machine of its own."""
        here = str(Path(sys.executable).parent)
        path = f"{here}{os.pathsep}{os.environ.get('PATH', '')}"
        env = {"OMP_NUM_THREADS": "1", **os.environ, **_SWITCHES, "PATH": path}
        env |= {"FLWR_HOME": str(self.folder / "home" / name), _MARK: str(self.folder)}
        env |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        return env


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens at present."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _at(port: int) -> tuple[str, ...]:
    return "--host", "127.0.0.1", "--port", str(port)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _tool(name: str) -> str:
    here = Path(sys.executable).parent
    found = shutil.which(name, path=f"{here}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise DeploymentError(f'{name} is not installed for {sys.executable}: pip install -e ".[cli,flower]"')
    return found


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:  # else its number may be another's by now
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
