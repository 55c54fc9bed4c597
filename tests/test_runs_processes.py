"""Checkpoints across processes: one that ends, two that write together, one that is killed in mid-save, and a folder
that is removed under a run."""

import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.checkpoints import digests
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.io.errors import RunError

pytestmark = pytest.mark.slow

TRAIN = textwrap.dedent("""
    import sys, jax, jax.numpy as jnp
    from ctx_jax.checkpoints.runs import RunCheckpoints
    with RunCheckpoints(sys.argv[1], keep=2, clean=True) as checkpoints:
        start = 1 + (checkpoints.latest() or 0)
        for step in range(start, start + int(sys.argv[2])):
            state = {"params": {str(i): jnp.full((400, 500), step, jnp.float32) for i in range(4)}}
            checkpoints.save(step, state, {"next": step})
            print(step, flush=True)
""")

TWO_PROCESSES = textwrap.dedent("""
    import sys, jax, numpy as np
    from pathlib import Path
    from jax.experimental.multihost_utils import sync_global_devices
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from ctx_jax.checkpoints import digests
    from ctx_jax.checkpoints.runs import RunCheckpoints
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]), heartbeat_timeout_seconds=20)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    carry = np.arange(8, dtype=np.float32)
    frozen = {"encoder": {"table": jax.make_array_from_callback((8,), rows, lambda index: carry[index] + 1)}}
    with RunCheckpoints(sys.argv[1], keep=1, clean=True) as checkpoints:
        checkpoints.save_frozen(frozen)
        for step in (1, 2):
            array = jax.make_array_from_callback((8,), rows, lambda index: carry[index] * step)
            checkpoints.save(step, {"params": {"w": array}}, {"next": np.array(step)}, {"loss": 3.0 - step})
        checkpoints.wait()
        assert checkpoints.steps() == [2], checkpoints.steps()
        abstract = jax.ShapeDtypeStruct((8,), np.float32, sharding=rows)
        state, position = checkpoints.restore(2, {"params": {"w": abstract}})
        restored = checkpoints.restore_frozen({"encoder": {"table": abstract}})["encoder"]["table"]
        for shard in restored.addressable_shards:
            assert np.array_equal(shard.data, carry[shard.index] + 1)
        for shard in state["params"]["w"].addressable_shards:
            assert np.array_equal(shard.data, 2 * carry[shard.index])
        assert position == {"next": 2}
        first, verify, verified = jax.process_index() == 0, digests.verify, []
        digests.verify = lambda step: verified.append(step) or verify(step)
        kept = Path(sys.argv[1], "2", "position", "position")
        whole = kept.read_bytes()
        if first:
            kept.write_bytes(whole + b" ")
        try:
            checkpoints.restore(2, {"params": {"w": abstract}})
        except (ValueError, RuntimeError) as error:
            assert ("step 2 is damaged" if first else "process 0 of the job has stopped") in str(error), error
        else:
            raise AssertionError("a damaged step was restored")
        assert len(verified) == first, "every process has read the whole step"
        if first:
            kept.write_bytes(whole)
    for reader in range(2):  # each in its turn, while the other waits at an unrelated barrier
        if jax.process_index() == reader:
            with RunCheckpoints(sys.argv[1]) as checkpoints:
                best = checkpoints.best()
                params = checkpoints.restore_params(best)
                assert params["w"].tolist() == (2 * carry).tolist()
                assert params["encoder"]["table"].tolist() == (carry + 1).tolist()
                one = jax.sharding.SingleDeviceSharding(jax.local_devices()[-1])
                abstract = jax.ShapeDtypeStruct((8,), np.float32, sharding=one)
                state, _ = checkpoints.restore(best, {"params": {"w": abstract}})
                assert np.array_equal(state["params"]["w"], 2 * carry)
        sync_global_devices(f"process {reader} has read")
""")


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_process_that_ends_completes_its_last_save_and_says_nothing(tmp_path: Path) -> None:
    output, errors = start(TRAIN, tmp_path / "c", 2).communicate(timeout=120)
    assert (output.split(), errors) == (["1", "2"], "")
    with RunCheckpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps() == [1, 2]


def test_two_processes_write_one_checkpoint_that_each_of_them_and_a_third_reads_alone(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start(TWO_PROCESSES, tmp_path / "c", address, process) for process in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert [path.name for path in digests.all_paths(tmp_path / "c" / "2")] == ["2.sha256.json", "2.sha256.1.json"]
    frozen = digests.all_paths(tmp_path / "frozen" / "0")
    assert [path.name for path in frozen] == ["0.sha256.json", "0.sha256.1.json"]
    with RunCheckpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore_params(2)["w"].tolist() == [2 * i for i in range(8)]
        frozen[1].write_text(frozen[1].read_text() + " ")
        with pytest.raises(ValueError, match=r"0\.sha256\.1\.json"):
            checkpoints.restore_params(2)


def test_killed_in_mid_save_the_last_complete_step_is_whole(tmp_path: Path) -> None:
    folder, moments, last, torn = tmp_path / "c", random.Random(5), 0, 0
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = jax.ShapeDtypeStruct((400, 500), jnp.float32, sharding=one)
    for _ in range(5):
        process = start(TRAIN, folder, 1000)
        assert process.stdout is not None
        for _ in range(2):  # the second one is begun when the first one is complete
            process.stdout.readline()
        time.sleep(moments.uniform(0.2, 0.8))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with RunCheckpoints(folder) as checkpoints:
            torn += sum(path.is_dir() for path in folder.iterdir()) - len(checkpoints.steps())
            step = checkpoints.latest()
            assert step is not None
            assert step > last
            last = step
            for complete in checkpoints.steps():
                state, left = checkpoints.restore(complete, {"params": {str(i): shape for i in range(4)}})
                assert left == {"next": complete}
                assert all(np.all(np.asarray(leaf) == complete) for leaf in jax.tree.leaves(state))
    assert torn > 0, "no kill hit a save: nothing was tested"


def test_a_folder_that_is_removed_under_a_run_is_not_made_again(tmp_path: Path) -> None:
    with RunCheckpoints(tmp_path / "c", clean=True) as training:
        training.save(1, {"params": jnp.ones(2)}, {})
        training.wait()
        shutil.rmtree(tmp_path / "c")
        with pytest.raises(RunError, match=str(tmp_path / "c")):
            training.save(2, {"params": jnp.ones(2)}, {})
    assert not (tmp_path / "c").exists()
