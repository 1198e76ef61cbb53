#!/bin/sh
# "pip install" of the build stages. It installs into the interpreter that TARGET names, at the pinned
# versions; index and authority may come from secrets, which no layer keeps.
set -eu

[ ! -s /run/secrets/pip_conf ] || export PIP_CONFIG_FILE=/run/secrets/pip_conf
[ ! -s /run/secrets/ca_bundle ] || export PIP_CERT=/run/secrets/ca_bundle

# --no-compile: all modules are compiled at the end of the stage, in a form that fits an image.
exec /build/tools/bin/pip --python "$TARGET" --disable-pip-version-check --no-cache-dir --quiet \
  install --no-compile --no-warn-script-location --constraint /build/constraints.txt "$@"
