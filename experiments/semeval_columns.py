"""SemEval-2016 Task 5 reviews as column files: a word and its tag (B-TARGET, I-TARGET, O) per line.

    python -m experiments.semeval_columns TRAIN.xml TEST.xml data/semeval2016/en

writes train.conll, dev.conll (every tenth review of the training file, which comes without dev set) and test.conll.
Words are runs of letters and digits, and every other character that is no blank; a target's borders are borders of
words. Sentences out of scope are left out; so are targets that no text stands for (NULL) and, where two overlap, the
shorter one. How many is printed.
"""

import argparse
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from itertools import pairwise
from pathlib import Path

from hf_structkd.files import write_atomically

Sentence = list[tuple[str, str]]  # words and their tags
DEV_EVERY = 10


def targets_of(sentence: ElementTree.Element, text: str, counts: Counter[str]) -> list[tuple[int, int]]:
    """The aspect terms as (first character, character after the last), in order and without overlaps.

    Raises:
        ValueError: if the text at a target's place is not the target.
    """
    targets = set()
    for opinion in sentence.iter("Opinion"):
        target = opinion.get("target", "NULL")
        if target == "NULL":
            counts["targets that no text stands for"] += 1
            continue
        start, end = int(opinion.get("from", 0)), int(opinion.get("to", 0))
        if text[start:end] != target:
            raise ValueError(
                f"sentence {sentence.get('id')}: target {target!r} is said to be at {start} to {end}, but there is "
                f"{text[start:end]!r}"
            )
        targets.add((start, end))
    chosen: list[tuple[int, int]] = []
    for start, end in sorted(targets, key=lambda span: (span[0] - span[1], span)):  # long ones first
        if any(start < other_end and other < end for other, other_end in chosen):
            counts["targets inside or across another"] += 1
        else:
            chosen.append((start, end))
    return sorted(chosen)


def tagged(text: str, targets: list[tuple[int, int]]) -> Sentence:
    """The words of a text, tagged."""
    borders = sorted({0, len(text), *(place for target in targets for place in target)})
    starts, inside = {start for start, _ in targets}, [range(*target) for target in targets]
    words = []
    for begin, end in pairwise(borders):
        first = True
        for match in re.finditer(r"\w+|[^\w\s]", text[begin:end]):
            tag = "O"
            if any(begin in span for span in inside):
                tag = "B-TARGET" if first and begin in starts else "I-TARGET"
            words.append((match[0], tag))
            first = False
    return words


def read_reviews(path: Path) -> list[list[Sentence]]:
    """The reviews of an XML file, each its sentences; says what was left out.

    Raises:
        ValueError: if the file is no XML of this task, or a target is not where it is said to be.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from error
    counts: Counter[str] = Counter()
    reviews = []
    for review in root.iter("Review"):
        sentences = []
        for sentence in review.iter("sentence"):
            text = sentence.findtext("text") or ""
            if sentence.get("OutOfScope", "").upper() == "TRUE":
                counts["sentences out of scope"] += 1
            elif words := tagged(text, targets_of(sentence, text, counts)):
                sentences.append(words)
        reviews.append(sentences)
    if not any(reviews):
        raise ValueError("no <Review> with a <sentence> in it: is it a file of SemEval-2016 Task 5, subtask 1?")
    left_out = ", ".join(f"{count} {what}" for what, count in counts.items()) or "nothing"
    print(f"{path}: {sum(map(len, reviews)):,} sentences; left out: {left_out}")
    return reviews


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    reviews_of_files = []
    for path in (options.train, options.test):
        try:
            reviews_of_files.append(read_reviews(path))
        except (OSError, ValueError) as error:
            sys.exit(f"error: {path}: {error}")
    train, test = reviews_of_files
    splits = {
        "train": [sentence for i, review in enumerate(train, 1) if i % DEV_EVERY for sentence in review],
        "dev": [sentence for review in train[DEV_EVERY - 1 :: DEV_EVERY] for sentence in review],
        "test": [sentence for review in test for sentence in review],
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    for split, sentences in splits.items():
        lines = ["".join(f"{word}\t{tag}\n" for word, tag in words) for words in sentences]
        write_atomically(options.folder / f"{split}.conll", "\n".join(lines))
    print(f"{options.folder}: " + ", ".join(f"{len(part):,} {split}" for split, part in splits.items()))


if __name__ == "__main__":
    main()
