"""Trains a tagger as scripts for the stock `Trainer` do; nothing of hf_structkd but the model itself, and the metric.

python run_ner.py --model_name_or_path CHECKPOINT --train_file A.json --validation_file B.json --test_file C.json
                  --metric SEQEVAL.py --output_dir FOLDER [any of TrainingArguments]

CHECKPOINT is a tagger with a CRF, run by the code that it carries (`--trust_remote_code true`, the package is not
imported at all), or a plain encoder, on which `--with_crf true` puts one.
"""

import json
import sys
from dataclasses import dataclass

import evaluate
import numpy as np
import torch
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)

torch.set_num_threads(1)


@dataclass
class Arguments:
    model_name_or_path: str
    train_file: str
    validation_file: str
    test_file: str
    metric: str
    trust_remote_code: bool = False
    with_crf: bool = False


def main() -> None:
    own, args = HfArgumentParser((Arguments, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    files = {"train": own.train_file, "validation": own.validation_file, "test": own.test_file}
    raw = load_dataset("json", data_files=files)
    labels = sorted({tag for tags in raw["train"]["ner_tags"] for tag in tags})
    ids = {label: i for i, label in enumerate(labels)}

    trust = {"trust_remote_code": own.trust_remote_code}
    auto_class = AutoModelForTokenClassification
    if own.with_crf:
        from hf_structkd import crf_class_for

        auto_class = crf_class_for(AutoConfig.from_pretrained(own.model_name_or_path))
    tokenizer = AutoTokenizer.from_pretrained(own.model_name_or_path, **trust)
    model = auto_class.from_pretrained(
        own.model_name_or_path, id2label=dict(enumerate(labels)), label2id=ids, ignore_mismatched_sizes=True, **trust
    )

    def tokenize_and_align(batch: dict) -> dict:
        encoded = tokenizer(batch["tokens"], is_split_into_words=True, truncation=True, max_length=38)
        encoded["labels"] = []
        for row, tags in enumerate(batch["ner_tags"]):
            words = encoded.word_ids(row)
            first = [word is not None and word != before for before, word in zip([None, *words], words)]
            encoded["labels"].append([ids[tags[w]] if begins else -100 for w, begins in zip(words, first)])
        return encoded

    data = raw.map(tokenize_and_align, batched=True, remove_columns=raw["train"].column_names)
    seqeval = evaluate.load(own.metric)

    def names(predictions: np.ndarray, gold: np.ndarray) -> tuple[list[list[str]], list[list[str]]]:
        kept = [row != -100 for row in gold]
        return tuple([[labels[i] for i in row[keep]] for row, keep in zip(rows, kept)] for rows in (predictions, gold))

    def compute_metrics(prediction) -> dict[str, float]:
        logits, gold = prediction
        guesses, references = names(np.argmax(logits, axis=2), gold)
        scores = seqeval.compute(predictions=guesses, references=references)
        return {name: scores[name] for name in ("precision", "recall", "f1", "accuracy")}

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=compute_metrics,
    )
    before = trainer.evaluate()
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    after = trainer.evaluate()
    logits, gold, scores = trainer.predict(data["test"], metric_key_prefix="predict")
    predictions, _ = names(np.argmax(logits, axis=2), gold)

    again = AutoModelForTokenClassification.from_pretrained(args.output_dir, **trust)
    batch = trainer.data_collator([data["test"][i] for i in range(4)])
    with torch.no_grad():
        difference = (again(**batch).logits - model.eval()(**batch).logits).abs().max()
    report = {
        "model": type(model).__name__,
        "package_imported": "hf_structkd" in sys.modules,
        "before": before,
        "after": after,
        "predict": scores,
        "predictions": predictions,
        "difference_after_reload": float(difference),
    }
    print("\n" + json.dumps(report))


if __name__ == "__main__":
    main()
