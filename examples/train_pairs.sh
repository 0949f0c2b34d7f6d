#!/bin/sh
# A base on the rows in OUTPUT/pairs.tsv: train_pairs.sh BASE DATA OUTPUT STEPS [OPTION...]; the same again goes on where
# it stopped, other STEPS or OPTIONs are refused. Rows with a sentence of the graded pairs in DATA/sts are left out.
# OPTIONs are those of `lacos-st train`.
set -eu
base=$1 data=$2 output=$3 steps=$4
shift 4
if [ -f "$output/run/train.yaml" ]; then
    set -- "$@" --resume
fi
exec python -m lacos_st train --base "$base" --data "$output/pairs.tsv" --output "$output/run" --max-steps "$steps" \
    --method lacos --preset best --max-seq-length 64 \
    --exclude-sts "$data/sts" --eval-rows 128 --log-steps 1 --no-progress --cpu "$@"
