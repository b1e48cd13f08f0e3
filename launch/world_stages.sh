#!/usr/bin/env bash
# UniReason's two stages in small, end to end: stage 1 trains the generation branch, stage 2 starts
# from its averaged weights and trains everything; then what a step of each costs.
#
#   launch/world_stages.sh [DIRECTORY] [FLAGS OF unireason train]
#   launch/world_stages.sh runs/twins --config.train.steps=20
#
# Interrupted, it goes on where it stopped when the same command is given again. PYTHON names the
# interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python}
directory=${1:-runs/twins}
shift || true

"$python" -m unireason_jax.train --config=configs/world_twin.py:unireason_stage1 \
  --workdir="$directory/unireason_stage1" "$@"
"$python" -m unireason_jax.train --config=configs/world_twin.py:unireason_stage2 \
  --workdir="$directory/unireason_stage2" --config.init_from="$directory/unireason_stage1" "$@"
"$python" -m unireason_jax.bench stages --json "$directory/costs.json" \
  "$directory/unireason_stage1" "$directory/unireason_stage2"
