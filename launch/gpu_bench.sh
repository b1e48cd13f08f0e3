#!/usr/bin/env bash
# What a train step reaches on the GPUs of this machine: 3.4 B parameters of BAGEL's own widths (four
# of its layers), rows of 16,384 tokens, no moving average. Prints one line of JSON: tokens/s, MFU
# against the data sheet, and the part of what a bfloat16 matmul of the same card reaches.
#
#   launch/gpu_bench.sh [--dry-run] run [FLAGS OF unireason bench step]
#   ROWS=1 launch/gpu_bench.sh run --tokens-per-row 32768
#   ROWS=1 launch/gpu_bench.sh lora                             # 7B, all layers, adapters alone learn
#
# Four rows a GPU take 113 GiB of one (an H200), one row about 65 (an H100). Needs a JAX for CUDA: pip
# install 'unireason-jax[cuda]'.
#
# Environment:
#   PYTHON   interpreter, python by default
#   GPUS     GPUs to use, all that nvidia-smi lists by default
#   ROWS     rows a GPU, 4 by default
#   OUT      file of the result, runs/gpu_bench.json by default
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"
cd "$here/.."

changes=(model.llm.layers=4 model.unroll=4 model.remat=none)
config=configs/unireason_stage2.py
case $1 in
  run) ;;
  lora)
    config=configs/bagel_finetune.py
    changes=(lora.rank=16 model.frozen_dtype=bfloat16 data.budgets.text=1280
      data.budgets.vit=2048 data.budgets.latent=13056)
    ;;
  *) die "unknown command $1; see the top of $0" ;;
esac
shift
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.94}
run "${PYTHON:-python}" -m unireason_jax.bench step --config "$config" \
  --json "${OUT:-runs/gpu_bench.json}" "$@" \
  --set "${changes[@]}" optim.ema=0.0 \
  "data.rows=$((gpus * ${ROWS:-4}))" mesh.preset=h100
