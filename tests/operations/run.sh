#!/usr/bin/env bash
# Does every procedure of docs/operations/BACKUP_RESTORE.md and DISASTER_RECOVERY.md on real servers, and looks that no block of commands on
# these pages was left out.
#
#   tests/operations/run.sh [PROCEDURE ...]      (default: all; versions: PGGIT_TEST_VERSIONS, 15 and 18)
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

procedures=("$@")
if [ ${#procedures[@]} -eq 0 ]; then
    for script in tests/operations/*.sh; do
        script=$(basename "$script" .sh)
        case $script in lib | run) ;; *) procedures+=("$script") ;; esac
    done
fi

STEPS_DONE=$(mktemp)
FIGURES=$(mktemp)
export STEPS_DONE FIGURES PGGIT_OPERATIONS_VERSION
trap 'rm -f "$STEPS_DONE" "$FIGURES"' EXIT
read -ra versions <<< "$(test_versions)"
failed=()
for PGGIT_OPERATIONS_VERSION in "${versions[@]}"; do
    say "PostgreSQL $PGGIT_OPERATIONS_VERSION"
    for procedure in "${procedures[@]}"; do
        say "$procedure"
        "tests/operations/$procedure.sh" || failed+=("$procedure on PostgreSQL $PGGIT_OPERATIONS_VERSION")
    done
done

if [ $# -eq 0 ] && [ ${#failed[@]} -eq 0 ]; then
    for page in docs/operations/BACKUP_RESTORE.md docs/operations/DISASTER_RECOVERY.md; do
        while read -r language name; do
            [ "$language" = text ] || grep -qx "$page $name" "$STEPS_DONE" || failed+=("$page: no procedure runs the block \"$language $name\"")
        done < <(awk '/^```/ { on = !on; if (on) print substr($0, 4) }' "$page")
    done
    # The pages show what is measured.
    while read -r label; do
        grep -qhF "| $label |" docs/operations/BACKUP_RESTORE.md docs/operations/DISASTER_RECOVERY.md || failed+=("no page has the figure \"$label\"")
    done < <(sed -E 's/^[a-z]+ +//; s/  .*//' "$FIGURES" | sort -u)
fi
[ ${#failed[@]} -eq 0 ] || fail "$(printf '%s\n       ' "${failed[@]}")"
say "${#procedures[@]} procedures on PostgreSQL ${versions[*]}"
