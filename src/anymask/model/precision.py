"""Where a model runs and in which floating-point type, decided once."""

from __future__ import annotations

import torch

from anymask.core.allocator import keep_freed_memory
from anymask.core.errors import OptionError, unknown_name
from anymask.core.processor import cpu_flags
from anymask.model.sam import Sam

PRECISIONS = ("auto", "fp32", "bf16")


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA, then Apple's MPS, then the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown_name("device", name, ["auto", "cpu", "cuda", "cuda:1", "mps"]) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError("device 'cuda' was asked for, but torch sees no CUDA GPU here. Use --device cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise OptionError("device 'mps' was asked for, but this is not an Apple GPU. Use --device cpu.")
    return device


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """"fp32", "bf16", or "auto": bf16 where the processor multiplies it natively, float32 elsewhere."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, list(PRECISIONS))
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    return torch.bfloat16 if has_native_bf16(device) else torch.float32


def has_native_bf16(device: torch.device) -> bool:
    """Does the device multiply bfloat16 in hardware? Emulation, as on older CPUs, is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def place(sam: Sam, device: str = "auto", precision: str = "auto") -> Sam:
    """Move the model to a device and precision, ready to use."""
    where = pick_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    return sam.to(where).set_precision(pick_dtype(precision, where))
