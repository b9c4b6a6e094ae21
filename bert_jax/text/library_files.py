"""Files of the `tokenizers` library: tokenizer.json, and vocab.json with merges.txt.

What a tokenizer.json does not tell, the roles of its special pieces, is found by their place in its
template and by the names that published models have.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bert_jax.errors import UserError
from bert_jax.files import read_json
from bert_jax.text.interface import SpecialIds
from bert_jax.text.library import LibraryTokenizer, added_token, check_parts
from bert_jax.text.vocabulary import read_file

MERGED_VOCAB_FILE = "vocab.json"
_MERGES_FILE = "merges.txt"
_CONFIG_FILE = "tokenizer_config.json"
ROBERTA_PIECES = {
    "pad": "<pad>",
    "unk": "<unk>",
    "cls": "<s>",
    "sep": "</s>",
    "mask": "<mask>",
}
_ROLES = {  # fields of tokenizer_config.json
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "cls": ("cls_token", "bos_token"),
    "sep": ("sep_token", "eos_token"),
    "mask": ("mask_token",),
}
# Names of special pieces, where nothing else tells them.
_NAMES = {
    "pad": ("<pad>", "[PAD]", "<|padding|>", "<|pad|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
    "cls": ("<s>", "[CLS]", "<|begin_of_text|>"),
    "sep": ("</s>", "[SEP]", "<|end_of_text|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
}


class Template(NamedTuple):
    """Special pieces around texts, by a post_processor."""

    cls: str  # the piece before a text
    sep: str  # the piece after it
    separators: int  # of them between two texts
    segments: bool  # True if the second text has type 1
    ids: Mapping[str, Any]  # those that the file gives the two pieces


def read_library_file(path: pathlib.Path) -> LibraryTokenizer:
    """Reads a tokenizer.json, and the names of special pieces in a config beside it.

    Raises:
      UserError: if one of them is damaged, or the tokenizer is not understood.
    """
    config = path.with_name(_CONFIG_FILE)
    named = named_pieces(read_json(config)) if config.is_file() else {}
    return from_library_values(read_json(path), str(path), named)


def named_pieces(fields: Mapping[str, Any]) -> dict[str, str]:
    """Returns role -> special piece, as far as the fields of a tokenizer_config.json tell."""
    found = {}
    for role, names in _ROLES.items():
        for name in names:
            value = fields.get(name)
            piece = value.get("content") if isinstance(value, dict) else value
            if isinstance(piece, str) and role not in found:
                found[role] = piece
    return found


def from_library_values(
    values: Mapping[str, Any], name: str, named: Mapping[str, str]
) -> LibraryTokenizer:
    """Builds the tokenizer of the fields of a tokenizer.json.

    Args:
      values: the fields.
      name: of the file, for errors.
      named: role -> special piece, where other files tell it.

    Raises:
      UserError: if it is not understood.
    """
    with _damage_told(name):
        return _from_values(values, name, named)


@contextlib.contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """Tells a value of another type than the library writes, wherever it is, as one of the file."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"{name} is not as the library tokenizers writes it ({type(error).__name__}: {error}):"
            " copy or download it again"
        ) from error


def _from_values(
    values: Mapping[str, Any], name: str, named: Mapping[str, str]
) -> LibraryTokenizer:
    check_parts(values, name)
    check_truncation(values, name)
    template = read_template(values.get("post_processor"), name)
    ids = _ids(values, name)
    pieces = {}
    for role, usual in _NAMES.items():
        of_template = getattr(template, role, None) if role in ("cls", "sep") else None
        candidates = [of_template, named.get(role), *([] if role in named else usual)]
        pieces[role] = next((piece for piece in candidates if piece in ids), None)
    if pieces["unk"] is None:  # nothing is unknown to all bytes
        pieces["unk"] = pieces["pad"]
    for role, piece in pieces.items():
        if piece is None:
            tried = named.get(role) or ", ".join(_NAMES[role])
            raise UserError(
                f"{name} has no {role} piece ({tried}): name it as {role}_token in"
                " tokenizer_config.json"
            )
    for piece, id in template.ids.items():
        if id is not None and id != ids.get(piece):
            raise UserError(
                f"{name}: post_processor gives {piece!r} the id {id}, and the vocabulary"
                f" {ids.get(piece)}: copy all files of the tokenizer again"
            )
    roles = {role: ids[piece] for role, piece in pieces.items() if piece is not None}
    special = SpecialIds(**roles, separators=template.separators, segments=template.segments)
    return LibraryTokenizer(values, special, name)


def check_truncation(values: Mapping[str, Any], name: str) -> None:
    """Checks the side that a tokenizer.json cuts texts at.

    Raises:
      UserError: if it is the left, for texts are cut at the right here.
    """
    direction = (values.get("truncation") or {}).get("direction", "Right")
    if direction != "Right":
        raise UserError(
            f"{name}: truncation.direction={direction} is not implemented: only Right is; remove"
            " truncation if the model was trained without it"
        )


def check_added(values: Mapping[str, Any], name: str) -> None:
    """Checks that each of the `added_tokens` of a tokenizer.json has a content and an id.

    Raises:
      UserError: for the first that has not.
    """
    for token in values.get("added_tokens") or []:
        match token:
            case {"content": str(), "id": id} if type(id) is int and id >= 0:
                continue
        raise UserError(
            f"{name} has the added token {token!r}: give it content and id, or copy the file again"
        )


def _ids(values: Mapping[str, Any], name: str) -> dict[str, int]:
    check_added(values, name)
    return model_ids(values, name) | {
        token["content"]: token["id"] for token in values.get("added_tokens") or []
    }


