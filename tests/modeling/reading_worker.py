"""Runs where hf_structkd is not installed: reads sentences with the code that a checkpoint carries.

python reading_worker.py SENTENCES.json FOLDER...     prints folder -> mode -> reader -> what it says of each sentence
"""

import contextlib
import json
import sys

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

try:
    import hf_structkd
except ImportError:
    pass
else:
    raise SystemExit(f"hf_structkd is importable here, from {hf_structkd.__file__}")

torch.set_num_threads(1)
TRUST = {"trust_remote_code": True}
MODES = {
    "float32": contextlib.nullcontext,
    "bf16 autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
with open(sys.argv[1], encoding="utf-8") as file:
    sentences_of = json.load(file)
seen: dict = {}
for folder in sys.argv[2:]:
    model = AutoModelForTokenClassification.from_pretrained(folder, **TRUST).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **TRUST)
    stock = pipeline("token-classification", folder, aggregation_strategy="simple", **TRUST)
    ours = pipeline(model=folder, **TRUST)
    sentences = sentences_of[folder]
    for mode, context in MODES.items():
        with context(), torch.no_grad():
            batch = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
            tags = model(**batch).tags.tolist()
            texts = [" ".join(words) for words in sentences]
            seen.setdefault(folder, {})[mode] = {
                "tags": [[model.config.id2label[tag] for tag in row if tag >= 0] for row in tags],
                "stock pipeline": [
                    [{"start": e["start"], "end": e["end"], "entity_group": e["entity_group"]} for e in answer]
                    for answer in stock(texts)
                ],
                "our pipeline": ours(sentences),
            }
print(json.dumps(seen))
