#!/bin/sh
# SmolLM2-135M as a sentence encoder: ./examples/train_smollm2.sh DATA OUTPUT [STEPS]; the same again goes on where it
# stopped. What it is and what came of it: train_smollm2.md beside this file.
set -eu
here=$(dirname "$0")
data=$1
output=$2
steps=${3:-240}
base=${LACOS_SMOLLM2:-$(python -m benchmarks.models smollm2)}
mkdir -p "$output"
if [ -f "$output/run/train.yaml" ]; then
    exec python -m lacos_st train --output "$output/run" --resume
fi
[ -f "$output/pairs.tsv" ] || python "$here/smollm2_pairs.py" "$data" "$output/pairs.tsv" --rows 45000
exec python -m lacos_st train --base "$base" --data "$output/pairs.tsv" --output "$output/run" \
    --method lacos --block-size 192 --lora-rank 16 --lora-targets all-linear --pooling weightedmean \
    --symmetric --lr 8e-4 --batch-size 64 --scheduler cosine --max-steps "$steps" --max-seq-length 64 \
    --exclude-sts "$data/sts" --eval-rows 128 --eval-steps 30 --log-steps 1 --no-progress --cpu
