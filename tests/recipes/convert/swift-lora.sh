# Written for this test in the manner of ms-swift's examples.
NPROC=2
CUDA_VISIBLE_DEVICES=0,1 NPROC_PER_NODE=$NPROC \
swift rlhf \
    --rlhf_type orpo \
    --model Qwen/Qwen3-8B \
    --train_type lora \
    --dataset 'some/preferences:en#2000' 'pairs.jsonl' \
    --split_dataset_ratio 0.02 \
    --torch_dtype bfloat16 \
    --quant_method bnb --quant_bits 4 \
    --attn_impl flash_attn \
    --num_train_epochs 1 \
    --per_device_train_batch_size 2 \
    --gradient_accumulation_steps $(expr 16 / $NPROC) \
    --learning_rate 1e-4 \
    --lora_rank 16 --lora_dropout 0.1 \
    --target_modules q_proj v_proj \
    --beta 0.2 \
    --max_length 2048 --truncation_strategy delete \
    --output_dir "$HOME/out" \
    --warmup_ratio 0.05 \
    --deepspeed zero2 \
    --rpo_alpha 1.0 \
    --use_hf true \
    --streams 3
