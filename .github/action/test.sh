#!/usr/bin/env bash
# Runs the steps of action.yml as GitHub does, with files of its own, on the built-in lab: `.github/action/test.sh PROGRAM`.
set -euo pipefail

program=$(realpath "${1:?name the program}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GITHUB_ACTION_PATH=$here/../.. RUNNER_TEMP=$work/temp GITHUB_OUTPUT=$work/output GITHUB_STEP_SUMMARY=$work/summary
cd "$work"

fail() { echo "$0: $*" >&2; cat "$work/log" "$GITHUB_OUTPUT" >&2; exit 1; }
# Runs a step; its status has to be the first word.
step() {
    local wanted=$1 status=0
    shift
    rm -rf "$RUNNER_TEMP" && mkdir "$RUNNER_TEMP"
    : >"$GITHUB_OUTPUT" && : >"$GITHUB_STEP_SUMMARY"
    env "$@" >"$work/log" 2>&1 || status=$?
    [ "$status" = "$wanted" ] || fail "$* ended with $status, not $wanted"
}
output() { grep -qx "$1" "$GITHUB_OUTPUT" || fail "the outputs have no line $1"; }

# A release, its checksums, and one that does not fit.
name=leakcheck-$(uname -m)-linux
mkdir -p releases/v1.2.3 releases/v6.6.6 fake
printf '#!/bin/sh\necho release\n' >"releases/v1.2.3/$name"
(cd releases/v1.2.3 && sha256sum "$name" >SHA256SUMS)
cp releases/v1.2.3/SHA256SUMS releases/v6.6.6/
printf '#!/bin/sh\necho other\n' >"releases/v6.6.6/$name"
# shellcheck disable=SC2016 # the fake program is to see the words, not this one
printf '#!/bin/sh\necho "$@" >"%s/cargo"\n' "$work" >fake/cargo
chmod +x fake/cargo
releases=RELEASES=file://$work/releases

step 0 "$releases" VERSION=v1.2.3 "$here/install.sh"
output "program=$RUNNER_TEMP/leakcheck/$name"
[ "$("$RUNNER_TEMP/leakcheck/$name")" = release ] || fail "it is another program"
step 2 "$releases" VERSION=v6.6.6 "$here/install.sh"
grep -q "does not fit its checksum" log || fail "the reason is not told"
if grep -q program= "$GITHUB_OUTPUT"; then fail "a program that does not fit is given out"; fi
step 2 "$releases" VERSION=v0.0.0 "$here/install.sh"
step 0 "$releases" PATH="$work/fake:$PATH" "$here/install.sh"
output "program=$RUNNER_TEMP/leakcheck/bin/leakcheck"
grep -q -- "--locked" cargo || fail "cargo was not asked"

# Audits of the lab: one that is sealed, one that leaks, one that cannot be.
demo=(LEAKCHECK="$program" COMMAND=demo REPORT_DIR=reports)
step 0 "${demo[@]}" ARGS=--quick "$here/audit.sh"
output verdict=pass
output exit-status=0
grep -q exit-address "$GITHUB_STEP_SUMMARY" || fail "the summary has no report"
[ -s reports/junit.xml ] || fail "there is no JUnit report"
step 1 "${demo[@]}" ARGS=$'--quick\n--leak\nforced-udp' "$here/audit.sh"
output verdict=fail
grep -q "^::error" log || fail "there is no annotation"
step 2 "${demo[@]}" STRICT=yes ARGS=--quick "$here/audit.sh"
grep -q "^::error::the input strict has to be true or false" log || fail "a word that is neither weakens the gate"
step 2 "${demo[@]}" ARGS=--no-such-flag "$here/audit.sh"
output verdict=error
grep -q "no report" "$GITHUB_STEP_SUMMARY" || fail "the report of before is taken for this one's"
echo "action: passed"
