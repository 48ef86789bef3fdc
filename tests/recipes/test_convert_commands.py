"""Conversion of commands: the program names the tool and the method; other methods than ORPO are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.data.messages import KEY_NAMES
from orpo_cli.data.pair import REASONING_FIELDS
from orpo_cli.data.roles import ROLES
from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert import shared_settings
from orpo_cli.recipe.convert.axolotl import datasets as axolotl_datasets
from orpo_cli.recipe.convert.convert import convert

FACTORY = "--model_name_or_path a/b --dataset orca_pairs --stage dpo --pref_loss orpo --output_dir out"
SWIFT = "--model a/b --dataset c/d --rlhf_type orpo"


@pytest.mark.parametrize(
    ("command", "tool"),
    [
        (f"python src/train.py {FACTORY}", "llama-factory"),
        (f"python src/train_bash.py {FACTORY.replace('dpo --pref_loss orpo', 'orpo')}", "llama-factory"),
        (f"CUDA_VISIBLE_DEVICES=0 llamafactory-cli train {FACTORY}", "llama-factory"),
        (f"accelerate launch --num_processes 4 ../src/train.py {FACTORY}", "llama-factory"),
        (f"torchrun --nproc_per_node 2 my_train.py {FACTORY}", "llama-factory"),
        (f"python src/train.py {FACTORY.replace('pref_loss', 'pref_loss:')}", "llama-factory"),
        (f"python src/train.py {FACTORY.replace('--pref_loss orpo', '—pref_loss orpo')}", "llama-factory"),
        (f"pip install --upgrade ms-swift\nswift rlhf {SWIFT}", "ms-swift"),
        (f"torchrun --nproc_per_node 2 swift/cli/rlhf.py {SWIFT}", "ms-swift"),
        (f"swift sft --model a/b --dataset e/f --output_dir sft\nswift rlhf {SWIFT}", "ms-swift"),
        (f"!swift rlhf {SWIFT}", "ms-swift"),
        (f"swift rlhf {SWIFT.replace('--model', '--model_id_or_path')} --sft_type lora --lora_target_modules ALL "
         "--batch_size 2 --template_type qwen --quantization_bit 4 --lora_dropout_p 0.1 --dataset_test_ratio 0.1", "ms-swift"),
        ("trl orpo --model_name_or_path a/b --dataset_name c/d", "trl"),
        ("accelerate launch --config_file x.yaml examples/scripts/orpo.py --model_name_or_path a/b --dataset_name c/d", "trl"),
        ("autotrain llm --train --trainer orpo --model a/b --data-path c/d --project-name x", "autotrain"),
        ("python -m mlx_lm_lora.train --train --train-mode orpo --model a/b --data c/d", "mlx-lm"),
    ],
)  # fmt: skip
def test_the_program_or_its_flags_determine_the_tool(command: str, tool: str) -> None:
    conversion = convert(command, "x.sh")
    assert conversion.tool == tool
    assert conversion.values["model"]["model_name_or_path"] == "a/b"
    assert not [outcome.key for outcome in conversion.outcomes if outcome.outcome == "unknown"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python src/train.py --stage dpo --model_name_or_path a/b --dataset c", "`stage: dpo` with `pref_loss: sigmoid`"),
        ("python src/train.py --stage dpo --pref_loss simpo --model_name_or_path a/b", "`pref_loss: simpo`"),
        ("llamafactory-cli train --stage sft --model_name_or_path a/b --dataset c", "`stage: sft`"),
        ("stage: dpo\nmodel_name_or_path: a/b\ndataset: c\n", "`stage: dpo` with `pref_loss: sigmoid`"),
        ("stage: kto\nmodel_name_or_path: a/b\n", "`stage: kto`"),
        ("rl: dpo\ndatasets: []\n", "`rl: dpo`"),
        ("swift sft --model a/b --dataset c/d", "`swift sft` trains with another method"),
        ("swift rlhf --model a/b --dataset c/d --train_type lora", "no `rlhf_type`"),
        ("swift rlhf --rlhf_type simpo --model a/b", "`rlhf_type: simpo`"),
        ("trl dpo --model_name_or_path a/b --dataset_name c/d", "`trl dpo` trains with another method"),
        ("python examples/scripts/dpo.py --model_name_or_path a/b --dataset_name c/d", "another method, dpo"),
        ("accelerate launch scripts/run_sft.py --model_name_or_path a/b", "another method, sft"),
        ("python cpo.py --loss_type simpo --model_name_or_path a/b --dataset_name c/d", "another method, cpo"),
        ("model_name_or_path: a/b\nlabel_smoothing: 0.1\n", "`label_smoothing` is not an argument of trl's ORPO"),
        ("model_name_or_path: a/b\nassistant_only_loss: true\n", "`assistant_only_loss`"),
        ("task: llm-dpo\nbase_model: a/b\nproject_name: x\n", "`task: llm-dpo`"),
        ("task: llm\nbase_model: a/b\nproject_name: x\nparams: {trainer: sft}\n", "`trainer: sft`"),
        ("task: text-classification\nbase_model: a/b\nproject_name: x\n", "`task: text-classification`"),
        ("autotrain llm --train --trainer dpo --model a/b --project-name x", "`trainer: dpo`"),
        ("mlx_lm_lora.train --train --train-mode dpo --model a/b", "`train_mode: dpo`"),
        ("model: a/b\ntrain: true\nfine_tune_type: lora\niters: 10\n", "no `train_mode`"),
        ("mlx_lm.lora --train --model a/b --data c", "supervised fine-tuning"),
        ("tune run lora_dpo_single_device --config x", "`lora_dpo_single_device` trains with another method, dpo"),
        ("deepspeed --module openrlhf.cli.train_dpo --pretrain a/b", "another method, dpo"),
    ],
)  # fmt: skip
def test_another_method_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(text, "x.sh")
    assert "not for ORPO" in caught.value.message or "another method" in caught.value.message
    assert words in caught.value.message


def test_values_of_another_method_that_turn_it_off_are_empty() -> None:
    conversion = convert("model_name_or_path: a/b\ndataset_name: c/d\npacking: false\nlabel_smoothing: 0\n", "x.yaml")
    assert {outcome.outcome for outcome in conversion.outcomes if outcome.key in ("packing", "label_smoothing")} == {
        "empty"
    }


def test_a_name_of_another_method_is_a_remark() -> None:
    text = "model_name_or_path: a/zephyr-sft\ndataset_name: c/d\noutput_dir: data/zephyr-7b-dpo-full\n"
    remark = "output_dir names another method, dpo. The recipe trains with ORPO."
    assert remark in convert(text, "config_full.yaml").remarks
    renamed = convert(text.replace("dpo", "sft-orpo"), "orpo.yaml").remarks
    assert not [each for each in renamed if "another method" in each]
    assert any("`format: text` for trl's tokens" in each for each in renamed)


def test_texts_stay_texts_where_autotrain_has_no_chat_template() -> None:
    text = "task: llm-orpo\nbase_model: a/b\nproject_name: x\ndata: {path: c/d, valid_split: test, chat_template: %s}\n"
    for written, expected in (("null", "text"), ("none", "text"), ("chatml", None), ("tokenizer", None)):
        dataset = convert(text % written, "x.yml").values["dataset"]
        assert [dataset[part].get("format") for part in ("train", "eval")] == [expected] * 2


@pytest.mark.parametrize(
    ("command", "file", "text"),
    [
        ("llamafactory-cli train {} learning_rate=1e-6", "x.yaml", "stage: dpo\npref_loss: orpo\nmodel_name_or_path: a/b\ndataset: orca_pairs\nlearning_rate: 1e-5\n"),
        ("axolotl train {} --learning-rate 1e-6", "x.yml", "base_model: a/b\nrl: orpo\nlearning_rate: 1e-5\ndatasets: [{path: c/d}]\n"),
        ("accelerate launch -m axolotl.cli.train {} --learning_rate=1e-6", "x.yml", "base_model: a/b\nrl: orpo\nlearning_rate: 1e-5\n"),
        ("ACCELERATE_LOG_LEVEL=info accelerate launch scripts/run_orpo.py {} --learning_rate=1e-6", "x.yaml", "model_name_or_path: a/b\nchat_template: x\nlearning_rate: 1e-5\n"),
        ("trl orpo --config {} --learning_rate 1e-6", "x.yaml", "model_name_or_path: a/b\nlearning_rate: 1e-5\n"),
        ("swift rlhf --config {} --learning_rate 1e-6", "x.yaml", "rlhf_type: orpo\nmodel: a/b\nlearning_rate: 1e-5\n"),
        ("mlx_lm_lora.train -c {} --learning-rate 1e-6", "x.yaml", "train_mode: orpo\nmodel: a/b\nlearning_rate: 1e-5\n"),
        ("autotrain --config {}", "x.yml", "task: llm-orpo\nbase_model: a/b\nproject_name: x\nparams: {lr: 1e-6}\n"),
    ],
)  # fmt: skip
def test_the_configuration_that_a_command_reads_is_converted(
    command: str, file: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(text)
    conversion = convert(command.format(file), "x.sh", folders=[tmp_path])
    assert conversion.values["model"]["model_name_or_path"] == "a/b"
    assert conversion.values["training"]["learning_rate"] == 1e-6
    assert any(file in remark for remark in conversion.remarks)
    with pytest.raises(UsageError, match="The file is not here"):
        convert(command.format(file), "x.sh")


def test_shell_defaults_comments_and_other_commands_are_remarks(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    script = tmp_path / "x.sh"
    script.write_text(
        "#!/bin/bash\nMODEL=${MODEL:-Qwen/Qwen2.5-7B}  # the base\nN=4 # pairs\n"
        "swift sft --model $MODEL --dataset e/f\n"
        "swift rlhf \\\n  --rlhf_type orpo \\\n  --model $MODEL \\\n  # --beta 0.5 \\\n"
        '  --dataset "${DATA:-c/d}" \\\n  --per_device_train_batch_size $N \\\n  --learning_rate ${LR:-1e-5} "$@"\n'
    )
    converted = orpo_here("convert", script)
    assert converted.returncode == 0, converted.stderr
    assert "model_name_or_path: Qwen/Qwen2.5-7B" in converted.stdout
    assert "per_device_train_batch_size: 4" in converted.stdout
    assert "learning_rate: 1.0e-5" in converted.stdout
    for remark in (
        "Defaults of unset shell variables are used: MODEL=Qwen/Qwen2.5-7B, DATA=c/d, LR=1e-5.",
        "A shell ends the command at the comment on line 8; the flags below it are converted, too.",
        "The command on line 5 is converted; other training commands are on line 4.",
    ):
        assert remark in converted.stderr


def test_the_roles_and_keys_of_messages_that_need_no_mapping_are_those_that_are_read() -> None:
    for role, names in shared_settings.ROLES.items():
        assert {ROLES[name] for name in names} == {role}
    assert dict(zip(("role", "content"), KEY_NAMES, strict=True)) == shared_settings.MESSAGE_KEYS
    assert axolotl_datasets.THINKING_KEYS == REASONING_FIELDS
