"""A client that takes part over plain HTTP: a loop around a training that stays as it is.

    client = HttpClient("https://host:8000", token)
    for task in client.tasks():
        if task.kind == "evaluate":
            task.load(model)
            task.report({"accuracy": accuracy(model, test_loader)}, weight=len(test_set))
            continue
        optimizer = task.attach(model, torch.optim.SGD(model.parameters(), lr=task.config["lr"]), steps=len(loader))
        loss = train_one_epoch(model, loader, optimizer)  # as before
        task.reply(optimizer, weight=len(train_set), metrics={"train_loss": loss})

The loop ends with the run. A server that is away is waited for, and a process that is started again goes on.
"""

from collections.abc import Callable, Iterator, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn

from fedmrn.errors import FedmrnError, LostModelError, ServerRefusedError
from fedmrn.http.connection import Connection, Given
from fedmrn.http.kept import ClientStore
from fedmrn.http.metrics import WEIGHT
from fedmrn.methods import MASKED, Accept
from fedmrn.torch import LocalRule, ModelLayout, attach, default_choice, load_model
from fedmrn.torch.model_layout import Choose, Variances
from fedmrn.wire.frame import DEFAULT_LIMITS, Limits

_log = getLogger(__name__)
_ASKS = 2  # the second where the round was over before the server heard of the first
_Made = TypeVar("_Made")


class HttpClient:
    """One client of a federation.

    Args:
        url: of the server, such as "https://host:8000".
        token: of this client.
        folder: where it keeps what belongs to it from round to round, a folder of its own whose parent is there;
            None: nothing outlives the process, which costs a whole model at the next start, and the memory of methods
            that have one.
        authority, insecure, patience, limits: as for `Connection`.

    Attributes:
        connection: to the server; `up` and `down` are its bytes.
    """

    def __init__(
        self,
        url: str,
        token: str,
        folder: Path | None = None,
        *,
        authority: Path | str | None = None,
        insecure: bool = False,
        patience: float | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.connection = Connection(
            url, token, authority=authority, insecure=insecure, patience=patience, limits=limits
        )
        self.store, self.limits = ClientStore(folder), limits

    def tasks(self) -> Iterator["HttpTask"]:
        """Yield what the server wants done, until the run is over.

        Raises:
            ServerRefusedError: the token is wrong.
            httpx.TransportError: the server was away for longer than `patience`.
        """
        self.connection.about()
        while (given := self.connection.task()) is not None:
            task = HttpTask(self, given)
            if task.kind in {"train", "evaluate"}:
                yield task
            else:
                task.fail(f"this client does not know tasks of kind {task.kind:.20}")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HttpTask:
    """Something that the server wants done.

    Attributes:
        kind: "train" or "evaluate".
        round: from 1.
        config: what the server tells its clients, such as {"lr": 0.1}.
    """

    def __init__(self, client: HttpClient, given: Given) -> None:
        self._client, self._given = client, given
        self.kind, self.round = given.kind, given.round
        self.config: Mapping[str, Any] = given.config

    def attach(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int,
        sampling_key: int | None = None,
        choose: Choose = default_choice,
        variances: Variances = (),
        accept: Accept = MASKED,
    ) -> LocalRule:
        """Set the model to what the server sent, and return the optimiser to train it with.

        What is refused is told to the server. A client that lost its public model asks for the whole one by itself.

        Args:
            model, optimizer, steps, sampling_key, choose, variances, accept: as for `fedmrn.torch.attach`.

        Raises:
            MethodNotAcceptedError: the server asks for a method that is not accepted.
            FrameError, UsageError: as `fedmrn.torch.attach`.
        """
        store = self._client.store
        layout = ModelLayout.of(model, choose, variances).layout

        def attached() -> LocalRule:
            held = store.of(self._given.run, layout)
            return attach(
                model,
                optimizer,
                self._given.data,
                steps=steps,
                sampling_key=sampling_key,
                choose=choose,
                variances=variances,
                memory=store.memory,
                held=held,
                accept=accept,
                limits=self._client.limits,
            )

        rule = self._carried_out(attached)
        store.keep_held()
        return rule

    def load(self, model: nn.Module, *, choose: Choose = default_choice, variances: Variances = ()) -> None:
        """Set the model to the one that the server wants evaluated; what is refused is told to the server.

        Raises:
            FrameError, UsageError: as `fedmrn.torch.load_model`; the model has not changed.
        """
        layout = ModelLayout.of(model, choose, variances).layout

        def loaded() -> None:
            held = self._client.store.of(self._given.run, layout)
            frame, limits = self._given.data, self._client.limits
            load_model(model, frame, choose=choose, variances=variances, held=held, limits=limits)

        self._carried_out(loaded)

    def reply(self, rule: LocalRule, *, weight: int, metrics: Mapping[str, float] | None = None) -> bool:
        """Finish local training and upload the update; return whether it was taken, and not too late.

        Args:
            rule: what `attach` returned, after the last step.
            weight: of this client in the mean (samples, or batches), a positive integer.
            metrics: at most 32 numbers that the server averages.

        Raises:
            EncodeError: the update is not finite, or the weight is not positive.
            WrongMessageError: a metric is no finite number.
            ServerRefusedError: the server refused the update.
        """
        data = rule.finish(weight=weight).to_bytes()
        taken = self._client.connection.answer(self._given, data, metrics or {})
        if taken and rule.memory is not None:
            self._client.store.keep_memory(rule.memory)
        return taken

    def report(self, metrics: Mapping[str, float], *, weight: int) -> bool:
        """Answer an evaluation; return whether it was taken, and not too late.

        Args:
            metrics: at most 31 numbers that the server averages.
            weight: of this client in the mean, a positive integer: samples that it evaluated on.

        Raises:
            WrongMessageError: a metric is no finite number.
            ServerRefusedError: the server refused the answer.
        """
        return self._client.connection.answer(self._given, b"", {**metrics, WEIGHT: weight})

    def fail(self, reason: BaseException | str) -> bool:
        """Tell the server that there will be no answer, and why; return whether it still wanted one."""
        text = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
        _log.warning("%s: %s", self._given.name, text)
        return self._client.connection.fail(self._given, text)

    def _carried_out(self, use: Callable[[], _Made]) -> _Made:
        """Return what comes of the task's frame; a client that lost its public model asks for the whole one."""
        try:
            for _ in range(_ASKS):
                try:
                    return use()
                except LostModelError as error:
                    self._ask_for_all(error)
            return use()
        except FedmrnError as error:
            self.fail(error)
            raise

    def _ask_for_all(self, error: LostModelError) -> None:
        """Tell the server that this client does not hold its public model, and take the task again.

        If that was closed meanwhile, the next of its kind is taken; what is of another kind is declined.

        Raises:
            ServerRefusedError: the run is over.
        """
        self.fail(error)
        connection = self._client.connection
        while (given := connection.task()) is not None and given.kind != self.kind:
            connection.fail(given, f"this client waits for a model to {self.kind}")
        if given is None:
            raise ServerRefusedError("the run is over")
        self._given, self.round, self.config = given, given.round, given.config
