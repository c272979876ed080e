"""Runs where transformers and torch are installed and hf_structkd is not; prints what a checkpoint's user sees there.

python standalone_worker.py FOLDER TEXT REPO...      every REPO a folder, or an id in the offline cache
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, pipeline

try:
    import hf_structkd
except ImportError:
    pass
else:
    raise SystemExit(f"hf_structkd is importable here, from {hf_structkd.__file__}")

torch.set_num_threads(1)
folder, text, repos = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
TRUST = {"trust_remote_code": True}


def answers(repo: str) -> dict:
    """The stock pipeline's answer and ours."""
    stock = pipeline("token-classification", repo, aggregation_strategy="simple", **TRUST)
    ours = pipeline(model=repo, **TRUST)
    return {"stock": [{**e, "score": float(e["score"])} for e in stock(text)], "ours": ours(text, top_k=2)}


seen = {}
for number, repo in enumerate(repos):
    model = AutoModelForTokenClassification.from_pretrained(repo, **TRUST)
    tokenizer = AutoTokenizer.from_pretrained(repo, **TRUST)  # it reads the configuration too
    here = seen[repo] = {"first": answers(repo)}
    if not Path(repo).exists():  # in the cache: a copy of another one
        continue

    again = str(folder / f"again{number}")
    model.save_pretrained(again)
    tokenizer.save_pretrained(again)
    here["saved again"] = answers(again)

    piped = str(folder / f"piped{number}")
    pipeline(model=again, **TRUST).save_pretrained(piped)
    here["saved by the pipeline"] = answers(piped)

    words = int(model.word_starts.pieces.sum())
    model.resize_token_embeddings(len(tokenizer) + 8)
    model.save_pretrained(again)
    resized = AutoModelForTokenClassification.from_pretrained(again, **TRUST)
    assert len(resized.word_starts.pieces) == len(tokenizer) + 8
    assert int(resized.word_starts.pieces.sum()) == words
    here["resized"] = answers(again)

    fresh = AutoModelForTokenClassification.from_config(AutoConfig.from_pretrained(repo, **TRUST), **TRUST)
    assert all(torch.isfinite(parameter).all() for parameter in fresh.parameters())
    for settings in ({"dtype": torch.bfloat16}, {"device_map": "cpu"}, {"device_map": "auto"}):
        loaded = AutoModelForTokenClassification.from_pretrained(repo, **settings, **TRUST)
        assert loaded.crf.transitions.dtype == torch.float32
        assert torch.equal(loaded.crf.transitions.cpu(), model.crf.transitions)
        assert loaded.classifier.weight.dtype == settings.get("dtype", torch.float32)
        assert loaded(**tokenizer(text, return_tensors="pt").to(loaded.device)).tags.max() >= 0
print(json.dumps(seen))
