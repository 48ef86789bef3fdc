# Written for this test in the manner of trl's examples.
BATCH=4
accelerate launch examples/scripts/orpo.py \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --model_name_or_path=gpt2 \
    --per_device_train_batch_size $BATCH \
    --gradient_accumulation_steps $(expr 16 / 4) \
    --learning_rate 8e-5 \
    --eval_strategy steps \
    --eval_steps 0.25 \
    --output_dir "gpt2 aligned" \
    --no_remove_unused_columns \
    --load_in_4bit \
    --torch_dtype bfloat16 \
    --use_peft \
    --lora_r 8 \
    --lora_target_modules q_proj v_proj \
    --report_to none
