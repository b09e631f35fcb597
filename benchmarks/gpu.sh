#!/usr/bin/env bash
# A run on a machine with a card, a Python with torch and no network: bring the missing wheels along.
#
#   benchmarks/gpu.sh wheels FOLDER [PYTHON_VERSION]    where there is a network: fetch them (about 11 MB)
#   benchmarks/gpu.sh FOLDER RESULT.json PART...        on the card: parts of benchmarks.gpu (ours peers server), or test
#
# The versions are those of constraints.txt. Random weights of SDXL Turbo's configuration are made on the card.
set -euo pipefail
cd "$(dirname "$0")/.."
PACKAGES="diffusers importlib-metadata fastapi starlette uvicorn httptools websockets pydantic pydantic-core
  pydantic-settings python-dotenv simplejpeg msgspec structlog pytest-asyncio annotated-types annotated-doc
  typing-extensions typing-inspection opentelemetry-api python-multipart prometheus-client psutil pytest-timeout"

if [ "$1" = wheels ]; then
  mkdir -p "$2"
  platforms=""
  for tag in manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 \
    manylinux_2_12_x86_64 manylinux_2_5_x86_64 manylinux1_x86_64; do platforms="$platforms --platform $tag"; done
  # shellcheck disable=SC2086
  python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "${3:-3.12}" \
    $platforms --dest "$2" -c constraints.txt $PACKAGES
  exec python3 -m pip download --quiet --no-deps --dest "$2" streamdiffusion==0.1.1
fi

wheels=$1 result=$2
shift 2
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "$wheels"/*.whl
export PYTHONPATH="$site:$PWD/server:$PWD" PYTHONUNBUFFERED=1
for part in "$@"; do
  if [ "$part" = test ]; then
    python3 -m pytest tests -m gpu
  else
    python3 -m benchmarks.gpu --part "$part" --out "$result"
  fi
done
