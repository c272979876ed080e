"""Whether one tagger is really better than another: over seeds, over test sentences, over both at once.

Two questions that are often mixed up. *Would another seed say the same?* is answered by paired tests over runs that
share their seed. *Would other test sentences say the same?* is answered by resampling sentences; the paired bootstrap
(Koehn 2004; Efron and Tibshirani 1993) draws the same sentences for both taggers. Drawing seeds as well answers both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .seqeval_metric import _entities

CORRECTION = "Holm"
# Up to this many pairs the sign-flip test is exact (2 ** n sign vectors); beyond it draws this many.
_EXACT_PAIRS = 14
_RESAMPLES = 2**_EXACT_PAIRS


@dataclass(frozen=True)
class Difference:
    """A difference of scores with its uncertainty.

    Args:
        estimate: mean difference.
        low, high: 95 % (or as asked) confidence interval.
        p_value: two-sided, of the hypothesis that there is no difference; uncorrected.
        n: pairs, or resamples of a bootstrap.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    n: int


def paired_t_test(differences: Sequence[float], confidence: float = 0.95) -> Difference:
    """Student's paired t test over runs that share their seed.

    Args:
        differences: one for each seed.
        confidence: of the interval.

    Returns:
        The mean difference, its t interval and p value; with fewer than two seeds interval and p value are NaN.

    Raises:
        ValueError: if there are no differences.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        raise ValueError("there are no pairs to compare")
    mean = float(values.mean())
    if len(values) < 2:
        return Difference(mean, np.nan, np.nan, np.nan, len(values))
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    if error == 0.0:  # every seed the same: certain, whatever t says about 0 / 0
        return Difference(mean, mean, mean, 1.0 if mean == 0.0 else 0.0, len(values))
    margin = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, len(values) - 1))
    return Difference(mean, mean - margin, mean + margin, p_value, len(values))


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """The paired permutation test: how often random signs give a mean at least as far from 0 (Fisher 1935).

    It assumes nothing but symmetry; with n pairs its p value is at least 2 / 2 ** n.

    Args:
        differences: one for each seed.
        seed: of the signs drawn where there are too many to go through all.

    Returns:
        The two-sided p value; NaN with fewer than two pairs.

    Raises:
        ValueError: if there are no differences.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        raise ValueError("there are no pairs to compare")
    if len(values) < 2:
        return float("nan")
    test = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=np.random.default_rng(seed)
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for the number of comparisons (Holm 1979): the chance of any false discovery is kept.

    Args:
        p_values: of all comparisons made; NaN for one that could not be made, which is not counted.

    Returns:
        The corrected values in the same order, at most 1.
    """
    values = np.asarray(p_values, dtype=float)
    corrected = np.full(len(values), np.nan)
    order = [i for i in np.argsort(values) if not np.isnan(values[i])]
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[i]))
        corrected[i] = largest
    return corrected.tolist()


def sentence_counts(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], scheme: str
) -> np.ndarray:
    """What each sentence adds to the score of its corpus.

    Args:
        predictions: one list of tags per sentence.
        references: the gold tags, as many per sentence.
        scheme: `"BIO"`, `"BIOES"` or `"plain"`.

    Returns:
        (sentences, 3), whole numbers: correct, predicted and gold entities, as `strict_seqeval` counts them; for
        plain tags (sentences, 2): correct words and words. Their sums give the corpus score, see [`score_of_counts`].

    Raises:
        ValueError: if the sentences differ in number or length.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predicted sentences, but {len(references)} gold sentences.")
    rows: list[tuple[int, ...]] = []
    for index, (guess, gold) in enumerate(zip(predictions, references)):
        if len(guess) != len(gold):
            raise ValueError(f"Sentence {index} has {len(guess)} predicted tags, but {len(gold)} gold tags.")
        if scheme == "plain":
            rows.append((sum(a == b for a, b in zip(guess, gold)), len(gold)))
        else:
            found, wanted = _entities(tuple(guess), scheme), _entities(tuple(gold), scheme)
            rows.append((len(found & wanted), len(found), len(wanted)))
    return np.array(rows, dtype=np.int64).reshape(len(rows), 2 if scheme == "plain" else 3)


