"""Checkpoints: what was saved comes back bit for bit on any devices, and what is incomplete or damaged never does."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ctx_jax.checkpoints import digests, runs
from ctx_jax.checkpoints.runs import RunCheckpoints


class State(NamedTuple):
    step: jax.Array
    params: dict[str, Any]
    optimizer: Any
    carry: Any


def sharding(devices: int, *axes: str) -> NamedSharding:
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(*axes))


def make(seed: int = 0, devices: int = 8) -> State:
    """Replicated parameters and optimizer, a carry sharded by rows, and the empty corners of optax's states."""
    random_numbers = np.random.default_rng(seed)
    params = {
        "cnn": {"w": random_numbers.normal(size=(3, 4)).astype(np.float32)},
        "half": jnp.asarray(random_numbers.normal(size=5), jnp.bfloat16),
    }
    optimizer = optax.chain(optax.clip(1.0), optax.adagrad(0.1)).init(params)
    carry = {"forward": ({"c": random_numbers.normal(size=(8, 3)).astype(np.float32)},), "backward": None}
    replicated = jax.device_put((jnp.asarray(seed, jnp.int32), params, optimizer), sharding(devices))
    return State(*replicated, jax.device_put(carry, sharding(devices, "data")))


def abstract(state: State, devices: int) -> State:
    def leaf(array: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding(devices, *array.sharding.spec))

    return jax.tree.map(leaf, state)


def position(seed: int = 0) -> dict[str, np.ndarray]:
    return {
        "next": np.array(7 + seed, np.int64),
        "key": np.array([2**64 - 1, seed], np.uint64),
        "lanes": np.arange(6, dtype=np.int32).reshape(2, 3),
        "none": np.zeros((0, 2), np.float64),
    }


def check_equal(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for have, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert have.dtype == want.dtype
        assert have.shape == want.shape
        assert np.asarray(have).tobytes() == np.asarray(want).tobytes()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1, 2 and 3 of states made from their numbers."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with RunCheckpoints(folder, clean=True) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make(step), position(step), {"loss": 3.0 - step})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.fixture
def checkpoints(folder: Path) -> Iterator[RunCheckpoints]:
    with RunCheckpoints(folder) as opened:
        yield opened


@pytest.mark.parametrize("devices", [8, 4, 2, 1])
def test_saved_on_eight_devices_restored_bit_for_bit_on_fewer(checkpoints: RunCheckpoints, devices: int) -> None:
    wanted = make(2)
    state, left = checkpoints.restore(2, abstract(wanted, devices))
    check_equal(state, wanted)
    check_equal(left, position(2))
    assert len(state.carry["forward"][0]["c"].sharding.device_set) == devices


def test_saved_on_one_device_restored_on_eight(tmp_path: Path) -> None:
    with RunCheckpoints(tmp_path / "c", clean=True) as checkpoints:
        checkpoints.save(0, make(devices=1), position())
        state, _ = checkpoints.restore(0, abstract(make(), 8))
    check_equal(state, make())


def test_parameters_alone_need_no_optimizer_and_no_model(checkpoints: RunCheckpoints) -> None:
    params = checkpoints.restore_params(3)
    check_equal(params, make(3).params)
    assert {device for leaf in jax.tree.leaves(params) for device in leaf.devices()} == {jax.devices()[0]}


def test_donated_buffers_do_not_reach_the_checkpoint(tmp_path: Path) -> None:
    state = {"params": {"w": jax.device_put(jnp.ones((64, 1024)), sharding(8, "data"))}}
    step = jax.jit(lambda state: jax.tree.map(lambda x: x * 2, state), donate_argnums=0)
    with RunCheckpoints(tmp_path / "c", clean=True) as checkpoints:
        for number in range(3):
            checkpoints.save(number, state, {})
            for _ in range(4):
                state = step(state)
        for number in range(3):
            assert np.unique(checkpoints.restore_params(number)["w"]).tolist() == [16.0**number]


def test_the_last_and_the_best_are_kept_and_the_digests_go_with_the_others(tmp_path: Path) -> None:
    losses = [None, 0.5, 2.0, float("nan"), None, 0.7]
    with RunCheckpoints(tmp_path / "c", keep=2, clean=True) as checkpoints:
        for step, loss in enumerate(losses):
            checkpoints.save(step, {"params": jnp.ones(2)}, {}, None if loss is None else {"loss": loss})
        checkpoints.save(5, {"params": jnp.zeros(2)}, {})  # saved already: stays as it is
        checkpoints.wait()
        assert checkpoints.steps() == [1, 4, 5]
        assert (checkpoints.latest(), checkpoints.best()) == (5, 1)
        assert checkpoints.restore_params(5).tolist() == [1, 1]
        assert checkpoints.metrics(4) is None
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        *("1", "1.sha256.json", "4", "4.sha256.json", "5", "5.sha256.json")
    ]


