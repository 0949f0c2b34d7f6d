#!/bin/sh
# Gemma 3 270M on pairs of a kind of `pairs.py`, many or en, say: train.sh KIND DATA OUTPUT [STEPS [OPTION...]]; the same
# again goes on where it stopped. OPTIONs are those of `lacos-st train`. Gemma's terms: for measurement, nothing derived
# from its weights is published.
set -eu
kind=$1 data=$2 output=$3 steps=${4:-200}
shift 3
[ $# -eq 0 ] || shift
base=${LACOS_GEMMA3:-$(python -m benchmarks.models gemma3)}
mkdir -p "$output"
[ -f "$output/pairs.tsv" ] ||
    python -m benchmarks.multilingual.pairs "$data" "$output/pairs.tsv" --kind "$kind" --rows 16000
exec "$(dirname "$0")/../../examples/train_pairs.sh" "$base" "$data" "$output" "$steps" \
    --block-size 128 --eval-steps 20 --lr 8e-4 --pooling weightedmean "$@"
