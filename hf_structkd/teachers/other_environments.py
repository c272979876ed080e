"""Teachers whose libraries need an environment of their own: flair and SpanMarker.

Their releases need versions of transformers or huggingface_hub that this package cannot run with. So such a teacher
runs in a process of another Python interpreter, in whose environment its library is installed; `worker.py` is what
runs there. Words go to it and scores come back, through pipes.
"""

import base64
import json
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .function import CallableTeacher
from .label_map import LabelMap
from .spans import SpanTeacher

WORKER = Path(__file__).with_name("worker.py")


class WorkerProcess:
    """A process that answers for a model of another library.

    Args:
        kind: `"flair"` or `"span_marker"`.
        model: its Hub id, its name in that library, or its folder or file.
        python: the interpreter of the environment that has the library.
        device: on which the model runs.

    Attributes:
        description: what the process says of the model: `labels`, `revision` and more.

    Raises:
        ImportError: if that environment lacks the library.
        OSError: if there is no such interpreter or model.
    """

    def __init__(self, kind: str, model: str, python: str, device: str) -> None:
        self.name = f"{kind}:{model}"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (read when the process ends early)
        try:
            self._process = subprocess.Popen(
                [python, "-I", str(WORKER), kind, model, device],  # -I: neither PYTHONPATH nor this folder
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            raise OSError(f"teacher {self.name}: the interpreter {python} cannot be started: {error}") from error
        self._close = weakref.finalize(self, _end, self._process)
        self.description = self._read()
        if problem := self.description.get("error"):
            self._close()
            if self.description["missing"]:
                raise ImportError(
                    f"teacher {self.name}: {self.description['missing']} is not installed for {python}. It needs an "
                    f"environment of its own: `python -m venv {kind}_environment`, "
                    f"`{kind}_environment/bin/pip install {kind}`, and the option "
                    f"`python: {kind}_environment/bin/python`"
                )
            raise OSError(f"teacher {self.name} cannot be loaded by {python}: {problem}")

    def ask(self, sentences: Sequence[Sequence[str]]) -> Any:
        """The answers about sentences; see `worker.py` for their form.

        Raises:
            ValueError: if the library fails on these sentences.
            RuntimeError: if the process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(list(map(list, sentences))) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # the process has ended; reading says how
        reply = self._read()
        if problem := reply.get("error"):
            raise ValueError(f"teacher {self.name}: {problem}")
        return reply["answers"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.endswith("\n"):
            return json.loads(line, object_hook=_array)
        status = self._process.wait()
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace").strip().splitlines()[-3:]
        raise RuntimeError(f"teacher {self.name}: its process ended with status {status}: {' | '.join(printed)}")

    def __reduce__(self) -> Any:
        raise TypeError(f"teacher {self.name} runs in a process of its own and cannot be copied into another")


class FlairTeacher(CallableTeacher):
    """A sequence tagger of flair as a teacher: its CRF exactly, or the softmax of a tagger without one.

    Words are taken as they are. Taggers that were trained with the sentences around read each sentence alone, or with
    the context that `annotate` is told to give.

    Args:
        worker: the process that runs the tagger.
        label_map, scheme, temperature: as for [`~.base.TagTeacher`].
    """

    def __init__(
        self,
        worker: WorkerProcess,
        *,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.worker = worker
        labels = list(worker.description["labels"])
        # Training saw no word of these tags, so the model has no scores for them: they are impossible.
        types = dict.fromkeys(label[2:] for label in labels if label[:2] in ("B-", "I-", "E-", "S-"))
        prefixes = "BIES" if any(label[:2] in ("E-", "S-") for label in labels) else "BI"
        lacking = [tag for kind in types for tag in (f"{p}-{kind}" for p in prefixes) if tag not in labels]
        self._lacking = len(lacking)
        super().__init__(
            self._scores,
            [*labels, *lacking],
            name=worker.name,
            revision=worker.description["revision"],
            answers="scores",
            label_map=label_map,
            scheme=scheme,
            temperature=temperature,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        python: str = sys.executable,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
        device: Any = None,
    ) -> "FlairTeacher":
        """Load a tagger.

        Args:
            name: its name in flair (`"ner"`), its Hub id (`"flair/ner-english"`), or its file or folder.
            python: the interpreter of the environment that has flair.
            label_map, scheme, temperature: see the class.
            device: on which it runs; the CPU where `None`.

        Raises:
            ImportError: if flair is not installed there; the message says how to install it.
            OSError: if there is no such interpreter or tagger.
        """
        worker = WorkerProcess("flair", name, str(python), str(device or "cpu"))
        return cls(worker, label_map=label_map, scheme=scheme, temperature=temperature)

    def _scores(self, sentences: Sequence[Sequence[str]]) -> list[tuple[np.ndarray, ...]]:
        """Emissions, transitions, start and end scores of each sentence, nats."""
        description, extra = self.worker.description, (0, self._lacking)
        transitions = np.pad(description["transitions"], (extra, extra))
        start, end = np.pad(description["start"], extra), np.pad(description["end"], extra)
        return [
            (np.pad(emissions, ((0, 0), extra), constant_values=-np.inf), transitions, start, end)
            for emissions in self.worker.ask(sentences)
        ]


class SpanMarkerTeacher(SpanTeacher):
    """A SpanMarker model as a teacher: every span's score for every type, as a distribution over sets of spans.

    A span's score is the log-odds of its type against no entity, log p(type) - log p(none) of the model's softmax, so
    that a span that overlaps no other keeps the model's probabilities. Words that the model cuts off a long sentence
    are asked about as a sentence of their own.

    Args:
        worker: the process that runs the model.
        threshold: spans whose type has a smaller probability are left out, as impossible.
        label_map, scheme, temperature: as for [`~.base.TagTeacher`].

    Raises:
        ValueError: if the threshold is not between 0 and 1.
    """

    def __init__(
        self,
        worker: WorkerProcess,
        *,
        threshold: float = 0.01,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"teacher {worker.name}: the threshold must be between 0 and 1, not {threshold}")
        self.worker, self.threshold = worker, threshold
        super().__init__(
            self._score,
            worker.description["labels"],
            name=worker.name,
            revision=worker.description["revision"],
            scores="log_odds",
            label_map=label_map,
            scheme=scheme,
            temperature=temperature,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        python: str = sys.executable,
        threshold: float = 0.01,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
        device: Any = None,
    ) -> "SpanMarkerTeacher":
        """Load a model.

        Args:
            name: its Hub id or folder.
            python: the interpreter of the environment that has SpanMarker.
            threshold, label_map, scheme, temperature: see the class.
            device: on which it runs; the CPU where `None`.

        Raises:
            ImportError: if SpanMarker is not installed there; the message says how to install it.
            OSError: if there is no such interpreter or model.
        """
        worker = WorkerProcess("span_marker", name, str(python), str(device or "cpu"))
        return cls(worker, threshold=threshold, label_map=label_map, scheme=scheme, temperature=temperature)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "threshold": self.threshold}

    def _score(self, sentences: Sequence[Sequence[str]]) -> list[list[tuple[int, int, str, float]]]:
        found = []
        for spans, log_probs in self.worker.ask(sentences):  # log_probs: (spans, 1 + types), no entity first
            rows, types = np.nonzero(log_probs[:, 1:] > np.log(self.threshold))
            scores = log_probs[rows, types + 1] - log_probs[rows, 0]
            found.append(
                [
                    (int(spans[row, 0]), int(spans[row, 1]), self.types[kind], float(score))
                    for row, kind, score in zip(rows, types, scores)
                ]
            )
        return found


def _array(value: Mapping[str, Any]) -> Any:
    """Arrays are written as their type, shape and bytes."""
    if set(value) != {"dtype", "shape", "bytes"}:
        return value
    return np.frombuffer(base64.b64decode(value["bytes"]), value["dtype"]).reshape(value["shape"])


def _end(process: subprocess.Popen) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    try:
        process.wait(timeout=5)  # it ends when there is nothing more to read
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
