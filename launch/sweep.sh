#!/usr/bin/env bash
# The members of a config's sweep(): one after another here, or each on a slice of its own.
#
#   launch/sweep.sh [--dry-run] WHERE FIRST LAST -- WORDS
#
#   WHERE             here: one after another; a member that fails is named, the others still run
#                     slices: `tpu.sh babysit` for each, at once, on <TPU_NAME>-<member>
#   FIRST LAST        members to run, such as 0 7
#   WORDS             a training command; --sweep_index=<member> is added
#
# Run it again: members that are done end at once, the others go on from their checkpoints.
# Environment: that of launch/tpu.sh for slices.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

here_one_by_one() {
  local member failed=()
  for member in $(seq "$first" "$last"); do
    run "$@" "--sweep_index=$member" || failed+=("$member")
  done
  [[ ${#failed[@]} == 0 ]] || die "these members failed: ${failed[*]}"
}

one_slice_each() {
  need TPU_NAME
  local member jobs=() failed=() name
  for member in $(seq "$first" "$last"); do
    name=$TPU_NAME-$member
    if [[ -n $DRY_RUN ]]; then
      show env "TPU_NAME=$name" "$here/tpu.sh" babysit -- "$@" "--sweep_index=$member"
      continue
    fi
    TPU_NAME=$name "$here/tpu.sh" babysit -- "$@" "--sweep_index=$member" > "$name.log" 2>&1 &
    jobs+=("$!")
    echo "member $member: slice $name, log $name.log"
  done
  for member in "${!jobs[@]}"; do
    wait "${jobs[$member]}" || failed+=("$((first + member))")
  done
  [[ ${#failed[@]} == 0 ]] || die "these members failed: ${failed[*]}"
}

[[ $# -ge 5 && $4 == -- ]] || die "give WHERE FIRST LAST -- and the command; see $0 --help"
where=$1 first=$2 last=$3
shift 4
case $where in
  here) here_one_by_one "$@" ;;
  slices) one_slice_each "$@" ;;
  *) die "unknown place $where: here or slices" ;;
esac
