"""Peak memory of `encoder.encode` over a stream of sentences, which should not grow with their number.

    python benchmarks/encode_memory.py
    python benchmarks/encode_memory.py --sentences 10000 100000 --cases "BERT, words"

The sentences are made here, from 3 to 40 words drawn by a Zipf law without end, and nothing is kept of the results.
Each number of sentences runs in a process of its own, which prints its peak memory (`VmHWM` of Linux) after the first
2,000 sentences and at the end. The encoders are small and random, so that this takes minutes.
"""

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from memory import peak

CASES = {"BERT, words": "words", "BERT, sentences": "sentence", "ELMo, words": "words"}
EARLY = 2_000  # sentences after which what grows no more has been compiled and allocated


def sentences(count: int) -> Iterator[str]:
    """So many sentences, a thousand made at a time."""
    random, made = np.random.default_rng(0), 0
    while made < count:
        lengths = random.integers(3, 41, min(1_000, count - made))
        words = np.char.add("w", (random.zipf(1.15, lengths.sum()) % 100_000_000).astype("U9")).tolist()
        for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
            yield " ".join(words[start : start + length])
        made += len(lengths)


def encoder_of(case: str) -> Any:
    """A small random encoder."""
    import jax

    import ctx_jax
    from ctx_jax.encoders.elmo import BiLM
    from ctx_jax.encoders.transformer import SubwordInputs, Transformer
    from ctx_jax.tokenizers.subword_training import train

    if case.startswith("ELMo"):
        model: Any = BiLM(character_dim=4, filters=((1, 8), (2, 8)), dim=16, projection=8)
        processor: Any = model.inputs()
    else:
        subwords = train(list(sentences(2_000)), "wordpiece", 2_000)
        model = Transformer(vocabulary=len(subwords), dim=16, depth=2, heads=2, feed_forward=32)
        processor = SubwordInputs(subwords, model.longest)
    return ctx_jax.Encoder(model, jax.jit(model.init)(jax.random.key(0)), processor)


def measure(case: str, count: int) -> None:
    """Stream the sentences and print one row of the table."""
    encoder = encoder_of(case)
    loaded, start = peak(), time.perf_counter()
    results = encoder.encode(sentences(count), level=CASES[case])
    numbers = sum(vectors.size for vectors in itertools.islice(results, EARLY))
    early = peak()
    numbers += sum(vectors.size for vectors in results)
    rate = count / (time.perf_counter() - start)
    shapes = len(encoder.compiled_shapes)
    print(
        f"| {case} | {count:,} | {loaded:.0f} | {early:.0f} | {peak():.0f} | {numbers * 4 / 1e6:,.0f} | {shapes} "
        f"| {rate:,.0f} |",
        flush=True,
    )


def main() -> None:
    """Run each case and number in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "COUNT"), help="measure this, in this process")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.measure[0], int(arguments.measure[1]))
        return
    early = f"after {EARLY:,} sentences"
    print(f"| encoder | sentences | MB, loaded | MB, {early} | MB, at the end | MB of vectors | shapes | sentences/s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for case in arguments.cases:
        for count in arguments.sentences:
            subprocess.run([sys.executable, __file__, "--measure", case, str(count)], check=True)


if __name__ == "__main__":
    main()
