"""Proves: device and precision are picked by name, refused with the reason, and freed memory stays where promised."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from anymask.core.errors import OptionError
from anymask.model import precision
from anymask.model.layers import DepthwiseConv2d
from anymask.model.precision import pick_device, pick_dtype


def test_names() -> None:
    cpu = pick_device("cpu")
    assert pick_dtype("fp32", cpu) == torch.float32 and pick_dtype("bf16", cpu) == torch.bfloat16
    with pytest.raises(OptionError, match="auto, fp32, bf16"):
        pick_dtype("fp8", cpu)
    with pytest.raises(OptionError, match="cuda"):
        pick_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(OptionError, match="--device cpu"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 fma", torch.float32), ("avx512f avx512_bf16", torch.bfloat16), ("amx_bf16 amx_tile", torch.bfloat16)],
)
def test_auto_takes_bf16_only_where_native(
    flags: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags.split()))
    assert pick_dtype("auto", torch.device("cpu")) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize("choice", ["system", ""])
def test_allocator_switch(choice: str) -> None:
    code = "from anymask.core.allocator import keep_freed_memory as k; print(k(), k())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ANYMASK_ALLOCATOR": choice},
    )
    assert done.stdout.split() == [str(choice != "system")] * 2


def test_depthwise_convolutions_train_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv2d(6, 5)
    x, grad = torch.randn(2, 6, 9, 9), torch.randn(2, 6, 9, 9)
    layer(x).backward(grad)
    assert layer.weight.grad is not None
    want, layer.weight.grad = layer.weight.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.backward(grad)
    torch.testing.assert_close(layer.weight.grad, want, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert layer(x).dtype == torch.bfloat16
