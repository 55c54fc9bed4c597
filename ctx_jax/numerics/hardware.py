"""What the CPU can do, as far as it says so."""

import logging
import re
from functools import cache
from pathlib import Path

import jax

_CPU = Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86's two, ARM's one: Linux's names


def multiplies_bf16(information: str) -> bool | None:
    """Whether a CPU has instructions for bf16 products, by the text of Linux's /proc/cpuinfo; None where it is silent.

    "flags : fpu avx2 avx512_bf16 ..." says True, "flags : fpu avx2 ..." False, "" nothing.
    """
    flags = re.findall(r"^(?:flags|Features)\s*:(.*)$", information, re.MULTILINE)
    return bool(_INSTRUCTIONS & set(" ".join(flags).split())) if flags else None


@cache
def warn_of_slow_bf16() -> None:
    """Log a warning, once in a process, where bf16 products run on a CPU that is known to have none."""
    if jax.default_backend() != "cpu":
        return
    if multiplies_bf16(_CPU.read_text() if _CPU.exists() else "") is False:
        logging.getLogger(__name__).warning(
            'compute="bfloat16" on a CPU without bf16 instructions (AVX512-BF16, AMX) is slower than float32 and less '
            "exact: set --model.compute float32; of a loaded encoder: dataclasses.replace(encoder, "
            'model=dataclasses.replace(encoder.model, compute="float32"))'
        )
