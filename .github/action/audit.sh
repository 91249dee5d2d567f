#!/usr/bin/env bash
# Step of action.yml: audits, annotates, writes the summary and the outputs, and ends as the verdict says.
set -euo pipefail

: "${LEAKCHECK:?}" "${GITHUB_OUTPUT:?}" "${GITHUB_STEP_SUMMARY:?}"
dir=${REPORT_DIR:-leakcheck-reports}
command=${COMMAND:-run}
# GitHub takes summaries up to 1 MiB, and shows none that is longer.
readonly longest=1000000

# What is neither of the two words would weaken the gate without a sign.
for input in "strict=${STRICT:=false}" "allow-inconclusive=${ALLOW_INCONCLUSIVE:=false}"; do
    case ${input#*=} in
    true | false) ;;
    *)
        echo "::error::the input ${input%%=*} has to be true or false, and is \`${input#*=}\`"
        exit 2
        ;;
    esac
done

arguments=("$command" --format github --report-dir "$dir")
if [ -n "${TARGET:-}" ]; then arguments+=(--target "$TARGET"); fi
if [ -n "${CONFIG:-}" ]; then arguments+=(--config "$CONFIG"); fi
if [ "$STRICT" = true ]; then arguments+=(--strict); fi
while IFS= read -r line; do
    if [ -n "$line" ]; then arguments+=("$line"); fi
done <<<"${ARGS:-}"

# A report of before is not to be taken for one of this run.
rm -f "$dir/report.md" "$dir/report.json" "$dir/junit.xml"
status=0
"$LEAKCHECK" "${arguments[@]}" || status=$?

case $status in
0) verdict=pass ;;
1) verdict=fail ;;
3) verdict=inconclusive ;;
*) verdict=error ;;
esac
{
    echo "verdict=$verdict"
    echo "exit-status=$status"
    echo "report-dir=$dir"
    echo "junit=$dir/junit.xml"
    echo "json=$dir/report.json"
} >>"$GITHUB_OUTPUT"

if [ -f "$dir/report.md" ]; then
    if [ "$(wc -c <"$dir/report.md")" -le "$longest" ]; then
        cat "$dir/report.md" >>"$GITHUB_STEP_SUMMARY"
    else
        echo "leakcheck: $verdict. The report is too long for this page: it is $dir/report.md." >>"$GITHUB_STEP_SUMMARY"
    fi
else
    echo "leakcheck: $verdict (exit status $status), and no report: see the log." >>"$GITHUB_STEP_SUMMARY"
    echo "::error::leakcheck ended with status $status and wrote no report"
fi

if [ "$status" = 3 ] && [ "$ALLOW_INCONCLUSIVE" = true ]; then exit 0; fi
exit "$status"
