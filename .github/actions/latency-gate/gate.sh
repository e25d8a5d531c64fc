# Run the gate, and say in outputs what came of it. Only what could not be measured fails here, so
# that the report is uploaded whatever the verdict is.
set -euo pipefail

report=$RUNNER_TEMP/latency-gate/$NAME/report
rm -rf -- "$report"
mkdir -p -- "$report"

words=(--candidate="$CANDIDATE" --rounds="$ROUNDS")
words+=(--json="$report/gate.json" --markdown="$report/summary.md" --junit="$report/junit.xml")
accepted() { :; }
case $BASELINE in
  artifact:*) words+=(--baseline="$RUNNER_TEMP/latency-gate/$NAME/baseline") ;;
  store:*)
    store=$HOME/.cache/pocketgan-baselines
    mkdir -p -- "$store"
    words+=(--baseline="$BASELINE" --store="$store")
    [[ $ACCEPT == false ]] || words+=(--accept)
    accepted() { cat -- "$store/${BASELINE#store:}"/*/accepted.json 2> /dev/null || :; }
    ;;
  rev:*) words+=(--baseline="$BASELINE" --bundle="$BUNDLE") ;;
  *.onnx) words+=(--baseline="$BASELINE" --device="$DEVICE") ;;
  *) words+=(--baseline="$BASELINE") ;;
esac

before=$(accepted)
status=0
"$PROGRAM" gate "${words[@]}" || status=$?

# bad input ends with 2 as well, but writes no report
if [[ ! -f $report/gate.json || $status -gt 2 ]]; then
  echo "::error title=latency-gate::the gate could not measure (status $status); what it said is above"
  exit 2
fi
if [[ -n ${GITHUB_STEP_SUMMARY:-} ]]; then
  cat -- "$report/summary.md" >> "$GITHUB_STEP_SUMMARY"
fi
{
  "$PYTHON" - "$report/gate.json" << 'END'
import json
import sys

report = json.load(open(sys.argv[1]))
# without a baseline in the store it is no comparison that is written, but one side
print(f"verdict={report.get('verdict', 'none')}")
cells = [cell for pair in report.get("pairs", []) for cell in pair["cells"]]
steady = [cell["judgement"]["slowdown"] for cell in cells if cell["measured"] == "steady"]
print(f"slowdown={max(steady):.4f}" if steady else "slowdown=")
END
  echo "report=$report/gate.json"
  [[ $(accepted) == "$before" ]] || echo "accepted=true"
} >> "$GITHUB_OUTPUT"
