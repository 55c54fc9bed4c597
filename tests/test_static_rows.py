"""Rows of a table's text that ran into one another: without a header nothing counts them."""

from pathlib import Path

import numpy as np
import pytest

from ctx_jax.encoders.static import read, write_text
from ctx_jax.io.errors import InputError

ROWS = [f"w{row} 0.25 -1.5 0.75\n" for row in range(9)]


@pytest.mark.parametrize("end", ["*", "J", "\x0b", "\x08", "\x1a", " "])
def test_a_damaged_line_end_makes_no_word_of_the_row_before(end: str, tmp_path: Path) -> None:
    """Most are one bit away from a line end."""
    path = tmp_path / "glove.txt"
    path.write_text("".join(ROWS[:4]).removesuffix("\n") + end + "".join(ROWS[4:]), newline="")
    with pytest.raises(InputError, match=r"glove.txt, line 4\b"):
        read(path)


def test_a_row_of_zeros_is_no_part_of_a_word(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("".join(ROWS).replace(ROWS[3], "\0" * len(ROWS[3])), newline="")
    with pytest.raises(InputError, match=r"glove.txt, line 4\b"):
        read(path)


@pytest.mark.parametrize("word", ["a 1.5 b", "a \x08b", "a\0b", "a 1.5"])
def test_words_that_could_not_be_read_back_are_not_written(word: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"glove.txt"):
        write_text(tmp_path / "glove.txt", [word], np.ones((1, 2)), header=False)


def test_a_header_counts_the_rows_so_that_words_may_hold_numbers(tmp_path: Path) -> None:
    write_text(tmp_path / "table.vec", ["version 1.5 b"], np.ones((1, 2)))
    found = read(tmp_path / "table.vec")
    assert found is not None and found.processor.words == ("version 1.5 b",)
