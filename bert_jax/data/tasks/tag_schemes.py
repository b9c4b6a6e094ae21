"""Schemes of tags that mark entities: which one some tags are in, and the entities they mark.

A scheme is a property of the set of tags alone, but for the place of B- in IOB1 and of E- in IOE1;
these two are rewritten to IOB2 and IOE2 before training. So the labels of a checkpoint tell its
scheme. Entities are read as conlleval reads them, by seqeval.
"""

import collections
import dataclasses
import enum
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from bert_jax.config import TagReading

Entity = tuple[str, int, int]  # type, begin, end (exclusive) in words

UNNAMED = "_"  # the type of entities whose tags have none, as seqeval calls it
OUTSIDE = "O"


class TagScheme(enum.Enum):
    """Tagging schemes for entities (Tjong Kim Sang and Veenstra, 1999), and none."""

    IO = "IO"  # I on every word of an entity, so that none touch
    IOB1 = "IOB1"  # as CoNLL-2003: I, with B only between adjacent entities of one type
    IOB2 = "IOB2"  # B at the begin of each entity, I after it
    IOE1 = "IOE1"  # I, with E only between adjacent entities of one type
    IOE2 = "IOE2"  # E at the end of each entity, I before it
    IOBES = "IOBES"  # S for entities of one word, B I E for longer ones
    BILOU = "BILOU"  # the same with L and U for E and S
    BMES = "BMES"  # the same with M for I
    BMEWO = "BMEWO"  # the same with M and W for I and S
    TYPES = "type-only"  # a tag is the type itself: PER, without a letter
    PLAIN = "plain"  # tags that mark no entities, such as parts of speech


# The letters of a scheme, and the letters of IOBES that mean the same.
_LETTERS = {
    TagScheme.IOB2: {"B": "B", "I": "I"},
    TagScheme.IOE2: {"I": "I", "E": "E"},
    TagScheme.IOBES: {"B": "B", "I": "I", "E": "E", "S": "S"},
    TagScheme.BILOU: {"B": "B", "I": "I", "L": "E", "U": "S"},
    TagScheme.BMES: {"B": "B", "M": "I", "E": "E", "S": "S"},
    TagScheme.BMEWO: {"B": "B", "M": "I", "E": "E", "W": "S"},
}
_FAMILIES = tuple(_LETTERS)
_LETTERS |= {
    TagScheme.IO: {"I": "I"},
    TagScheme.IOB1: _LETTERS[TagScheme.IOB2],
    TagScheme.IOE1: _LETTERS[TagScheme.IOE2],
}
_LEAST_SHARE = 0.1  # of E among B, where a scheme has both
_SEPARATORS = "-_:/.|"
_READ_AS = {TagScheme.IOB1: TagScheme.IOB2, TagScheme.IOE1: TagScheme.IOE2}


@dataclasses.dataclass(frozen=True)
class Tagging:
    """A scheme, and the way in which its tags are written.

    Attributes:
      scheme: of the tags.
      separator: between letter and type; '' where tags have no type: B, I, O.
      suffix: True for PER-B, False for B-PER.
      lower: True for b-PER and o.
    """

    scheme: TagScheme
    separator: str = "-"
    suffix: bool = False
    lower: bool = False

    def __str__(self) -> str:
        """Returns the name, for the log: "IOBES entities", "IOB2 entities, written TYPE_i"."""
        if self.scheme is TagScheme.PLAIN:
            return "tags that mark no entities"
        written = "" if self == Tagging(self.scheme) else f", written {self.write('I', 'TYPE')}"
        return f"{self.scheme.value} entities{written}"

    @property
    def marks_entities(self) -> bool:
        """Returns False for plain tags."""
        return self.scheme is not TagScheme.PLAIN

    def parse(self, tag: str) -> tuple[str, str] | None:
        """Returns the letter of IOBES and the type of a tag; None if it breaks the scheme."""
        if tag == (OUTSIDE.lower() if self.lower else OUTSIDE):
            return OUTSIDE, ""
        if self.scheme is TagScheme.TYPES:
            return "I", tag
        letter, rest = (tag[-1:], tag[:-1]) if self.suffix else (tag[:1], tag[1:])
        letters = _LETTERS[self.scheme]
        if letter != (letter.lower() if self.lower else letter.upper()):
            return None
        if (role := letters.get(letter.upper())) is None:
            return None
        if not self.separator:
            return None if rest else (role, UNNAMED)
        end = rest[-1:] if self.suffix else rest[:1]
        kind = rest[:-1] if self.suffix else rest[1:]
        return (role, kind) if end == self.separator and kind else None

    def write(self, role: str, kind: str) -> str:
        """Returns the tag of a letter of IOBES and a type: the inverse of `parse`."""
        if self.scheme is TagScheme.TYPES:
            return OUTSIDE if role == OUTSIDE else kind
        names = {role: letter for letter, role in _LETTERS[self.scheme].items()} | {
            OUTSIDE: OUTSIDE
        }
        letter = names[role].lower() if self.lower else names[role]
        if role == OUTSIDE or not self.separator:
            return letter
        parts = [letter, kind][:: -1 if self.suffix else 1]
        return self.separator.join(parts)


