# What the inputs ask for, checked before anything is installed or measured.
set -euo pipefail

refuse() {
  echo "::error title=latency-gate::$1"
  exit 2
}

lower() {
  tr '[:upper:]' '[:lower:]' <<< "$1"
}

for name in BASELINE CANDIDATE BUNDLE NAME DEVICE ROUNDS INCONCLUSIVE ACCEPT COMMENT INSTALL; do
  # a line break would end an output or begin a command to the runner, so the value is not repeated
  [[ ${!name} != *[[:cntrl:]]* ]] || refuse "the input $(lower "$name") holds a line break or another control character"
done

plain='^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$'
[[ $NAME =~ $plain ]] || refuse "name is '$NAME': use letters, digits, '.', '_' and '-', at most 64"
[[ $DEVICE =~ $plain ]] || refuse "device is '$DEVICE': give the name of a device profile, as pocketgan devices lists them"
[[ $ROUNDS =~ ^[0-9]+$ ]] || refuse "rounds is '$ROUNDS': give a number, 12 or more"
[[ $INCONCLUSIVE == warn || $INCONCLUSIVE == fail ]] || refuse "inconclusive is '$INCONCLUSIVE': it is warn or fail"
for name in ACCEPT COMMENT INSTALL; do
  [[ ${!name} == true || ${!name} == false ]] || refuse "$(lower "$name") is '${!name}': it is true or false"
done
[[ -n $BASELINE ]] || refuse "which baseline? Give a path, artifact:NAME, store:NAME or rev:REVISION"
[[ -n $CANDIDATE ]] || refuse "which candidate? Give the path of a bundle, or rev:REVISION"

artifact=""
store=$ACCEPT
case $BASELINE in
  artifact:*)
    artifact=${BASELINE#artifact:}
    [[ -n $artifact ]] || refuse "the baseline is 'artifact:': name the artifact, artifact:NAME"
    ;;
  store:*)
    [[ ${BASELINE#store:} =~ $plain ]] || refuse "the baseline is '$BASELINE': use letters, digits, '.', '_' and '-' after store:"
    store=true
    ;;
  rev:*)
    [[ $CANDIDATE == rev:* ]] || refuse "the baseline is $BASELINE and the candidate '$CANDIDATE': compare two revisions"
    [[ -n $BUNDLE ]] || refuse "two revisions measure one bundle: name it in the input bundle"
    ;;
esac
if [[ $ACCEPT == true && $BASELINE != store:* ]]; then
  refuse "accept puts the candidate into the store, so the baseline must be store:NAME, not '$BASELINE'"
fi

{
  echo "artifact=$artifact"
  echo "store=$store"
} >> "$GITHUB_OUTPUT"