def model_ids(values: Mapping[str, Any], name: str) -> dict[str, int]:
    """Returns piece -> id of the model of a tokenizer.json, without added tokens.

    Raises:
      UserError: if it is damaged.
    """
    vocab = values["model"].get("vocab")
    if isinstance(vocab, list) and all(isinstance(e, list) and len(e) == 2 for e in vocab):
        return {str(piece): id for id, (piece, _) in enumerate(vocab)}
    if not isinstance(vocab, dict):
        raise UserError(f"{name}: model.vocab has no pieces: copy or download it again")
    _check_ids(vocab, f"{name}: model.vocab")
    return dict(vocab)


def _check_ids(ids: Mapping[str, Any], name: str) -> None:
    if not all(type(id) is int and id >= 0 for id in ids.values()):
        raise UserError(f"{name} has ids that are no whole numbers: copy or download it again")


def read_template(post_processor: Mapping[str, Any] | None, name: str) -> Template:
    """Returns the template of a post_processor.

    Args:
      post_processor: of a tokenizer.json.
      name: of the file, for errors.

    Raises:
      UserError: if there is none, or it is another one than [CLS] A [SEP] and a pair's.
    """
    steps = [post_processor or {}]
    if steps[0].get("type") == "Sequence":
        steps = [s for s in steps[0].get("processors") or [] if s.get("type") != "ByteLevel"]
    match steps:
        case [{"type": "RobertaProcessing", "cls": [str(cls), a], "sep": [str(sep), b]}]:
            return Template(cls, sep, 2, False, {cls: a, sep: b})
        case [{"type": "BertProcessing", "cls": [str(cls), a], "sep": [str(sep), b]}]:
            return Template(cls, sep, 1, True, {cls: a, sep: b})
        case [
            {
                "type": "TemplateProcessing",
                "single": list(single),
                "pair": list(pair),
                "special_tokens": dict(stated),
            }
        ]:
            if found := _parsed(single, pair, stated):
                return found
    kind = (post_processor or {}).get("type")
    raise UserError(
        f"{name}: post_processor of type {kind} is not implemented: a text must be [CLS] A [SEP],"
        " and a pair [CLS] A [SEP] B [SEP], with one separator or more between, all of type 0 or"
        " B and the last one of type 1"
    )


def _parsed(
    single: Sequence[Any], pair: Sequence[Any], stated: Mapping[str, Any]
) -> Template | None:
    ones, twos = _words(single), _words(pair)
    if len(ones) != 3 or ones[1][0] != "A" or "B" not in [word for word, _ in twos]:
        return None
    (cls, _), _, (sep, _) = ones
    at = [word for word, _ in twos].index("B")
    separators, second = at - 2, twos[at][1]
    expected = [(word, 0) for word in (cls, "A", *[sep] * separators)]
    expected += [("B", second), (sep, second)]
    if separators < 1 or twos != expected or any(type for _, type in ones) or second not in (0, 1):
        return None
    ids = {piece: stated[piece]["ids"] for piece in (cls, sep)}
    if any(len(each) != 1 for each in ids.values()):
        return None
    return Template(cls, sep, separators, second == 1, {piece: ids[piece][0] for piece in ids})


def _words(parts: Sequence[Any]) -> list[tuple[str, int]]:
    words = []
    for part in parts:
        for kind, value in part.items():
            words.append((value["id"], value["type_id"]))
            if kind == "Sequence" and value["id"] not in ("A", "B"):
                return []
    return words


def read_merges(path: pathlib.Path) -> LibraryTokenizer:
    """Reads a vocab.json and the merges.txt beside it, the files of GPT-2 and RoBERTa.

    Args:
      path: of vocab.json.

    Raises:
      UserError: if a file is missing or damaged.
    """
    return from_library_values(merges_values(path, ROBERTA_PIECES), str(path), {})


def merges_values(
    path: pathlib.Path, pieces: Mapping[str, str], *, prefix_space: bool = False
) -> dict[str, Any]:
    """Returns a vocab.json and the merges.txt beside it as the fields of a tokenizer.json.

    Args:
      path: of vocab.json.
      pieces: role -> special piece.
      prefix_space: True puts a space before a text that has none.

    Raises:
      UserError: if a file is missing or damaged.
    """
    merges_path = path.with_name(_MERGES_FILE)
    if not merges_path.is_file():
        raise UserError(f"{path} has no {_MERGES_FILE} beside it: copy both files of the tokenizer")
    vocab = read_json(path)
    _check_ids(vocab, str(path))
    try:
        lines = read_file(merges_path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{merges_path} is not UTF-8 at byte {error.start}: copy it again"
        ) from None
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return roberta_parts(vocab, pieces) | {
        "normalizer": None,
        "pre_tokenizer": byte_level(prefix_space=prefix_space),
        "decoder": byte_level(prefix_space=True),
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def roberta_parts(ids: Mapping[str, int], pieces: Mapping[str, str]) -> dict[str, Any]:
    """Returns `added_tokens` and `post_processor` of RoBERTa.

    Args:
      ids: of pieces.
      pieces: role -> special piece.
    """
    added = {
        ids[piece]: added_token(ids[piece], piece, lstrip=role == "mask", special=True)
        for role, piece in pieces.items()
        if piece in ids
    }
    cls, sep = ([pieces[role], ids.get(pieces[role])] for role in ("cls", "sep"))
    return {
        "added_tokens": [added[id] for id in sorted(added)],
        "post_processor": {"type": "RobertaProcessing", "cls": cls, "sep": sep},
    }


def byte_level(*, prefix_space: bool) -> dict[str, Any]:
    """Returns the step that writes bytes as letters, and splits as GPT-2 does."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": prefix_space,
        "trim_offsets": True,
        "use_regex": True,
    }
