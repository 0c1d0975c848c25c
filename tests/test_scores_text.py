"""BLEU is sacrebleu's, its interval covers, and what is right to the letter is counted."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import pytest
import sacrebleu

from zoo import ZooError
from zoo.scores.text import bleu, bleu_signature, exact_match
from zoo.statistics import wilson_interval

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "home", "it's", "3,500", ".")


def sentences(n: int, wrong: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return predictions and targets of which a share of the words differs."""
    draw = random.Random(seed)
    targets = [[draw.choice(WORDS) for _ in range(draw.randint(3, 20))] for _ in range(n)]
    predictions = [[draw.choice(WORDS) if draw.random() < wrong else word for word in words] for words in targets]
    return [" ".join(words) for words in predictions], [" ".join(words) for words in targets]


@pytest.mark.parametrize("wrong", [0.05, 0.3, 0.9, 1.0])
def test_bleu_is_sacrebleus(wrong):
    predictions, targets = sentences(60, wrong)
    value, low, high, n = bleu(predictions, targets)["bleu"][:4]
    assert value == sacrebleu.corpus_bleu(predictions, [targets]).score
    assert low < value < high
    assert n == 60


def test_bleu_of_one_sentence_by_hand():
    # 6 words of 6; matches of 1 to 4 words in a row: 5/6, 3/5, 2/4, 1/3; as long as the reference
    value, *_ = bleu(["the cat sat on a mat"], ["the cat sat on the mat"])["bleu"][:4]
    assert value == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_a_perfect_score_is_a_hundred_and_no_match_is_none():
    texts = sentences(20, 0.0)[1]
    assert bleu(texts, texts)["bleu"][:4] == (100.0, 100.0, 100.0, 20)
    assert bleu(["x"] * 20, texts)["bleu"][:4] == (0.0, 0.0, 0.0, 20)
    assert bleu([""] * 20, texts)["bleu"][:4] == (0.0, 0.0, 0.0, 20)


def test_an_interval_is_always_the_same():
    assert bleu(*sentences(30, 0.3)) == bleu(*sentences(30, 0.3))


def test_an_interval_is_narrower_of_more_sentences():
    widths = [high - low for _, low, high, _ in (bleu(*sentences(n, 0.3))["bleu"][:4] for n in (40, 640))]
    assert 2.5 < widths[0] / widths[1] < 6  # the root of sixteen is four


def test_intervals_hold_the_score_of_many_sentences_as_often_as_they_say():
    whole = bleu(*sentences(3000, 0.3, seed=1))["bleu"][:4][0]
    found = [bleu(*sentences(60, 0.3, seed))["bleu"][:4] for seed in range(2, 42)]
    assert sum(low <= whole <= high for _, low, high, _ in found) >= 34  # 38 of 40 are to be expected


def test_the_interval_is_that_of_sacrebleus_bootstrap():
    predictions, targets = sentences(200, 0.3)
    _, low, high, _ = bleu(predictions, targets)["bleu"][:4]
    told = str(sacrebleu.BLEU(force=True).corpus_score(predictions, [targets], n_bootstrap=1000))
    middle, half = map(float, re.findall(r"μ = ([\d.]+) ± ([\d.]+)", told)[0])
    assert (low + high) / 2 == pytest.approx(middle, abs=0.3)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_exact_match_is_the_fraction_that_is_right_to_the_letter():
    found = exact_match(["a", "b ", "C", "d"], ["a", "b", "c", "d"])
    assert found == {"exact_match": (0.5, *wilson_interval(2, 4), 4)}


def test_the_signature_says_how_it_was_scored():
    assert bleu_signature() == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


@pytest.mark.parametrize("score", [bleu, exact_match])
@pytest.mark.parametrize(("predictions", "targets"), [([], []), (["a"], ["a", "b"]), (["a"], [])])
def test_what_cannot_be_scored_is_refused(score, predictions, targets):
    said = f"{len(predictions)} predictions for {len(targets)} references cannot be scored; expected as many, and"
    with pytest.raises(ZooError, match=said):
        score(predictions, targets)


def test_scoring_texts_loads_no_torch():
    code = "import sys, zoo.scores.text; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
