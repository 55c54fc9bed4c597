"""The special tokens of each family of tokenizers, and the post-processors that put them around one text and two."""

from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from tokenizers import Tokenizer, processors

from ctx_jax.io.errors import InputError


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens by their roles. `mask` is None where the family has none (GPT-2)."""

    pad: str
    unknown: str
    begin: str  # BERT's [CLS]
    end: str  # BERT's [SEP]
    mask: str | None

    def roles(self) -> dict[str, str]:
        """Role to token, without the mask where there is none."""
        return {role: token for role, token in asdict(self).items() if token is not None}

    def missing(self, tokenizer: Tokenizer) -> list[str]:
        """The tokens that the tokenizer does not have, as "role (token)"."""
        return [f"{role} ({token:.80})" for role, token in self.roles().items() if tokenizer.token_to_id(token) is None]


BERT = SpecialTokens("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = SpecialTokens("<pad>", "<unk>", "<s>", "</s>", "<mask>")
_END = "<|endoftext|>"
GPT2 = SpecialTokens(_END, _END, _END, _END, None)
GPT = SpecialTokens("<unk>", "<unk>", "<unk>", "<unk>", None)
MPNET = SpecialTokens("<pad>", "[UNK]", "<s>", "</s>", "<mask>")
ALBERT = SpecialTokens("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
T5 = SpecialTokens("<pad>", "<unk>", "</s>", "</s>", None)
GEMMA = SpecialTokens("<pad>", "<unk>", "<bos>", "<eos>", "<mask>")


class PairLayout(NamedTuple):
    """How a pair of texts is laid out in a row: `begin A end ... end B end`."""

    separators: int  # end tokens between the texts: BERT's one, RoBERTa's two
    second_type: int  # the token type of B and of the end after it; the tokens before are of type 0


ONE_END = PairLayout(separators=1, second_type=1)  # BERT's
TWO_ENDS = PairLayout(separators=2, second_type=0)  # RoBERTa's


def template(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(ids before, ids after) that the tokenizer's post-processor puts around one text."""
    count = tokenizer.num_special_tokens_to_add(False)
    if count == 0:
        return (), ()
    encoding = tokenizer.encode("a", add_special_tokens=True)
    ids, mask = encoding.ids, encoding.special_tokens_mask
    before, after = tuple(ids[: mask[0]]), tuple(ids[len(ids) - mask[-1] :])
    if len(before) + len(after) != count:
        raise InputError(f"the tokenizer puts {count} special tokens around a text; at most one on each side is read")
    return before, after


def with_ends(special: SpecialTokens, tokenizer: Tokenizer) -> SpecialTokens:
    """`special` with the begin and the end that the post-processor puts around one text, where it does; one that only
    puts an end there has no other begin."""
    before, after = (tokenizer.id_to_token(ids[0]) if len(ids) == 1 else None for ids in template(tokenizer))
    end = after or special.end
    return replace(special, begin=before or (end if after else special.begin), end=end)


def pair_layout(tokenizer: Tokenizer, begin: int, end: int) -> PairLayout:
    """How the tokenizer's post-processor lays out two texts; InputError unless it is `begin A end ... end B end`."""
    both = tokenizer.encode("a", "a", add_special_tokens=True)
    text = [position for position, special in enumerate(both.special_tokens_mask) if not special]
    half = len(text) // 2
    separators = text[half] - text[half - 1] - 1 if half else 0
    layout = PairLayout(separators, both.type_ids[-1])
    ids = [both.ids[position] for position in text]
    ids = [begin, *ids[:half], *[end] * separators, *ids[half:], end]
    types = [0] * (1 + half + separators) + [layout.second_type] * (half + 1)
    if separators < 1 or both.ids != ids or both.type_ids != types:
        raise InputError(
            "pairs are read as `begin A end B end`, or with two ends between, but the tokenizer lays out `a` and "
            f"`a` as {both.tokens} of types {both.type_ids}: choose another tokenizer, or read each text by itself"
        )
    return layout


def add_post_processor(tokenizer: Tokenizer, special: SpecialTokens, layout: PairLayout) -> None:
    """Put begin and end around one text, and around two as `layout` says: `[CLS] A [SEP] B [SEP]`."""
    begin, end = special.begin, special.end
    ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((begin, end))]
    # By pieces and not as one string, which is split at the spaces that a token may have. And not
    # `processors.RobertaProcessing`, which has no token types.
    single = [begin, "$A", end]
    pair = [*single, *[end] * (layout.separators - 1), f"$B:{layout.second_type}", f"{end}:{layout.second_type}"]
    tokenizer.post_processor = processors.TemplateProcessing(single, pair, ids)
