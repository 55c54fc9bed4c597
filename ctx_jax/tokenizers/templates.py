"""The special tokens of the families of tokenizers, and how they stand around one text and two."""

from dataclasses import dataclass, fields
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, processors

from ctx_jax.io.errors import InputError


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that are no text, by what they do. `mask` is None where the family has none (GPT-2)."""

    pad: str
    unknown: str
    begin: str  # BERT's [CLS]
    end: str  # BERT's [SEP]
    mask: str | None

    def roles(self) -> dict[str, str]:
        """Role to token, the absent mask left out."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return {role: token for role, token in given.items() if token is not None}


BERT = SpecialTokens("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = SpecialTokens("<pad>", "<unk>", "<s>", "</s>", "<mask>")
_END = "<|endoftext|>"
GPT2 = SpecialTokens(_END, _END, _END, _END, None)
GPT = SpecialTokens("<unk>", "<unk>", "<unk>", "<unk>", None)


class PairLayout(NamedTuple):
    """How two texts stand in a row: `begin A end ... end B end`."""

    separators: int  # end tokens between the texts: BERT's one, RoBERTa's two
    second_type: int  # the token type of B and of the end after it; all before are of type 0


def template(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(ids before, ids after) that the tokenizer's post-processor puts around one sentence."""
    count = tokenizer.num_special_tokens_to_add(False)
    if count == 0:
        return (), ()
    one = tokenizer.encode("a", add_special_tokens=True)
    begin, end = one.ids[0], one.ids[-1]
    if count == 2:
        return (begin,), (end,)
    if count == 1:
        return ((begin,), ()) if one.special_tokens_mask[0] else ((), (end,))
    raise InputError(f"the tokenizer puts {count} special tokens around a sentence; at most one on each side is read")


def pair_layout(tokenizer: Tokenizer, begin: int, end: int) -> PairLayout:
    """How the tokenizer's post-processor lays two texts; ValueError unless it is `begin A end ... end B end`."""
    both = tokenizer.encode("a", "a", add_special_tokens=True)
    text = [place for place, special in enumerate(both.special_tokens_mask) if not special]
    half = len(text) // 2
    separators = text[half] - text[half - 1] - 1 if half else 0
    layout = PairLayout(separators, both.type_ids[-1])
    ids = [both.ids[place] for place in text]
    ids = [begin, *ids[:half], *[end] * separators, *ids[half:], end]
    types = [0] * (1 + half + separators) + [layout.second_type] * (half + 1)
    if separators < 1 or both.ids != ids or both.type_ids != types:
        raise InputError(
            "pairs are trained as `begin A end B end`, or with two ends between, but the tokenizer lays `a` and `a` as "
            f"{both.tokens} of types {both.type_ids}: choose another --sequences.form or --tokenizer.file"
        )
    return layout


def surround(
    tokenizer: Tokenizer,
    special: SpecialTokens,
    *,
    mask_takes_space: bool,
    add_missing: bool = False,
    second_type: int = 0,
) -> None:
    """Make the special tokens known and put begin and end around sentences, as the family does for one and for two.

    `[CLS] A [SEP] B [SEP]` with B of type 1 for BERT's tokens, else RoBERTa's `<s> A </s> </s> B </s>` with B of
    `second_type`, which is 0 in RoBERTa's own files.
    `mask_takes_space`: the mask swallows the space before it, as a word's first piece does in RoBERTa and kin.

    Raises ValueError naming each token that is not in the vocabulary, unless `add_missing` gives it a new id.
    """
    roles = special.roles()
    lacking = [f"{role} ({token})" for role, token in roles.items() if tokenizer.token_to_id(token) is None]
    if lacking and not add_missing:
        raise InputError(f"the tokenizer lacks special tokens: {', '.join(lacking)}; add each, or name the ones it has")
    tokenizer.add_special_tokens(
        [AddedToken(token, lstrip=mask_takes_space and role == "mask") for role, token in roles.items()]
    )
    begin, end = special.begin, special.end
    if begin == BERT.begin:
        pair = f"{begin} $A {end} $B:1 {end}:1"
    else:
        pair = f"{begin} $A {end} {end} $B:{second_type} {end}:{second_type}"
    ends = [(token, tokenizer.token_to_id(token)) for token in (begin, end)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{begin} $A {end}", pair, ends)