def test_an_old_step_that_cannot_be_removed_is_logged_and_the_new_one_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    with RunCheckpoints(tmp_path / "c", keep=1, clean=True) as checkpoints:
        with monkeypatch.context() as patched:
            patched.setattr(runs, "remove_step", busy)
            for step in (1, 2):
                checkpoints.save(step, {"params": jnp.ones(2)}, {})
            checkpoints.wait()
        assert "an old step could not be removed" in caplog.text and "busy" in caplog.text
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(3, {"params": jnp.ones(2)}, {})
        checkpoints.wait()
        assert checkpoints.steps() == [3]


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(("harm", "word"), [(flip, "changed"), (truncate, "truncated"), (Path.unlink, "missing")])
def test_a_damaged_step_is_refused_by_file_and_the_intact_one_before_is_offered(
    checkpoints: RunCheckpoints, folder: Path, harm: Any, word: str
) -> None:
    victim = largest(folder / "3" / "state")
    harm(victim)
    harm(largest(folder / "2" / "state"))
    for restore in (lambda: checkpoints.restore(3, abstract(make(), 8)), lambda: checkpoints.restore_params(3)):
        with pytest.raises(ValueError) as error:
            restore()
        for words in ("step 3", str(victim), word, "Step 1", "step=1"):
            assert words in str(error.value)
    check_equal(checkpoints.restore_params(1), make(1).params)


def test_every_file_of_a_step_is_guarded(folder: Path) -> None:
    step = folder / "3"
    digests.verify(step)
    for path in [path for path in step.rglob("*") if path.is_file() and path.stat().st_size]:
        whole = path.read_bytes()
        flip(path)
        with pytest.raises(digests.DamagedFile, match="changed") as error:
            digests.verify(step)
        assert str(path) in str(error.value)
        path.write_bytes(whole)
    listing = digests.path_of(step)
    whole = listing.read_text()
    content = json.loads(whole)
    del content["files"]["state/_METADATA"]
    for text in ("{", json.dumps(content, indent=1) + "\n", whole.replace("a", "b", 1), whole + "\n"):
        listing.write_text(text)
        with pytest.raises(digests.DamagedFile, match=r"3\.sha256\.json:"):
            digests.verify(step)


def test_a_step_without_digest_does_not_count_and_only_training_removes_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digests.path_of(folder / "3").unlink()
    shutil.copytree(folder / "2", folder / "4.orbax-checkpoint-tmp")
    shutil.copytree(folder / "2", folder / "2.orbax-checkpoint-tmp-77")
    (folder / "9.sha256.json").write_text("{}")
    (folder / ".2.sha256.json.partial-12ab").write_text("{")
    (folder / "notes.txt").write_text("mine")
    before = tree(folder)
    with RunCheckpoints(folder) as reading:
        assert (reading.steps(), reading.best()) == ([1, 2], 2)
        check_equal(reading.restore_params(2), make(2).params)
        with pytest.raises(FileNotFoundError, match="complete step 3; it has 1, 2"):
            reading.restore_params(3)
        with pytest.raises(ValueError, match="clean=True"):
            reading.save(4, {"params": jnp.ones(2)}, {})
    assert tree(folder) == before
    assert caplog.text.count("incomplete step 3") == 1
    with RunCheckpoints(folder, clean=True) as training:
        assert caplog.text.count("incomplete step 3") == 2
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["1", "1.sha256.json", "2", "2.sha256.json", "notes.txt"]
        training.save(3, make(3), position(3))
        training.wait()
        assert training.steps() == [1, 2, 3]


def test_reading_a_folder_that_is_not_there_creates_nothing(tmp_path: Path) -> None:
    with RunCheckpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(FileNotFoundError, match="none"):
            checkpoints.restore_params(1)
    assert not (tmp_path / "c").exists()


