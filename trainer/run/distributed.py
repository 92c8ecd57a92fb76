"""Several processes as one: the processes (`World`), and the gradients that they average (`Gradients`).

torchrun gives each process its rank by environment variables; without them it is alone. Data parallel: every
process reads its own share of the lanes and holds the whole model.

The gradients of a window come all at once at its end, so DistributedDataParallel could not send any while the backward
pass runs, and its buckets would only cut one large message into smaller ones. Here every
gradient is a view of one flat buffer: the backward pass writes into it, one all-reduce in float32 averages it, its
norm is the global norm, and the losses travel at its end. All processes then hold the same bits, so they all
make the same decision about a norm that is not finite.
"""

import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

# Its default arguments are the group of all processes, if there is one when it is first imported (by an optimizer):
# the group is then never destroyed, and its threads abort a process that has done its work (pytorch pull 179291).
import torch.distributed.nn
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from model.checkpoints.untrusted import brief
from trainer.run.options import TrainingError

# On a CPU the float32 norm of one vector of 86 M numbers is 0.8 % too small; that of the norms of its rows is exact.
_ROW = 4096

_JOIN_S = 600.0


@dataclass(frozen=True)
class World:
    """The processes of one run. All of them must call the methods with (collective) in the same order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine

    @classmethod
    @contextmanager
    def join(cls) -> Iterator["World"]:
        """The processes that torchrun started; gloo carries what is on CPUs, nccl what is on GPUs."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            yield cls()
            return
        rank = int(os.environ["RANK"])
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backends, store=_fresh_store(rank, size), rank=rank, world_size=size)
        yield cls(rank, size, int(os.environ["LOCAL_RANK"]))
        # Not while an error passes: the other processes may wait for this one, and nccl would wait here for them. Its
        # end is what they and torchrun are told by.
        dist.destroy_process_group()

    def device(self, name: str) -> torch.device:
        """auto: a GPU if there is one. Of several GPUs each process on a machine takes its own.

        Raises TrainingError for one that is not there, and for one GPU for all processes.
        """
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
            if device.type == "cuda" and device.index is None:
                device = torch.device("cuda", self.local_rank)
            elif device.type == "cuda" and self.size > 1:
                raise TrainingError(
                    f"--device {name} is one GPU for all {self.size} processes: --device cuda gives each its own"
                )
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # the latter from a torch for CPUs
            raise TrainingError(f"--device {name} cannot be used: {brief(error)}") from error
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return device

    def share(self, lanes: int) -> range:
        """The lanes of this process."""
        return range(self.rank * lanes // self.size, (self.rank + 1) * lanes // self.size)

    def any(self, *flags: bool) -> list[bool]:
        """Each flag: whether it is true anywhere (collective)."""
        if self.size == 1:
            return list(flags)
        found = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return [bool(flag) for flag in found.tolist()]

    def from_first(self, number: int) -> int:
        """The number that rank 0 has (collective)."""
        held = torch.tensor([number])
        self.broadcast([held])
        return int(held)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite each tensor by rank 0's (collective)."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def mean(self, tensor: Tensor) -> Tensor:
        """Average in place (collective)."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor.div_(self.size)
        return tensor

    def joined(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, along the first dimension, in the order of ranks (collective)."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)


def _fresh_store(rank: int, size: int) -> Store:
    """The key-value store of these processes, under a prefix that rank 0 has just drawn.

    torchrun keeps one store over all restarts, and a restarted process would find the addresses of dead processes
    there. Key names cannot count the restarts, because machines count them differently. So each process writes a
    random name of its own, which only a living rank 0 answers.
    """
    store, _, _ = next(iter(rendezvous("env://")))
    name = uuid.uuid4().hex
    if rank > 0:
        store.set(f"hello/{rank}", name)
        prefix = store.get(f"welcome/{name}").decode()
        store.set(f"seen/{prefix}/{rank}", "")
        return PrefixStore(prefix, store)
    expected, deadline = set(range(1, size)), time.monotonic() + _JOIN_S
    while expected:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(expected)} of {size} did not start within {_JOIN_S:g} s")
        for other in tuple(expected):
            if store.check([f"hello/{other}"]):
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", name)
            if store.check([f"seen/{name}/{other}"]):
                expected.remove(other)
        time.sleep(0.02)
    return PrefixStore(name, store)


ALONE = World()


class Gradients:
    """The gradients of a model as one flat buffer, which `parameter.grad` are views of."""

    def __init__(self, model: nn.Module, world: World, losses: int = 1) -> None:
        """losses: how many losses are averaged with the gradients."""
        parameters = list(model.parameters())
        first = parameters[0]
        sizes = [parameter.numel() for parameter in parameters]
        rows = -(-sum(sizes) // _ROW)
        self._world = world
        self._flat = torch.zeros(rows * _ROW + losses, dtype=first.dtype, device=first.device)
        self._gradients, self._losses = self._flat[:-losses], self._flat[-losses:]
        for parameter, part in zip(parameters, torch.split(self._gradients[: sum(sizes)], sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def zero(self) -> None:
        self._flat.zero_()

    def add_losses(self, losses: Tensor) -> None:
        """Add to the losses that are averaged with the gradients."""
        self._losses += losses.detach()

    def average(self, windows: int) -> tuple[list[float], float]:
        """Average over the windows that were added and all processes (collective). Returns losses and gradient norm."""
        self._world.mean(self._flat)
        if windows > 1:
            self._flat.div_(windows)
        norm_of_rows = self._gradients.view(-1, _ROW).norm(dim=1)
        *losses, norm = torch.cat((self._losses, norm_of_rows.norm()[None])).tolist()
        return losses, norm

    def clip(self, norm: float, limit: float) -> None:
        """Scale down to the norm `limit`; norm: what `average` returned."""
        if norm > limit:
            self._gradients.mul_(limit / (norm + 1e-6))
