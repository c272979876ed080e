"""Run by the tests in a process of its own, where HF_ENDPOINT is the loopback Hub: `python push_worker.py WHAT JSON`.

Prints one line of JSON last.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def make_trainer(output_dir: str, **options: Any):
    from datasets import concatenate_datasets

    from hf_structkd import (
        StructKDTrainer,
        StructKDTrainingArguments,
        Teacher,
        XLMRobertaCRFConfig,
        XLMRobertaForTokenClassificationCRF,
    )
    from hf_structkd.data.corpora import label_inventory
    from hf_structkd.data.demo_corpus import load_demo_corpus
    from hf_structkd.data.tokenizer import train_tokenizer

    corpus = concatenate_datasets([load_demo_corpus(language, "train", num_sentences=20) for language in ("en", "ru")])
    labels = label_inventory(corpus)
    tokenizer = train_tokenizer(corpus["tokens"], vocab_size=300)

    def model():
        return XLMRobertaForTokenClassificationCRF(
            XLMRobertaCRFConfig(
                vocab_size=len(tokenizer), max_position_embeddings=66, type_vocab_size=1,
                pad_token_id=tokenizer.pad_token_id, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=32, id2label=dict(enumerate(labels)),
                label2id={label: i for i, label in enumerate(labels)}, languages=["en", "ru"],
            )
        )  # fmt: skip

    student = model()
    student.set_word_starts(tokenizer)
    settings = {
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "max_steps": 2,
        "per_device_train_batch_size": 8, "learning_rate": 1e-2, "eval_strategy": "steps", "eval_steps": 1,
    }  # fmt: skip
    return StructKDTrainer(
        student,
        StructKDTrainingArguments(output_dir, **{**settings, **options}),
        train_dataset=corpus,
        eval_dataset={"en": corpus.select(range(5)), "ru": corpus.select(range(20, 25))},
        processing_class=tokenizer,
        teachers={language: Teacher(model(), tokenizer) for language in ("en", "ru")},
    )


def strategies(folder: str, token: str) -> dict:
    """Train with every hub_strategy, then push."""
    addresses = {}
    for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
        trainer = make_trainer(
            f"{folder}/{strategy}", push_to_hub=True, hub_model_id=f"alice/{strategy}", hub_token=token,
            hub_strategy=strategy, hub_always_push=True, hub_private_repo=strategy == "checkpoint",
            save_strategy="steps", save_steps=1,
        )  # fmt: skip
        trainer.train()
        addresses[strategy] = str(trainer.push_to_hub(license="apache-2.0").repo_url)
    return addresses


def refusals(folder: str, repo_id: str, tokens: dict[str, str], absent: list[str]) -> dict:
    """What is said of pushes that the Hub refuses, of teachers that it does not give, and once it is gone; and what is
    left on this machine."""
    import urllib.request

    from huggingface_hub import constants

    from hf_structkd import Teacher
    from hf_structkd.hub.push import PushError

    trainer = make_trainer(folder, save_strategy="no", hub_model_id=repo_id)
    trainer.train()
    said, missing = {}, {}

    def push(name: str, token: str) -> None:
        try:
            trainer.push_to_hub(token=token)
        except PushError as error:
            said[name] = str(error)

    for name, token in tokens.items():
        push(name, token)
    try:
        make_trainer(folder + "-early", push_to_hub=True, hub_model_id=repo_id, hub_token=next(iter(tokens.values())))
    except PushError as error:
        said["before training"] = str(error)
    for name in absent:
        try:
            Teacher.from_pretrained(name)
        except (OSError, ValueError) as error:
            missing[name] = str(error)
    urllib.request.urlopen(f"{constants.ENDPOINT}/hang-up").close()
    push("no network", next(iter(tokens.values())))
    return {"said": said, "missing": missing, "left": sorted(path.name for path in Path(folder).iterdir())}


def upload_twice(folder: str, repo_id: str, token: str) -> str:
    """Push from a process that somebody kills, whose id is printed; after a line of input push again."""
    from hf_structkd.hub.push import push_folder

    if not (child := os.fork()):
        push_folder(folder, repo_id, token=token)
        os._exit(0)
    print(child, flush=True)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    sys.stdin.readline()
    return push_folder(folder, repo_id, token=token)


def program(code: str, token: str) -> None:
    """Run a page's program as somebody who has logged in."""
    from huggingface_hub import login

    login(token)
    exec(compile(code, "page", "exec"), {"__name__": "page"})


def download(repo_ids: list[str], token: str | None = None) -> dict:
    """Tag a sentence with what the Hub has, as somebody who has transformers and torch alone."""
    sys.modules["hf_structkd"] = None  # type: ignore[assignment]  # importing it fails
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    found = {}
    words = ["Clara", "lives", "in", "Bremen"]
    for repo_id in repo_ids:
        options = {"trust_remote_code": True, "token": token}
        model = AutoModelForTokenClassification.from_pretrained(repo_id, **options).eval()
        tokenizer = AutoTokenizer.from_pretrained(repo_id, **options)
        inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            output = model(**inputs)
        stock = pipeline("token-classification", repo_id, aggregation_strategy="simple", **options)
        found[repo_id] = {
            "class": type(model).__name__,
            "tags": [model.config.id2label[tag] for tag in output.tags[output.tags != -100].tolist()],
            "stock": [(one["entity_group"], one["end"]) for one in stock(" ".join(words))],
            "by its task": pipeline("crf-token-classification", repo_id, **options)(" ".join(words), marginals=True),
            "by its name alone": pipeline(model=repo_id, **options)(" ".join(words), marginals=True),
        }
    return found


def validate(cards: list[str]) -> list[str | None]:
    """What the client's validator says of cards."""
    from huggingface_hub import ModelCard

    said: list[str | None] = []
    for card in cards:
        try:
            ModelCard.load(card).validate()
            said.append(None)
        except ValueError as error:
            said.append(str(error))
    return said


if __name__ == "__main__":
    work = {f.__name__: f for f in (strategies, refusals, upload_twice, program, download, validate)}[sys.argv[1]]
    print(json.dumps(work(**json.loads(sys.argv[2]))))
