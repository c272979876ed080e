"""The process behind a teacher of `other_environments.py`: runs in an environment that need not have this package.

    python -I worker.py KIND MODEL DEVICE

It prints a line of JSON that describes the model, then one for each line of sentences (lists of words) that it reads:
`{"answers": [...]}`, or `{"error": text}`. Arrays are `{"dtype", "shape", "bytes"}`, the bytes in base64.

- `flair`: an answer is the emissions (words, labels), nats; the description has `transitions` `[from, to]`, `start`
  and `end` scores, all zero for a tagger without CRF.
- `span_marker`: an answer is the spans (spans, 2), words with the end exclusive, and their log-probabilities
  (spans, 1 + types), no entity first.
"""

import base64
import hashlib
import importlib
import json
import os
import sys
from pathlib import Path


def main() -> None:
    kind, name, device = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def write(reply) -> None:
        print(json.dumps(reply, default=as_json), file=answers, flush=True)

    try:
        importlib.import_module(kind)
    except ModuleNotFoundError as error:
        write({"error": str(error), "missing": error.name})
        return
    try:
        model = FlairTagger(name, device) if kind == "flair" else SpanMarker(name, device)
    except Exception as error:
        write({"error": f"{type(error).__name__}: {error}", "missing": None})
        return
    write(model.description)
    for line in sys.stdin:
        try:
            write({"answers": model.answer(json.loads(line))})
        except Exception as error:
            write({"error": f"{type(error).__name__}: {error}"})


class FlairTagger:
    def __init__(self, name, device) -> None:
        import flair
        import torch
        from flair.models import SequenceTagger

        flair.device = torch.device(device)
        if Path(name).is_dir():
            name = next(
                str(file) for pattern in ("final-model.pt", "*.pt", "*.bin") for file in Path(name).glob(pattern)
            )
        self.tagger = SequenceTagger.load(name).eval().to(flair.device)
        items = self.tagger.label_dictionary.get_items()
        kept = [number for number, item in enumerate(items) if item not in ("<START>", "<STOP>", "<unk>")]
        self.kept = torch.tensor(kept)
        labels = [items[number] for number in kept]
        zeros = torch.zeros(len(kept), dtype=torch.float64)
        transitions, start, end = zeros.expand(len(kept), -1), zeros, zeros
        if self.tagger.use_crf:
            scores = self.tagger.crf.transitions.detach().double().cpu()  # [to, from]
            begin, stop = items.index("<START>"), items.index("<STOP>")
            transitions = scores[self.kept][:, self.kept].T
            start, end = scores[self.kept, begin], scores[stop, self.kept]
        self.description = {
            "labels": labels,
            "revision": weights_hash(self.tagger, labels),
            "transitions": transitions,
            "start": start,
            "end": end,
        }

    def answer(self, sentences):
        import torch
        from flair.data import Sentence

        read = [Sentence(list(words)) for words in sentences]
        for sentence, words in zip(read, sentences):
            if len(sentence) != len(words):
                raise ValueError(f"flair reads {len(words)} words as {len(sentence)}: {' '.join(words)[:80]!r}")
        order = sorted(range(len(read)), key=lambda row: len(read[row]), reverse=True)
        features = []
        hook = self.tagger.linear.register_forward_hook(lambda module, inputs, output: features.append(output))
        try:
            with torch.inference_mode():
                self.tagger.forward(*self.tagger._prepare_tensors([read[row] for row in order]))
        finally:
            hook.remove()
        emissions = features[0][..., self.kept.to(features[0].device)].double().cpu()
        answers = [None] * len(read)
        for position, row in enumerate(order):
            answers[row] = emissions[position, : len(read[row])]
        return answers


class SpanMarker:
    def __init__(self, name, device) -> None:
        from span_marker import SpanMarkerModel

        self.model = SpanMarkerModel.from_pretrained(name).eval().to(device)
        config = self.model.config
        self.outside = config.outside_id
        self.types = [number for number in range(len(config.id2label)) if number != self.outside]
        labels = [config.id2label[number] for number in self.types]
        self.description = {"labels": labels, "revision": weights_hash(self.model, labels)}

    def answer(self, sentences):
        """Words that the model cuts off are asked about as a sentence of their own."""
        import torch

        parts: list[list] = [[] for _ in sentences]
        waiting = [(row, 0, list(words)) for row, words in enumerate(sentences)]
        while waiting:
            left = []
            for (row, first, words), (number, log_probs) in zip(waiting, self._log_probs([w for _, _, w in waiting])):
                if number == 0:
                    raise ValueError(f"the model reads no word of {' '.join(words)[:80]!r}")
                spans = self.model.tokenizer.get_all_valid_spans(number, self.model.config.entity_max_length)
                parts[row].append((torch.tensor(list(spans)) + first, log_probs))
                if number < len(words):
                    left.append((row, first + number, words[number:]))
            waiting = left
        return [tuple(map(torch.cat, zip(*pieces))) for pieces in parts]

    def _log_probs(self, sentences):
        """For each sentence how many words the model reads, and (spans, 1 + types) of all spans of these."""
        import torch

        outputs = []
        hook = self.model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            self.model.predict(sentences)
        finally:
            hook.remove()
        # A sentence with many spans is several rows, one after the other.
        rows = iter(
            (int(output.num_words[row]), output.logits[row, : output.num_marker_pairs[row]])
            for output in outputs
            for row in range(len(output.num_marker_pairs))
        )
        answers = []
        for _ in sentences:
            words, logits = next(rows)
            wanted = len(list(self.model.tokenizer.get_all_valid_spans(words, self.model.config.entity_max_length)))
            while len(logits) < wanted:
                logits = torch.cat([logits, next(rows)[1]])
            log_probs = logits.double().log_softmax(dim=-1)[:, [self.outside, *self.types]]
            answers.append((words, log_probs.cpu()))
        return answers


def weights_hash(model, labels) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(labels).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:40]


def as_json(tensor):
    array = tensor.detach().cpu().contiguous().numpy()
    return {"dtype": array.dtype.str, "shape": array.shape, "bytes": base64.b64encode(array.tobytes()).decode()}


if __name__ == "__main__":
    main()
