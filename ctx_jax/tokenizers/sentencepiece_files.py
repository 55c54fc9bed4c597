"""SentencePiece `.model` files as tokenizers of `tokenizers`, read by the sentencepiece package.

Its kinds map to Unigram, BPE and WordLevel. Ids stay SentencePiece's own, or move by one for XLM-R. The library's own
`SentencePieceUnigramTokenizer.from_spm` reads unigram models only, ignores the normalizer's settings and needs a
compiled protobuf module on the path.
"""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ctx_jax.io.errors import InputError, MissingPackageError
from ctx_jax.tokenizers.character_map import mapping_normalizers
from ctx_jax.tokenizers.special_files import Settings
from ctx_jax.tokenizers.subwords import Subwords, naming
from ctx_jax.tokenizers.templates import BERT, ONE_END, ROBERTA, TWO_ENDS, add_post_processor
from ctx_jax.tokenizers.tokenizer_builders import VocabularyParts

SUFFIXES = (".model", ".spm")
Layout = Literal["plain", "xlm-r"]

_SPACE = "\u2581"  # ▁, the space in a piece
_GUARD = "\ufdd0"  # a noncharacter, which no text has
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED = range(1, 6)  # the types of pieces


def read_sentencepiece(
    path: str | Path,
    *,
    layout: Layout = "plain",
    add_missing: bool = False,
    settings: Settings | None = None,
) -> Subwords:
    """A SentencePiece file as a tokenizer that puts its begin and end tokens around a sentence.

    layout       "plain": the file's ids. "xlm-r": the file's ids + 1, with `<s> <pad> </s> <unk>` in front and `<mask>`
                 last, as fairseq laid out XLM-R
    add_missing  give tokens that the file lacks (most lack `<pad>` and `<mask>`) new ids at the end; else refuse
    settings     names of special tokens and added tokens; a role without a name is `[CLS]`, `[SEP]` ... if the file
                 has `[CLS]`, else `<s>`, `</s>` ...; the unknown is the file's

    Its control pieces are never found in text, as in SentencePiece; special tokens are, as in transformers. In a word
    model, consecutive unknown words stay one token each.

    Raises MissingPackageError without the package: install `ctx-jax[sentencepiece]`. FileNotFoundError, InputError:
    nothing there, no SentencePiece file, a setting or kind that `tokenizers` cannot express, a special token missing.
    """
    path = Path(path)
    settings = settings or Settings()
    proto = _parse(path)
    _check(path, proto)
    kinds = [piece.type for piece in proto.pieces]
    names = [piece.piece for piece in proto.pieces]
    unknown = kinds.index(_UNKNOWN)
    if layout == "plain":
        family = BERT if BERT.begin in names else ROBERTA
        pads = (name for name, kind in zip(names, kinds, strict=True) if kind == _CONTROL and "pad" in name.lower())
        family = replace(family, pad=next(pads, family.pad), unknown=names[unknown])
        special = settings.special(family, {*names, *settings.tokens})
    elif kinds[:3].count(_NORMAL):
        raise InputError(f"{path}: XLM-R's layout needs <unk>, <s>, </s> as the first three pieces, got {names[:3]}")
    else:
        special = settings.special(ROBERTA, names, [["bos_token"], ["eos_token"]], of_class=True, fallback=False)
        if special != ROBERTA:
            raise InputError(f"{settings.file}: XLM-R's layout needs {ROBERTA}, got {special}")
    pieces = _pieces(path, proto, {*special.roles().values(), *settings.tokens})
    if layout == "xlm-r":
        pieces = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")] + pieces[3:] + [("<mask>", 0.0)]
        unknown = 3
    tokenizer = Tokenizer(_model(path, proto, pieces, unknown))
    _add_normalizer(tokenizer, path, proto)
    settings.add_tokens(tokenizer, special)
    if (missing := special.missing(tokenizer)) and not add_missing:
        raise InputError(
            f"{path} lacks special tokens: {', '.join(missing)}; convert it with `ctx-jax tokenizer`, which gives them "
            "new ids at the end, or XLM-R's ids, and use the folder that it writes. From Python: read_sentencepiece "
            "with add_missing=True, layout='xlm-r', or Settings(roles=...) if they have other names"
        )
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    new = {role: token for role, token in special.roles().items() if token not in known}
    tokenizer.add_special_tokens([AddedToken(token, lstrip=role == "mask") for role, token in new.items()])
    with naming(path):
        add_post_processor(tokenizer, special, ONE_END if special.begin == BERT.begin else TWO_ENDS)
        return Subwords(tokenizer, special)


