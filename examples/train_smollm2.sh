#!/bin/sh
# SmolLM2-135M as a sentence encoder: train_smollm2.sh DATA OUTPUT [STEPS [OPTION...]]; the same again goes on where it
# stopped. What it is and what came of it: train_smollm2.md beside this file.
set -eu
here=$(dirname "$0")
data=$1 output=$2 steps=${3:-240}
shift 2
[ $# -eq 0 ] || shift
base=${LACOS_SMOLLM2:-$(python -m benchmarks.models smollm2)}
mkdir -p "$output"
[ -f "$output/pairs.tsv" ] || python "$here/smollm2_pairs.py" "$data" "$output/pairs.tsv"
exec "$here/train_pairs.sh" "$base" "$data" "$output" "$steps" \
    --block-size 192 --eval-steps 30 "$@"
