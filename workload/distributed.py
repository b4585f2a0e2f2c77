"""One training in several processes: torchrun starts them, and they share every batch.

    torchrun --standalone --nproc_per_node=2 --max_restarts=3 colorize.py …

starts two on this machine (one per GPU; on the CPU through gloo). Without torchrun there is one
process, and nothing here costs anything.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

# Its functions take the process group that exists when it is imported as a default argument, and
# DistributedDataParallel imports it. Imported later, it would keep the group and its threads until
# the interpreter ends, and a thread that frees a tensor then aborts the whole process.
import torch.distributed.nn
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class DistributedContext:
    """This process's rank among `world_size` processes, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the one process that prints and writes files."""
        return self.rank == 0

    def print(self, text: str) -> None:
        """Print a line in the main process alone."""
        if self.is_main:
            print(text, flush=True)

    def parallelize(self, net: nn.Module) -> nn.Module:
        """Wrap the net so that backward() leaves the mean gradients in all processes."""
        if self.world_size == 1:
            return net
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(net, device_ids=ids, gradient_as_bucket_view=True)

    def any(self, flag: bool) -> bool:
        """True in all processes if it is true in one; all must call it at the same step."""
        if self.world_size == 1:
            return flag
        votes = torch.tensor(int(flag))
        dist.all_reduce(votes)  # a tensor on the CPU goes through gloo: the GPU is not waited for
        return bool(votes)

    def max(self, value: float) -> float:
        """The largest value of all processes, in all of them."""
        if self.world_size == 1:
            return value
        values = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return float(values)

    def barrier(self) -> None:
        """Wait for the other processes, so that none leaves the group while it is in use.

        Not called after a failure: the others wait in another operation, which then fails, too.
        """
        if self.world_size > 1:
            dist.barrier()

    def broadcast_from_main(self, content: bytes | None) -> bytes | None:
        """The main process's bytes in every process: machines need no common disk."""
        if self.world_size == 1:
            return content
        length = torch.tensor(-1 if content is None else len(content))
        dist.broadcast(length, 0)
        if length < 0:
            return None
        buffer = torch.empty(int(length), dtype=torch.uint8)
        if content:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(buffer, 0)
        return bytes(buffer.numpy().tobytes())


def make_rendezvous() -> dict[str, Any]:
    """Arguments for init_process_group with a store of this restart's own, if torchrun's is shared.

    torchrun keeps one store of addresses over all restarts, where a new process may read the
    address of a dead one. On one machine, the number of restarts as a prefix separates them.
    """
    environ = os.environ
    is_one_machine = environ.get("LOCAL_WORLD_SIZE") == environ["WORLD_SIZE"]
    if not is_one_machine or environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    store = dist.TCPStore(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False)
    restarts = environ["TORCHELASTIC_RESTART_COUNT"]
    return {
        "store": dist.PrefixStore(f"restart {restarts}", store),
        "rank": int(environ["RANK"]),
        "world_size": int(environ["WORLD_SIZE"]),
    }


@contextmanager
def init_distributed() -> Iterator[DistributedContext]:
    """Join the process group that torchrun's environment describes, if any."""
    cuda = torch.cuda.is_available()
    if "WORLD_SIZE" not in os.environ:
        yield DistributedContext(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if cuda:
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, **make_rendezvous())
    try:
        device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
        gc.collect()  # an unreferenced wrapped net would keep the group's threads alive
