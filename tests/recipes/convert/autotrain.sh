# Written for this test in the manner of AutoTrain's documentation.
export MODEL="google/gemma-2-2b"   # the base model
autotrain llm --train \
  --trainer orpo \
  --model $MODEL \
  --project-name gemma-orpo \
  --data-path ./preferences.jsonl \
  --text-column chosen --rejected-text-column rejected --prompt-text-column prompt \
  --lr 2e-4 --batch-size 4 --epochs 2 \
  --use-peft \
  --username me --push-to-hub \
  --token "$HF_TOKEN"