def test_orbax_is_silent_only_while_checkpoints_are_open(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def logged() -> bool:
        caplog.clear()
        record = logging.LogRecord("absl", logging.WARNING, ocp.__file__, 1, "theirs", None, None)
        logging.getLogger("absl").handle(record)
        return "theirs" in caplog.text

    assert logged()
    with RunCheckpoints(folder) as outer:
        with RunCheckpoints(folder):
            assert not logged()
        outer.close()
        assert logged(), "the filter of the first one is left"
        with RunCheckpoints(folder):
            outer.close()
            assert not logged()
    (folder.parent / "file").touch()
    with pytest.raises(OSError, match="file"):
        RunCheckpoints(folder.parent / "file" / "c", clean=True)
    assert logged()


def test_another_state_is_refused_by_name(checkpoints: RunCheckpoints) -> None:
    wanted = abstract(make(), 8)
    extra = wanted._replace(params={"cnn": {"w": jax.ShapeDtypeStruct((3, 5), jnp.float32, sharding=sharding(8))}})
    extra.params["bias"] = extra.params["cnn"]["w"]
    with pytest.raises(ValueError) as error:
        checkpoints.restore(3, extra)
    for words in (
        "missing there: params.bias",
        "only there: params.half",
        "params.cnn.w: needs float32 [3, 5], has float32 [3, 4]",
    ):
        assert words in str(error.value)
    with pytest.raises(ValueError, match=r"sharding.*step"):
        checkpoints.restore(3, wanted._replace(step=jax.ShapeDtypeStruct((), jnp.int32)))


def test_a_save_that_fails_is_raised_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Path:
        raise OSError("No space left on device")

    with RunCheckpoints(tmp_path / "c", clean=True) as checkpoints:
        checkpoints.save(1, {"params": jnp.ones(2)}, {})
        checkpoints.wait()
        monkeypatch.setattr(digests, "write", full)
        checkpoints.save(2, {"params": jnp.ones(2)}, {})
        with pytest.raises(RuntimeError, match=r"checkpoint-2.*No space left.*last complete step is 1"):
            checkpoints.wait()
        assert checkpoints.steps() == [1]


def test_after_a_save_that_orbax_could_not_write_one_clear_error_is_left_and_no_half_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(manager: Any, *_: object) -> None:
        manager._checkpointer.wait_until_finished()
        raise ValueError("RESOURCE_EXHAUSTED")

    def save(step: int) -> None:
        with RunCheckpoints(tmp_path / "c", clean=True) as checkpoints:
            checkpoints.save(step, {"params": jnp.ones(2)}, {})

    def save_and_fail() -> None:
        with RunCheckpoints(tmp_path / "c", clean=True) as checkpoints:
            checkpoints.save(2, {"params": jnp.ones(2)}, {})
            raise KeyError("what went wrong first")

    save(1)
    monkeypatch.setattr(ocp.CheckpointManager, "_finalize", full)
    # The error of the save, and not Orbax's, which its manager raises again when it is closed.
    with pytest.raises(RuntimeError, match=r"checkpoint-2 could not be written.*last complete step is 1"):
        save(2)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "1.sha256.json"]
    assert caplog.text.count("checkpoint-2 could not be written") == 1
    with pytest.raises(KeyError, match="what went wrong first"):
        save_and_fail()
    assert caplog.text.count("checkpoint-2 could not be written") == 2


def test_digests_of_several_processes_make_a_step_complete_only_together(folder: Path) -> None:
    step = folder / "3"
    digests.remove(step)
    theirs = step / "state" / "ocdbt.process_1"
    shutil.copytree(step / "state" / "ocdbt.process_0", theirs)
    digests.write(step, process=1, processes=2)
    assert not digests.is_complete(step)
    digests.write(step, process=0, processes=2)
    assert digests.is_complete(step)
    mine, others = (json.loads(path.read_text())["files"] for path in digests.all_paths(step))
    assert not mine.keys() & others.keys()
    assert {step / name for name in others} == {path for path in theirs.rglob("*") if path.is_file()}
    digests.verify(step)
    flip(largest(theirs))
    with pytest.raises(digests.DamagedFile, match="process_1"):
        digests.verify(step)
    digests.path_of(step, 1).unlink()
    assert digests.is_complete(step), "it was complete once: not to be left out in silence"
    with pytest.raises(digests.DamagedFile, match=r"3\.sha256\.1\.json: missing"):
        digests.verify(step)
