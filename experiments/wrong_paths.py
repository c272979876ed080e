"""What wrong k-best targets cost: teachers asked as SLKD's official code asks them."""

from typing import Any

from hf_structkd import Teacher
from hf_structkd.modeling.crf_reference import Scores
from hf_structkd.teachers.base import TeacherScores


class WrongPathsTeacher(Teacher):
    """A CRF teacher whose transitions are read the wrong way round.

    The official k-best decoder reads `[from, to]` where the tagger stores `[to, from]`. Start and end are tags there,
    whose scores turn into constants: they are lost, and nothing excludes illegal sequences.
    """

    @property
    def revision(self) -> str:
        return super().revision[:32] + "-transp."

    def chain_scores(self, sentences: Any) -> TeacherScores:
        scores, lengths, _ = super().chain_scores(sentences)
        none = scores.start.new_zeros(scores.start.shape)
        return TeacherScores(Scores(scores.emissions, scores.transitions.transpose(-1, -2), none, none), lengths, {})
