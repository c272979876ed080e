"""Danger: a choice of objectives is lost on its way from a recipe to the loss, the log or the card."""

import copy
import json
import pickle

import pytest
import torch

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher
from hf_structkd.distillation.objectives import parse_objective
from hf_structkd.hub.card_data import card_data
from hf_structkd.hub.model_card import build_model_card
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.training import arguments
from hf_structkd.training.card import trainer_results

OFFICIAL = {"posterior": {"weight": 1, "temperature": 2.25}, "top_wk": 1}


def parsed(*argv):
    return parse_recipe((StructKDTrainingArguments,), [str(part) for part in argv])[0]


def test_the_official_recipe_is_the_same_in_python_yaml_and_on_the_command_line(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path}\nuse_cpu: true\n"
        "objective: {posterior: {weight: 1, temperature: 2.25}, top_wk: 1}\nobjective_combination: average\n"
    )
    python = StructKDTrainingArguments(
        str(tmp_path), use_cpu=True, objective=OFFICIAL, objective_combination="average"
    ).objectives
    common = ["--output_dir", tmp_path, "--use_cpu", "--objective_combination", "average"]
    assert parsed(recipe).objectives == python
    assert parsed("--objective", json.dumps(OFFICIAL), *common).objectives == python
    assert {name: (part.temperature, weight) for name, (part, weight) in python.items()} == {
        "posterior": (2.25, 0.5),
        "top_wk": (1.0, 0.5),
    }
    recipe.write_text(f"output_dir: {tmp_path}\nuse_cpu: true\nobjective: top_k\ntemperature: 3\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml.*temperature 3 has no effect"):
        parsed(recipe)
    with pytest.raises(RecipeError, match="combination of objectives must be one of"):
        parsed("--output_dir", tmp_path, "--use_cpu", "--objective_combination", "mean")


def test_objectives_are_parsed_once_and_again_when_a_field_changes(tmp_path, monkeypatch):
    parsed_specs = []

    def parse(spec, *rest):
        parsed_specs.append(copy.deepcopy(spec))
        return parse_objective(spec, *rest)

    monkeypatch.setattr(arguments, "parse_objective", parse)
    args = StructKDTrainingArguments(str(tmp_path), use_cpu=True, objective={"top_k": 1})
    assert args.objectives is args.objectives
    assert parsed_specs == [{"top_k": 1}]
    args.objective["posterior"] = 0.5  # as a search changes a mapping, in place
    assert {name: weight for name, (_, weight) in args.objectives.items()} == {"top_k": 1, "posterior": 0.5}
    args.objective, args.temperature = "posterior", 2.0
    assert args.objectives["posterior"][0].temperature == 2.0
    assert len(parsed_specs) == 3
    args.objective = {"posterior": True}  # equal to the number 1, and no weight
    with pytest.raises(ValueError, match="must be a number"):
        args.check()
    args.objective = "posterior"
    copied = pickle.loads(pickle.dumps(args))
    assert "_objectives" not in copied.__dict__
    assert copied.objectives == args.objectives


@pytest.mark.parametrize("combination", ["sum", "average"])
def test_log_results_and_card_say_how_parts_are_combined(
    combination, make_student, tokenizer, corpus, labels, tmp_path, caplog
):
    caplog.set_level("INFO", logger="hf_structkd.training.trainer")
    args = StructKDTrainingArguments(
        str(tmp_path), objective=OFFICIAL, objective_combination=combination, use_cpu=True, report_to="none",
        max_steps=1, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    teacher = Teacher(make_student(seed=1), tokenizer)
    few = corpus.select(range(8))
    trainer = StructKDTrainer(make_student(), args, None, few, processing_class=tokenizer, teachers=teacher)
    weight, how = {"sum": ("1", "added up"), "average": ("0.5", "averaged")}[combination]
    described = f"posterior (weight {weight}, local temperature 2.25) + top_wk (weight {weight}), {how}"
    assert f"objective: {described}" in caplog.text
    results = trainer_results(trainer, teacher)
    assert results.objective["combination"] == combination
    assert [part["weight"] for part in results.objective["parts"]] == [float(weight)] * 2
    assert f"| parts of the objective | {how} by weight |" in str(build_model_card(card_data(results)))


def test_teachers_are_asked_at_each_temperature_that_an_objective_wants(
    make_student, tokenizer, corpus, labels, tmp_path
):
    objective = {"posterior": {"temperature": 3, "temperature_mode": "global"}, "top_wk": 1}
    args = StructKDTrainingArguments(
        str(tmp_path), objective=objective, top_k=3, use_cpu=True, report_to="none", lambda_schedule="constant"
    )
    teacher, student = Teacher(make_student(seed=1), tokenizer), make_student(seed=2, crf_constraints="none")
    few = corpus.select(range(3))
    trainer = StructKDTrainer(student, args, None, few, processing_class=tokenizer, teachers=teacher)
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(student.eval(), batch, num_items_in_batch=1)
    expected = torch.zeros(())
    with torch.no_grad():
        for words in few["tokens"]:
            mine = Teacher(student, tokenizer).distribution([words], labels)
            theirs = teacher.distribution([words], labels)
            hot = mine.with_temperature(3.0).log_marginals
            expected = expected - 9 * (theirs.with_temperature(3.0).marginals * hot).sum()
            paths = theirs.topk(3)
            weights = paths.log_prob[0].softmax(dim=0)
            expected = expected - (weights * mine.log_prob(paths.tags)[0]).sum()
    torch.testing.assert_close(loss.detach(), expected, atol=2e-2, rtol=2e-3)
