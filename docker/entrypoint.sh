#!/bin/sh
# ONESTROKE_WARM=1 fills the volume's caches (weights, compiled code) before the server listens; where this edition
# has no such command, the server warms up by itself as ever.
set -eu
if [ "${ONESTROKE_WARM:-0}" = 1 ] && onestroke warm --help >/dev/null 2>&1; then
  onestroke warm
fi
exec "$@"
