"""Reads the files of tasks of kind TAGS: their scheme, labels and splits."""

import dataclasses
from collections.abc import Collection, Sequence

from bert_jax.config import TagReading, TaskDataConfig
from bert_jax.data.tasks.bad_rows import BadRow, BadRows
from bert_jax.data.tasks.labels import check_distinct, choices, clean_label
from bert_jax.data.tasks.splits import Task, dev_sources
from bert_jax.data.tasks.tables import shown
from bert_jax.data.tasks.tag_schemes import (
    Tagging,
    common,
    rewritten,
    tagging_of_labels,
    tagging_of_sentences,
)
from bert_jax.data.tasks.tagged_files import TaggedSentence, read_tagged
from bert_jax.data.tasks.tags import TagSplit
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class _Source:
    """The sentences of a file or dataset, whose tags are all in its scheme."""

    name: str
    sentences: list[TaggedSentence]
    tagging: Tagging  # its own
    left_out: str  # a note

    def rewritten(self, target: Tagging) -> tuple[list[TaggedSentence], str]:
        """Returns the sentences in another tagging, and a note of the source for the log."""
        sentences, notes = self.sentences, [str(target)]
        if target.marks_entities and self.tagging.marks_entities and target != self.tagging:
            tags = [rewritten(each.tags, self.tagging, target) for each in sentences]
            pairs = zip(sentences, tags, strict=True)
            sentences = [dataclasses.replace(each, tags=tags) for each, tags in pairs]
            notes = [f"{self.tagging}, read as {target.scheme.value}"]
        return sentences, "; ".join(note for note in (*notes, self.left_out) if note)


def _read(
    source: str, config: TaskDataConfig, reading: TagReading, labels: Collection[str] = ()
) -> _Source:
    """Reads a source; a tag that breaks its scheme and is no label makes its sentence unusable."""
    bad = BadRows(source, skip=config.skip_bad_rows)
    read = read_tagged(
        source,
        word_column=config.word_column,
        tag_column=config.tag_column,
        header=config.header,
        bad=bad,
    )
    sentences = [
        dataclasses.replace(each, tags=[clean_label(tag) for tag in each.tags]) for each in read
    ]
    tagging = tagging_of_sentences([each.tags for each in sentences], reading)
    usable = []
    for sentence in sentences:
        with bad.caught():
            if tagging.marks_entities:
                _check_scheme(sentence, tagging, labels)
            usable.append(sentence)
    bad.close(len(usable), "sentences")
    check_distinct({tag for each in usable for tag in each.tags}, source)
    # What broke the scheme may have hidden what it is: I after it seemed to begin an entity.
    tagging = tagging_of_sentences([each.tags for each in usable], reading)
    return _Source(source, usable, tagging, bad.note)


def _check_scheme(sentence: TaggedSentence, tagging: Tagging, labels: Collection[str]) -> None:
    for at, tag in enumerate(sentence.tags):
        if tag not in labels and not tagging.parse(tag):
            problem = (
                f"has the tag {tag!r}, which breaks the scheme of the others"
                f" ({tagging}): correct it, or score words by --config.data.tag_scheme=plain"
            )
            raise BadRow(sentence.location_of(at), "tag that breaks the scheme", problem)


def read_tag_task(config: TaskDataConfig, tokenizer: Tokenizer) -> Task:
    """Reads a task of kind TAGS; its splits are `TagSplit`.

    The labels are the tags of the training file, sorted, in the tagging of `tag_schemes.common`, in
    which all files are read.

    Args:
      config: of the task.
      tokenizer: of the checkpoint.

    Raises:
      UserError: as `read_tagged`; if tags break the scheme of their file; if the training file has
        a single tag; if a held-out file has a tag that the training file does not have.
    """
    train = _read(config.train, config, config.tag_scheme)
    found = {tag for sentence in train.sentences for tag in sentence.tags}
    reading = _reading(train.tagging, config)
    names = dev_sources(config)
    dev = [_read(source, config, reading, found) for source in names.values()]
    tagging = common(source.tagging for source in (train, *dev))
    labels = _label_names(train.rewritten(tagging)[0], config)
    splits = [_split(each, labels, tagging, tokenizer, config) for each in (train, *dev)]
    return Task(labels, splits[0], dict(zip(names, splits[1:], strict=True)))


def read_tag_split(
    source: str, config: TaskDataConfig, tokenizer: Tokenizer, labels: Sequence[str]
) -> TagSplit:
    """Reads a split of a task whose labels are known.

    Args:
      source: a file or dataset for `read_tagged`.
      config: of the task.
      tokenizer: of the checkpoint.
      labels: names of the classes. If they mark entities, a source in another scheme is read in
        theirs.

    Raises:
      UserError: as `read_tag_task`, or if a tag is not one of the labels.
    """
    tagging = tagging_of_labels(labels, config.tag_scheme)
    read = _read(source, config, _reading(tagging, config), labels)
    return _split(read, labels, tagging, tokenizer, config)


def _reading(tagging: Tagging, config: TaskDataConfig) -> TagReading:
    """Returns how to read the other files of a task: as plain if its training tags are."""
    return config.tag_scheme if tagging.marks_entities else TagReading.PLAIN


def _split(
    source: _Source,
    labels: Sequence[str],
    tagging: Tagging,
    tokenizer: Tokenizer,
    config: TaskDataConfig,
) -> TagSplit:
    sentences, note = source.rewritten(tagging)
    known = {clean_label(label): label for label in labels}  # a checkpoint's may differ in form
    for sentence in sentences:
        for at, tag in enumerate(sentence.tags):
            if tag not in known:
                raise UserError(
                    f"{sentence.location_of(at)}: word {at + 1} of the sentence,"
                    f" {shown(sentence.words[at])}, has the tag {shown(tag)}, which the training"
                    f" file does not have: remove the sentence, or write one of {choices(labels)}"
                )
    sentences = [
        dataclasses.replace(each, tags=[known[tag] for tag in each.tags]) for each in sentences
    ]
    return TagSplit(sentences, labels, tagging, tokenizer, config, note)


def _label_names(train: Sequence[TaggedSentence], config: TaskDataConfig) -> list[str]:
    names = sorted({tag for sentence in train for tag in sentence.tags})
    if len(names) < 2:
        raise UserError(
            f"all words from {train[0].location} on have the tag {names[0]!r}: add sentences with"
            f" another tag, or correct --config.data.tag_column={config.tag_column}"
        )
    return names
