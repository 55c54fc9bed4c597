"""Sentences and words of prose, by examples a reader would agree with and by laws."""

# ruff: noqa: RUF001 (typographic quotes are what is split)

import pytest

from ctx_jax.tokenizers.words import split_sentences, split_words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Dr. Smith didn't pay $1,000.", "Dr. Smith did n't pay $ 1,000 ."),
        ("It's 3.5% (or so), they’ll say!", "It 's 3.5 % ( or so ) , they ’ll say !"),
        ("Use e.g. os.path or low-level I/O...", "Use e.g. os.path or low-level I / O ..."),
        ('"Why?" he asked; "see Fig. 3."', '" Why ? " he asked ; " see Fig. 3 . "'),
        ("He left the U.S. in 1999 — on the 2nd.", "He left the U.S. in 1999 — on the 2nd ."),
        ("The answer is no.", "The answer is no ."),
        ("Mail a.b@c.org or see https://a.org/x.html.", "Mail a.b@c.org or see https://a.org/x.html ."),
        ("'Quoted' words, cannot", "' Quoted ' words , cannot"),
        ("日本語 naïve", "日本語 naïve"),
        ("x->y, a==b", "x -> y , a == b"),
    ],
)
def test_prose_words(line: str, words: str) -> None:
    assert split_words(line, "prose") == words.split()


def test_prose_keeps_every_character_that_is_not_white_space() -> None:
    line = "It's Mr. O'Neil's “3rd” e.g. (U.S.A.) test -- isn't it?! No. 5, etc.; http://x.y/z?a=b&c. 🙂 ... l'été"
    assert "".join(split_words(line, "prose")) == "".join(line.split())


def test_prose_words_of_words_are_the_same_words() -> None:
    words = split_words("He said, 'it isn't U.S. No. 7 (e.g. os.path) ... ok.'", "prose")
    assert split_words(" ".join(words), "whitespace") == words


def test_whitespace_is_a_pass_through() -> None:
    assert split_words(" a  b.\tc\u3000d\n", "whitespace") == ["a", "b.", "c", "d"]
    assert split_words("", "whitespace") == [] == split_words(" ", "prose")
    with pytest.raises(ValueError, match='rule must be "whitespace" or "prose", got'):
        split_words("a", "moses")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sentences",
    [
        ["He met Dr. Who.", '"Why?" she asked... and 3.5 hours passed.', "Then he left."],
        [
            "See No. 5 and Fig. 3.",
            "I said no.",
            "He isn't.",
            "Stay!",
            "(It was J. R. R. Tolkien.)",
            "Really?!",
            "“Yes.”",
        ],
        ["The U.S. Army, e.g. the cavalry etc. was there.", "Files, folders, etc.", "Call os.path.join. not this."],
        ["No stop at the end"],
        [],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


@pytest.mark.parametrize("piece", ["word ", "a", ".", "a.", ".'", "U.S. ", "<", "1.", "http://", "a@", "- "])
def test_a_line_of_a_hundred_thousand_characters_is_read_in_full(piece: str) -> None:
    line = (piece * 100_000)[:100_000]
    words = split_words(line, "prose")
    assert "".join(words) == "".join(line.split())
    assert "".join("".join(split_sentences(line)).split()) == "".join(line.split())
