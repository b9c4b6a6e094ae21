"""Tasks of vectors: columns, roles and batches, scores of vectors, and what is refused."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from bert_jax.config import TaskDataConfig, VectorLoss, VectorsConfig
from bert_jax.data.tasks.batches import TaskBatches
from bert_jax.data.tasks.rows import BatchFormat, TaskStream
from bert_jax.data.tasks.vectors import RightTexts, ScoredPairs, cosines, read_vector_task
from bert_jax.errors import UserError
from tests.fixtures.data import LETTER_TOKENIZER, SPECIAL

ROWS = [
    {"q": "ab", "p": "cd", "n": ["ef", "gh"], "score": 4},
    {"q": "ab", "p": "ij", "n": [], "score": 1},
    {"q": "kl", "p": "cd", "n": ["ij"], "score": 2.5},
    {"q": "mn", "p": "ab", "n": [], "score": 0},
]


def config(folder: pathlib.Path, rows: list[dict[str, Any]] = ROWS, **changes: Any) -> Any:
    """Writes the rows as training and held-out file, and returns the columns."""
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"text_column": "q", "text_pair_column": "p", "label_column": "", "length": 8}
    return TaskDataConfig(train=str(path), dev=str(path), **(names | changes))


def test_questions_of_squad_are_pairs(tmp_path) -> None:
    def question(name: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": name, "question": name, "answers": answers}

    here = [{"text": "cd", "answer_start": 3}]
    paragraph = {"context": "ab cd", "qas": [question("ij", here), question("kl", [])]}
    other = {"context": "cd", "qas": [question("mn", [{"text": "cd", "answer_start": 0}])]}
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"title": "", "paragraphs": [paragraph, other]}]}))
    data = config(tmp_path, text_column="question", text_pair_column="context")
    data.train = data.dev = str(path)
    task = read_vector_task(data, VectorsConfig(), LETTER_TOKENIZER)
    assert texts_of(task.train.inputs) == ["ij", "abcd", "mn", "cd"]
    assert task.train.notes == "left out: questions without an answer (1)"
    data.text_column = "q"
    with pytest.raises(UserError, match=r"has no column 'q'.*'question', 'context'"):
        read_vector_task(data, VectorsConfig(), LETTER_TOKENIZER)


def texts_of(inputs: Any) -> list[str]:
    pieces = LETTER_TOKENIZER.id_to_piece
    return ["".join(pieces(int(id)).removeprefix("##") for id in ids) for ids in inputs.a]


def test_texts_have_their_roles(tmp_path) -> None:
    data = config(tmp_path, negative_columns="n")
    task = read_vector_task(data, VectorsConfig(), LETTER_TOKENIZER)
    inputs, roles = task.train.inputs, task.train.inputs.roles
    assert roles is not None and roles.count == 4 and task.train.examples == 4
    assert texts_of(inputs) == [*"ab cd ef gh".split(), *"ab ij kl cd ij mn ab".split()]
    assert inputs.example_of.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert roles.columns.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 0, 1]
    number = dict(zip(texts_of(inputs), roles.numbers.tolist(), strict=True))
    assert [number[text] for text in texts_of(inputs)] == roles.numbers.tolist()
    assert len(set(number.values())) == len(number) == 7
    rights = roles.rights.of(np.array([number["ab"], number["kl"], number["cd"]]))
    expected = [[number["cd"], number["ij"]], [number["cd"], 0], [0, 0]]
    assert rights.tolist() == expected
    taken = inputs.of_examples(np.array([0, 2]))
    assert (
        taken.roles
        and taken.roles.numbers.tolist() == roles.numbers[[0, 1, 2, 3, 6, 7, 8]].tolist()
    )
    # Held out, each text is encoded once.
    assert sorted(texts_of(task.dev["dev"].inputs)) == ["ab", "cd", "ij", "kl", "mn"]


def test_prompts_stand_before_their_columns_and_make_no_other_text(tmp_path) -> None:
    vectors = VectorsConfig(query_prompt="x ", text_prompt="y ")
    task = read_vector_task(config(tmp_path), vectors, LETTER_TOKENIZER)
    inputs = task.train.inputs
    assert texts_of(inputs) == "xab ycd xab yij xkl ycd xmn yab".split()
    assert inputs.roles and inputs.roles.numbers[0] == inputs.roles.numbers[7]
    single = VectorsConfig(query_prompt="x ", text_prompt="y ", loss=VectorLoss.SIMCSE)
    task = read_vector_task(config(tmp_path), single, LETTER_TOKENIZER)
    assert texts_of(task.train.inputs) == "xab xab xab xab xkl xkl xmn xmn".split()
    assert texts_of(task.dev["dev"].inputs) == "xab ycd yij xkl xmn yab".split()


def test_examples_stay_together_in_batches(tmp_path) -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghij"))
    word = lambda: "".join(rng.choice(letters, rng.integers(1, 6)))  # noqa: E731
    rows = [
        {"q": word(), "p": word(), "n": [word() for _ in range(rng.integers(0, 3))]}
        for _ in range(23)
    ]
    data = config(tmp_path, rows, negative_columns="n")
    inputs = read_vector_task(data, VectorsConfig(), LETTER_TOKENIZER).train.inputs
    roles = inputs.roles
    assert roles is not None
    batch_format = BatchFormat(9, 3, SPECIAL, pool_last=False, batch_size=5)
    batches = batch_format.deal(inputs, epochs=2, seed=0, rows_multiple=2)
    assert batches.per_epoch == 5 and batches.smallest == 4
    stream = TaskStream(inputs, batches, batch_format)
    for epoch in range(2):
        seen = []
        for number in range(5 * epoch, 5 * epoch + 5):
            chosen, in_row = batches.batch(number)
            examples = np.unique(inputs.example_of[chosen])
            assert len(chosen) == np.isin(inputs.example_of, examples).sum() == in_row.sum()
            seen += examples.tolist()
            batch = stream.rows(number * batches.rows + np.arange(batches.rows))
            filled = batch["places"] > 0
            example, column = np.divmod(batch["places"][filled] - 1, roles.count)
            assert column.tolist() == roles.columns[chosen].tolist()
            assert examples[example].tolist() == inputs.example_of[chosen].tolist()
            assert batch["text_numbers"][filled].tolist() == roles.numbers[chosen].tolist()
            # A host with the later rows alone makes the same ones.
            half = batches.rows // 2
            later = stream.rows(number * batches.rows + np.arange(half, batches.rows))
            for name, field in later.items():
                np.testing.assert_array_equal(field, batch[name][half:])
        assert sorted(seen) == list(range(23))


def test_a_small_window_leaves_a_small_batch() -> None:
    for examples, batch_size, smallest in (
        (3, 2, 1),
        (4, 2, 2),
        (130, 2, 2),
        (129, 2, 1),
        (9, 8, 4),
    ):
        batches = TaskBatches(
            np.full(2 * examples, 3),
            8,
            batch_size=batch_size,
            max_examples_per_row=2,
            epochs=1,
            seed=0,
            example_of=np.repeat(np.arange(examples), 2),
        )
        counts = [len(batches.batch(number)[0]) // 2 for number in range(batches.per_epoch)]
        assert batches.smallest == smallest == min(counts)


def split_of(folder: pathlib.Path, vectors: VectorsConfig, **changes: Any) -> Any:
    data = config(folder, **changes)
    return read_vector_task(data, vectors, LETTER_TOKENIZER).dev["dev"]


def test_pairs_are_scored_by_their_cosine(tmp_path) -> None:
    from scipy import stats

    split = split_of(tmp_path, VectorsConfig(widths="2,9"), label_column="score")
    assert isinstance(split, ScoredPairs)
    vectors = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    at = {text: number for number, text in enumerate(texts_of(split.inputs))}
    first, second = (vectors[[at[row[side]] for row in ROWS]] for side in "qp")
    gold = [row["score"] for row in ROWS]
    scores = split.scores(list(vectors))
    for suffix, width in (("", 4), ("_2", 2)):
        a, b = first[:, :width], second[:, :width]
        near = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert scores[f"spearman{suffix}"] == pytest.approx(stats.spearmanr(gold, near).statistic)
        assert scores[f"pearson{suffix}"] == pytest.approx(stats.pearsonr(gold, near).statistic)
    assert list(scores) == ["spearman", "pearson", "spearman_2", "pearson_2"]
    told = list(split.predictions(list(vectors)))
    assert told[2]["text"] == "kl" and told[2]["gold"] == 2.5
    np.testing.assert_allclose([each["cosine"] for each in told], cosines(first, second))
    constant = split.constant_outputs()
    assert split.scores(constant)["spearman"] == 0 and "spearman" in split.undefined(constant)


def test_right_texts_are_found_among_all(tmp_path) -> None:
    split = split_of(tmp_path, VectorsConfig())
    assert isinstance(split, RightTexts)
    of = {"ab": [1, 0], "kl": [0, 1], "mn": [0.6, 0.8], "cd": [0.8, 0.6], "ij": [0.9, 0.4]}
    outputs = [np.array(of[text], np.float32) for text in texts_of(split.inputs)]
    # Right texts: cd, ij, cd, ab. For "ab" the other of cd and ij is right too, and "ab" is itself;
    # for "kl" (near: cd .6, ij .4, ab 0) cd is first; for "mn" (ab .6, cd .96, ij .86) ab is last.
    assert [each["rank"] for each in split.predictions(outputs)] == [1, 1, 1, 3]
    assert split.scores(outputs) == {"mrr": pytest.approx((3 + 1 / 3) / 4), "accuracy": 0.75}
    # Of equals the right one counts as the last: one vector for all is no luck.
    ranks = [each["rank"] for each in split.predictions(split.constant_outputs())]
    assert ranks == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("rows", "vectors", "changes", "message"),
    [
        ([{"q": "a"}], {}, {}, r"pairs.jsonl:1 has no column 'p'.* set --config.data.text_pair_c"),
        ([{"q": "a", "p": " "}], {}, {}, r"pairs.jsonl:1 has an empty 'p': fill it in"),
        ([{"q": "a", "p": "b"}], {}, {"negative_columns": "n"}, "has no column 'n'.*negative_col"),
        ([{"q": "a", "p": "b", "n": [""]}], {}, {"negative_columns": "n"}, "an empty text in 'n'"),
        ([{"q": "a", "p": "b", "n": [3]}], {}, {"negative_columns": "n"}, "has 3 in 'n': write te"),
        (
            ROWS,
            {"loss": VectorLoss.COSINE},
            {"label_column": "score"},
            "highest_score=1 stands for",
        ),
        (ROWS, {"loss": VectorLoss.COSENT}, {"label_column": "label"}, "no column 'label'"),
        (
            [{"q": "a", "p": "b", "score": 2}, {"q": "c", "p": "d", "score": 2}],
            {"loss": VectorLoss.COSENT},
            {"label_column": "score"},
            "has the score 2 everywhere",
        ),
        (
            [{"q": "a", "p": "b" + n * " c"} for n in range(1025)],
            {},
            {"length": 2000},
            "1,025 right",
        ),
        (ROWS, {"loss": VectorLoss.SIMCSE}, {"text_pair_column": ""}, "are scored on pairs: set"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, rows, vectors, changes, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_vector_task(
            config(tmp_path, rows, **changes), VectorsConfig(**vectors), LETTER_TOKENIZER
        )
    assert "\n" not in str(caught.value)
