"""Probes: what each layer of a frozen encoder knows, by tasks."""

from ctx_jax.tasks.probing.label_probes import LabelProbe
from ctx_jax.tasks.probing.report import ProbeReport
from ctx_jax.tasks.probing.run import probe

__all__ = ["LabelProbe", "ProbeReport", "probe"]
