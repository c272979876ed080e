"""Danger: a recipe's field that has no effect, or none beside the others, is accepted and the user believes in it.

Every field of every script is placed here: honoured, or refused with a reason. A field that a new version of
transformers brings fails the first test until somebody has looked what the scripts make of it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from hf_structkd import StructKDTrainingArguments
from hf_structkd.recipes.effects import CONDITIONAL_FIELDS, IDLE_FIELDS, idle_fields, refuse_idle_fields
from hf_structkd.recipes.fields import (
    CalibrationArguments,
    DataArguments,
    DistillationData,
    EvaluationArguments,
    ModelArguments,
    TeacherArguments,
)
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.recipes.recipe import Recipe

KINDS = {
    "distill": (DistillationData, ModelArguments, TeacherArguments, StructKDTrainingArguments),
    "teacher": (DataArguments, ModelArguments, StructKDTrainingArguments),
    "evaluate": (DataArguments, EvaluationArguments),
    "calibrate": (DataArguments, CalibrationArguments),
}
REQUIRED = {
    "distill": ("--corpus", "demo", "--use_cpu", "--report_to", "none"),
    "teacher": ("--corpus", "demo", "--use_cpu", "--report_to", "none"),
    "evaluate": ("--corpus", "demo", "--checkpoint", "x"),
    "calibrate": ("--corpus", "demo", "--checkpoint", "x", "--output_dir", "x"),
}


def fields(text: str) -> set[str]:
    return set(text.split())


# Of transformers; those whose meaning is transformers' own alone are handed on to its Trainer as they are.
HANDED_ON = fields(
    """output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
    lr_scheduler_kwargs warmup_steps warmup_ratio optim optim_args weight_decay adam_beta1 adam_beta2
    adam_epsilon optim_target_modules gradient_accumulation_steps average_tokens_across_devices max_grad_norm
    label_smoothing_factor bf16 fp16 bf16_full_eval fp16_full_eval tf32 activation_checkpointing
    activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs torch_compile
    torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache neftune_noise_alpha
    torch_empty_cache_steps auto_find_batch_size logging_strategy logging_steps logging_first_step
    log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica
    disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
    eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start
    eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics
    save_only_model save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint
    load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
    restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu accelerator_config
    parallelism_config dataloader_drop_last dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
    dataloader_in_order remove_unused_columns train_sampling_strategy length_column_name
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
    fsdp fsdp_config deepspeed debug skip_memory_metrics logging_dir hub_model_id push_to_hub"""
)
ALWAYS = {
    "distill": HANDED_ON
    | fields(
        """corpus languages words tag_scheme labels orphans max_train_sentences unlabelled_sentences unlabelled_corpus
    augmentation max_dev_sentences max_test_sentences model model_config keep_layers head trust_remote_code
    hidden_first hidden_weight hidden_layer hidden_thaw
    teacher_embeddings teacher_layers teachers previous baseline objective focal_weights confidence_weight
    unlabelled_rate normalization
    language_sampling_temperature
    license hub_datasets label_examples"""
    ),
    "teacher": HANDED_ON
    | fields(
        """corpus languages words tag_scheme labels orphans max_train_sentences max_dev_sentences max_test_sentences
    model model_config keep_layers head trust_remote_code normalization language_sampling_temperature"""
    ),
    "evaluate": fields(
        """corpus languages tag_scheme labels orphans checkpoint splits label_map batch_size revision trust_remote_code
    output_file options previous"""
    ),
    "calibrate": fields(
        """corpus languages tag_scheme labels orphans checkpoint output_dir split bins batch_size write
    trust_remote_code"""
    ),
}


def read(script: str, *argv: str, files: Sequence[Path] = ()) -> tuple:
    options = [*map(str, files), *REQUIRED[script], *argv]
    kinds = KINDS[script]
    return parse_recipe(kinds, options, check=refuse_idle_fields(script))


@pytest.mark.parametrize("script", KINDS)
def test_every_field_is_honoured_or_refused(script):
    every = {field.name for kind in KINDS[script] for field in dataclasses.fields(kind) if field.init}
    refused = set(IDLE_FIELDS[script])
    conditional = {name for rule in CONDITIONAL_FIELDS[script] for name in rule.fields}
    assert not every - ALWAYS[script] - refused - conditional, "fields that nobody has looked at"
    assert not (refused | conditional) - every, "fields that there are not any more"
    assert not (ALWAYS[script] - HANDED_ON) & (refused | conditional)


IDLE = [
    ("distill", "label_names", ("--label_names", "labels")),
    ("distill", "resume_from_checkpoint", ("--resume_from_checkpoint", "x")),
    ("distill", "do_train", ("--do_train",)),
    ("distill", "do_predict", ("--do_predict",)),
    ("distill", "top_k", ("--objective", "posterior", "--top_k", "7")),
    ("distill", "objective_combination", ("--objective", "none", "--objective_combination", "average")),
    ("distill", "temperature_mode", ("--objective", "none", "--temperature_mode", "global")),
    ("distill", "lambda_schedule", ("--objective", "none", "--lambda_schedule", "cosine")),
    ("distill", "annotation_dir", ("--objective", "none", "--annotation_dir", "x")),
    ("distill", "teacher_temperature", ("--objective", "none", "--teacher_temperature", "2")),
    ("distill", "lambda_end", ("--lambda_schedule", "constant", "--lambda_end", "0.5")),
    ("distill", "teacher_label_map", ("--teacher_model", "x", "--teacher_label_map", '{"A": "B"}')),
    (
        *("distill", "teacher_label_map"),
        ("--teachers", '[{"checkpoint": "x", "label_map": {"A": "B"}}]', "--teacher_label_map", '{"A": "C"}'),
    ),
    (
        *("distill", "teacher_temperature"),
        ("--teachers", '[{"checkpoint": "x", "temperature": 2}]', "--teacher_temperature", "3"),
    ),
    ("distill", "teacher_confidence", ("--teachers", '{"en": "x", "es": ["y"]}', "--teacher_confidence", "1")),
    ("distill", "teacher_model", ("--teachers", "x", "--teacher_model", "scratch")),
    ("distill", "teacher_learning_rate", ("--teachers", "x", "--teacher_learning_rate", "1e-3")),
    ("distill", "teachers_dir", ("--teachers", '{"en": "x"}', "--languages", "en", "--teachers_dir", "x")),
    (
        *("distill", "teacher_num_train_epochs"),
        ("--teacher_model", "x", "--max_steps", "5", "--teacher_num_train_epochs", "2"),
    ),
    (
        *("distill", "teacher_crf_learning_rate"),
        ("--teacher_model", "x", "--teacher_head", "softmax", "--teacher_crf_learning_rate", "1"),
    ),
    ("distill", "baseline_dir", ("--no_baseline", "--baseline_dir", "x")),
    ("distill", "hub_private_repo", ("--hub_private_repo",)),
    ("distill", "vocab_size", ("--vocab_size", "100")),
    ("distill", "revision", ("--model", "scratch", "--revision", "v1")),
    ("distill", "trim_vocabulary", ("--model", "scratch", "--trim_vocabulary", "1")),
    ("distill", "crf_learning_rate", ("--head", "softmax", "--crf_learning_rate", "1")),
    ("distill", "column", ("--column", "2")),
    ("distill", "tags_column", ("--tags_column", "upos")),
    ("distill", "tokens_column", ("--tokens_column", "words")),
    ("teacher", "objective", ("--objective", "posterior+top_wk")),
    ("teacher", "objective", ("--objective", "top_k")),
    ("teacher", "unlabelled_sentences", ("--unlabelled_sentences", "5")),
    ("teacher", "augmentation", ("--augmentation", "{}")),
    ("teacher", "top_k", ("--top_k", "5")),
    ("teacher", "annotation_dir", ("--annotation_dir", "x")),
    ("teacher", "unlabelled_rate", ("--unlabelled_rate", "0.5")),
    ("teacher", "push_to_hub", ("--push_to_hub",)),
    ("teacher", "license", ("--license", "mit")),
    ("teacher", "hub_datasets", ("--hub_datasets", "owner/name")),
    ("teacher", "label_examples", ("--label_examples",)),
    ("evaluate", "max_train_sentences", ("--max_train_sentences", "5")),
    ("evaluate", "max_dev_sentences", ("--max_dev_sentences", "5", "--splits", "test", "train")),
    ("evaluate", "unlabelled_corpus", ("--unlabelled_corpus", "x")),
    ("calibrate", "max_test_sentences", ("--max_test_sentences", "5", "--split", "dev")),
    ("calibrate", "augmentation", ("--augmentation", "{}")),
    ("teacher", "documents", ("--documents", "marked")),
    ("evaluate", "documents", ("--documents", "marked")),
    ("calibrate", "documents", ("--documents", "source")),
]


@pytest.mark.parametrize(("script", "field", "argv"), IDLE, ids=lambda value: value if isinstance(value, str) else "")
def test_what_has_no_effect_is_refused_by_name_and_reason(script, field, argv):
    with pytest.raises(RecipeError, match=rf"no effect here, leave them out: .*\b{field}: \w+"):
        read(script, *argv)


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        ("distill", ("--teacher_model", "x", "--teacher_learning_rate", "1e-3")),
        ("distill", ("--teachers", '{"en": "x"}', "--teacher_model", "x", "--teacher_head", "softmax")),
        (
            "distill",
            (
                *("--teachers", '["x", {"checkpoint": "y", "temperature": 2}]', "--teacher_temperature", "auto"),
                *("--teacher_label_map", '{"A": "B"}', "--teacher_confidence", "1"),
            ),
        ),
        ("distill", ("--teacher_model", "x", "--teacher_temperature", "2")),
        ("distill", ("--objective", "posterior", "--top_k", "5")),  # the default: what an option sets back
        ("distill", ("--objective", "top_wk", "--top_k", "7", "--annotation_dir", "y")),
        ("distill", ("--push_to_hub", "--hub_private_repo")),
        ("distill", ("--no_do_train", "--no_push_to_hub")),
        ("teacher", ("--objective", "none", "--no_label_examples", "--no_push_to_hub")),
        ("evaluate", ("--max_test_sentences", "5")),
        ("calibrate", ("--max_dev_sentences", "5", "--split", "dev")),
    ],
)
def test_what_has_an_effect_is_taken(script, argv):
    read(script, *argv)


@pytest.mark.parametrize("script", KINDS)
def test_the_rule_of_every_field_can_be_asked_in_its_command(script):
    """A rule that read a field of another command ended in a traceback, and not in a sentence."""
    instances = parse_recipe(KINDS[script], REQUIRED[script])
    for rule in CONDITIONAL_FIELDS[script]:
        idle_fields(script, dict.fromkeys(rule.fields, "given"), instances)


def test_all_idle_fields_are_told_at_once():
    with pytest.raises(RecipeError, match=r"do_train: .*; baseline_dir: baseline is false"):
        read("distill", "--do_train", "--no_baseline", "--baseline_dir", "x")


@pytest.mark.parametrize("script", KINDS)
def test_there_is_no_default_corpus(script):
    argv = [option for option in REQUIRED[script] if option not in ("--corpus", "demo")]
    with pytest.raises(RecipeError, match=r"No value for \['corpus'\]: set it in the recipe.*'demo' for the built-in"):
        Recipe(*parse_recipe(KINDS[script], argv)) if script == "distill" else parse_recipe(KINDS[script], argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--learning_rate", "-1"), "learning_rate must be a number at least 0, not -1.0"),
        (("--learning_rate", "1e999"), "Option --learning_rate: inf is not a finite number"),
        (("--weight_decay", "-0.1"), "weight_decay"),
        (("--num_train_epochs", "-2"), "num_train_epochs must be a number above 0"),
        (("--max_steps", "-5"), "max_steps must be at least 1"),
        (("--per_device_train_batch_size", "0"), "per_device_train_batch_size must be a number at least 1"),
        (("--per_device_eval_batch_size", "-1"), "per_device_eval_batch_size"),
        (("--gradient_accumulation_steps", "0"), "gradient_accumulation_steps"),
        (("--save_total_limit", "0"), "save_total_limit"),
        (("--seed", "-1"), "seed must be a number at least 0"),
        (("--adam_beta1", "1"), "adam_beta1 must be below 1"),
        (("--crf_learning_rate", "-1"), "crf_learning_rate must be above 0"),
        (("--max_train_sentences", "-3"), "max_train_sentences must be a number at least 0"),
        (("--max_dev_sentences", "0"), "max_dev_sentences must be a number at least 1"),
        (("--unlabelled_sentences", "0"), "unlabelled_sentences"),
        (("--vocab_size", "-1", "--model", "scratch"), "vocab_size"),
        (("--teacher_learning_rate", "-1"), "teacher_learning_rate"),
        (("--teacher_max_train_sentences", "0"), "teacher_max_train_sentences"),
        (("--model_config", '{"classifier_dropout": NaN}'), "model_config"),
        (("--model_config", '{"classifier_dropout": [1, Infinity]}'), r"classifier_dropout\[1\]: inf is not a finite"),
        (("--output_dir", "s3://bucket/run"), "output_dir must be a folder of this machine, not the address"),
        (("--annotation_dir", "gs://bucket/answers"), "annotation_dir must be a folder"),
        (("--teachers_dir", "hdfs://name/x"), "teachers_dir must be a folder"),
    ],
)
def test_impossible_values_are_refused_by_name(argv, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(KINDS["distill"], [*REQUIRED["distill"], *argv])


def test_impossible_values_are_refused_in_yaml_and_python_alike(tmp_path):
    (tmp_path / "recipe.yaml").write_text("corpus: demo\nlearning_rate: .inf\n")
    with pytest.raises(RecipeError, match=r"Field 'learning_rate' in recipe .*: inf is not a finite number"):
        parse_recipe(KINDS["distill"], [str(tmp_path / "recipe.yaml")])
    for wrong in ({"learning_rate": float("nan")}, {"output_dir": "s3://bucket/x"}, {"logging_steps": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            StructKDTrainingArguments(**{"output_dir": "x", "use_cpu": True, "report_to": "none", **wrong})
    with pytest.raises(ValueError, match="batch_size must be a number at least 1, not 0"):
        EvaluationArguments("checkpoint", batch_size=0)
    with pytest.raises(ValueError, match="bins must be a number at least 1"):
        CalibrationArguments("checkpoint", "x", bins=0)
    with pytest.raises(ValueError, match="splits must name what is scored"):
        EvaluationArguments("checkpoint", splits=[])
    with pytest.raises(ValueError, match="output_file must be a folder of this machine"):
        EvaluationArguments("checkpoint", output_file="https://example.org/scores.json")


def test_an_option_takes_back_what_a_recipe_says(tmp_path):
    """Danger: a recipe cannot be used with another objective, since its fields are refused and cannot be unset."""
    recipe = tmp_path / "paths.yaml"
    recipe.write_text("objective: top_wk\ntop_k: 3\nlambda_start: 0.5\nlambda_schedule: constant\n")
    with pytest.raises(RecipeError, match="no effect here") as refused:
        read("distill", "--objective", "none", files=[recipe])
    options = str(refused.value).rpartition("set back on the command line by ")[2].split()
    assert options[:2] == ["--top_k", "null"]
    *_, training = read("distill", "--objective", "none", *options, files=[recipe])
    assert training.top_k == StructKDTrainingArguments("x").top_k
    with pytest.raises(RecipeError, match="no effect here") as refused:
        read("teacher", "--objective", "none", files=[recipe])
    read("teacher", *str(refused.value).rpartition(" by ")[2].split(), "--objective", "none", files=[recipe])
    with pytest.raises(RecipeError, match="--top_k: expected int, got 'null'"):
        read("distill", "--top_k", "null")


@pytest.mark.parametrize(("given", "read_as"), [(["spread"], "spread"), (["2"], [2]), (["0", "3"], [0, 3])])
def test_layers_of_teachers_on_the_command_line(given, read_as):
    _, _, teachers, _ = read("distill", "--teachers", "x", "--teacher_layers", *given)
    assert teachers.teacher_layers == read_as


def test_a_word_that_names_no_layers_is_refused():
    with pytest.raises(RecipeError, match="teacher_layers must be spread or layer numbers"):
        read("distill", "--teachers", "x", "--teacher_layers", "top")


@pytest.mark.parametrize(("given", "read_as"), [(["2"], 2), (["[2]"], [2]), (["0", "2"], [0, 2])])
def test_one_number_on_the_command_line_is_a_number_as_in_a_recipe(given, read_as):
    """Danger: `--keep_layers 2` that keeps layer 2 alone."""
    _, model, _, _ = read("distill", "--keep_layers", *given)
    assert model.keep_layers == read_as
