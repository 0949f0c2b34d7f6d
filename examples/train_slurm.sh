#!/bin/bash
#SBATCH --job-name=lacos
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1      # torchrun starts the processes of a node
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --requeue                # put back into the queue, it goes on from its last checkpoint
#SBATCH --open-mode=append
# LACoS on several machines: sbatch examples/train_slurm.sh BASE DATA OUTPUT. OUTPUT lies on a file system that all of
# them share. Submitted again, it goes on where it stopped; with as many processes, as each has its own random numbers.
set -euo pipefail
base=$1
data=$2
output=$3
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
again=()
[ -f "$output/train.yaml" ] && again=(--resume)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" \
    -m lacos_st train --base "$base" --data "$data" --output "$output" --gather-across-devices \
    --method lacos --batch-size 64 --dtype bfloat16 --eval-steps 200 --no-progress "${again[@]}"
