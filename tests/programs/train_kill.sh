#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills short training runs at random moments (SIGKILL), resumes them, and compares the final parameters with those of a
# run that was never killed, bit by bit:
#     tests/programs/train_kill.sh TRAIN_PROGRAM MODEL_DIR [KILLS]
set -euo pipefail
train=$1
model=$2
kills=${3:-100}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Text that is different everywhere, and the same for everybody.
for i in $(seq 1 400); do echo "Line $i says that $((i * i % 997)) and $((i * 7919 % 1009)) are two numbers."; done > "$work/text.txt"

# Two threads even on one core, and a checkpoint at nearly every step: most of the time is in the critical places.
options=(--config "$model/config.json" --tokenizer "$model/tokenizer.json" --data "$work/text.txt" --steps 60 --batch 2
  --length 48 --learning-rate 3e-3 --save-every 2 --keep 2 --validate-every 7 --sample-every 0 --threads 2
  --progress-every 1000)

"$train" --out "$work/whole" "${options[@]}" 2> "$work/log"

same() {
  cmp "$work/whole/model.safetensors" "$1/model.safetensors"
  cmp "$work/whole/checkpoints/step-000000060.safetensors" "$1/checkpoints/step-000000060.safetensors"
  # Every step is in the metrics once.
  [ "$(wc -l < "$1/metrics.jsonl")" = 60 ]
  diff <(grep -o '"loss":[^,]*' "$work/whole/metrics.jsonl") <(grep -o '"loss":[^,]*' "$1/metrics.jsonl")
}

started=$(date +%s%N)
"$train" --out "$work/timed" "${options[@]}" 2> "$work/log"
whole_ms=$((($(date +%s%N) - started) / 1000000))
same "$work/timed"

killed=0
runs=0
while [ "$killed" -lt "$kills" ]; do
  out="$work/run-$runs"
  while :; do
    "$train" --resume --out "$out" "${options[@]}" 2> "$work/log" &
    process=$!
    if [ "$killed" -lt "$kills" ]; then
      pause=$((RANDOM * RANDOM % (whole_ms / 2 + 2)))
      sleep "$(printf '%d.%03d' $((pause / 1000)) $((pause % 1000)))"
      if kill -KILL "$process" 2> /dev/null; then killed=$((killed + 1)); fi
    fi
    status=0
    wait "$process" 2> /dev/null || status=$?
    if [ "$status" = 0 ]; then break; fi
    if [ "$status" != 137 ]; then
      echo "train ended with status $status:" && cat "$work/log" && exit 1
    fi
  done
  same "$out"
  rm -rf "$out"
  runs=$((runs + 1))
done
echo "$killed kills in $runs runs: every run ended with the same parameters"