def score_of_counts(sums: np.ndarray) -> np.ndarray:
    """F1 of (..., 3) sums of [`sentence_counts`], accuracy of (..., 2); 0 where there is nothing to divide by."""
    correct = sums[..., 0].astype(float)
    if sums.shape[-1] == 2:
        return correct / np.maximum(sums[..., 1], 1)
    return 2 * correct / np.maximum(sums[..., 1] + sums[..., 2], 1)


def paired_bootstrap(
    system: Mapping[str, np.ndarray],
    baseline: Mapping[str, np.ndarray],
    *,
    over_seeds: bool = True,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compare two taggers by resampling test sentences, and seeds with them.

    Each resample draws, with replacement, sentences of every language, the same for both taggers and all seeds, and
    seeds, the same for both taggers; the score is the mean over the seeds drawn of the macro average over languages
    of the corpus score.

    Args:
        system: language -> (seeds, sentences, counts), the [`sentence_counts`] of its runs.
        baseline: the same of the other tagger, run by run with the same seeds.
        over_seeds: draw seeds too; else the runs are taken as they are.
        resamples: how many times.
        confidence: of the percentile interval.
        seed: of the draws.

    Returns:
        The observed difference, its percentile interval and the two-sided p value (twice the share of resamples on
        the other side of 0, both counts raised by one).

    Raises:
        ValueError: if the languages or shapes of the two differ.
    """
    if list(system) != list(baseline):
        raise ValueError(f"languages {list(system)} against {list(baseline)}: they must be the same, in order")
    for language, counts in system.items():
        if counts.shape != baseline[language].shape or counts.ndim != 3:
            raise ValueError(
                f"{language}: counts {counts.shape} against {baseline[language].shape}; both must be "
                "(seeds, sentences, counts), with the same seeds and sentences"
            )
    drawn = bootstrap_scores([system, baseline], over_seeds=over_seeds, resamples=resamples, seed=seed)
    return of_resamples(drawn[0] - drawn[1], macro_score(system) - macro_score(baseline), confidence)


def of_resamples(resampled: np.ndarray, observed: float, confidence: float = 0.95) -> Difference:
    """A quantity with the uncertainty that its resamples show; its p value is of the hypothesis that it is 0."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    below, above = int((resampled <= 0).sum()), int((resampled >= 0).sum())
    p_value = min(1.0, 2 * (min(below, above) + 1) / (len(resampled) + 1))
    return Difference(float(observed), float(low), float(high), p_value, len(resampled))


def macro_score(counts: Mapping[str, np.ndarray]) -> float:
    """The mean over seeds and languages of the corpus score; counts as in [`paired_bootstrap`]."""
    return float(np.mean([score_of_counts(own.sum(axis=1)).mean() for own in counts.values()]))


def bootstrap_scores(
    taggers: Sequence[Mapping[str, np.ndarray]],
    *,
    over_seeds: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """Macro scores of taggers under the same resamples of sentences and seeds.

    Args:
        taggers: of each, language -> (seeds, sentences, counts). A tagger with one seed (teachers) is the same
            whichever seeds are drawn.
        over_seeds, resamples, seed: as for [`paired_bootstrap`].

    Returns:
        (taggers, resamples): any quantity made of several taggers' scores, the gap closed say, can be computed in
        each resample and summed up by [`of_resamples`].
    """
    rng = np.random.default_rng(seed)
    runs = max(own.shape[0] for tagger in taggers for own in tagger.values())
    languages = list(taggers[0])
    seeds = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs if over_seeds else None
    totals = np.zeros((len(taggers), resamples))
    for language in languages:
        sentences = taggers[0][language].shape[1]
        # How often each sentence is drawn: sums over a resample are then one matrix product.
        weights = rng.multinomial(sentences, np.full(sentences, 1 / sentences), size=resamples).astype(np.float32)
        for number, tagger in enumerate(taggers):
            own = tagger[language]
            flat = own.transpose(1, 0, 2).reshape(sentences, -1).astype(np.float32)
            sums = (weights @ flat).reshape(resamples, own.shape[0], own.shape[2])
            scores = score_of_counts(sums)  # (resamples, seeds)
            if own.shape[0] == 1 or seeds is None:
                totals[number] += scores.mean(axis=1)
            else:
                totals[number] += (scores * seeds).sum(axis=1)
    return totals / len(languages)
