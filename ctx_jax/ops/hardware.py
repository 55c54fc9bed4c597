"""The default device, and whether a CPU has bf16 instructions."""

import logging
import re
from functools import cache
from pathlib import Path

import jax

_CPU = Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # Linux's names: two for x86, one for ARM


def device() -> jax.Device:
    """The device that a call runs on by default: `jax.default_device` if set, else this process's first device.

    Models read it during tracing, to choose between implementations that give the same numbers. A program that places
    its arrays on another kind of device (such as the host CPU of a GPU) must set `jax.default_device`.
    """
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(chosen, jax.Device):
        return chosen
    return jax.local_devices(backend=chosen)[0]


def platform() -> str:
    """cpu, gpu (NVIDIA's and AMD's) or tpu."""
    return device().platform


def multiplies_bf16(information: str) -> bool | None:
    """Whether a CPU has instructions for bf16 products, from the text of Linux's /proc/cpuinfo; None if unknown.

    "flags : fpu avx2 avx512_bf16 ..." -> True, "flags : fpu avx2 ..." -> False, "" -> None
    """
    flags = re.findall(r"^(?:flags|Features)\s*:(.*)$", information, re.MULTILINE)
    return bool(_INSTRUCTIONS & set(" ".join(flags).split())) if flags else None


@cache
def warn_of_slow_bf16() -> None:
    """Log a warning, once a process, if bf16 products would run on a CPU without instructions for them."""
    if platform() != "cpu":
        return
    if multiplies_bf16(_CPU.read_text() if _CPU.exists() else "") is False:
        logging.getLogger(__name__).warning(
            'compute="bfloat16" on a CPU without bf16 instructions (AVX512-BF16, AMX) is slower than float32 and less '
            'exact: set compute to "float32"; of a loaded encoder: dataclasses.replace(encoder, '
            'model=dataclasses.replace(encoder.model, compute="float32"))'
        )
