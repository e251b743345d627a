"""All stages of a model as Ray actors: started, called in turn, and started anew when one has died."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

import r1trt
from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.parts import PartsArtifact
from r1trt.cluster.config import ClusterConfig
from r1trt.cluster.messages import Message, array_of_message, lost_stage, message_of_array, raise_error
from r1trt.cluster.part import stage_resource
from r1trt.cluster.stage import Stage
from r1trt.errors import R1TrtError, UnavailableError
from r1trt.runtime.session import SessionError, SessionLimits

_ASKED_SECONDS, _PAUSE_SECONDS = 5.0, 0.1
_LITTLE = 0.001  # of a resource that only says where a stage runs


class StageLostError(R1TrtError):
    """A stage has died, or was started anew: the caches of its layers are gone.

    Attributes:
        epoch: What the stages' epoch was when the call was made.
    """

    epoch = 0


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """One time that stages had to be started anew.

    Attributes:
        stages: Which.
        seconds: From when that was noticed until they were loaded.
    """

    stages: tuple[int, ...]
    seconds: float


class Stages:
    """The stages of one model. All methods may be called from any thread.

    Attributes:
        limits: What a call through all stages may be.
        epoch: How often stages were started anew.
        recoveries: What that took.
        processes: Machine and process of each stage.

    Args:
        ray: The module, connected to a cluster.
        config: What runs, and how.
        report: Told of each stage that was started anew.

    Raises:
        ArtifactError: The directory here holds no model in parts.
        SessionError: A stage's machine has other files.
        UnavailableError: A stage cannot be started, or its machine lacks the files.
    """

    def __init__(self, ray: Any, config: ClusterConfig, report: Callable[[str], None] = print) -> None:
        self._ray, self._config, self._report = ray, config, report
        self._parts = PartsArtifact.of(BuildArtifact.read(config.directory)).manifest
        self._require_room()
        self._lock = threading.Lock()
        self._lives = [""] * len(self._parts.parts)
        self._actors = [self._actor(index) for index in range(len(self._lives))]
        self.epoch = 0
        self.recoveries: list[Recovery] = []
        self.processes: list[tuple[str, int]] = [("", 0)] * len(self._actors)
        try:
            found = self._load(range(len(self._actors)))
        except R1TrtError:
            self.close()
            raise
        self.limits = _limits(found, config.rows)

    def sent(self, call: Message, given: npt.NDArray[Any], epoch: int) -> tuple[int, list[Any]]:
        """Sends a call on its way through all stages. Each takes calls in the order that they were sent in.

        Args:
            call: As `Stage.run` takes it.
            given: Token ids [B, S].
            epoch: In which the call's rows are known to be whole.

        Returns:
            The epoch, and each stage's result to come.

        Raises:
            StageLostError: The epoch is over.
        """
        with self._lock:
            if epoch != self.epoch:
                raise self._lost(0, epoch, "the stages were started anew since")
            results: list[Any] = [message_of_array(given)]
            for actor, life in zip(self._actors, self._lives, strict=True):
                results.append(actor.run.remote(life, call, results[-1]))
            return epoch, results[1:]

    def result(self, sent: tuple[int, list[Any]]) -> npt.NDArray[Any] | None:
        """Waits for what `sent` has sent.

        Returns:
            Logits; None where the call is quiet.

        Raises:
            StageLostError: A stage died on the way.
            SessionError: A stage refused the call, or failed at it.
        """
        (message,) = self._messages(sent[0], sent[1], last_only=True)
        return array_of_message(message) if message else None

    def edit(self, name: str, *arguments: int) -> None:
        """Changes rows of all stages' caches, as `Stage.edit` does.

        Raises:
            StageLostError: A stage has died.
        """
        with self._lock:
            epoch, pairs = self.epoch, list(zip(self._actors, self._lives, strict=True))
            results = [actor.edit.remote(life, name, list(arguments)) for actor, life in pairs]
        self._messages(epoch, results)

    def recover(self, epoch: int) -> None:
        """Waits for stages that died to be started anew, and loads their parts.

        Args:
            epoch: That of the call which found it; nothing is done where somebody else has recovered since.

        Raises:
            UnavailableError: A stage does not come back in time.
            SessionError: Its part cannot be loaded again.
        """
        with self._lock:
            if epoch != self.epoch:
                return
            started = time.perf_counter()
            lives = [self._life_of(index) for index in range(len(self._actors))]
            lost = [index for index, life in enumerate(lives) if life != self._lives[index]]
            self._load(lost)
            self.epoch += 1
            seconds = time.perf_counter() - started
            self.recoveries.append(Recovery(stages=tuple(lost), seconds=seconds))
        for index in lost:
            self._report(f"{self._name(index)} was lost, and runs again after {seconds:.1f} s")

    def work(self) -> list[tuple[int, float, float]]:
        """What `Stage.work` says of each stage's process."""
        results = [actor.work.remote() for actor in self._actors]
        return [tuple(one) for one in self._ray.get(results, timeout=self._config.call_seconds)]

    def close(self) -> None:
        """Ends all stages."""
        for actor in self._actors:
            with suppress(Exception):  # a cluster that is gone has no actors to end
                self._ray.kill(actor)

    def _actor(self, index: int) -> Any:
        resource = stage_resource(index)
        pinned = {resource: _LITTLE} if resource in self._ray.cluster_resources() else None
        # Ray starts the process anew on its own, on another machine where this one is gone.
        options = {"num_cpus": self._config.threads or 1, "max_restarts": -1, "resources": pinned}
        remote = self._ray.remote(Stage)
        return remote.options(**options, scheduling_strategy="SPREAD").remote(index)

    def _require_room(self) -> None:
        """Ray would wait for ever for nodes that nobody adds."""
        there = self._ray.cluster_resources().get("CPU", 0)
        needed = len(self._parts.parts) * (self._config.threads or 1)
        if there < needed:
            raise UnavailableError(
                "The cluster is too small for the model's parts.",
                found=f"{there:g} CPUs on all nodes together",
                expected=f"{needed}: {self._config.threads or 1} for each of {len(self._parts.parts)} parts",
                fix="add nodes, build the model in fewer parts, or take fewer --threads",
            )

    def _load(self, indices: Sequence[int]) -> list[Message]:
        """Loads parts, all at the same time."""
        directory, build = str(self._config.directory.resolve()), self._parts.build
        results = []
        for index in indices:
            life = uuid.uuid4().hex
            results.append(
                self._actors[index].load.remote(
                    directory, build, self._config.rows, self._config.threads, life
                )
            )
            self._lives[index] = life
        found = []
        for index, result in zip(indices, results, strict=True):
            try:
                message = self._ray.get(result, timeout=self._config.start_seconds)
            except self._ray.exceptions.RayError as error:
                raise self._not_started(index, error) from error
            raise_error(message)
            self.processes[index] = (message["node"], message["process"])
            found.append(message)
        return found

    def _life_of(self, index: int) -> str:
        """Asks a stage which life it has, until it answers."""
        deadline = time.monotonic() + self._config.start_seconds
        while True:
            try:
                return str(self._ray.get(self._actors[index].life.remote(), timeout=_ASKED_SECONDS))
            except self._ray.exceptions.RayError as error:
                if time.monotonic() > deadline or isinstance(error, self._ray.exceptions.ActorDiedError):
                    raise self._not_started(index, error) from error
            time.sleep(_PAUSE_SECONDS)

    def _messages(self, epoch: int, results: list[Any], *, last_only: bool = False) -> list[Message]:
        """Waits for results; of a chain the last one alone is fetched, unless something went wrong."""
        try:
            wanted = results[-1:] if last_only else results
            messages: list[Message] = self._ray.get(wanted, timeout=self._config.call_seconds)
        except self._ray.exceptions.GetTimeoutError:
            waiting = self._ray.wait(results, num_returns=len(results), timeout=0)[1]
            if not waiting:  # the last one came just now
                return self._messages(epoch, results, last_only=last_only)
            index = results.index(waiting[0])
            self._ray.kill(self._actors[index], no_restart=False)
            raise self._lost(index, epoch, f"no answer in {self._config.call_seconds} s") from None
        except self._ray.exceptions.RayError as error:
            raise self._failed(epoch, results, error) from error
        for message in messages:
            if (index_lost := lost_stage(message)) is not None:
                raise self._lost(index_lost, epoch, "it was started anew")
            raise_error(message)
        return messages

    def _failed(self, epoch: int, results: list[Any], error: Exception) -> R1TrtError:
        """Which stage it was: the first without a result."""
        index = len(results) - 1
        for place, result in enumerate(results):
            try:
                self._ray.get(result, timeout=_ASKED_SECONDS)
            except self._ray.exceptions.GetTimeoutError:
                continue  # at work: one behind it is the one that failed
            except self._ray.exceptions.RayError as first:
                index, error = place, first
                break
        if isinstance(error, self._ray.exceptions.RayActorError):
            return self._lost(index, epoch, "its process died")
        return SessionError(
            f"{self._name(index)} failed.",
            found=_last_line(error),
            fix="look at its node's logs",
        )

    def _lost(self, index: int, epoch: int, found: str) -> StageLostError:
        error = StageLostError(f"{self._name(index)} was lost.", found=found)
        error.epoch = epoch
        return error

    def _not_started(self, index: int, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"{self._name(index)} could not be started.",
            found=_last_line(error),
            expected=f"a node with {self._config.threads or 1} free CPUs, and with r1trt installed",
            fix="look at `ray status` and at the nodes' logs, add nodes, or build the model in fewer parts",
        )

    def _name(self, index: int) -> str:
        part = self._parts.parts[index]
        layers = f"layers {part.first_layer} to {part.last_layer}"
        return f"Stage {index} of {len(self._parts.parts)} ({part.directory}, {layers})"


def _limits(stages: list[Message], rows: int) -> SessionLimits:
    """What a call through all stages may be; raises UnavailableError for another version on a machine."""
    if others := {message["version"] for message in stages} - {r1trt.__version__}:
        raise UnavailableError(
            "A machine of the cluster has another version of r1trt.",
            found=", ".join(sorted(others)),
            expected=r1trt.__version__,
            fix="install the same version on all machines",
        )
    first, last = stages[0], stages[-1]
    return SessionLimits(
        vocab_size=last["vocab_size"],
        capacity=first["capacity"],
        max_batch_size=rows,
        max_input_len=first["max_input_len"],
        last_token_logits=last["last_token_logits"],
    )


def _last_line(error: Exception) -> str:
    """What an error of Ray's says; its trace stands in front."""
    return next(reversed(str(error).strip().splitlines()), repr(error))
