"""Mixes on disk: what is saved is loaded, what is damaged is refused by file and key, and training starts from one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from label_runs import arrays, config, make_place
from safetensors.numpy import load_file, save_file

import ctx_jax
from ctx_jax.io.errors import ConfigError, InputError, InputTypeError, MissingFileError
from ctx_jax.training.run import run

WEIGHTS, GAMMA = np.float32([0.1, -2.5, 3e-8]), np.float32(1.7)
MIX: Any = {"weights": WEIGHTS, "gamma": GAMMA}


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_what_is_saved_is_loaded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mix{suffix}"
    ctx_jax.save_mix(path, ctx_jax.init_mix(2))
    ctx_jax.save_mix(path, MIX)  # replaces it
    found = ctx_jax.load_mix(path)
    assert [*tmp_path.iterdir()] == [path] and {*found} == {"weights", "gamma"}
    for name, expected in MIX.items():
        np.testing.assert_array_equal(np.asarray(found[name]), expected)  # type: ignore[literal-required]
    values = np.random.default_rng(0).normal(size=(3, 1, 2, 4)).astype(np.float32)
    shares = np.exp(WEIGHTS) / np.exp(WEIGHTS).sum()
    np.testing.assert_allclose(
        ctx_jax.mix(values, found), GAMMA * np.einsum("l,lbtd->btd", shares, values), atol=1e-6, rtol=1e-5
    )


def test_the_files_are_what_other_programs_read_and_write(tmp_path: Path) -> None:
    ctx_jax.save_mix(tmp_path / "mix.json", MIX)
    assert json.loads((tmp_path / "mix.json").read_text()) == {"weights": WEIGHTS.tolist(), "gamma": GAMMA.item()}
    ctx_jax.save_mix(tmp_path / "mix.safetensors", MIX)
    found = load_file(tmp_path / "mix.safetensors")
    assert found["weights"].dtype == found["gamma"].dtype == np.float32 and found["gamma"].shape == ()
    (tmp_path / "mix.json").write_text('{"gamma": 2, "weights": [1, 0]}')
    assert float(ctx_jax.load_mix(tmp_path / "mix.json")["gamma"]) == 2


@pytest.mark.parametrize(
    "content, key",
    [
        ('{"weights": [0.0], "gamma": 1.0, "bias": 0.0}', "bias"),
        ('{"weights": [0.0]}', "gamma"),
        ('{"gamma": 1.0}', "weights"),
        ('{"weights": [], "gamma": 1.0}', "weights"),
        ('{"weights": [[0.0]], "gamma": 1.0}', "weights"),
        ('{"weights": 0.0, "gamma": 1.0}', "weights"),
        ('{"weights": [0.0], "gamma": [1.0]}', "gamma"),
        ('{"weights": [NaN], "gamma": 1.0}', "weights"),
        ('{"weights": [0.0], "gamma": Infinity}', "gamma"),
        ('{"weights": [1e39], "gamma": 1.0}', "weights"),
        (f'{{"weights": [1{"0" * 400}], "gamma": 1.0}}', "weights"),
        ('{"weights": ["0"], "gamma": 1.0}', "weights"),
        ('{"weights": [true], "gamma": 1.0}', "weights"),
        ('{"weights": [0.0], "gamma": null}', "gamma"),
        ('{"weights": [0.0], "gam', "JSON"),
        ("[1.0]", "object"),
    ],
)
def test_damaged_json_is_refused_by_file_and_key(tmp_path: Path, content: str, key: str) -> None:
    path = tmp_path / "mix.json"
    path.write_text(content)
    with pytest.raises(InputError, match=key) as caught:
        ctx_jax.load_mix(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "change, key",
    [
        ({"extra": WEIGHTS}, "extra"),
        ({"weights": WEIGHTS[None]}, "weights"),
        ({"gamma": np.float32([1])}, "gamma"),
        ({"weights": np.arange(3)}, "weights"),
        ({"gamma": np.float32(np.nan)}, "gamma"),
        ({"weights": np.float64([1e39])}, "weights"),
    ],
)
def test_damaged_safetensors_are_refused_by_file_and_key(tmp_path: Path, change: Any, key: str) -> None:
    path = tmp_path / "mix.safetensors"
    save_file({name: np.asarray(array) for name, array in {**MIX, **change}.items()}, path)
    with pytest.raises(InputError, match=key) as caught:
        ctx_jax.load_mix(path)
    assert str(path) in str(caught.value)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match="mix.safetensors"):
        ctx_jax.load_mix(path)


def test_what_is_no_mix_is_neither_written_nor_read(tmp_path: Path) -> None:
    for name, mixing in (("mix.txt", MIX), ("mix.json", {**MIX, "gamma": np.float32(np.inf)}), ("mix.json", {})):
        with pytest.raises(InputError):
            ctx_jax.save_mix(tmp_path / name, mixing)
    with pytest.raises(InputTypeError):
        ctx_jax.save_mix(tmp_path / "mix.json", WEIGHTS)  # type: ignore[arg-type]
    assert not [*tmp_path.iterdir()]
    with pytest.raises(MissingFileError, match="nowhere"):
        ctx_jax.load_mix(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="no run"):
        ctx_jax.load_mix(tmp_path)


@pytest.mark.slow
def test_a_run_starts_from_a_saved_mix_and_gives_its_own(tmp_path: Path) -> None:
    """A table's mix, of one layer, whose gamma alone learns."""
    place, path, mixing = make_place(tmp_path), tmp_path / "mix.json", {**MIX, "weights": WEIGHTS[:1]}
    ctx_jax.save_mix(path, mixing)
    settings = config(place, tmp_path / "run", encoder="table.vec", mix=str(path), mix_rate=0.0)
    assert run(replace(settings, steps=2))
    path.unlink()  # a resumed run needs it no longer
    assert run(replace(settings, steps=3))
    stored, loaded = arrays(tmp_path / "run", 3), ctx_jax.load_mix(tmp_path / "run")
    for name, expected in mixing.items():
        np.testing.assert_array_equal(stored[f"['head']['mix']['{name}']"], expected)
        np.testing.assert_array_equal(loaded[name], expected)  # type: ignore[literal-required]
    learning = replace(settings.task, mix=str(tmp_path / "run"), mix_rate=10.0)
    assert run(replace(settings, run_dir=str(tmp_path / "other"), task=learning))
    gamma = float(ctx_jax.load_mix(tmp_path / "other", step="latest")["gamma"])
    assert 0 < abs(gamma - GAMMA) < 0.6


@pytest.mark.slow
def test_a_mix_that_does_not_fit_is_refused_by_its_setting(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    ctx_jax.save_mix(tmp_path / "mix.json", jax.device_get(ctx_jax.init_mix(2)))
    for changes, what in (({}, "2 layers"), ({"layers": "last"}, "last"), ({"mix": "nowhere.json"}, "nowhere")):
        settings = config(place, tmp_path / "run", **{"mix": str(tmp_path / "mix.json"), **changes})
        with pytest.raises(ConfigError, match=what) as caught:
            run(settings)
        assert caught.value.field == "mix"
