"""One training in several processes: torchrun starts them, and they share every batch.

    torchrun --standalone --nproc_per_node=2 --max_restarts=3 colorize.py …

starts two on this machine (one per GPU; on the CPU through gloo). Started without torchrun, the
team is this one process, and nothing here costs anything.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

# Its functions name the process group of the moment of its import as a default, and what wraps a
# net imports it: imported later, it would keep the group and its threads until the interpreter
# ends, and a thread that lets go of a tensor then aborts the whole process.
import torch.distributed.nn
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class DistributedContext:
    """Who this process is among `size` processes."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the one process that prints and writes files."""
        return self.rank == 0

    def print(self, text: str) -> None:
        """Print a line, once for the whole team."""
        if self.is_main:
            print(text, flush=True)

    def parallelize(self, net: nn.Module) -> nn.Module:
        """The net, such that after backward() all processes hold the mean of their gradients."""
        if self.world_size == 1:
            return net
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(net, device_ids=ids, gradient_as_bucket_view=True)

    def any(self, flag: bool) -> bool:
        """True in all processes if it is true in one; all must ask at the same step."""
        if self.world_size == 1:
            return flag
        votes = torch.tensor(int(flag))
        dist.all_reduce(votes)  # a tensor on the CPU goes through gloo: the GPU is not waited for
        return bool(votes)

    def barrier(self) -> None:
        """Wait for the others: nobody hangs up while another still talks.

        Not for one that has failed: the others wait for it elsewhere, and end when it hangs up.
        """
        if self.world_size > 1:
            dist.barrier()

    def broadcast_from_main(self, content: bytes | None) -> bytes | None:
        """The leader's bytes, in every process: machines need no common disk."""
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
        return buffer.numpy().tobytes()


def rendezvous_store() -> dict[str, Any]:
    """Where the processes find each other, if it has to be another one than torchrun's own.

    torchrun keeps one store of addresses over all restarts, where a new process may read the
    address of a dead one. On one machine its count of restarts tells the lives apart.
    """
    environ = os.environ
    alone = environ.get("LOCAL_WORLD_SIZE") == environ["WORLD_SIZE"]
    if not alone or environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    store = dist.TCPStore(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False)
    life = environ["TORCHELASTIC_RESTART_COUNT"]
    return {
        "store": dist.PrefixStore(f"life {life}", store),
        "rank": int(environ["RANK"]),
        "world_size": int(environ["WORLD_SIZE"]),
    }


@contextmanager
def init_distributed() -> Iterator[DistributedContext]:
    """The team of this process, as torchrun's environment describes it."""
    cuda = torch.cuda.is_available()
    if "WORLD_SIZE" not in os.environ:
        yield DistributedContext(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if cuda:
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, **rendezvous_store())
    try:
        device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
        gc.collect()  # a wrapped net that nobody holds any more: with it the group's threads end
