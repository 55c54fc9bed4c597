"""A damaged file is refused by name or read rightly: a short part here, the whole where it is asked for.

    CTX_JAX_MUTATIONS=2000 pytest -m mutations

examines so many mutations for each reader, in processes that may crash, hang or fill the memory.
"""

import os
from pathlib import Path

import pytest
from mutation_cases import CASES
from mutations import GOOD, Case, examine, run_whole

SHORT = 50
WHOLE = int(os.environ.get("CTX_JAX_MUTATIONS", "0"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_damaged_files_are_refused_by_name_or_read(case: Case, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "damaged"
    for each in (whole, folder):
        each.mkdir()
        case.make_folder(each)
    verdicts = {seed: examine(case, whole, folder, seed) for seed in range(SHORT)}
    assert {seed: verdict for seed, verdict in verdicts.items() if verdict not in GOOD} == {}
    assert "refused" in verdicts.values()


@pytest.mark.mutations
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_many_damaged_files_in_a_process_of_its_own(case: Case) -> None:
    good, bad = run_whole(case.name, WHOLE)
    assert bad == {}
    assert good.total() == WHOLE