def sentencepiece_parts(path: Path, sentinels: int = 0) -> tuple[VocabularyParts, list[AddedToken]]:
    """What a tokenizer class is built of: the pieces with their scores, `sentinels` tokens `<extra_id_i>` behind them,
    the last number first, and the character map; and the control and user-defined pieces, which are found in a text
    before it is cut, as in transformers. Raises as `read_sentencepiece`; InputError for another kind than unigram."""
    proto = _parse(path)
    if proto.trainer_spec.model_type != 1:
        raise InputError(f"{path} is no unigram model, of which its tokenizer class is built")
    scores = [(piece.piece, piece.score) for piece in proto.pieces]
    scores += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(sentinels))]
    ids = {piece: number for number, (piece, _) in enumerate(scores)}
    if len(ids) < len(scores) or not all(math.isfinite(score) for _, score in scores):
        raise InputError(f"{path} has a piece twice, or a score that is no number")
    added = [
        AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)
        for piece in proto.pieces
        if piece.type in (_CONTROL, _USER)
    ]
    return VocabularyParts(ids, scores=scores, character_map=proto.normalizer_spec.precompiled_charsmap), added


def _parse(path: Path) -> Any:
    try:
        from sentencepiece.sentencepiece_model_pb2 import ModelProto
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"reading {path} needs the sentencepiece package: pip install 'ctx-jax[sentencepiece]'"
        ) from error
    proto, content = ModelProto(), path.read_bytes()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError, whose module moved between versions
        raise InputError(f"{path} is no SentencePiece model: {error}") from error
    if not (proto.HasField("trainer_spec") and proto.HasField("normalizer_spec")):
        raise InputError(f"{path} is cut: it has no settings (trainer_spec, normalizer_spec) behind its pieces")
    if not all(isinstance(piece.piece, str) and piece.piece for piece in proto.pieces):  # bytes: not UTF-8
        raise InputError(f"{path} is damaged: it has pieces that are empty or not UTF-8")
    if not any(piece.type == _UNKNOWN for piece in proto.pieces):
        raise InputError(f"{path} is no SentencePiece model: it has no unknown piece")
    return proto


def _check(path: Path, proto: Any) -> None:
    """Refuses the settings under which `tokenizers`, which splits at spaces first, would give other pieces."""
    normal = {piece.piece for piece in proto.pieces if piece.type == _NORMAL}
    letters = {letter for piece in normal for letter in piece} | {_SPACE}
    across = [piece.piece for piece in proto.pieces if _SPACE in piece.piece[1:] or " " in piece.piece]
    if proto.trainer_spec.treat_whitespace_as_suffix:
        wrong = "puts the space behind a word (treat_whitespace_as_suffix)"
    elif not proto.normalizer_spec.escape_whitespaces:
        wrong = "leaves spaces as they are (escape_whitespaces is false)"
    elif across:
        wrong = f"has pieces that span a space: {', '.join(map(repr, across[:3]))}"
    elif any(piece.type == _UNUSED for piece in proto.pieces):
        wrong = "marks pieces as unused"
    elif twice := [piece for piece, count in Counter(piece.piece for piece in proto.pieces).items() if count > 1]:
        wrong = f"has the piece {twice[0]!r} more than once"
    elif proto.trainer_spec.model_type in (1, 2) and _SPACE not in normal:
        wrong = f"has no piece for the space, {_SPACE}"
    elif proto.trainer_spec.model_type == 2 and letters - normal:
        wrong = f"has no piece for {min(letters - normal)!r}, of which others consist"
    elif proto.trainer_spec.model_type == 2 and (tied := _of_one_score(proto)):
        wrong = f"gives {tied} the same score"
    elif not all(math.isfinite(piece.score) for piece in proto.pieces):
        wrong = "has scores that are no numbers"
    else:
        return
    raise InputError(f"{path} {wrong}, which is not supported where text is cut word by word: use a model without it")


