"""One tiny student of every family, each with a real tokenizer of its kind."""

import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from hf_structkd import LinearChainCRF, crf_class_for
from hf_structkd.modeling import crf_compiled as native

FAMILIES = ("xlm-roberta", "bert", "deberta-v2", "modernbert")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
POSITIONS = 40


def _wrap(backend: Tokenizer, trainer: Any, sentences) -> PreTrainedTokenizerFast:
    backend.train_from_iterator([" ".join(words) for words in sentences], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
        mask_token="[MASK]",
    )


def wordpiece(sentences) -> PreTrainedTokenizerFast:
    """As multilingual BERT's."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _wrap(backend, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL), sentences)


def unigram(sentences) -> PreTrainedTokenizerFast:
    """As mDeBERTa's."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False)
    return _wrap(backend, trainer, sentences)


def byte_level(sentences, add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """As ModernBERT's, which adds no space before a text."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return _wrap(backend, trainer, sentences)


def spaces_as_pieces(sentences) -> PreTrainedTokenizerFast:
    """As mmBERT's (Gemma's): spaces become marks in the normalizer, and none is put before a text."""
    backend = Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    return _wrap(backend, trainer, sentences)


def compile_loops() -> None:
    """Have every loop compiled, as at its first call: that takes longer than the time that an example may take."""
    emissions = torch.zeros(2, 3, 2, requires_grad=True)
    crf = LinearChainCRF(emissions, torch.zeros(2, 2), lengths=torch.tensor([3, 2]))
    (crf.log_partition.sum() + crf.log_marginals.sum() + crf.log_prob(crf.argmax()[0]).sum()).backward()
    crf.topk(2)


@pytest.fixture(scope="module", params=["torch", pytest.param("compiled", marks=pytest.mark.slow)])
def loops(request):
    """The CRF's two implementations: `pytestmark = pytest.mark.usefixtures("loops")` runs a file with both."""
    if request.param == "compiled":
        pytest.importorskip("numba", reason="compiled loops need numba, the `fast` extra")
    before = native.use_native(request.param == "compiled")
    if request.param == "compiled":
        compile_loops()
    yield
    native.use_native(before)


@pytest.fixture(scope="session")
def tokenizers_by_family(corpus, tokenizer) -> dict[str, PreTrainedTokenizerFast]:
    kinds = {"bert": wordpiece, "deberta-v2": unigram, "modernbert": byte_level}
    return {"xlm-roberta": tokenizer, **{name: make(list(corpus["tokens"])) for name, make in kinds.items()}}


@dataclass
class Family:
    """A family's classes, its tokenizer, and how to make a tiny student of it."""

    name: str
    tokenizer: PreTrainedTokenizerFast
    labels: list[str]

    @property
    def cls(self) -> Any:
        return crf_class_for(self.name)

    def config(self, **fields) -> Any:
        own = {
            "xlm-roberta": {"type_vocab_size": 1},
            "bert": {"type_vocab_size": 2},
            "deberta-v2": {
                **{"relative_attention": True, "position_biased_input": False, "share_att_key": True},
                **{"pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "position_buckets": 16},
            },
            "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
        }[self.name]
        special = {"cls_token_id": "cls_token_id", "sep_token_id": "sep_token_id"}
        special |= {"bos_token_id": "cls_token_id", "eos_token_id": "sep_token_id", "pad_token_id": "pad_token_id"}
        return self.cls.config_class(
            **{
                **{"vocab_size": len(self.tokenizer), "max_position_embeddings": POSITIONS, "hidden_size": 16},
                **{"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
                **{"id2label": dict(enumerate(self.labels)), "label2id": {n: i for i, n in enumerate(self.labels)}},
                **{name: getattr(self.tokenizer, source) for name, source in special.items()},
                **own,
                **fields,
            }
        )

    def student(self, seed: int = 0, **fields) -> Any:
        """Every parameter of the head drawn at random, so that nothing is right by being zero."""
        torch.manual_seed(seed)
        model = self.cls(self.config(**fields))
        for parameter in model.crf.parameters():
            torch.nn.init.normal_(parameter)
        torch.nn.init.normal_(model.classifier.weight)
        model.set_word_starts(self.tokenizer)
        return model.eval()

    def plain_encoder(self, **fields) -> Any:
        """The encoder alone, as `AutoModel` knows it."""
        known = self.config(**fields).to_dict()
        return AutoModel.from_config(
            AutoConfig.for_model(self.name, **{k: known[k] for k in known if k != "model_type"})
        )


@pytest.fixture(params=FAMILIES)
def family(request, tokenizers_by_family, labels) -> Family:
    return Family(request.param, tokenizers_by_family[request.param], labels)


@pytest.fixture(scope="session")
def python_without_the_package(tmp_path_factory):
    """An environment that sees everything installed here but this package."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    installed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    if any((Path(path) / "hf_structkd").exists() for path in installed):
        pytest.skip("needs hf_structkd installed in editable mode, or not at all, to leave it out of an environment")
    # Paths that a .pth file adds are searched, but the .pth files found there (editable installs) are not read.
    (site / "elsewhere.pth").write_text("\n".join(installed))
    return folder / "bin" / "python"