PLAIN = Tagging(TagScheme.PLAIN)


def tagging_of(tags: Mapping[str, int], reading: TagReading = TagReading.FOUND) -> Tagging:
    """Finds the tagging of tags.

    The tags mark entities if all of them are O, or a letter of one scheme with or without a type.
    If some are not, they do so in spite of these, which break the scheme, if no more kinds of tags
    break it than keep to it (without O), or if those that break it look as if they were meant to
    keep to it: 0 for O, b-PER for B-PER. Otherwise the tags are plain.

    Args:
      tags: how often each occurs, which decides only whether B- and E- belong together.
      reading: of the config; FOUND finds the tagging.

    Returns:
      PLAIN, or a tagging of IOB2 for IO and IOB1, too, and of IOE2 for IOE1: these are told apart
      by `tagging_of_sentences`.
    """
    if reading is not TagReading.FOUND:
        return Tagging(TagScheme.TYPES) if reading is TagReading.TYPES else PLAIN
    best, most = PLAIN, 0
    for tagging in _candidates(tags):
        kept = {tag: parsed for tag in tags if (parsed := tagging.parse(tag))}
        broken = [tag for tag in tags if tag not in kept]
        is_near = all(tagging.parse(_mended(tag)) for tag in broken)
        if len(kept) > most and _is_complete(tagging, kept, tags):
            if is_near or _outweighs(kept.values(), len(broken)):
                best, most = tagging, len(kept)
    return best


def _is_complete(
    tagging: Tagging, kept: Mapping[str, tuple[str, str]], tags: Mapping[str, int]
) -> bool:
    """Returns True if the letters in use make entities: what begins with B ends with E."""
    counts = collections.Counter()
    for tag, (role, _) in kept.items():
        counts[role] += tags[tag]
    if not tagging.separator and not counts["B"] + counts["I"]:
        return False  # S and O alone may be anything
    if tagging.scheme in (TagScheme.IOB2, TagScheme.IOE2):
        return counts.total() > counts[OUTSIDE]
    if not counts["B"] + counts["I"] + counts["E"]:
        return counts["S"] > 0
    fewer, more = sorted((counts["B"], counts["E"]))
    return fewer > 0 and fewer >= _LEAST_SHARE * more


def _outweighs(kept: Collection[tuple[str, str]], broken: int) -> bool:
    """Returns True if tags that keep to a scheme show it in spite of those that break it."""
    marks = [(role, kind) for role, kind in kept if role != OUTSIDE]
    one_type = len(marks) > len({kind for _, kind in marks})  # B-PER and I-PER
    typed = all(kind != UNNAMED for _, kind in marks)
    return broken <= len(marks) and (one_type or (typed and len(marks) < len(kept)))


def _candidates(tags: Collection[str]) -> Iterator[Tagging]:
    """Yields the taggings that a tag may be in, the usual ones first."""
    separators = [each for each in _SEPARATORS if any(each in tag for tag in tags)]
    for lower, separator, suffix, family in itertools.product(
        (False, True), [*separators, ""], (False, True), _FAMILIES
    ):
        if separator or not suffix:
            yield Tagging(family, separator, suffix, lower)


def _mended(tag: str) -> str:
    """Returns a tag as it was probably meant: O for 0, capitals, a hyphen."""
    if tag in ("0", "o"):
        return OUTSIDE
    return tag[:1].upper() + tag[1:]


