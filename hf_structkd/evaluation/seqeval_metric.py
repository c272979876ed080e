"""Strict entity scores as an `evaluate.Metric` that needs no network.

`evaluate.load("seqeval")` downloads a script and, unless told otherwise, counts malformed entities as right. This
metric comes with the package, can be instantiated or loaded by the path of this file, and is always strict.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from .scores import ENTITY_SCHEMES, strict_seqeval

# scores.py needs it, and evaluate.load copies what this file imports. (It takes a comment behind an import for a URL.)
from .sentences import BY_TYPE as BY_TYPE

_DESCRIPTION = "Strict entity-level precision, recall and F1 (seqeval, mode='strict') and word accuracy, offline."
_CITATION = """\
@misc{seqeval,
  title = {{seqeval}: A {Python} framework for sequence labeling evaluation},
  author = {Hiroki Nakayama},
  year = {2018},
  url = {https://github.com/chakki-works/seqeval}
}"""
_INPUTS = """
Args:
    predictions: one list of tags per sentence.
    references: the gold tags, as many per sentence.
    scheme: "BIO" (IOB2) or "BIOES" (IOBES); the default is the one the metric was built with.
    zero_division: the score where nothing was predicted or nothing is gold.
Returns:
    precision, recall, f1, accuracy, number, predicted, correct; by_type: per entity type precision, recall, f1,
    number, predicted, correct.
"""


class StrictSeqeval(evaluate.Metric):
    """[`strict_seqeval`] as an `evaluate.Metric`: offline, strict, plain floats.

    `evaluate.load(hf_structkd.evaluation.seqeval_metric.__file__, scheme="BIOES")` builds the same object.

    Args:
        scheme: `"BIO"` or `"BIOES"`.
        **kwargs: Whatever `evaluate.Metric` takes.

    Raises:
        ValueError: If the scheme is unknown.
    """

    def __init__(self, scheme: str = "BIO", **kwargs: Any):
        if scheme not in ENTITY_SCHEMES:
            raise ValueError(f"Unknown tag scheme {scheme!r}: entity scores exist for {sorted(ENTITY_SCHEMES)}.")
        self.scheme = scheme
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": tags, "references": tags}),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[str]],
        references: Sequence[Sequence[str]],
        scheme: str | None = None,
        zero_division: float = 0.0,
    ) -> dict[str, Any]:
        return strict_seqeval(predictions, references, scheme or self.scheme, zero_division)
