"""Models as ONNX files, which onnxruntime runs without PyTorch's model code.

Encoder and Viterbi are one graph of tensors, for any number of sentences as long as the encoder's window allows.
"""

import copy
import importlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from transformers import PreTrainedTokenizerFast

from ..modeling.configuration import label_names
from ..modeling.crf_reference import IMPOSSIBLE
from ..modeling.segmenters import DEFAULT_WORDS, get_segmenter
from ..modeling.tag_scheme import IGNORED
from ..modeling.windows import content_mask, encoder_window
from ..modeling.words import as_sentences, pad_subwords, tokenize_words
from .exported_files import read_settings, write_export

MODEL_FILE = "model.onnx"
INPUTS = ("input_ids", "attention_mask", "word_mask")


def _import_extra(module: str) -> Any:
    """Import a module of the `onnx` extra. Raises ImportError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError("ONNX needs onnx, onnxruntime and onnxscript: pip install 'hf_structkd[onnx]'") from error


def export_onnx(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Write encoder and Viterbi as one ONNX graph, with the tokenizer and the labels beside it.

    Inputs of the graph: `input_ids`, `attention_mask`, `word_mask`, (batch, subwords), int64. Outputs: `tags`
    (batch, subwords), int64, -100 off the words; `emissions` (batch, subwords, tags), float32, nats. Batch and length
    are free, up to the encoder's window. An earlier export in the folder is replaced when the new one is complete;
    other files of the folder stay.

    Args:
        model: with a CRF head.
        tokenizer: its fast tokenizer.
        folder: created if it is missing.

    Returns:
        The path of the graph.

    Raises:
        ImportError: without the `onnx` extra.
        ValueError: if the model has a BiLSTM over words.
        ExportError: if the folder cannot be written to, or another process exports to it.
    """
    _import_extra("onnxscript")
    graph = TaggerGraph(copy.deepcopy(model).float().cpu()).eval()
    folder = Path(folder)
    encoded = tokenize_words([["a", "b", "c"], ["d", "e", "f"]], tokenizer)
    padded = pad_subwords(encoded, tokenizer.pad_token_id)
    example = tuple(padded[name] for name in INPUTS)
    dynamic_axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.onnx.export(
            graph,
            example,
            input_names=list(INPUTS),
            output_names=["tags", "emissions"],
            dynamic_shapes=dict.fromkeys(INPUTS, dynamic_axes),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # only exporters that write to a file return None
    settings = {
        "labels": label_names(model.config),
        "words": model.config.words,
        "glued_words": model.config.glued_words,
        "window": encoder_window(model),
        "pad_token_id": tokenizer.pad_token_id or 0,
    }
    with write_export(folder, settings) as work:
        program.save(str(work / MODEL_FILE))
        tokenizer.save_pretrained(work)
    return folder / MODEL_FILE


def quantize_onnx(source: str | Path, target: str | Path) -> Path:
    """Write an exported model again with matrices and embeddings in int8; activations are quantised at run time.

    Args:
        source: a folder that `export_onnx` wrote.
        target: another folder, which [`OnnxTagger`] runs in the same way.

    Returns:
        The path of the quantised graph.

    Raises:
        ImportError: without the `onnx` extra.
        ExportError: if the source is not a complete export, or the target cannot be written to.
    """
    quantization = _import_extra("onnxruntime.quantization")
    source, target = Path(source), Path(target)
    settings = read_settings(source)
    files = settings.pop("files")
    with write_export(target, settings) as work:
        for name in files:
            if not name.startswith(MODEL_FILE):  # also the prefix of a large graph's separate weights
                shutil.copyfile(source / name, work / name)
        quantization.quantize_dynamic(source / MODEL_FILE, work / MODEL_FILE, weight_type=quantization.QuantType.QInt8)
    return target / MODEL_FILE


class OnnxTagger:
    """An exported model, run by onnxruntime.

    Args:
        folder: written by `export_onnx` or `quantize_onnx`.
        threads: number of threads of onnxruntime; `None` for its default.
        providers: onnxruntime's names of the devices to run on.

    Raises:
        ImportError: without the `onnx` extra.
        ExportError: if the folder has no complete export.
    """

    def __init__(
        self, folder: str | Path, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        runtime = _import_extra("onnxruntime")
        settings = read_settings(Path(folder))
        self.labels, self.window, self.pad = settings["labels"], settings["window"], settings["pad_token_id"]
        self.words = settings.get("words", DEFAULT_WORDS)
        self.glued_words = settings.get("glued_words", False)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        self.session = runtime.InferenceSession(str(Path(folder) / MODEL_FILE), options, providers=list(providers))

    def split(self, text: str) -> list[tuple[int, int]]:
        """The words of a raw text, as the model knows them: first character and one past the last of each.

        `tagger.tag([GluedWords.of_text(text, tagger.split(text))])` tags a text; [`~.modeling.glued_words.GluedWords`]
        know where no blank stands before them, which counts for models with `glued_words`.

        Raises:
            SegmenterError: if the model's segmenter is not installed; the message names what to install.
        """
        return get_segmenter(self.words)(text)

    def tag(self, sentences: Sequence[Sequence[str]], batch_size: int = 32) -> list[list[str]]:
        """The best tag sequence of each sentence.

        Args:
            sentences: lists of words.
            batch_size: sentences per run; sentences of similar length go together.

        Returns:
            The labels of each sentence, one per word, in the order of the sentences.

        Raises:
            TypeError: for a text instead of a list of words.
            ValueError: for a sentence without words, or longer than the encoder's window, and a batch size below 1.
        """
        sentences = as_sentences(sentences)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if not len(sentences):
            return []
        encoded = tokenize_words(sentences, self.tokenizer, self.glued_words)
        ids = encoded["input_ids"]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        if self.window is not None and len(ids[order[0]]) > self.window:
            raise ValueError(
                f"sentence {order[0]} has {len(ids[order[0]])} subwords; an exported model takes {self.window} at "
                "once: split it, or use the pipeline, which reads long texts through windows"
            )
        tagged: list[list[str]] = [[] for _ in ids]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            padded = pad_subwords({name: [encoded[name][row] for row in rows] for name in INPUTS}, self.pad)
            inputs = {name: values.numpy() for name, values in padded.items()}
            (tags,) = self.session.run(["tags"], inputs)
            for row, path in zip(rows, tags.tolist()):
                tagged[row] = [self.labels[tag] for tag in path if tag >= 0]
        return tagged


@dataclass(frozen=True)
class TagAgreement:
    """How often two taggers give the same tags.

    Args:
        words: The words that both have tagged.
        same_words: Those of them with the same tag.
        sentences: The sentences.
        same_sentences: Those of them with the same tag on every word.
        too_long: Sentences that were left out, longer than the window of one of the taggers.
    """

    words: int
    same_words: int
    sentences: int
    same_sentences: int
    too_long: int = 0

    def __str__(self) -> str:
        left_out = f"; {self.too_long:,} longer than the encoder's window left out" if self.too_long else ""
        words, sentences = self.same_words / max(self.words, 1), self.same_sentences / max(self.sentences, 1)
        return (
            f"{100 * words:.2f} % of {self.words:,} words and {100 * sentences:.2f} % of {self.sentences:,} sentences "
            f"have the same tags as before{left_out}"
        )


def compare_tags(before: OnnxTagger, after: OnnxTagger, sentences: Sequence[Sequence[str]]) -> TagAgreement:
    """Tag sentences with two exported models, for instance in float and in int8, and compare.

    Args:
        before, after: The taggers.
        sentences: Lists of words. Sentences that are too long for a window are left out and counted.

    Raises:
        ValueError: If no sentences are left.
    """
    sentences = [words for words in as_sentences(sentences) if words]
    lengths = [
        [len(ids) for ids in tokenize_words(sentences, tagger.tokenizer, tagger.glued_words)["input_ids"]]
        if sentences
        else []
        for tagger in (before, after)
    ]
    fits = [
        all(tagger.window is None or length <= tagger.window for tagger, length in zip((before, after), both))
        for both in zip(*lengths)
    ]
    kept = [words for words, fit in zip(sentences, fits) if fit]
    if not kept:
        raise ValueError("there are no sentences to compare tags on that fit into the encoder's window")
    pairs = list(zip(before.tag(kept), after.tag(kept)))
    same = [[old == new for old, new in zip(*pair)] for pair in pairs]
    return TagAgreement(
        words=sum(map(len, same)),
        same_words=sum(map(sum, same)),
        sentences=len(kept),
        same_sentences=sum(map(all, same)),
        too_long=len(sentences) - len(kept),
    )


class TaggerGraph(nn.Module):
    """The exported graph. Words are not compacted, so that all shapes follow from the input's.

    Viterbi is two scans over subwords, whose state changes only where a word starts: from the right the best
    completion from each tag, from the left the path along it; the lowest tag wins ties. This is `follow` of
    `crf_paths.py`, in float64 as there.

    Args:
        model: with a CRF head, in float32.

    Raises:
        ValueError: if the model has a BiLSTM over words, which is not exported.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if model.lstm is not None:
            raise ValueError(
                "a BiLSTM between encoder and CRF cannot be exported to ONNX: distil without lstm_hidden_size"
            )
        self.encoder, self.classifier = model.base_model, model.classifier
        self.pool_mean = model.config.word_pooling == "mean"
        scheme, masked = model.tag_scheme, model.config.crf_constraints != "none"
        crf = {name: parameter.detach().double() for name, parameter in model.crf.named_parameters()}
        masks = {"transitions": scheme.allowed, "start_transitions": scheme.allowed_start}
        masks["end_transitions"] = scheme.allowed_end
        for name, scores in crf.items():
            forbidden = ~masks[name].to(scores.device) & masked
            self.register_buffer(name, scores.masked_fill(forbidden, IMPOSSIBLE))

    transitions: Tensor
    start_transitions: Tensor
    end_transitions: Tensor

    def forward(self, input_ids: Tensor, attention_mask: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tag a batch.

        Args:
            input_ids, attention_mask, word_mask: (batch, subwords), integers; word_mask is 1 on the first subword of
                each word.

        Returns:
            Tags (batch, subwords), -100 off the words; emissions (batch, subwords, tags), nats, undefined off the
            words.
        """
        words = word_mask.bool() & attention_mask.bool()
        vectors = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pool_mean:
            vectors = self._means(vectors, attention_mask, words)
        emissions = self.classifier(vectors)
        return self._viterbi(emissions, words), emissions

    def _means(self, vectors: Tensor, attention_mask: Tensor, words: Tensor) -> Tensor:
        """The mean over each word's subwords, at its first subword."""
        word_index = words.long().cumsum(dim=1)
        inside = (content_mask(attention_mask) | words) & (word_index > 0)
        same_word = ((word_index.unsqueeze(2) == word_index.unsqueeze(1)) & inside.unsqueeze(1)).to(vectors.dtype)
        return same_word @ vectors / same_word.sum(dim=2, keepdim=True).clamp(min=1)

    def _viterbi(self, emissions: Tensor, words: Tensor) -> Tensor:
        """Tags (batch, subwords), -100 off the words."""
        steps = (emissions.double().transpose(0, 1), words.transpose(0, 1))
        zeros = torch.zeros_like(steps[0][0])

        def backward(rest: Tensor, step: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            emission, is_word = step
            completion = emission + rest
            previous_rest = (self.transitions + completion.unsqueeze(1)).amax(dim=-1)
            return torch.where(is_word.unsqueeze(1), previous_rest, rest), completion

        _, completions = scan(backward, self.end_transitions + zeros, steps, dim=0, reverse=True)

        def forward(arriving: Tensor, step: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            completion, is_word = step
            tag = (arriving + completion).argmax(dim=-1)
            leaving = torch.where(is_word.unsqueeze(1), self.transitions[tag], arriving)
            return leaving, torch.where(is_word, tag, torch.full_like(tag, IGNORED))

        _, tags = scan(forward, self.start_transitions + zeros, (completions, steps[1]), dim=0)
        return tags.transpose(0, 1)
