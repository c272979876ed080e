"""Makes a tiny flair tagger with CRF, one without, and a tiny SpanMarker model; run in an environment that has both.

    python make_foreign_models.py FOLDER

FOLDER/sentences.json has the sentences, and what the libraries themselves say of them.
"""

import json
import sys
from pathlib import Path

import torch

SENTENCES = [
    ["Anna", "Reis", "lives", "in", "Lisbon", "."],
    ["Rain"],
    ["The", "bank", "of", "Porto", "hired", "Rui", "and", "Mira", "Nova"],
]
TAGS = [
    ["B-PER", "I-PER", "O", "O", "B-LOC", "O"],
    ["O"],
    ["O", "B-ORG", "I-ORG", "I-ORG", "O", "B-PER", "O", "B-PER", "I-PER"],
]


def flair_models(folder: Path) -> dict:
    import flair
    from flair.data import Corpus, Sentence
    from flair.datasets import FlairDatapointDataset
    from flair.embeddings import OneHotEmbeddings
    from flair.models import SequenceTagger
    from flair.trainers import ModelTrainer

    flair.device = torch.device("cpu")
    said = {}
    for name, use_crf in (("crf", True), ("softmax", False)):
        flair.set_seed(1)
        data = FlairDatapointDataset([with_gold(words, tags) for words, tags in zip(SENTENCES, TAGS)])
        corpus = Corpus(data, data, data)
        labels = corpus.make_label_dictionary("ner", add_unk=False)
        embeddings = OneHotEmbeddings.from_corpus(corpus, min_freq=1, embedding_length=8)
        tagger = SequenceTagger(embeddings, labels, "ner", hidden_size=8, rnn_layers=1, use_crf=use_crf)
        ModelTrainer(tagger, corpus).train(folder / name, learning_rate=0.1, mini_batch_size=1, max_epochs=40)
        tagger = SequenceTagger.load(folder / name / "final-model.pt").eval()
        said[name] = []
        for words, tags in zip(
            SENTENCES, TAGS
        ):  # one by one: `predict` gives a list of sentences each other as context
            sentence = Sentence(words)
            tagger.predict(sentence, return_probabilities_for_all_classes=True, force_token_predictions=True)
            said[name].append(
                {
                    "best": [token.get_label("ner").value for token in sentence],
                    "probabilities": [
                        {label.value: label.score for label in token.get_tags_proba_dist("ner")} for token in sentence
                    ],
                    "loss of gold": float(tagger.forward_loss([with_gold(words, tags)])[0]),
                }
            )
    return said


def with_gold(words: list, tags: list):
    from flair.data import Sentence

    sentence, start = Sentence(words), None
    for position, tag in enumerate([*tags, "O"]):
        if start is not None and not tag.startswith("I-"):
            sentence[start:position].add_label("ner", tags[start][2:])
            start = None
        if tag.startswith("B-"):
            start = position
    return sentence


def span_marker_model(folder: Path) -> list:
    from span_marker import SpanMarkerModel
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for words in SENTENCES for word in words})]
    tokenizer = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    encoder = folder / "bert"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(encoder)
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(pieces) + 2, max_position_embeddings=300, **shape)).save_pretrained(encoder)
    model = SpanMarkerModel.from_pretrained(
        encoder, labels=["O", "PER", "LOC"], model_max_length=10, marker_max_length=8, entity_max_length=4
    )
    with torch.no_grad():
        model.classifier.weight.normal_(0, 0.5)
    model.save_pretrained(folder / "span_marker")
    model = SpanMarkerModel.from_pretrained(folder / "span_marker")
    return model.predict(SENTENCES)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    said = {"sentences": SENTENCES, "tags": TAGS, **flair_models(place), "span_marker": span_marker_model(place)}
    (place / "sentences.json").write_text(json.dumps(said, default=str))
