"""Frozen parameters: saved once, restored with the steps that were saved beside them, and with no others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ctx_jax.checkpoints import digests, run_files
from ctx_jax.checkpoints.frozen import frozen_digests, merge_params
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.distributed.sharding import AXIS, data_mesh
from ctx_jax.io.errors import InputError, MissingFileError

TRAINED = {
    "encoder": {"layer_1": {"kernel": np.full((2, 3), 2.0, np.float32)}},
    "head": {"label": np.ones(2, np.float32)},
}


def frozen_params(seed: int = 0, devices: int = 8) -> dict[str, Any]:
    """A table sharded over the devices and a replicated half-precision array."""
    mesh, random_numbers = data_mesh(jax.devices()[:devices]), np.random.default_rng(seed)
    table = random_numbers.normal(size=(16, 3)).astype(np.float32)
    scale = jnp.asarray(random_numbers.normal(size=3), jnp.bfloat16)
    return {
        "encoder": {
            "table": jax.device_put(table, NamedSharding(mesh, PartitionSpec(AXIS))),
            "layer_0": {"scale": jax.device_put(scale, NamedSharding(mesh, PartitionSpec()))},
        }
    }


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def check_equal(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for have, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert have.dtype == want.dtype and np.asarray(have).tobytes() == np.asarray(want).tobytes()


def save(run_dir: Path, seed: int = 0) -> Path:
    """A run with frozen parameters and two steps."""
    with RunCheckpoints(run_dir / "checkpoints", clean=True) as checkpoints:
        checkpoints.save_frozen(frozen_params(seed))
        for step in (1, 2):
            checkpoints.save(step, {"params": jax.tree.map(jnp.asarray, TRAINED)}, {}, files={"config.json": "{}"})
    return run_dir


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture
def run_dir(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


@pytest.mark.parametrize("devices", [8, 2, 1])
def test_frozen_parameters_come_back_bit_for_bit_on_any_devices(run_dir: Path, devices: int) -> None:
    wanted = frozen_params(devices=devices)
    with RunCheckpoints(run_dir / "checkpoints", clean=True) as checkpoints:
        found = checkpoints.restore_frozen(abstract(wanted))
    check_equal(found, wanted)
    assert len(found["encoder"]["table"].sharding.device_set) == devices


def test_a_step_holds_none_of_them_but_their_digests(run_dir: Path) -> None:
    kept = json.loads((run_dir / "checkpoints" / "1" / "files" / "files").read_text())
    assert kept == {"config.json": "{}", **frozen_digests(run_dir)}
    assert kept["frozen/0.sha256.json"] == (run_dir / "frozen" / "0.sha256.json").read_text()
    with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
        assert checkpoints.tree(1)["params"].keys() == {"encoder", "head"}
        assert checkpoints.tree(1)["params"]["encoder"].keys() == {"layer_1"}


def test_parameters_to_load_are_trained_and_frozen_in_one_tree(run_dir: Path) -> None:
    whole = merge_params(TRAINED, frozen_params())
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, whole))
    with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
        params = checkpoints.restore_params(2, shapes)
        check_equal(params, whole)
        assert {device for leaf in jax.tree.leaves(params) for device in leaf.devices()} == {jax.devices()[0]}
        with pytest.raises(InputError, match=r"missing there: params\.encoder\.other"):
            checkpoints.restore_params(2, merge_params(shapes, {"encoder": {"other": shapes["head"]["label"]}}))
        with pytest.raises(InputError, match=r"only there: params\.encoder\.layer_0\.scale"):
            checkpoints.restore_params(2, {"encoder": {"layer_1": whole["encoder"]["layer_1"]}, "head": whole["head"]})
        check_equal(checkpoints.restore_params(2, {"encoder": shapes["encoder"]}), whole)  # of any head


def test_of_the_trained_parameters_the_average_is_loaded(tmp_path: Path) -> None:
    trained = jax.tree.map(jnp.asarray, TRAINED)
    average = jax.tree.map(lambda leaf: leaf + 1, trained)
    with RunCheckpoints(tmp_path / "checkpoints", clean=True) as checkpoints:
        checkpoints.save_frozen(frozen_params())
        checkpoints.save(1, {"params": trained, "average": average}, {})
        check_equal(checkpoints.restore_params(1), merge_params(average, frozen_params()))


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def restores(run_dir: Path) -> None:
    """Both ways to restore step 2 of a run."""
    trained = jax.device_put(TRAINED, NamedSharding(data_mesh(jax.devices()), PartitionSpec()))
    refused = []
    with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
        for restore in (
            lambda: checkpoints.restore(2, {"params": abstract(trained)}),
            lambda: checkpoints.restore_params(2),
        ):
            try:
                restore()
            except (InputError, MissingFileError) as error:
                refused.append(error)
    if refused:
        assert len(refused) == 2 and str(refused[0]) == str(refused[1])
        raise refused[0]


def other_run(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "frozen")
    shutil.copytree(save(run_dir.parent / "other", seed=1) / "frozen", run_dir / "frozen")


def none_kept(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    with RunCheckpoints(run_dir.parent / "other" / "checkpoints", clean=True) as checkpoints:
        checkpoints.save(2, {"params": jax.tree.map(jnp.asarray, TRAINED)}, {})
    shutil.copytree(run_dir.parent / "other" / "checkpoints", run_dir / "checkpoints")


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (other_run, InputError),
        (none_kept, InputError),
        (lambda run_dir: shutil.rmtree(run_dir / "frozen"), MissingFileError),
        (lambda run_dir: digests.remove(run_dir / "frozen" / "0"), MissingFileError),
    ],
)
def test_a_step_is_restored_with_no_other_frozen_parameters(
    run_dir: Path, harm: Callable[[Path], None], error: type[Exception]
) -> None:
    restores(run_dir)
    harm(run_dir)
    with pytest.raises(error, match=r"frozen/0\.sha256\.json.*step 2"):
        restores(run_dir)


def test_damage_is_named_by_file(run_dir: Path) -> None:
    victim = largest(run_dir / "frozen" / "0" / "state")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    with RunCheckpoints(run_dir / "checkpoints", clean=True) as checkpoints:
        for restore in (
            lambda: checkpoints.restore_frozen(abstract(frozen_params())),
            lambda: checkpoints.restore_params(1),
        ):
            with pytest.raises(InputError, match="changed") as error:
                restore()
            assert str(victim) in str(error.value)


def test_other_arrays_are_refused_by_name(run_dir: Path) -> None:
    wanted = abstract(frozen_params())
    wanted["encoder"]["more"] = wanted["encoder"].pop("table")
    with (
        RunCheckpoints(run_dir / "checkpoints", clean=True) as checkpoints,
        pytest.raises(InputError, match=r"(?s)missing there: encoder\.more.*only there: encoder\.table"),
    ):
        checkpoints.restore_frozen(wanted)


def test_they_are_replaced_before_the_first_step_and_never_after(tmp_path: Path) -> None:
    """A run that was killed before its first step begins anew, maybe with other frozen parameters."""
    with RunCheckpoints(tmp_path / "checkpoints", clean=True) as checkpoints:
        assert frozen_digests(tmp_path) == {}
        checkpoints.save_frozen(frozen_params(1))
        before = frozen_digests(tmp_path)
        digests.remove(tmp_path / "frozen" / "0")  # as if killed
        assert frozen_digests(tmp_path) == {}
        checkpoints.save_frozen(frozen_params(0))
        assert frozen_digests(tmp_path) != before
        checkpoints.save(1, {"params": jnp.ones(2)}, {})
        checkpoints.wait()
        before = frozen_digests(tmp_path)
        checkpoints.save_frozen(frozen_params(1))
        assert frozen_digests(tmp_path) == before
        check_equal(checkpoints.restore_frozen(abstract(frozen_params())), frozen_params())
        shutil.rmtree(tmp_path / "frozen")
        with pytest.raises(InputError, match="step 1 of .* without frozen parameters"):
            checkpoints.save_frozen(frozen_params(1))


def test_an_array_is_trained_or_frozen_and_not_both() -> None:
    assert merge_params({"a": {"b": 1}}, {"a": {"c": 2}, "d": {}}) == {"a": {"b": 1, "c": 2}, "d": {}}
    for frozen in ({"a": {"b": 2}}, {"a": 2}):
        with pytest.raises(InputError, match="both trained and frozen"):
            merge_params({"a": {"b": 1}}, frozen)


def test_a_changed_file_of_the_run_is_named_with_what_changed(tmp_path: Path) -> None:
    before = {"steps": 1, "log": {"every": 1}, "task": {"evaluate": {"every": 1}, "depth": 2}, "seed": 0}
    kept = {"config.json": json.dumps(before), "encoder.json": "a\nb\n"}
    for name, text in kept.items():
        (tmp_path / name).write_text(text)
    run_files.check(tmp_path, kept, 40)
    may = {"steps": 2, "log": {"every": 2}, "task": {"depth": 2, "evaluate": {"every": 7}}}
    (tmp_path / "config.json").write_text(json.dumps(before | may))
    run_files.check(tmp_path, kept, 40)
    may["task"] = {"depth": 3, "evaluate": {"every": 7}}
    (tmp_path / "config.json").write_text(json.dumps(before | may | {"seed": 3}))
    with pytest.raises(InputError, match=r"config\.json .*step 40 .*: task\.depth was 2, is 3; seed was 0, is 3\."):
        run_files.check(tmp_path, kept, 40)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json .*JSON"):
        run_files.check(tmp_path, kept, 40)
    (tmp_path / "config.json").unlink()
    (tmp_path / "encoder.json").write_text("a\nc\n")
    with pytest.raises(InputError, match=r"encoder\.json .*line 2 differs"):
        run_files.check(tmp_path, kept, 40)
