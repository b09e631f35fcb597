#!/usr/bin/env bash
# `make check-docker`: all that can be known of docker/ without an engine or a cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH:/usr/sbin"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "Dockerfile"
hadolint docker/Dockerfile

echo "compose"
docker-compose -f docker/compose.yaml config --quiet
docker-compose -f docker/compose.yaml -f docker/compose.gpu.yaml config --quiet
docker-compose -f docker/compose.yaml -f docker/compose.trial.yaml config --quiet

echo "Kubernetes"
for each in base cpu; do
  kubectl kustomize "docker/kubernetes/$each" >"$work/$each.yaml"
  kubernetes-validate --strict "$work/$each.yaml"
done

need() {
  command -v "$1" >/dev/null && return
  echo "not checked, for want of $1: $2"
  return 1
}

if need haproxy "the balancer's configuration"; then
  ONESTROKE_BIND=":8000" haproxy -c -f docker/haproxy/haproxy.cfg -f docker/haproxy/replicas.cfg
fi

if need promtool "metrics, alerts and the dashboard's expressions"; then
  python -m tests.docker.expressions exposition | promtool check metrics
  promtool check config docker/monitoring/prometheus.yml
  python -m tests.docker.expressions rules >"$work/dashboard.yml"
  promtool check rules "$work/dashboard.yml"
fi
