"""What is concluded from the logs of several seeds, and the page that shows it."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.folder import Attempt, StudyFolder
from experiments.label_curves import label_lines
from experiments.measures import Cost, cost_of
from experiments.page import page
from experiments.pictures import draw_labels
from experiments.statistics import Estimate, Verdict, estimate, paired_difference, verdicts
from experiments.study import Plan, Published, Run, Variant
from experiments.summary import Summary, summarise
from experiments.tables import markdown, number

# variant -> the held-out loss of each seed
LOSSES = {"base": [2.0, 2.2, 2.4], "better": [1.5, 1.71, 1.9], "noisy": [1.9, 2.3, 2.35]}


def test_the_interval_is_students() -> None:
    values = [0.1, 0.7, 0.4, 0.5]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = estimate(values)
    np.testing.assert_allclose(found.mean, np.mean(values))
    np.testing.assert_allclose(
        [found.mean - found.half_width, found.mean + found.half_width], [low, high]
    )
    assert math.isnan(estimate([3.0]).half_width) and estimate([3.0]).p_value == 1


def test_a_difference_is_that_of_the_seeds_that_both_have() -> None:
    found = paired_difference({0: 1.0, 1: 2.0, 3: 9.0}, {0: 0.5, 1: 1.0, 2: 7.0})
    assert found and found.values == 2 and found.mean == 0.75
    reference = stats.ttest_rel([1.0, 2.0], [0.5, 1.0]).confidence_interval(0.95)
    np.testing.assert_allclose(found.mean - found.half_width, reference.low)
    np.testing.assert_allclose(found.p_value, stats.ttest_rel([1.0, 2.0], [0.5, 1.0]).pvalue)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_verdicts() -> None:
    fallen = estimate([-0.5, -0.49, -0.5])
    assert verdicts([fallen], lower_is_better=True) == [Verdict.BETTER]
    assert verdicts([fallen], lower_is_better=False) == [Verdict.WORSE]
    for values in ([-0.5, 0.1], [-0.5], [0.0, 0.0]):
        assert verdicts([estimate(values)], lower_is_better=True) == [Verdict.OPEN]


def with_p_value(p_value: float) -> Estimate:
    """Returns a fall, over five seeds, of a given p-value."""
    statistic = stats.t.isf(p_value / 2, 4)
    return Estimate(-float(statistic), float(stats.t.ppf(0.975, 4)), 5)


def test_several_verdicts_are_corrected_by_holm() -> None:
    # statsmodels 0.14, multipletests(p_values, 0.05, "holm") rejects the first alone.
    some = [with_p_value(each) for each in (0.001, 0.02, 0.013, 0.2, 0.04)]
    np.testing.assert_allclose([each.p_value for each in some], [0.001, 0.02, 0.013, 0.2, 0.04])
    assert verdicts(some, lower_is_better=True) == [Verdict.BETTER] + [Verdict.OPEN] * 4
    # Each step down has one comparison fewer to share the error with: 0.02 <= 0.05 / 2.
    step_down = [with_p_value(each) for each in (0.02, 0.04, 0.01)]
    assert verdicts(step_down, lower_is_better=True) == [Verdict.BETTER] * 3


@pytest.mark.parametrize(
    ("seeds", "comparisons", "effect"),  # in standard deviations of the differences
    # statsmodels 0.14: TTestPower().solve_power(nobs=seeds, alpha=0.05 / comparisons, power=0.8)
    [(3, 1, 3.26404355), (5, 1, 1.68199708), (5, 4, 2.47679039), (10, 1, 0.99600191)],
)
def test_the_smallest_difference_that_would_be_seen(
    seeds: int, comparisons: int, effect: float
) -> None:
    values = np.linspace(-1, 1, seeds) + 7
    found = estimate(values.tolist()).detectable(comparisons)
    np.testing.assert_allclose(found, effect * values.std(ddof=1), rtol=1e-4)
    assert math.isnan(estimate([3.0]).detectable())
    assert 0 < estimate([0.1, 0.3]).detectable(1000) < math.inf


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (6.37340, "6.373"), (0.527312, "0.5273"), (88.45, "88.45"), (1234.56, "1235")],
)
def test_numbers_have_four_digits(value: float, text: str) -> None:
    assert number(value) == text


def pretraining(variant: str, seed: int) -> Run:
    return Run(
        name=f"pretrain/{variant}/seed-{seed}",
        driver="pretrain",
        flags=(f"--config.seed={seed}",),
        variants=(variant,),
        stage="pretrain",
        seed=seed,
    )


def task(variant: str, seed: int) -> Run:
    return Run(
        name=f"sst2/{variant}/seed-{seed}",
        driver="finetune",
        flags=(),
        variants=(variant,),
        stage="sst2",
        seed=seed,
    )


def write_log(folder: StudyFolder, run: Run, entries: list[dict[str, Any]]) -> None:
    log = folder.path / run.name / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (log.parent / "starts.jsonl").write_text('{"step": 0, "devices": 4}\n')
    folder.write_attempts(run, [Attempt(0.0, "host", 1, ended=60.0, status=0)])


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> StudyFolder:
    """A study of three variants and three seeds; one task has collapsed, one has failed."""
    folder = StudyFolder(tmp_path)
    runs = [
        make(name, seed) for seed in range(3) for name in LOSSES for make in (pretraining, task)
    ]
    plan = Plan(
        study="made_up",
        size="cpu",
        question="Is it </script><b>so</b>?\n\nNobody knows.",
        base="base",
        variants=(Variant("base"), Variant("better", ("a=1",)), Variant("noisy", ("b=2",))),
        published=(Published(source="A paper", columns=("F1", "EM"), rows={"x": (88.5, None)}),),
        runs=tuple(runs),
    )
    folder.write_plan(plan)
    for run in runs:
        (variant,) = run.variants
        if run.driver == "pretrain":
            loss = LOSSES[variant][run.seed]
            pace = {"tokens": 600.0, "tokens_per_second": 60.0, "model_flops_per_second": 5.0}
            entries = [
                {"step": 5} | pace | {"checkpoint_seconds": 2.0},
                {"step": 5, "heldout_mlm_loss": 3.0, "heldout_nsp_random_share": 0.5},
                {"step": 10, "heldout_mlm_loss": loss, "heldout_nsp_random_share": 0.5},
            ]
        else:
            if (variant, run.seed) == ("noisy", 2):
                folder.write_attempts(run, [Attempt(0.0, "host", 1, ended=9.0, status=1)])
                continue
            steps = 4 + run.seed  # of an epoch: each seed packs its own rows
            best = 0.5 if (variant, run.seed) == ("noisy", 1) else 0.8 + run.seed / 100
            entries = [
                {"step": 0, "metric": "dev_accuracy", "floor": 0.5},
                {"step": steps, "dev_accuracy": best, "dev_f1": 0.3, "dev_loss": 0.6},
                {"step": 2 * steps, "dev_accuracy": best, "dev_f1": 0.4, "dev_loss": 0.6},
                {"step": 3 * steps, "dev_accuracy": 0.5, "dev_f1": 0.9, "dev_loss": 0.5},
            ]
        write_log(folder, run, entries)
    return folder


@pytest.fixture
def summary(folder: StudyFolder) -> Summary:
    return summarise(folder)


def test_costs_have_the_pauses_at_the_end_of_a_run() -> None:
    pace = {"tokens": 600.0, "tokens_per_second": 60.0, "model_flops_per_second": 5.0}
    entries = [{"step": 5} | pace | {"checkpoint_seconds": 2.0}, {"step": 5, "dev_f1": 0.5}]
    entries.append({"step": 5, "evaluation_seconds": 3.0, "checkpoint_seconds": 1.0})
    assert cost_of(entries, 4) == Cost(4 * (10 + 2 + 4), 600, 50)


@pytest.mark.parametrize("settings", [{"linear": True}, {"finetune": ("transfer=False",)}])
def test_what_takes_only_the_tokenizer_costs_no_pretraining(
    settings: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    folder = StudyFolder(tmp_path)
    pretrained = dataclasses.replace(pretraining("base", 0), variants=("base", "words"))
    other = pretraining("other", 0)
    words = task("words", 0)
    variants = (Variant("base"), Variant("words", **settings), Variant("other", ("steps=1",)))
    runs = (pretrained, other, task("base", 0), words)
    names = {"study": "made_up", "size": "cpu", "question": "?", "base": "base"}
    folder.write_plan(Plan(**names, variants=variants, published=(), runs=runs))
    pace = {"tokens": 600.0, "tokens_per_second": 60.0, "model_flops_per_second": 5.0}
    for run in (pretrained, other):
        write_log(folder, run, [{"step": 5} | pace, {"step": 5, "heldout_mlm_loss": 3.0}])
    scores = [{"step": 0, "metric": "dev_accuracy", "floor": 0.5}, {"step": 1, "dev_accuracy": 0.9}]
    for run in (runs[2], words):
        write_log(folder, run, scores)
    base, linear, _ = summarise(folder).rows
    assert base.cost.tokens == 600 and linear.cost == Cost()
    assert linear.done == linear.runs == 1 and "pretrain/mlm_loss" not in linear.cells


def test_a_summary_of_several_seeds(summary: Summary) -> None:
    assert list(summary.main) == ["pretrain/mlm_loss", "sst2/accuracy"]
    assert set(summary.metrics) == {*summary.main, "sst2/f1", "sst2/loss"}  # shares tell of data
    base, better, noisy = summary.rows
    for row in summary.rows:
        cell = row.cells["pretrain/mlm_loss"]
        assert list(cell.by_seed.values()) == LOSSES[row.name]
    assert better.cells["pretrain/mlm_loss"].verdict is Verdict.BETTER
    assert noisy.cells["pretrain/mlm_loss"].verdict is Verdict.OPEN
    assert base.cells["pretrain/mlm_loss"].difference is None
    # The scores are those of the newest epoch with the best metric, not the best of each.
    assert base.cells["sst2/f1"].by_seed == {0: 0.4, 1: 0.4, 2: 0.4}
    assert (noisy.done, noisy.runs, noisy.failed, noisy.collapsed) == (5, 6, 1, 1)
    assert (base.done, base.failed, base.collapsed) == (6, 0, 0)
    assert base.cost.device_seconds == 3 * 4 * 12 and base.cost.tokens == 3 * 600
    assert base.cost.flops == 3 * 50
    assert summary.curves["pretrain/mlm_loss"]["base"] == [(5, 3.0), (10, pytest.approx(2.2))]
    assert summary.curves["sst2/loss"]["base"] == [
        (5, pytest.approx(0.6)),
        (10, pytest.approx(0.6)),
        (15, 0.5),
    ]


def test_the_table_says_what_shows_and_what_does_not(summary: Summary) -> None:
    text = markdown(summary)
    assert "| base (base) | 6 of 6 | 2.200 ± 0.4968 | 0.8100 ± 0.0248 | 0 | 0 |" in text
    assert "| better | base | -0.4967 ± 0.0143, **better** |" in text
    assert "not enough seeds to tell (would have seen 0.4814)" in text
    assert "| x | 88.5 | - |" in text


def test_a_variant_is_compared_with_the_one_that_it_names(folder: StudyFolder) -> None:
    plan = folder.read_plan()
    first, better, noisy = plan.variants
    ladder = (first, better, dataclasses.replace(noisy, against="better"))
    folder.write_plan(dataclasses.replace(plan, variants=ladder))
    summary = summarise(folder)
    assert [row.against for row in summary.rows] == ["", "base", "better"]
    cell = summary.rows[2].cells["pretrain/mlm_loss"]
    differences = np.subtract(LOSSES["noisy"], LOSSES["better"])
    assert cell.difference == estimate(list(differences)) and cell.verdict is Verdict.WORSE
    assert "| noisy | better | +0.4800 ± " in markdown(summary)


def test_series_are_lines_over_the_number_of_labels(
    folder: StudyFolder, tmp_path: pathlib.Path
) -> None:
    plan = folder.read_plan()
    series = dict(zip(LOSSES, ("with", "with", "without"), strict=True))
    variants = [dataclasses.replace(each, series=series[each.name]) for each in plan.variants]
    folder.write_plan(dataclasses.replace(plan, variants=tuple(variants)))
    examples = {"base": 300, "better": 100, "noisy": 200}
    for run in plan.runs:
        path, (variant,) = folder.path / run.name / "log.jsonl", run.variants
        if run.driver == "finetune" and path.exists():
            told = f'"floor": 0.5, "examples": {examples[variant]}'
            path.write_text(path.read_text().replace('"floor": 0.5', told))
    summary = summarise(folder)
    (lines,) = label_lines(summary).values()
    assert {n: [labels for labels, _ in line] for n, line in lines.items()} == {
        "with": [100, 300],
        "without": [200],
    }
    assert "| labels of with | without |" in markdown(summary)
    draw_labels(summary, tmp_path / "labels.png")
    assert (tmp_path / "labels.png").stat().st_size > 10_000


@pytest.fixture
def browser() -> Iterator[Any]:
    """A real one, without a screen."""
    paths = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in paths:
        assert not os.environ.get("CI"), "chromium and chromium-driver are not installed"
        pytest.skip("chromium and chromium-driver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-background-networking")
    options.add_argument("--disable-component-update")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    yield driver
    driver.quit()


def test_the_page_sorts_and_switches_metrics(
    summary: Summary, browser: Any, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "index.html"
    path.write_text(page(summary))
    browser.get(path.as_uri())
    wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait(browser, 30)

    def column(number: int) -> list[str]:
        cells = f"#results tbody td:nth-child({number})"  # read at once: a click draws them anew
        script = "return [...document.querySelectorAll(arguments[0])].map(cell => cell.textContent)"
        return browser.execute_script(script, cells)

    def click(selector: str, text: str, *, until: Callable[[], bool]) -> None:
        (button,) = (
            each for each in browser.find_elements("css selector", selector) if each.text == text
        )
        button.click()
        wait.until(lambda _: until())

    assert browser.title == "made_up"
    assert browser.find_element("id", "question").text.startswith("Is it </script><b>so</b>?")
    assert column(1) == ["base", "better", "noisy"]
    assert column(4) == ["–", "base", "base"]
    assert column(6) == ["", "better", "not enough seeds to tell"]
    click("#results th button", "mean", until=lambda: column(1) == ["better", "noisy", "base"])
    click("#results th button", "mean", until=lambda: column(1) == ["base", "noisy", "better"])
    click("#metrics button", "sst2 accuracy", until=lambda: "0.8100 ± 0.0248" in column(2))
    assert len(browser.find_elements("css selector", "#means circle")) == 3
    assert len(browser.find_elements("css selector", "#curves polyline")) == 3
    assert "higher is better" in browser.find_element("id", "note").text
    assert browser.find_element("id", "published").text.count("A paper") == 1
    shown, address = column(1), browser.current_url
    browser.get("about:blank")
    browser.get(address)  # opened elsewhere it shows the same
    assert column(1) == shown and "0.8100 ± 0.0248" in column(2)
    assert not browser.get_log("browser")
