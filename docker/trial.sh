#!/usr/bin/env bash
# `make trial-docker`: what docker/ promises, on a real engine.
#
# Installs a Docker engine (Debian, as root), runs one of its own beside whatever is there, builds the cpu image,
# brings compose up, and drives pictures and typed streams through HAProxy while a replica is killed. There need be
# no image registry: the base is made from the machine's own Debian mirror, the wheels come from its own pip. Where
# there are no rights to run an engine it says so and succeeds; anything else that does not work is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:/usr/sbin:/usr/bin:$PATH"

not_here() { echo "the Docker trial cannot run here: $1"; exit 0; }
[ "$(uname -s)" = Linux ] || not_here "it wants Linux"
[ "$(id -u)" = 0 ] || not_here "an engine of one's own wants root"
. /etc/os-release
[ "${ID:-}" = debian ] || not_here "it knows Debian's packages only, this is ${PRETTY_NAME:-unknown}"

base=onestroke-trial-base
work=$(mktemp -d /var/tmp/onestroke-docker.XXXXXX)
export DOCKER_HOST="unix://$work/docker.sock" DOCKER_BUILDKIT=1
export ONESTROKE_PORT=18000 ONESTROKE_THREADS=1
compose() { docker-compose -f docker/compose.yaml -f docker/compose.trial.yaml "$@"; }
step() { echo "== $(date +%T) $*"; }

engine=
clean_up() {
  status=$?
  if [ -n "$engine" ]; then
    [ $status = 0 ] || compose logs --tail 30 || true
    compose down --volumes --timeout 10 >/dev/null 2>&1 || true
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
  fi
  rm -f docker/wheels/*.whl
  rm -rf "$work"
  exit $status
}
trap clean_up EXIT

step "an engine"
if ! command -v dockerd >/dev/null || ! command -v mmdebstrap >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends docker.io mmdebstrap >/dev/null
fi
dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" \
  >"$work/dockerd.log" 2>&1 &
engine=$!
for _ in $(seq 60); do
  docker version >/dev/null 2>&1 && break
  kill -0 "$engine" 2>/dev/null || { engine=; not_here "dockerd: $(tail -n 1 "$work/dockerd.log")"; }
  sleep 0.5
done
docker version --format 'Docker {{.Server.Version}}'

step "a base, from this machine's mirror"
sources=/etc/apt/sources.list.d/debian.sources
[ -e "$sources" ] || sources=/etc/apt/sources.list
apt-config dump | grep -iE '^Acquire::https?::' >"$work/apt.conf" || true
mmdebstrap --quiet --variant=minbase --aptopt="$work/apt.conf" \
  --include=python3,python3-venv,ca-certificates,haproxy,prometheus "$VERSION_CODENAME" "$work/base.tar" "$sources" ||
  not_here "no base from the Debian mirror that $sources names"
docker import "$work/base.tar" $base >/dev/null
rm "$work/base.tar"
python=$(docker run --rm $base python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
  not_here "the engine runs, its containers do not"

step "wheels for Python $python, from this machine's pip"
needs=$(python - <<'EOF'
import tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(need for need in tomllib.load(file)["project"]["dependencies"] if not need.startswith("torch")))
EOF
)
torch=$(sed -n 's/^torch==//p' constraints.txt)
build=(--build-arg BASE=$base --network host)
if mapfile -t wanted <<<"$needs" && python -m pip download --quiet --disable-pip-version-check --dest docker/wheels \
  --only-binary=:all: --python-version "$python" -c constraints.txt \
  "torch==$torch+cpu" "${wanted[@]}" uv dumb-init 'setuptools>=77'; then
  build+=(--build-arg OFFLINE=1)
else
  echo "not all are to be had so: the image's own build asks the index"
fi

step "the image"
timeout 900 make docker DOCKER=docker ARGS="${build[*]} --quiet"
docker images onestroke

step "compose: two replicas, HAProxy, Prometheus"
compose up --no-build --detach --wait --wait-timeout 300 onestroke balancer prometheus

step "pictures and streams, and a replica killed"
python -m tests.trials.compose "http://127.0.0.1:$ONESTROKE_PORT" "http://127.0.0.1:19090" \
  --kill "docker kill $(compose ps --quiet onestroke | head -n 1)"

step "a replica leaves in order"
left=$(compose ps --quiet onestroke | head -n 1)
timeout 60 docker stop --time 45 "$left" >/dev/null
[ "$(docker inspect --format '{{.State.ExitCode}} {{.State.OOMKilled}}' "$left")" = "143 false" ] ||
  { echo "it was killed, not drained"; exit 1; }
step "done"