def _of_one_score(proto: Any) -> str:
    """Two pieces of several characters, which SentencePiece merges from the left, or ""."""
    scores: dict[float, str] = {}
    for piece in (piece for piece in proto.pieces if piece.type == _NORMAL and len(piece.piece) > 1):
        if (other := scores.setdefault(piece.score, piece.piece)) != piece.piece:
            return f"{other!r} and {piece.piece!r}"
    return ""


def _pieces(path: Path, proto: Any, roles: set[str]) -> list[tuple[str, float]]:
    """Pieces and scores; a piece that SentencePiece never finds in text gets a name that no text has."""
    normalize = normalizers.Sequence(_mapping(path, proto)).normalize_str
    pieces = []
    for piece in proto.pieces:
        name, score = piece.piece, piece.score
        if piece.type == _CONTROL and name not in roles:
            name = f" {name}"  # spaces become ▁ before pieces are looked for
        elif piece.type == _USER and name not in roles:
            text = name.replace(_SPACE, " ")
            if proto.trainer_spec.model_type != 1 or normalize(text) != text:
                raise InputError(
                    f"{path} has a user-defined piece, {name!r}, which is read from unigram models alone and where "
                    "normalizing does not change it; Settings(roles=...) names those that are special tokens"
                )
            score = -0.1  # what SentencePiece's unigram model gives it in place of the file's 0
        pieces.append((name, score))
    return pieces


def _model(path: Path, proto: Any, pieces: list[tuple[str, float]], unknown: int) -> Any:
    """The pieces in order as a model of `tokenizers`."""
    bytes_too = bool(proto.trainer_spec.byte_fallback)
    ids, name = {piece: number for number, (piece, _) in enumerate(pieces)}, pieces[unknown][0]
    match proto.trainer_spec.model_type:
        case 1:  # unigram
            return models.Unigram(pieces, unk_id=unknown, byte_fallback=bytes_too)
        case 2:  # bpe
            merges = _merges(pieces, ids)
            return models.BPE(ids, merges, unk_token=name, fuse_unk=True, byte_fallback=bytes_too)
        case 3:  # words
            return models.WordLevel(ids, unk_token=name)
    raise InputError(
        f"{path} is a SentencePiece character model, which is not supported: use a unigram, bpe or word model"
    )


def _merges(pieces: list[tuple[str, float]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, best score first: SentencePiece merges by the score of the result."""
    found = [
        (-score, ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, score in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def _mapping(path: Path, proto: Any) -> list[Any]:
    """The normalizers of the file's character map."""
    try:
        return list(mapping_normalizers(proto.normalizer_spec.precompiled_charsmap))
    except ValueError as error:
        raise InputError(f"{path}: its character map (precompiled_charsmap) cannot be used: {error}") from error


def _add_normalizer(tokenizer: Tokenizer, path: Path, proto: Any) -> None:
    """Add the normalizer, the splitting at spaces and the decoder that the file's settings ask for."""
    spec = proto.normalizer_spec
    steps = _mapping(path, proto)
    scheme: Literal["first", "never"] = "never"
    splits: list[Any] = []
    if spec.remove_extra_whitespaces:  # U+0020 alone; \A and \z, as ^ and $ are the ends of each line
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        if spec.add_dummy_prefix:
            steps.append(normalizers.Prepend(_SPACE))
    elif spec.add_dummy_prefix:  # Metaspace adds none to a text that begins with one, unless a guard stands before it
        scheme = "first"
        steps += [normalizers.Replace(Regex(rf"\A{space}"), _GUARD + space) for space in (" ", _SPACE)]
        splits.append(pre_tokenizers.Split(_GUARD, "removed"))
    if proto.trainer_spec.byte_fallback:  # the name of a byte's piece, standing in the text, is no byte
        splits.append(pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "merged_with_previous"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme=scheme), *splits])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always" if spec.add_dummy_prefix else "never")
