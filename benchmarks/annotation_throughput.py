"""How fast `annotate` is in comparison with the encoder alone, when a teacher is asked for all answers.

    python -m benchmarks.annotation_throughput [--sentences 256] [--hidden 768] [--layers 12] [--device cpu]

Encodes the same length-sorted batches twice in turn, in one run: once through the encoder alone (inputs padded and
ready, inference mode), once through `annotate` as users call it: reading the corpus, tokenising, encoding, k best,
marginals, edge counts and entropy, Arrow shards on disk with checksums, one file at the end. The cost of the library
is the median of all rounds' ratios; the encoder has random weights of the given shape, which take as long as trained
ones.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import concatenate_datasets

from hf_structkd import Teacher, XLMRobertaCRFConfig, XLMRobertaForTokenClassificationCRF, annotate
from hf_structkd.data.corpora import label_inventory
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.teachers.base import batches_by_length

TARGETS = ["teacher_topk_tags", "teacher_marginals", "teacher_edge_counts", "teacher_entropy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        **{"sentences": 256, "hidden": 768, "layers": 12, "heads": 12, "batch-size": 64, "top-k": 10, "rounds": 5},
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    corpus = load_demo_corpus("en", "train", num_sentences=args.sentences)
    while len(corpus) < args.sentences:
        corpus = concatenate_datasets([corpus, corpus])
    corpus = corpus.select(range(args.sentences))
    labels = label_inventory(corpus)
    tokenizer = train_tokenizer(corpus["tokens"], vocab_size=1000)
    config = XLMRobertaCRFConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=4 * args.hidden,
        max_position_embeddings=258,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    torch.manual_seed(0)
    teacher = Teacher(XLMRobertaForTokenClassificationCRF(config).to(args.device), tokenizer)
    _ = teacher.revision  # the hash of the weights is taken once a teacher, not once a sentence
    sentences = list(corpus["tokens"])
    inputs = []
    for rows in batches_by_length(sentences, args.batch_size):
        encoded = tokenize_words([sentences[row] for row in rows], tokenizer)
        padded = tokenizer.pad({name: encoded[name] for name in ("input_ids", "attention_mask")}, return_tensors="pt")
        inputs.append({name: tensor.to(args.device) for name, tensor in padded.items()})

    # On a CPU, the process's own time, which other processes do not lengthen.
    clock = time.process_time if args.device == "cpu" else time.perf_counter

    def bare() -> float:
        started = clock()
        with torch.inference_mode():
            for batch in inputs:
                teacher.model.base_model(**batch)
        if args.device != "cpu":
            torch.cuda.synchronize()
        return clock() - started

    def asked() -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = clock()
            annotate(
                corpus,
                teacher,
                label_names=labels,
                targets=TARGETS,
                top_k=args.top_k,
                batch_size=args.batch_size,
                output_dir=Path(folder) / "answers",
                progress=False,
            )
            return clock() - started

    bare(), asked()
    times = [(bare(), asked()) for _ in range(args.rounds)]
    ratios = [alone / whole for alone, whole in times]
    encoder, everything = (statistics.median(column) for column in zip(*times))
    print(
        json.dumps(
            {
                **vars(args),
                "words": sum(map(len, sentences)),
                "threads": torch.get_num_threads(),
                "encoder_sentences_per_s": round(args.sentences / encoder, 1),
                "annotate_sentences_per_s": round(args.sentences / everything, 1),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_quartiles": [round(value, 3) for value in statistics.quantiles(ratios, n=4)],
            }
        )
    )


if __name__ == "__main__":
    main()
