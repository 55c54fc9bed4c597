"""A run directory with damage in any file: an error or a warning names the file, or the result is the right one.

CTX_JAX_MUTATIONS=2000 in the environment tries that many of each kind of run and reading; `pytest -s` shows the counts.
"""

import json
import logging
import os
import random
import re
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ctx_jax
from ctx_jax.checkpoints import digests
from ctx_jax.data.config import BiLMData, TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.io.errors import CtxJaxError
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig, BiLMEvaluate
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMEvaluate
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training import loop
from ctx_jax.training.config import CheckpointConfig, DevicesConfig, LogConfig
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.parameter_groups import ParameterGroup
from ctx_jax.training.run import run

COUNT = int(os.environ.get("CTX_JAX_MUTATIONS", "0"))
SECONDS, BYTES = 10, 2 << 30  # no reading may take more
VALUES = [None, True, "false", "", -1, 0.5, 10**20, float("nan"), float("-inf"), [], {}, [[1, "a"]], "\ud800", "/"]
TEXTS = ["9" * 5001, "9" * 400, "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, "1e999"]


def mutations(content: bytes, randomness: random.Random) -> Callable[[], bytes | None]:
    """One kind of damage to a file's content; None removes the file."""
    place = randomness.randrange(max(len(content), 1))

    def flip() -> bytes:
        changed = bytearray(content or b" ")
        for _ in range(randomness.choice([1, 1, 1, 8])):
            changed[randomness.randrange(len(changed))] ^= 1 << randomness.randrange(8)
        return bytes(changed)

    def value() -> bytes:
        try:
            data = json.loads(content.splitlines()[0] if content.count(b"\n{") else content)
        except (ValueError, IndexError):
            return flip()
        if isinstance(data, dict) and all(isinstance(text, str) and text[:1] == "{" for text in data.values()) and data:
            name = randomness.choice(list(data))
            data[name] = text_of(damaged(json.loads(data[name]), randomness), randomness)
        else:
            data = damaged(data, randomness)
        first, rest = content.partition(b"\n{")[::2] if content.count(b"\n{") else (content, b"")
        return text_of(data, randomness).encode(errors="surrogatepass") + (b"\n{" + rest if rest else first[:0])

    kinds: list[Callable[[], bytes | None]] = [flip, flip, lambda: content[:place], lambda: b"", lambda: None]
    kinds += [lambda: content[:place] + content[place + 1 :], lambda: content + content, value, value, value, value]
    return randomness.choice(kinds)


def text_of(data: Any, randomness: random.Random) -> str:
    return json.dumps(data).replace('"HUGE"', randomness.choice(TEXTS))


def damaged(data: Any, randomness: random.Random) -> Any:
    """JSON with one value of another type, one key less or one more."""
    if not isinstance(data, dict | list) or not data or randomness.random() < 0.1:
        return randomness.choice([*VALUES, "HUGE"])
    keys: list[Any] = list(data) if isinstance(data, dict) else list(range(len(data)))
    key = randomness.choice(keys)
    if randomness.random() < 0.15:
        copy = dict(data) if isinstance(data, dict) else list(data)
        del copy[key]
        return copy
    changed = damaged(data[key], randomness)
    if isinstance(data, dict):
        return data | {f"{key}?" if randomness.random() < 0.1 else key: changed}
    return [*data[:key], changed, *data[key + 1 :]]


def trained(folder: Path, task: str) -> TrainConfig:
    """The settings of a run with validation, frozen parameters and two checkpoints, which is made."""
    words, randomness = ["the", "a", "cat", "dog", "sat", "ran", "saw", "table"], random.Random(0)
    text = folder / "text.txt"
    text.write_text("".join(" ".join(randomness.choices(words, k=6)) + "\n" for _ in range(30)))
    settings: dict[str, Any] = {
        "bilm": lambda: BiLMConfig(
            model=BiLM(max_characters=8, character_dim=3, filters=((1, 4),), dim=6, projection=4, depth=1),
            data=BiLMData(train=str(text), valid=str(text), batch_size=4, unroll_steps=3),
            evaluate=BiLMEvaluate(every=2),
            negatives=5,
        ),
        "masked_lm": lambda: MaskedLMConfig(
            model=Transformer(0, dim=8, depth=1, heads=2, feed_forward=8, max_positions=16),
            data=TextConfig(train=str(text), valid=str(text)),
            sequences=SequenceConfig(length=16, batch_size=4),
            tokenizer=TokenizerConfig(kind="wordpiece", size=60),
            evaluate=MaskedLMEvaluate(every=2, fill_mask=0),
        ),
    }
    frozen = {"bilm": "encoder/characters", "masked_lm": "encoder/embeddings"}[task]
    config = TrainConfig(
        task=settings[task](),
        optimizer=AdamW(warmup=0, schedule="constant", groups=(ParameterGroup(frozen, frozen=True),)),
        devices=DevicesConfig(count=1),
        checkpoint=CheckpointConfig(every=2),
        log=LogConfig(every=1),
        run_dir=str(folder / "run"),
        steps=4,
    )
    assert run(config)
    return config


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal: trees of arrays bit for bit."""
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in ((np.asarray(a), np.asarray(b)) for a, b in zip(leaves, others, strict=True))
    )


def load(config: TrainConfig) -> Any:
    """All that an encoder of the best step does."""
    encoder = ctx_jax.load(config.run_dir)
    inputs = encoder.tokenize(["the cat sat", "tables"])
    return encoder.run_params, inputs, np.frombuffer(repr((encoder.model, encoder.heads.keys())).encode(), np.uint8)


def resume(config: TrainConfig) -> Any:
    """All that a resumed run begins with."""
    began: list[Any] = []

    def stop(self: loop.Loop, state: Any, *_: object) -> None:  # before the first step
        began.append([self.step, self.positions, self.checkpoints.best(), jax.device_get((state, self.frozen))])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "run", stop)
        run(replace(config, steps=6))
    return began


@contextmanager
def warnings_of(logger: logging.Logger) -> Iterator[list[str]]:
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def outcome(reading: Callable[[TrainConfig], Any], config: TrainConfig, path: Path, right: Any, *, sealed: bool) -> str:
    """What came of a reading with the damaged `path`: "right", "refused", "warned", else what was wrong with it.

    `sealed`: with digests of the damaged file, so that another result may be a right one and the file is not to blame.
    """
    began = time.perf_counter()
    with warnings_of(logging.getLogger("ctx_jax")) as said:
        try:
            got = reading(config)
        except CtxJaxError as error:
            verdict = "refused" if sealed or str(path) in str(error) else f"unnamed: {type(error).__name__}: {error}"
        except BaseException as error:
            verdict = f"raw: {type(error).__name__}: {error!s:.300}"
        else:
            warned = any(str(path) in line for line in said)
            verdict = "warned" if warned else "right" if sealed or same(got, right) else "silently another"
    if (took := time.perf_counter() - began) > SECONDS:
        verdict = f"took {took:.0f} s: {verdict}"
    return verdict


def files_of(run_dir: Path, reading: str) -> list[Path]:
    """The files of a run that are read, small ones as often as large ones."""
    unread = {".lock", *(("cache", "metrics.jsonl") if reading == "load" else ())}
    files = (path for path in run_dir.rglob("*") if path.is_file())
    return sorted(path for path in files if path.relative_to(run_dir).parts[0] not in unread)


READINGS: dict[str, Callable[[TrainConfig], Any]] = {"load": load, "resume": resume}


def restore(run_dir: Path, copy: Path, path: Path) -> None:
    """Make `copy` equal to `run_dir` again: its damaged file, the digests, and what a resumed run changes."""
    shutil.copy(run_dir / path.relative_to(copy), path) if path.parent.is_dir() else None
    before, after = ({one.relative_to(folder) for one in folder.rglob("*")} for folder in (run_dir, copy))
    changed = {Path(name) for name in ("config.json", "encoder.json", "metrics.jsonl")}
    changed |= {one for one in before if re.search(r"\.sha256|^cache", str(one)) and (run_dir / one).is_file()}
    for name in sorted(after - before, reverse=True):
        (copy / name).unlink() if (copy / name).is_file() else (copy / name).rmdir()
    for name in sorted(before - after | changed):
        (copy / name).mkdir() if (run_dir / name).is_dir() else shutil.copy(run_dir / name, copy / name)


def attempts(config: TrainConfig, reading: str, count: int, copy: Path) -> Counter[str]:
    """Damage `count` files of a run in turn, the others whole again, and count what came of it."""
    run_dir = Path(config.run_dir)
    shutil.copytree(run_dir, copy)
    right = READINGS[reading](replace(config, run_dir=str(copy)))
    files, randomness, found = files_of(run_dir, reading), random.Random(reading), Counter[str]()
    for number in range(count):
        path = copy / randomness.choice(files).relative_to(run_dir)
        content = mutations(path.read_bytes(), randomness)()
        path.unlink() if content is None else path.write_bytes(content)
        step = copy.joinpath(*path.relative_to(copy).parts[:2])
        sealed = step.is_dir() and digests.is_complete(step) and randomness.random() < 0.3
        if sealed:
            digests.write(step)
        verdict = outcome(READINGS[reading], replace(config, run_dir=str(copy)), path, right, sealed=sealed)
        restore(run_dir, copy, path)
        found[verdict if verdict in ("right", "refused", "warned") else f"{number} {path}: {verdict}"] += 1
    return found


@pytest.fixture(scope="module", params=["bilm", pytest.param("masked_lm", marks=pytest.mark.slow)])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return trained(tmp_path_factory.mktemp("trained"), request.param)


@pytest.mark.slow
@pytest.mark.parametrize("reading", READINGS)
def test_damage_is_named_or_does_not_matter(config: TrainConfig, reading: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = attempts(config, reading, COUNT or 12, tmp_path / "copy")
    print(f"{type(config.task).__name__}, {reading}: {dict(found.most_common(3))}")
    assert found.keys() <= {"right", "refused", "warned"}, "\n".join(found)
    assert not COUNT or found["refused"] > found.total() / 4  # some files are not read, some damage changes nothing
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < BYTES
