#!/usr/bin/env bash
# Compiles the 7B recipes for TPU topologies, without a TPU, and writes the table of their reports.
#
#   launch/compile_reports.sh [--dry-run] all       every program, one after another, and the table
#   launch/compile_reports.sh [--dry-run] table     the table of the reports that are there
#
# Until memory is assigned (`compile_check --quick`), which takes some 15 CPU-seconds and 3 GiB of
# memory each. Needs libtpu: pip install 'unireason-jax[tpu]'. Ends with status 1 when a program
# does not fit, after all the others.
#
# Environment:
#   PYTHON    interpreter, python by default
#   QUICK     --quick by default; empty: to the end, two to nine CPU-minutes a train step
#   REPORTS   folder of the reports and of the table (README.md), launch/compile_reports by default
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"
cd "$here/.."

reports=${REPORTS:-launch/compile_reports}

# check RECIPE PROGRAM TOPOLOGY WORD...: compiles one program; the words are more flags.
check() {
  local recipe=$1 program=$2 topology=$3
  shift 3
  # shellcheck disable=SC2086
  run "${PYTHON:-python}" -m unireason_jax.compile_check ${QUICK---quick} \
    "--config=configs/$recipe.py" "--program=$program" "--topology=$topology" "--out=$reports" "$@" || failed+=" $topology"
}

table() {
  if [[ -n $DRY_RUN ]]; then
    show "${PYTHON:-python}" -m unireason_jax.compile_check "--table=$reports"
    return
  fi
  cat > "$reports/README.md" << 'TEXT'
# Compiled for TPU, not run

Written by `launch/compile_reports.sh`; what the columns mean is in `unireason compile_check --help`
and each report. Memory, wire and time are of one chip and one step (text: one token; image: the
whole drawing).

TEXT
  "${PYTHON:-python}" -m unireason_jax.compile_check "--table=$reports" >> "$reports/README.md"
}

failed=
case $1 in
  all)
    check unireason_stage2 train v5p:2x2x2 --config.mesh.preset=v5p --config.data.rows=8
    check unireason_stage2 train v5p:4x4x2 --config.mesh.preset=v5p --config.data.rows=32
    # 31 GiB a chip: two share a row, of 49,152 tokens so that both halves are whole tiles.
    halves=(--config.data.budgets.text=1152 --config.data.budgets.vit=7040
      --config.data.budgets.latent=40960)
    check unireason_stage2 train v6e:16x16 --config.mesh.preset=v6e --config.data.rows=128 \
      "${halves[@]}"
    # The same with other meshes, a row for each part of data x fsdp.
    check unireason_stage2 train v6e:16x16 --config.mesh.data=4 --config.mesh.fsdp=16 \
      --config.mesh.context=4 --config.data.rows=64 "${halves[@]}" \
      "--name=unireason_stage2 train, context 4"
    check unireason_stage2 train v6e:16x16 --config.mesh.data=2 --config.mesh.fsdp=32 \
      --config.mesh.tensor=4 --config.data.rows=64 "${halves[@]}" \
      "--name=unireason_stage2 train, tensor 4"
    # What attention gave is kept for the backward pass.
    check unireason_stage2 train v5p:2x2x2 --config.mesh.preset=v5p --config.data.rows=8 \
      --config.model.remat=save_attention "--name=unireason_stage2 train, save_attention"
    check unireason_stage2 train v6e:16x16 --config.mesh.preset=v6e --config.data.rows=128 \
      "${halves[@]}" --config.model.remat=save_attention \
      "--name=unireason_stage2 train, save_attention"
    check unireason_stage1 train v5p:2x2x2 --config.mesh.preset=v5p --config.data.rows=8
    check unireason_stage2 text v5p:2x2x2 --config.mesh.preset=v5p --config.data.rows=8
    check unireason_stage2 text v5p:2x2x2 --config.mesh.data=2 --config.mesh.fsdp=1 \
      --config.mesh.tensor=4 --config.data.rows=8 "--name=unireason_stage2 text, tensor 4"
    check unireason_stage2 image v5p:2x2x2 --config.mesh.preset=v5p --config.data.rows=8
    check rl_bagel reinforce v5p:4x4x2 --config.mesh.preset=v5p --config.rl.rows=32
    # Rollouts are of one host: its four chips hold a copy of the weights, on `tensor`.
    spread=(--config.mesh.fsdp=1 --config.mesh.tensor=4)
    row=(--config.data.budgets.text=3072 --config.data.budgets.vit=5376
      --config.data.budgets.latent=10240)
    check rl_bagel rollout v5p:2x2x1 "${spread[@]}"
    check rl_bagel text v5p:2x2x1 "${spread[@]}" "${row[@]}"
    check rl_bagel rollout v5p:2x2x1 --config.mesh.fsdp=4 "--name=rl_bagel rollout, fsdp 4"
    check rl_bagel text v5p:2x2x1 --config.mesh.fsdp=4 "${row[@]}" "--name=rl_bagel text, fsdp 4"
    check janus_finetune train v5p:2x2x2 --config.mesh.preset=v5p \
      --config.model.variant=janus_pro_7b "--name=janus 7b train"
    check janus_finetune train v6e:8x8 --config.mesh.preset=v6e \
      --config.model.variant=janus_pro_7b "--name=janus 7b train"
    table
    ;;
  table) table ;;
  *) die "unknown command $1; see the top of $0" ;;
esac
[[ -z $failed ]] || die "these programs were not compiled or do not fit:$failed"
