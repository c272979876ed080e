"""Significance of differences between taggers: over seeds, over test sentences, and over both at once.

Two questions are often confused. Whether other seeds would show the same is answered by paired tests over runs that
share their seed. Whether other test sentences would show the same is answered by resampling sentences; the paired
bootstrap (Koehn 2004; Efron and Tibshirani 1993) draws the same sentences for both taggers.

Both at once: the variance over seeds, from the few runs there are, plus the variance over sentences, from resamples.
Drawing seeds with replacement as well would be simpler, and wrong: of n seeds it finds (n - 1) / n of their variance,
and its percentiles know no t distribution, so that with 3 to 5 seeds "95 %" intervals miss the truth in 13 to 17 % of
cases. Here each variance is multiplied by the square of its own quantile, Student's for the seeds (Cochran 1964), and
a ratio (the share of a gap) has the interval of Fieller, which has no end where the denominator may be 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from .scores import entity_set
from .sentences import paired_sentences

CORRECTION = "Holm"
# Up to this many pairs the sign-flip test is exact (2 ** n sign vectors); beyond it draws this many.
_EXACT_PAIRS = 14
_RESAMPLES = 2**_EXACT_PAIRS
_DRAWS_AT_ONCE = 4_000_000  # sentences times resamples whose draws are in memory together, 12 bytes each


@dataclass(frozen=True)
class Difference:
    """A difference of scores with its uncertainty.

    Args:
        estimate: mean difference.
        low, high: 95 % (or as asked) confidence interval.
        p_value: two-sided, of the hypothesis that there is no difference; uncorrected.
        n: pairs (seeds), or resamples where sentences alone are drawn.
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
    """The counts of each sentence, whose sums give the score of the corpus.

    Args:
        predictions: one list of tags per sentence.
        references: the gold tags, as many per sentence.
        scheme: `"BIO"`, `"BIOES"` or `"plain"`.

    Returns:
        (sentences, 3), whole numbers: correct, predicted and gold entities, as `strict_seqeval` counts them; for
        plain tags (sentences, 2): correct words and words. Their sums give the corpus score, see [`score_of_counts`].

    Raises:
        ValueError: if the sentences differ in number or length, or are no lists of tags.
    """
    rows: list[tuple[int, ...]] = []
    for _, predicted, gold in paired_sentences(predictions, references):
        if scheme == "plain":
            rows.append((sum(a == b for a, b in zip(predicted, gold)), len(gold)))
        else:
            predicted_entities, gold_entities = entity_set(predicted, scheme), entity_set(gold, scheme)
            rows.append((len(predicted_entities & gold_entities), len(predicted_entities), len(gold_entities)))
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
    """Compare two taggers by resampling test sentences, and over the seeds of their runs.

    Args:
        system: language -> (seeds, sentences, counts), the [`sentence_counts`] of its runs.
        baseline: the same of the other tagger, run by run with the same seeds.
        over_seeds: whether the interval is to hold for other seeds too; else the runs are taken as they are.
        resamples: how many times sentences are drawn.
        confidence: of the interval.
        seed: of the draws.

    Returns:
        The observed difference of mean macro scores. Over seeds: [`MeanScores.difference`], without interval and p
        value where there is one seed. Else its percentile interval over resamples and the two-sided p value (twice
        the share of resamples on the other side of 0, both counts raised by one).

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
    if over_seeds:
        return MeanScores.of([system, baseline], resamples=resamples, seed=seed).difference(0, 1, confidence)
    drawn = resampled_scores([system, baseline], resamples=resamples, seed=seed).mean(axis=1)
    differences, observed = drawn[0] - drawn[1], macro_score(system) - macro_score(baseline)
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    p_value = min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1))
    return Difference(float(observed), float(low), float(high), p_value, len(differences))


@dataclass(frozen=True)
class MeanScores:
    """Mean macro scores of several taggers, and how far other seeds and other test sentences would move them.

    Args:
        means: (taggers,), over seeds and languages.
        over_seeds: (taggers, taggers), covariances of the means over seeds; 0 for a tagger with one run, which is the
            same whatever the seed (teachers).
        over_sentences: (taggers, taggers), covariances of the means over test sentences, without what is seen in
            `over_seeds` already: seeds that differ from sentence to sentence.
        runs: number of seeds.
    """

    means: np.ndarray
    over_seeds: np.ndarray
    over_sentences: np.ndarray
    runs: int

    @classmethod
    def of(cls, taggers: Sequence[Mapping[str, np.ndarray]], *, resamples: int = 2000, seed: int = 0) -> "MeanScores":
        """Means and covariances of taggers.

        Args:
            taggers: of each, language -> (seeds, sentences, counts): the same seeds, or one run.
            resamples: how many times sentences are drawn.
            seed: of the draws.
        """
        runs = max(counts.shape[0] for tagger in taggers for counts in tagger.values())
        scores = np.stack([np.broadcast_to(run_scores(tagger), runs) for tagger in taggers])
        over_seeds = np.atleast_2d(np.cov(scores)) / runs if runs > 1 else np.zeros((len(taggers), len(taggers)))
        drawn = resampled_scores(taggers, resamples=resamples, seed=seed)
        over_sentences = np.atleast_2d(np.cov(drawn.mean(axis=1)))
        if runs > 1:
            # One run varies by sentences and by (seed, sentence); the mean by sentences and 1 / runs of the latter,
            # which the runs' own scores vary by as well: it is taken out here.
            of_one_run = np.mean([np.atleast_2d(np.cov(drawn[:, run])) for run in range(runs)], axis=0)
            over_sentences = over_sentences - (of_one_run - over_sentences) / (runs - 1)
        return cls(scores.mean(axis=1), over_seeds, over_sentences, runs)

    def difference(self, system: int, baseline: int, confidence: float = 0.95) -> Difference:
        """How much higher one tagger's mean is than another's, over seeds and test sentences.

        Args:
            system, baseline: numbers of the two taggers.
            confidence: of the interval.

        Returns:
            The difference with its t interval and p value; both NaN with one seed.
        """
        weights = np.zeros(len(self.means))
        weights[system] += 1
        weights[baseline] -= 1
        estimate = float(weights @ self.means)
        if self.runs < 2:
            return Difference(estimate, np.nan, np.nan, np.nan, self.runs)
        seeds, sentences = (
            max(0.0, float(weights @ part @ weights)) for part in (self.over_seeds, self.over_sentences)
        )

        def margin(level: float) -> float:
            of_seeds, of_sentences = self._quantiles(level)
            return float(np.sqrt(of_seeds**2 * seeds + of_sentences**2 * sentences))

        half = margin(confidence)
        if half == 0.0:  # every run the same on every sentence
            return Difference(estimate, estimate, estimate, 1.0 if estimate == 0.0 else 0.0, self.runs)
        # The p value is 1 - the confidence whose interval ends at 0.
        surest = 1 - 1e-12
        if margin(surest) <= abs(estimate):
            p_value = 1 - surest
        else:
            p_value = 1 - float(optimize.brentq(lambda level: margin(level) - abs(estimate), 0.0, surest))
        return Difference(estimate, estimate - half, estimate + half, p_value, self.runs)

    def share_of_gap(self, system: int, baseline: int, teachers: int, confidence: float = 0.95) -> Difference:
        """The share of the way from baseline to teachers that a tagger covers, over seeds and test sentences.

        Args:
            system, baseline, teachers: numbers of the three taggers.
            confidence: of the interval.

        Returns:
            The share with Fieller's interval: all shares g at which (system - baseline) - g (teachers - baseline) does
            not differ from 0; without interval (NaN) where there is one seed. The p value is that of no difference
            between system and baseline. Where the teachers are not better than the baseline beyond doubt, the
            denominator may be 0 and the share anything: the estimate is then NaN, not defined.

        Source: Fieller (1954), Some problems in interval estimation.
        """
        gained, gap = np.zeros(len(self.means)), np.zeros(len(self.means))
        gained[system] += 1
        gained[baseline] -= 1
        gap[teachers] += 1
        gap[baseline] -= 1
        whole = float(gap @ self.means)
        of_seeds, of_sentences = self._quantiles(confidence)
        margin = of_seeds**2 * self.over_seeds + of_sentences**2 * self.over_sentences
        # (gained - g gap)^2 <= margin(gained - g gap), a quadratic in g
        square = whole**2 - float(gap @ margin @ gap)
        if whole <= 0 or square <= 0:
            return Difference(np.nan, np.nan, np.nan, np.nan, self.runs)
        share = float(gained @ self.means) / whole
        if self.runs < 2:
            return Difference(share, np.nan, np.nan, np.nan, self.runs)
        half = share * whole**2 - float(gained @ margin @ gap)
        rest = (share * whole) ** 2 - float(gained @ margin @ gained)
        root = float(np.sqrt(max(half**2 - square * rest, 0.0)))
        p_value = self.difference(system, baseline).p_value
        return Difference(share, (half - root) / square, (half + root) / square, p_value, self.runs)

    def _quantiles(self, confidence: float) -> tuple[float, float]:
        """How many standard errors to either side: Student's over the runs, the normal one over sentences."""
        tail = 0.5 + confidence / 2
        of_seeds = float(stats.t.ppf(tail, self.runs - 1)) if self.runs > 1 else 0.0
        return of_seeds, float(stats.norm.ppf(tail))


