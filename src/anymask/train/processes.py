"""The processes of one run: this one alone, or several under `torchrun` through `accelerate`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from anymask.core.errors import MissingExtraError, OptionError
from anymask.model.precision import pick_device


class Processes:
    """One process. rank: its number; count: how many there are."""

    rank = 0
    count = 1

    def __init__(self, device: str = "auto") -> None:
        self.device = pick_device(device)

    @property
    def is_first(self) -> bool:
        """Does this process write files and speak?"""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> Any:
        """The module on this process's device, with gradients shared between all processes."""
        return module.to(self.device)

    @contextmanager
    def sharing(self, module: Any, last: bool) -> Iterator[None]:
        """Gradients are exchanged in the last of a step's backward passes only."""
        yield

    def gather(self, entries: list[Any]) -> list[Any]:
        """The entries of all processes."""
        return entries

    def whole(self, value: Any) -> Any:
        """A nested state with every sharded tensor put together again; all processes must ask."""
        return value

    def like(self, value: Tensor, parameter: Tensor) -> Tensor:
        """A whole tensor placed and sharded as `parameter` is."""
        return value.to(parameter.device)


class ManyProcesses(Processes):
    """One of several processes, each with its own photos.

    "ddp" keeps the model whole in each (accelerate's DistributedDataParallel). "fsdp" shards weights, gradients and
    optimiser state (PyTorch's FSDP2, block by block of a ViT), which also works on CPUs, where accelerate offers none.
    """

    def __init__(self, sharding: str, device: str = "auto") -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise MissingExtraError("training in several processes needs: pip install 'anymask[train]'") from error
        on_cpu = pick_device(device).type == "cpu"
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="no")  # autocast is ours, see `photo_rounds`
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.sharding = sharding

    def wrap(self, module: nn.Module) -> Any:
        if self.sharding == "ddp":
            return self.accelerator.prepare_model(module.to(self.device))
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        module = module.to(self.device).to(memory_format=torch.contiguous_format)  # FSDP2 shards no other
        mesh = init_device_mesh(self.device.type, (self.count,))
        blocks = getattr(module.get_submodule("sam.image_encoder"), "blocks", [])
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh, reshard_after_forward=False)
        return module

    @contextmanager
    def sharing(self, module: Any, last: bool) -> Iterator[None]:
        if self.sharding == "fsdp":
            module.set_requires_gradient_sync(last)
        with nullcontext() if last or self.sharding == "fsdp" else module.no_sync():
            yield

    def gather(self, entries: list[Any]) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object(entries)

    def whole(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.whole(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [self.whole(entry) for entry in value]
        return value.full_tensor() if hasattr(value, "full_tensor") else value

    def like(self, value: Tensor, parameter: Tensor) -> Tensor:
        value = value.to(self.device)
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(parameter, DTensor):
            return value

        return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def processes_of_this_run(device: str, sharding: str) -> Processes:
    """`ManyProcesses` where `torchrun` (or accelerate's launcher) started this one among several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return ManyProcesses(sharding, device)
    if sharding == "fsdp":
        raise OptionError(
            'sharding "fsdp" needs several processes: torchrun --nproc-per-node 8 -m anymask train …; '
            'or set sharding back to "ddp", which one process ignores.'
        )
    return Processes(device)


def total_norm(parameters: list[nn.Parameter], max_norm: float) -> float:
    """Clip the gradients to a total norm over all processes' shards; returns the norm before."""
    norm: Any = nn.utils.clip_grad_norm_(parameters, max_norm)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return float(torch.as_tensor(norm).item())
