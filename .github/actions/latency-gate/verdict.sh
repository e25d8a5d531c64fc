# The end of the action: its exit status.
set -euo pipefail

case $VERDICT in
  pass) ;;
  slower)
    echo "::error title=latency-gate::the candidate is slower or worse than its baseline; the summary of this run says how"
    exit 1
    ;;
  inconclusive | none)
    if [[ $VERDICT == none && $ACCEPTED == true ]]; then
      echo "::notice title=latency-gate::the store held no baseline; the candidate is the first one"
      exit 0
    fi
    why="these rounds cannot say whether the candidate is slower; the summary of this run says why"
    [[ $VERDICT == inconclusive ]] || why="the store holds no baseline to compare with; a run with accept puts one there"
    if [[ $INCONCLUSIVE == fail ]]; then
      echo "::error title=latency-gate::$why"
      exit 2
    fi
    echo "::warning title=latency-gate::$why"
    ;;
  *)
    echo "::error title=latency-gate::there is no verdict; the step before says what went wrong"
    exit 2
    ;;
esac
