"""Whether an encoder shows the pattern that Peters et al. (2018, section 5.3) found in a biLM: syntax is best read from
low layers, senses from high ones, and a learned mix of all layers beats each single one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ctx_jax.tasks.probing.results import TaskResult

Verdict = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class Claim:
    """One part of the pattern: whether it holds, and the numbers that say so."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Pattern:
    """The three parts of the pattern."""

    syntax_low: Claim
    senses_high: Claim
    mix_best: Claim

    @property
    def holds(self) -> Verdict:
        """Of all three together."""
        verdicts = {claim.verdict for claim in (self.syntax_low, self.senses_high, self.mix_best)}
        return "no" if "no" in verdicts else "unknown" if "unknown" in verdicts else "yes"

    @property
    def text(self) -> str:
        """What the numbers say, in lines."""
        whole = {
            "yes": "The classic pattern (syntax low, senses high, mix best) holds for this encoder.",
            "no": "The classic pattern (syntax low, senses high, mix best) does not hold for this encoder.",
            "unknown": "Whether the classic pattern (syntax low, senses high, mix best) holds for this encoder was not "
            "fully measured.",
        }[self.holds]
        claims = (("Syntax low", self.syntax_low), ("Senses high", self.senses_high), ("Mix best", self.mix_best))
        return "\n".join([whole, *(f"- {name}: {claim.verdict}. {claim.reason}" for name, claim in claims)])

    def json(self) -> dict[str, Any]:
        """The same as JSON."""
        names = ("syntax_low", "senses_high", "mix_best")
        claims = {name: getattr(self, name) for name in names}
        return {"holds": self.holds} | {
            name: {"verdict": claim.verdict, "reason": claim.reason} for name, claim in claims.items()
        }


def pattern(results: Iterable[TaskResult]) -> Pattern:
    """The pattern in the scores of tasks.

    Syntax is low if the best layer of every syntax task lies in the lower half of the layers (the middle one included)
    and below that of every task of senses; senses are high likewise. The best layers are those of the data that choose.
    The mix is best if its reported score is above that of the best single layer in every trained task.
    """
    results = list(results)
    syntax, senses = (
        [each for each in results if each.kind == kind and each.best_layer is not None and len(each.layers) > 1]
        for kind in ("syntax", "senses")
    )
    return Pattern(_placed(syntax, senses, low=True), _placed(senses, syntax, low=False), _mix_best(results))


def _placed(own: Sequence[TaskResult], others: Sequence[TaskResult], *, low: bool) -> Claim:
    """Whether the best layers of tasks lie in their half, and on their side of those of other tasks."""
    if not own:
        return Claim("unknown", f"No task of {'syntax' if low else 'senses'} with several layers was measured.")
    sign = 1 if low else -1
    half = all(sign * (_depth(each) - 0.5) <= 0 for each in own)
    apart = all(sign * (_depth(each) - _depth(other)) < 0 for each in own for other in others)
    reason = "; ".join(map(_best, own)) + "."
    if others:
        reason += f" Against {'senses' if low else 'syntax'}: " + "; ".join(map(_best, others)) + "."
    return Claim("yes" if half and apart else "no", reason)


def _depth(result: TaskResult) -> float:
    """The best layer, from 0 for the lowest to 1 for the highest."""
    best, layers = result.best_layer, result.layers
    assert best is not None
    return layers.index(best) / (len(layers) - 1)


def _best(result: TaskResult) -> str:
    near = result.near_best
    close = f", within the spread of seeds also {', '.join(map(str, near))}" if near else ""
    return f"{result.name} is best at layer {result.best_layer} of 0 to {result.layers[-1]}{close}"


def _mix_best(results: Sequence[TaskResult]) -> Claim:
    differences = []
    for each in results:
        if each.trained and each.all_layers is not None and each.best_layer is not None:
            mean, spread = each.difference(each.of_layer(each.best_layer))
            differences.append((each, mean, spread))
    if not differences:
        return Claim("unknown", "No trained task with several layers was measured.")
    parts = [
        f"{each.name} {signed(mean, spread)} against layer {each.best_layer}{_within(mean, spread)}"
        for each, mean, spread in differences
    ]
    every = all(mean > 0 for _, mean, _ in differences)
    return Claim("yes" if every else "no", f"Mix minus best single layer, in points: {'; '.join(parts)}.")


def _within(mean: float, spread: float) -> str:
    return " (within the spread of seeds)" if abs(mean) <= spread else ""


def signed(mean: float, spread: float) -> str:
    """A difference in points with its sign: "+0.31 ± 0.05"."""
    return f"{100 * mean:+.2f}" + (f" ± {100 * spread:.2f}" if spread == spread else "")