def run_scores(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """(seeds,), macro averages over languages of the corpus scores; counts as in [`paired_bootstrap`]."""
    return np.mean([score_of_counts(language_counts.sum(axis=1)) for language_counts in counts.values()], axis=0)


def macro_score(counts: Mapping[str, np.ndarray]) -> float:
    """The mean over seeds and languages of the corpus score; counts as in [`paired_bootstrap`]."""
    return float(run_scores(counts).mean())


def resampled_scores(
    taggers: Sequence[Mapping[str, np.ndarray]], *, resamples: int = 2000, seed: int = 0
) -> np.ndarray:
    """Macro scores of taggers' runs under the same resamples of test sentences.

    Args:
        taggers: of each, language -> (seeds, sentences, counts).
        resamples: how many times sentences of every language are drawn, with replacement, the same for all taggers.
        seed: of the draws.

    Returns:
        (taggers, seeds, resamples), means over languages; a tagger with one run has the same for all seeds.
    """
    rng = np.random.default_rng(seed)
    runs = max(counts.shape[0] for tagger in taggers for counts in tagger.values())
    totals = np.zeros((len(taggers), runs, resamples))
    for language in taggers[0]:
        sentences = taggers[0][language].shape[1]
        at_once = max(1, _DRAWS_AT_ONCE // sentences)  # resamples; all of a million sentences would fill 24 GB
        flat = [t[language].transpose(1, 0, 2).reshape(sentences, -1).astype(np.float32) for t in taggers]
        for start in range(0, resamples, at_once):
            size = min(at_once, resamples - start)
            # How often each sentence is drawn: sums over a resample are then one matrix product.
            weights = rng.multinomial(sentences, np.full(sentences, 1 / sentences), size=size).astype(np.float32)
            for number, tagger in enumerate(taggers):
                counts = tagger[language]
                sums = (weights @ flat[number]).reshape(size, counts.shape[0], counts.shape[2])
                totals[number, :, start : start + size] += score_of_counts(sums).T
    return totals / len(taggers[0])
