"""Several processes, one job: `torchrun --nproc-per-node 4 -m ddpm_core train ...`
starts them, and each learns here which one it is.

A process on its own is rank 0 of 1, and then everything here costs nothing: shard(n) is
range(n), gather(x) is x. The gradients are averaged by torch's DistributedDataParallel;
everything else is kept the same on all ranks by drawing the same numbers on all of
them.
"""

import atexit
import hashlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


def size() -> int:
    """How many processes share the work: those that torchrun started, or those of a
    process group that is there already.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return (
        int(os.environ["WORLD_SIZE"])
        if dist.is_available() and dist.is_torchelastic_launched()
        else 1
    )


def rank() -> int:
    """Which of them this is, 0 to size() - 1. Rank 0 writes files, shows bars and
    speaks.
    """
    if size() == 1:
        return 0
    return dist.get_rank() if dist.is_initialized() else int(os.environ["RANK"])


def local_rank() -> int:
    """Which of those on this machine this is, and so which of its devices it takes."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else rank()


def join() -> None:
    """Meet the other processes, once; those that are about to compute together call
    this, and nobody else need.
    """
    if size() == 1 or dist.is_initialized():
        return
    # nccl for what lies on a CUDA device, gloo for everything else. A rank that ends in
    # an error ends the others, by torchrun; so the
    # time after which a silent one counts as lost may be long enough for the slowest
    # sampling.
    backend = (
        "cpu:gloo,cuda:nccl"
        if torch.cuda.is_available() and dist.is_nccl_available()
        else "gloo"
    )
    dist.init_process_group(backend, timeout=timedelta(days=1))
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(n: int) -> range:
    """The part of range(n) that belongs to this rank: contiguous, in the order of the
    ranks, the same length give or take one.
    """
    return range(n * rank() // size(), n * (rank() + 1) // size())


def gather(part: Tensor) -> Tensor:
    """The parts of all ranks, one after the other, on every rank: what shard() has
    split.

    part  (N_rank, ...), as many rows as this rank has; where that is none, the other
          dimensions still say what a row is
    """
    if size() == 1:
        return part
    join()
    rows = torch.zeros(size(), dtype=torch.int64)
    rows[rank()] = len(part)
    dist.all_reduce(rows)
    padded = torch.zeros(int(rows.max()), *part.shape[1:], dtype=part.dtype)
    padded[: len(part)] = part.detach().cpu()
    parts = [torch.empty_like(padded) for _ in range(size())]
    dist.all_gather(parts, padded)
    return torch.cat([whole[:n] for whole, n in zip(parts, rows.tolist())]).to(
        part.device
    )


def mean(x: Tensor) -> Tensor:
    """The mean of x over the ranks, the same on all of them."""
    if size() == 1:
        return x
    join()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / size()


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank: all of them decide alike, and none goes on
    before the last has asked.
    """
    if size() == 1:
        return flag
    join()
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def share(model: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if size() > 1:
        join()
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def parallel(model: nn.Module) -> nn.Module:
    """The model with gradients that are the mean over the ranks; on its own, the model
    itself.
    """
    if size() == 1:
        return model
    join()
    device = next(model.parameters()).device
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None
    )


def mix(*parts: object) -> int:
    """A 63-bit seed that depends on all parts, and is unrelated for neighbouring ones."""
    return (
        int.from_bytes(
            hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big"
        )
        >> 1
    )
