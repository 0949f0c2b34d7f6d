#!/bin/sh
# Gemma 3 270M on pairs of many languages or on English ones: train.sh many|en DATA OUTPUT [STEPS]; the same again goes
# on where it stopped. Gemma's terms: for measurement, nothing derived from its weights is published.
set -eu
languages=$1
data=$2
output=$3
steps=${4:-200}
base=${LACOS_GEMMA3:-$(python -m benchmarks.models gemma3)}
mkdir -p "$output"
if [ -f "$output/run/train.yaml" ]; then
    exec python -m lacos_st train --output "$output/run" --resume
fi
python -m benchmarks.multilingual.pairs "$data" "$output/pairs.tsv" --languages "$languages" --rows 16000
exec python -m lacos_st train --base "$base" --data "$output/pairs.tsv" --output "$output/run" \
    --method lacos --block-size 128 --lora-rank 16 --lora-targets all-linear --pooling mean \
    --symmetric --lr 8e-4 --batch-size 64 --scheduler cosine --max-steps "$steps" --max-seq-length 64 \
    --exclude-sts "$data/sts" --eval-rows 128 --eval-steps 25 --log-steps 1 --no-progress --cpu
