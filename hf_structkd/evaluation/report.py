"""The comparison table: teachers, baseline and students, language by language, and the share of the gap closed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .markdown import escaped, table

AVERAGE = "avg"
GAP_CLOSED = "gap closed"
MISSING = "n/a"
# Rows of a table: the teachers, and the student that learns from gold tags alone.
TEACHERS, BASELINE = "teachers", "baseline"
AGREEMENT_SPLIT = "agreement"  # the split of results.json that the table calls AGREEMENT
AGREEMENT = "held-out text, against the teachers' tags"  # a split without gold tags: agreement with the teachers


@dataclass
class ComparisonReport:
    """Scores of several taggers in one metric on one split.

    Averages are macro averages over the languages that all rows have. A language that some row lacks (a zero-shot
    language has no teacher) is shown but not averaged, and a note below the table says so.

    Args:
        metric: Name of the headline metric, for instance `"f1"`.
        students: Name of a student -> language -> score in [0, 1]; shown in this order.
        teachers: Language -> score of its teacher.
        baseline: Language -> score of the same student without teachers.
        split: What was scored, for instance `"test"`.
        languages: The languages in the order to show them; by default in order of first appearance.
        deviations: Row -> language, or `"avg"` -> standard deviation over runs, where scores are means over several
            ([`mean_report`]); shown after a +/- sign.
        remarks: Sentences about single scores, shown below the table.

    Raises:
        ValueError: If there is no row, a row is no mapping from language to score, or its language is not among
            `languages`.
    """

    metric: str
    students: dict[str, dict[str, float]] = field(default_factory=dict)
    teachers: dict[str, float] | None = None
    baseline: dict[str, float] | None = None
    split: str | None = None
    languages: list[str] | None = None
    deviations: dict[str, dict[str, float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.students = {name: _plain(scores) for name, scores in self.students.items()}
        self.teachers = None if self.teachers is None else _plain(self.teachers)
        self.baseline = None if self.baseline is None else _plain(self.baseline)
        if reserved := {TEACHERS, BASELINE} & self.students.keys():
            raise ValueError(f"{sorted(reserved)} cannot be the name of a student; give it as its own argument.")
        if not self.rows():
            raise ValueError("Nothing to compare: no teachers, no baseline, no students.")
        scored = list(dict.fromkeys(language for scores in self.rows().values() for language in scores))
        if self.languages is None:
            self.languages = scored
        elif unknown := [language for language in scored if language not in self.languages]:
            raise ValueError(f"Scores for languages {unknown}, which are not among {self.languages}.")

    def rows(self) -> dict[str, dict[str, float]]:
        """The rows of the table: `teachers`, `baseline` (where given), then the students, each by language."""
        rows = {} if self.teachers is None else {TEACHERS: self.teachers}
        rows |= {} if self.baseline is None else {BASELINE: self.baseline}
        return rows | self.students

    @property
    def averaged_languages(self) -> list[str]:
        """The languages that every row has, in the table's order; averages and the gap are over these."""
        return [language for language in self.languages or [] if all(language in row for row in self.rows().values())]

    def average(self, row: str) -> float | None:
        """Macro average of a row over `averaged_languages`.

        Args:
            row: `"teachers"`, `"baseline"` or the name of a student.

        Returns:
            The mean score in [0, 1], or `None` if the rows have no language in common.

        Raises:
            KeyError: If there is no such row.
        """
        scores = self.rows()[row]
        shared = self.averaged_languages
        return sum(scores[language] for language in shared) / len(shared) if shared else None

    def gap_closed(self, student: str) -> float | None:
        """The share of the gap between baseline and teachers that a student closes.

        `(student - baseline) / (teachers - baseline)` on macro averages: 0 is the baseline, 1 the teachers; it may
        be negative or exceed 1.

        Args:
            student: Name of a student.

        Returns:
            The share, or `None` without teachers or baseline, or where there is no gap to close: the teachers are
            not above the baseline or, of several runs, not by two standard deviations, so that the gap may be 0.

        Raises:
            KeyError: If there is no such student.

        Source: the comparison of student, baseline and teachers in arXiv 2004.03846, tables 2 and 3, as one number.
        """
        average = self.average(student)
        if self.teachers is None or self.baseline is None or average is None:
            return None
        teachers, baseline = self.average(TEACHERS), self.average(BASELINE)
        if teachers is None or baseline is None:
            return None
        spread = math.hypot(*(self.deviations.get(row, {}).get(AVERAGE, 0.0) for row in (TEACHERS, BASELINE)))
        if teachers - baseline <= 2 * spread:
            return None
        return (average - baseline) / (teachers - baseline)

    def to_markdown(self) -> str:
        """The table in Markdown, scores times 100 with two decimals.

        Returns:
            The table and, where averages leave languages out, a line that says which they are over; likewise where the
            teachers are not better than the baseline.
        """
        header, *rows = [[escaped(cell) for cell in line] for line in self._cells()]
        text = table(header, rows, numbers=True)
        return "\n\n".join([text, *map(escaped, self._notes())])

    def to_text(self) -> str:
        """The table for a terminal, scores times 100 with two decimals.

        Returns:
            A title line, the aligned table, and notes as in [`to_markdown`].
        """
        cells = self._cells()
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
            for row in cells
        ]
        title = f"{self.metric} x 100" + (f" on {self.split}" if self.split else "")
        rule = "-" * len(lines[0])
        return "\n".join([title, rule, lines[0], rule, *(line.rstrip() for line in lines[1:]), rule, *self._notes()])

    def __str__(self) -> str:
        return self.to_text()

    def to_dict(self) -> dict[str, Any]:
        """Everything that the table shows as JSON types, unrounded.

        Returns:
            `metric`, `split`, `languages`, `averaged_languages`, `teachers`, `baseline`, `students`
            (language -> score in [0, 1]), `average` (row -> score or None), `gap_closed` (student -> share or
            None); `deviations` and `remarks` where there are any.
        """
        return {
            "metric": self.metric,
            "split": self.split,
            "languages": list(self.languages or []),
            "averaged_languages": self.averaged_languages,
            "teachers": self.teachers,
            "baseline": self.baseline,
            "students": self.students,
            "average": {row: self.average(row) for row in self.rows()},
            "gap_closed": {student: self.gap_closed(student) for student in self.students},
            **({"deviations": self.deviations} if self.deviations else {}),
            **({"remarks": self.remarks} if self.remarks else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ComparisonReport":
        """The inverse of [`to_dict`]; averages and gaps are computed anew.

        Args:
            data: What [`to_dict`] returned.

        Returns:
            An equal report.

        Raises:
            KeyError: If `metric` or `students` is missing.
        """
        return cls(
            metric=data["metric"],
            students=data["students"],
            teachers=data.get("teachers"),
            baseline=data.get("baseline"),
            split=data.get("split"),
            languages=data.get("languages"),
            deviations=data.get("deviations") or {},
            remarks=data.get("remarks") or [],
        )

    def _cells(self) -> list[list[str]]:
        languages = self.languages or []
        show_gap = bool(self.students) and (self.teachers is not None or self.baseline is not None)
        cells = [["", *languages, AVERAGE, *([GAP_CLOSED] if show_gap else [])]]
        for name, scores in self.rows().items():
            values = {**scores, AVERAGE: self.average(name)}
            spread = self.deviations.get(name, {})
            row = [name, *(percent(values.get(column), spread.get(column)) for column in (*languages, AVERAGE))]
            if show_gap:
                gap = self.gap_closed(name) if name in self.students else None
                row.append("" if name not in self.students else MISSING if gap is None else f"{100 * gap:.1f} %")
            cells.append(row)
        return cells

    def _notes(self) -> list[str]:
        notes, shared = list(self.remarks), self.averaged_languages
        if len(shared) < len(self.languages or []):
            over = ", ".join(shared) if shared else "no language: the rows have none in common"
            notes.append(f"{AVERAGE} is over {over}.")
        teachers, baseline = (self.average(row) if row in self.rows() else None for row in (TEACHERS, BASELINE))
        if teachers is not None and baseline is not None and teachers <= baseline and not self.remarks:
            notes.append(
                "The teachers are not better than the baseline: there is no gap to close, and little to learn from "
                "them. Train them longer or on more sentences, or give better ones."
            )
        return notes


def _plain(scores: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(scores, Mapping):
        raise ValueError(f"{scores!r} is no mapping from language to score, as in {{'en': 0.9}}.")
    # numpy floats would corrupt YAML and JSON
    return {str(language): float(score) for language, score in scores.items()}


def percent(score: float | None, deviation: float | None = None) -> str:
    """A score in [0, 1] as in tables: times 100 with two decimals; `n/a` for `None`."""
    if score is None:
        return MISSING
    return f"{100 * score:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")
