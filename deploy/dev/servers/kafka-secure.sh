#!/usr/bin/env bash
# Inside the container of deploy/compose.yaml: format on first use, with the SCRAM users, and start. Secrets are mounted read-only.
set -euo pipefail
SECRETS=/streamforge/secrets KAFKA=${KAFKA:-/opt/kafka} DATA=${DATA:-/var/lib/kafka/data}
PROPERTIES=$SECRETS/server.properties
if [ ! -e "$DATA/meta.properties" ]; then
  users=()
  for file in "$SECRETS"/users/*; do users+=(--add-scram "SCRAM-SHA-512=[name=${file##*/},password=$(cat "$file")]"); done
  "$KAFKA/bin/kafka-storage.sh" format --standalone -t "$("$KAFKA/bin/kafka-storage.sh" random-uuid)" -c "$PROPERTIES" "${users[@]}" >/dev/null # it would print what it stores of each password
fi
export KAFKA_HEAP_OPTS=${HEAP:--Xmx512m}
exec "$KAFKA/bin/kafka-server-start.sh" "$PROPERTIES"