def tagging_of_sentences(
    sequences: Sequence[Sequence[str]], reading: TagReading = TagReading.FOUND
) -> Tagging:
    """Finds the tagging of the tags of sentences, by its own name: IOB1 rather than IOBES."""
    found = tagging_of(collections.Counter(itertools.chain(*sequences)), reading)
    if found.scheme not in (TagScheme.IOB2, TagScheme.IOE2):
        return found
    begins = opens = closes = False  # a B; an I that begins, or ends, an entity
    for tags in sequences:
        parsed = [found.parse(tag) or (OUTSIDE, "") for tag in tags]
        steps = itertools.pairwise([(OUTSIDE, ""), *parsed, (OUTSIDE, "")])
        for (left, left_kind), (right, right_kind) in steps:
            changes = left_kind != right_kind
            begins |= right == "B"
            opens |= right == "I" and (changes or left == OUTSIDE)
            closes |= left == "I" and (changes or right == OUTSIDE)
    scheme = found.scheme
    if scheme is TagScheme.IOB2 and not begins:
        scheme = TagScheme.IO
    elif scheme is TagScheme.IOB2 and opens:
        scheme = TagScheme.IOB1
    elif scheme is TagScheme.IOE2 and closes:
        scheme = TagScheme.IOE1
    return dataclasses.replace(found, scheme=scheme)


def tagging_of_labels(labels: Collection[str], reading: TagReading = TagReading.FOUND) -> Tagging:
    """Finds the tagging of the labels of a checkpoint; PLAIN if one of them breaks the scheme.

    Training leaves none that does, but an imported model may have one.
    """
    tagging = read_as(tagging_of_sentences([[label] for label in labels], reading))
    marks = tagging.marks_entities and all(tagging.parse(label) for label in labels)
    return tagging if marks else PLAIN


def read_as(tagging: Tagging) -> Tagging:
    """Returns the tagging to which sentences are rewritten: IOB2 for IOB1, IOE2 for IOE1."""
    return dataclasses.replace(tagging, scheme=_READ_AS.get(tagging.scheme, tagging.scheme))


def entities(sequence: Sequence[str], tagging: Tagging) -> list[Entity]:
    """Returns the entities of a sentence as conlleval reads them, by seqeval.

    Args:
      sequence: the tags of its words.
      tagging: of the tags.

    Returns:
      (type, begin, end) of each, in order; begin and end in words, end exclusive.

    Raises:
      ValueError: if a tag breaks the scheme.
    """
    from seqeval.metrics import sequence_labeling

    return [
        (kind, begin, last + 1)
        for kind, begin, last in sequence_labeling.get_entities(for_seqeval(sequence, tagging))
    ]


def for_seqeval(sequence: Sequence[str], tagging: Tagging) -> list[str]:
    """Writes tags as seqeval reads them: O, or B, I, E or S, a hyphen and the type.

    Raises:
      ValueError: if a tag breaks the scheme.
    """
    write = _writer(tagging)
    return [write(tag) for tag in sequence]


@functools.lru_cache(maxsize=8)
def _writer(tagging: Tagging) -> Callable[[str], str]:
    @functools.cache
    def write(tag: str) -> str:
        if not tagging.marks_entities or not (parsed := tagging.parse(tag)):
            raise ValueError(f"the tag {tag!r} marks no entity in {tagging}")
        role, kind = parsed
        return OUTSIDE if role == OUTSIDE else f"{role}-{kind}"

    return write


def rewritten(sequence: Sequence[str], tagging: Tagging, target: Tagging) -> list[str]:
    """Writes the entities of a sentence in another tagging.

    Returns:
      The tags; those given, if the target cannot tell the same entities.

    Raises:
      ValueError: if a tag breaks its scheme.
    """
    found = entities(sequence, tagging)
    tags = [target.write(OUTSIDE, "")] * len(sequence)
    for kind, begin, end in found:
        roles = ["I"] * (end - begin)
        if target.scheme not in (TagScheme.IO, TagScheme.TYPES):
            if target.scheme is not TagScheme.IOE2:
                roles[0] = "B"
            if target.scheme is not TagScheme.IOB2:
                roles[-1] = "S" if end - begin == 1 and roles[0] == "B" else "E"
        tags[begin:end] = [target.write(role, kind) for role in roles]
    return tags if entities(tags, target) == found else list(sequence)


def common(taggings: Iterable[Tagging]) -> Tagging:
    """Returns the tagging in which the files of a task are read, the first being its training file.

    It is that of the training file; but where this has only I, and another file says where entities
    of one type touch, it is the other file's.
    """
    first, *others = map(read_as, taggings)
    for other in others:
        has_only_i = first.scheme is TagScheme.IO and other.marks_entities
        if has_only_i and dataclasses.replace(other, scheme=TagScheme.IO) == first:
            first = other
    return first
