"""The programs on a card. A test runs every one of them as it is printed."""

import json
import keyword
import re
from collections.abc import Sequence

_SENTENCES = {
    "de": "Clara Weber zog 1998 von Bremen nach Wien .",
    "en": "Clara Weber moved from Bremen to Vienna in 1998 .",
    "es": "Clara Weber se mudó de Bremen a Viena en 1998 .",
    "fr": "Clara Weber a quitté Brême pour Vienne en 1998 .",
    "hi": "क्लारा वेबर 1998 में ब्रेमेन से वियना चली गईं ।",
    "it": "Clara Weber si trasferì da Brema a Vienna nel 1998 .",
    "nl": "Clara Weber verhuisde in 1998 van Bremen naar Wenen .",
    "pt": "Clara Weber mudou-se de Bremen para Viena em 1998 .",
    "ru": "Клара Вебер переехала в 1998 году из Бремена в Вену .",
    "tr": "Clara Weber 1998'de Bremen'den Viyana'ya taşındı .",
}

_CLASS = """\
import torch
from transformers import AutoTokenizer

from hf_structkd import {class_name}

name = {model_id}
tokenizer = AutoTokenizer.from_pretrained(name)
model = {class_name}.from_pretrained(name).eval()

words = {words}
inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
with torch.inference_mode():
    tags = model(**inputs).tags[0]
print([(word, model.config.id2label[tag]) for word, tag in zip(words, tags[tags != -100].tolist())])"""

_GLUED = """\
import torch
from transformers import AutoTokenizer

from hf_structkd import {class_name}
from hf_structkd.modeling.glued_words import GluedWords
from hf_structkd.modeling.segmenters import get_segmenter
from hf_structkd.modeling.words import tokenize_words

name = {model_id}
tokenizer = AutoTokenizer.from_pretrained(name)
model = {class_name}.from_pretrained(name).eval()

text = {text}
words = GluedWords.of_text(text, get_segmenter(model.config.words)(text))
inputs = tokenize_words([words], tokenizer, model.config.glued_words)
with torch.inference_mode():
    tags = model(**{{key: torch.tensor(rows) for key, rows in inputs.items()}}).tags[0]
print([(word, model.config.id2label[tag]) for word, tag in zip(words, tags[tags != -100].tolist())])"""

_SOFTMAX = """\
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

name = {model_id}
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForTokenClassification.from_pretrained(name).eval()

words = {words}
inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
firsts = [inputs.word_ids().index(place) for place in range(len(words))]
with torch.inference_mode():
    tags = model(**inputs).logits[0, firsts].argmax(dim=-1)
print([(word, model.config.id2label[tag]) for word, tag in zip(words, tags.tolist())])"""

_STOCK = """\
from transformers import pipeline

tagger = pipeline("token-classification", {model_id}, trust_remote_code=True{aggregation})
for found in tagger({text}):
    print(found["{key}"], found["word"], round(float(found["score"]), 3))"""

_OWN = """\
from transformers import pipeline

tagger = pipeline("crf-token-classification", {model_id}, trust_remote_code=True)
answer = tagger({text}, top_k=3)
for found in answer["{members}"]:
    print(found["{key}"], found["word"], round(found["score"], 3))
for analysis in answer["top_k"]:
    found = [(one["{key}"], one["word"]) for one in analysis["{members}"]]
    print(round(analysis["score"], 3), found)"""


def widget_examples(languages: Sequence[str]) -> list[dict[str, str]]:
    """Texts to try on a model's page on the Hub: one per language that there is a sentence for.

    Args:
        languages: codes, `"pt"` or `"pt-BR"`.

    Returns:
        `text` and `example_title`, the language, for each.

    Source: the widget examples of hub-docs.
    """
    known = dict.fromkeys(code for language in languages if (code := language.split("-")[0]) in _SENTENCES)
    return [{"text": _SENTENCES[code].replace(" .", "."), "example_title": code} for code in known]


def example_sentence(languages: tuple[str, ...]) -> str:
    """A sentence, words separated by spaces, in the first of these languages that there is one for."""
    known = (code for language in languages if (code := language.split("-")[0]) in _SENTENCES)
    return _SENTENCES[next(known, "en")]


def snippets(
    model_id: str, class_name: str, languages: tuple[str, ...], scheme: str, glued_words: bool = False
) -> dict[str, str]:
    """The programs of a card.

    Args:
        model_id: what to load.
        class_name: the model's class.
        languages: its languages; the example is in one of them.
        scheme: of its tags; taggers of words have no entities to aggregate.
        glued_words: as in its configuration: the stock pipeline then cannot tell its words.

    Returns:
        `"class"` and, for a class with a CRF head, `"own"` and, without `glued_words`, `"stock"` -> Python source.

    Raises:
        ValueError: if `class_name` is not the name of a class: it is code that readers run.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", class_name, re.ASCII) or keyword.iskeyword(class_name):
        raise ValueError(f"class_name {class_name!r} is not the name of a class")
    sentence, plain = example_sentence(languages), scheme == "plain"
    name, text, words = (json.dumps(value, ensure_ascii=False) for value in (model_id, sentence, sentence.split()))
    if not class_name.endswith("CRF"):  # a stock one: its pipeline would read untrained subwords
        return {"class": _SOFTMAX.format(model_id=name, words=words)}
    aggregation = "" if plain else ', aggregation_strategy="simple"'
    members, own_key = ("tags", "tag") if plain else ("entities", "entity_group")
    stock_key = "entity" if plain else "entity_group"
    snippet = _OWN.format(model_id=name, text=text, members=members, key=own_key)
    if glued_words:
        return {"class": _GLUED.format(model_id=name, class_name=class_name, text=text), "own": snippet}
    return {
        "class": _CLASS.format(model_id=name, class_name=class_name, words=words),
        "stock": _STOCK.format(model_id=name, aggregation=aggregation, text=text, key=stock_key),
        "own": snippet,
    }
