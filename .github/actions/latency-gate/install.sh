# pocketgan as it is beside this action, in an environment of its own, with the runtimes of a device.
set -euo pipefail

root=$(cd -- "$GITHUB_ACTION_PATH/../../.." && pwd)
environment=$RUNNER_TEMP/latency-gate/environment

profile=$root/devices/profiles/$DEVICE.toml
if [[ ! -f $profile ]]; then
  echo "::error title=latency-gate::there is no device profile '$DEVICE'; for one of your own, set install to false and put pocketgan with its runtime on PATH"
  exit 2
fi
# [serving] brings ONNX Runtime, which also compares the images; TensorRT comes with the board
extras=serving
if grep -qE '^backends = .*"openvino"' "$profile"; then
  extras=serving,openvino
fi

packages=("$root[$extras]")
# two revisions are built into wheels, without network, by what is installed
[[ $BASELINE != rev:* ]] || packages+=(hatchling)

"$PYTHON" -m venv "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$root/constraints.txt" "${packages[@]}"
echo "program=$environment/bin/pocketgan" >> "$GITHUB_OUTPUT"
