"""Peak memory of reading text and counting its words, for 1 MB and 100 MB: `python benchmarks/memory.py`.

The text is made here: words drawn by a Zipf law without end, so that the vocabulary grows with the text as it does in
real ones. Each size runs in a process of its own, which prints its peak memory (`VmHWM` of Linux).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WORDS_A_LINE = 20


def generate(path: Path, size: int) -> None:
    """Writes about `size` bytes of random words, 20 a line."""
    random = np.random.default_rng(0)
    written = 0
    with path.open("w", encoding="ascii") as file:
        while written < size:
            ranks = random.zipf(1.15, 50_000) % 100_000_000
            words = np.char.add("w", ranks.astype("U9")).reshape(-1, WORDS_A_LINE)
            piece = "\n".join(map(" ".join, words.tolist())) + "\n"
            file.write(piece)
            written += len(piece)


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def measure(text: Path, vocabulary_size: int) -> None:
    """Builds cache and vocabulary of a file, then reads sentences at random, and prints one row of the table."""
    from ctx_jax.data.cache import build_cache
    from ctx_jax.data.corpora import resolve
    from ctx_jax.tokenizers.vocabulary import build

    start = peak()
    lines: list[str] = []
    sentences = build_cache(resolve(str(text), "train"), text.parent / "cache", log=lines.append)
    cached = peak()
    vocabulary = build(sentences, size=vocabulary_size)
    counted = peak()
    for index in np.random.default_rng(0).integers(0, len(sentences), 100_000).tolist():
        _ = sentences[index]
    print(
        f"| {text.stat().st_size / 1e6:.0f} MB, {sentences.words:,} words | {start:.0f} | {cached:.0f} | {counted:.0f} "
        f"| {peak():.0f} | {len(vocabulary):,} |"
    )
    print(*lines, file=sys.stderr)


def main() -> None:
    """Makes the texts, runs each in its own process and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--vocabulary-size", type=int, default=50_000)
    parser.add_argument("--measure", type=Path, help="measure this file, in this process")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.measure, arguments.vocabulary_size)
        return
    print("| text | MB at the start | with the cache | with the vocabulary | after 100,000 reads | words kept |")
    print("|---|---|---|---|---|---|", flush=True)
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder, "text.txt")
            generate(text, megabytes * 1_000_000)
            size = str(arguments.vocabulary_size)
            command = [sys.executable, __file__, "--measure", str(text), "--vocabulary-size", size]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
