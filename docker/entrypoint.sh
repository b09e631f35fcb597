#!/bin/sh
# ONESTROKE_WARM=1 fills the volume's caches (weights, compiled code) before the server listens.
set -eu
[ "${ONESTROKE_WARM:-0}" = 0 ] || onestroke warm || echo "onestroke: warming failed; the server will say why" >&2
exec "$@"
