"""On a CUDA device everything is what it is on the CPU.

Dangers: a tensor made on the wrong device, a kernel that adds in another order than the CRF's exactness allows, the
device's autocast reaching the CRF's arithmetic, an answer of a teacher that depends on where it was asked.
"""

import copy

import pytest
import torch

from hf_structkd import LinearChainCRF, StructKDTrainer, StructKDTrainingArguments, Teacher, annotate
from hf_structkd.data.columns import MARGINALS, TOPK_TAGS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
close = torch.testing.assert_close
SCHEMES = {
    "BIO": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "BIOES": ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"],
    "plain": ["NOUN", "VERB", "DET", "PUNCT"],
}


def chain(device: str, scale: float, dtype: torch.dtype = torch.float64, C: int = 7, T: int = 40, B: int = 6):
    """A ragged chain with structural zeros, the same numbers on every device, its scores taking gradients."""
    generator = torch.Generator().manual_seed(3)
    scores = [
        scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((B, T, C), (C, C), (C,), (C,))
    ]
    scores = [part.to(dtype).to(device).requires_grad_() for part in scores]
    lengths = torch.tensor([T, 1, 2, 33, 32, 17][:B])
    allowed = (torch.rand(C, C, generator=generator) < 0.6) | torch.eye(C, dtype=torch.bool)
    return LinearChainCRF(*scores, lengths=lengths.to(device), allowed=allowed.to(device)), scores


@pytest.mark.parametrize("scale", [1.0, 30.0, 400.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_crf_is_the_same_distribution(scale, dtype):
    (here, scores_here), (there, scores_there) = chain("cpu", scale, dtype), chain("cuda", scale, dtype)
    exact = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    for name in ("log_partition", "log_marginals", "marginals", "edge_counts"):
        close(getattr(there, name).cpu(), getattr(here, name), **exact)
    close(there.entropy().cpu(), here.entropy(), **exact)
    close(there.edge_marginals().cpu(), here.edge_marginals(), **exact)
    for ours, theirs in zip(there.topk(8), here.topk(8)):
        close(ours.cpu(), theirs, **({} if theirs.dtype in (torch.long, torch.bool) else exact))
    close(there.argmax()[0].cpu(), here.argmax()[0])
    upstream = torch.linspace(-1, 1, here.marginals.numel(), dtype=torch.float64).view(here.marginals.shape)
    gradients = []
    for crf, scores in ((here, scores_here), (there, scores_there)):
        finite = torch.where(torch.isfinite(crf.log_marginals), crf.log_marginals, 0.0)
        total = crf.log_partition.double().sum() + (finite.double() * upstream.to(finite.device)).sum()
        gradients.append([part.cpu() for part in torch.autograd.grad(total, scores)])
    for ours, theirs in zip(*reversed(gradients)):
        close(
            ours,
            theirs,
            rtol=2e-2 if dtype == torch.bfloat16 else 1e-5,
            atol=1e-2 if dtype == torch.bfloat16 else 1e-6,
        )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_out_of_the_crf(make_student, tokenizer, scheme, dtype):
    names = SCHEMES[scheme]
    fields = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    model = make_student(**fields, tag_scheme=scheme).cuda()
    sentences = [["Mira", "walks", "to", "Oslo"], ["Ada"], ["the", "long", "way"] * 30]
    inputs = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt").to("cuda")
    with torch.no_grad(), torch.autocast("cuda", dtype):
        output = model(**inputs)
    emissions = output.emissions
    assert emissions.dtype == torch.float32
    alone = model.distribution(output, "decode")  # outside autocast, of the very same emissions
    best = alone.argmax()[0]
    for row, length in enumerate(output.lengths.tolist()):
        tags = output.tags[row]
        assert tags[tags != -100].tolist() == best[row, :length].tolist()
    labelled = output.tags != -100
    with torch.no_grad(), torch.autocast("cuda", dtype):
        marked = model(**inputs, labels=output.tags)
    assert torch.equal(marked.logits.argmax(-1)[labelled], output.tags[labelled])


def test_teachers_answer_as_on_the_cpu(make_student, tokenizer, corpus, labels):
    model = make_student(seed=1)
    asked = {"label_names": labels, "targets": [TOPK_TAGS, MARGINALS], "top_k": 4}
    here = annotate(corpus, Teacher(model, tokenizer), **asked)
    there = annotate(corpus, Teacher(copy.deepcopy(model).cuda(), tokenizer), **asked)
    assert list(here[TOPK_TAGS]) == list(there[TOPK_TAGS])
    for ours, theirs in zip(there[MARGINALS], here[MARGINALS]):
        close(torch.tensor(ours), torch.tensor(theirs), rtol=0, atol=2e-3)  # stored as float16


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True}])
def test_training_and_scores(make_student, tokenizer, corpus, tmp_path, precision):
    teachers = {"en": Teacher(make_student(seed=1), tokenizer), "ru": Teacher(make_student(seed=2), tokenizer)}
    losses, scores = [], []
    for use_cpu in (True, False):
        args = StructKDTrainingArguments(
            str(tmp_path / f"cpu-{use_cpu}"), use_cpu=use_cpu, max_steps=6, logging_steps=1, report_to="none",
            disable_tqdm=True, save_strategy="no", learning_rate=1e-2, **({} if use_cpu else precision),
        )  # fmt: skip
        model = make_student(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        trainer = StructKDTrainer(model, args, None, corpus, corpus.select(range(20)), tokenizer, teachers=teachers)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        scores.append(trainer.evaluate()["eval_f1"])
    if "fp16" in precision:  # its first updates are left out, until the scale of the gradients fits
        assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-2)
        assert losses[1][-1] < losses[1][0]
        return
    assert losses[1] == pytest.approx(losses[0], rel=5e-2 if precision else 1e-3)
    assert scores[1] == pytest.approx(scores[0], abs=0.1 if precision else 1e-6)
