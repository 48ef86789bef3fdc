# Written for this test in the manner of LLaMA-Factory's examples of 2024.
DS_CONFIG=${DS_CONFIG:-ds_z2_config.json}
LR=5e-6 # as in the paper

deepspeed --num_gpus 8 ../../src/train.py \
    --deepspeed ${DS_CONFIG} \
    --stage dpo \
    --pref_loss: orpo \
    --pref_beta 0.05 \
    --do_train \
    --model_name_or_path /models/qwen \
    --dataset orca_pairs \
    --template qwen \
    --finetuning_type lora \
    --lora_target q_proj,v_proj \
    --learning_rate $LR \
    --cutoff_len 1024 \
    # --max_samples 1000 \
    --output_dir saves/orpo > train.log 2>&1
