# Written for this test in the manner of mlx-lm-lora's documentation.
mlx_lm_lora.train \
--model Qwen/Qwen2.5-0.5B-Instruct \
--train \
--train-mode orpo \
--train-type full \
--data some/preferences \
--epochs 2 \
--beta 0.1 \
--reward-scaling 1.0
