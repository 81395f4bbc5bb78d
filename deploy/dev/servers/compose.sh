#!/usr/bin/env bash
# The servers of deploy/compose.yaml, for people with Docker. Passwords and certificates are made once, below .servers/compose.
#
#   compose.sh secrets          make what is missing, start nothing
#   compose.sh up [NAME ...]    secrets, start, wait until each is healthy, write .servers/urls, which the tests read
#   compose.sh down [NAME ...]  stop and remove the containers; data stays in volumes
#   compose.sh status           what runs, and how it feels
#   compose.sh forget           down, and delete the data and the secrets
set -euo pipefail
umask 077
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../../.." && pwd)
RUN=$ROOT/.servers
OWN=$RUN/compose # only its owner may enter; below it files are readable, since containers run as other users
USERS=(admin app reader stranger)
PORT=19192

die() { echo "compose: $*" >&2; exit 1; }
compose() { docker compose -f "$ROOT/deploy/compose.yaml" "$@"; }
password() { [ -s "$1" ] || { mkdir -p "$(dirname "$1")"; od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$1"; }; }

certificates() { # once: a throw-away authority and the broker's certificate
  local at=$OWN/kafka made
  [ -s "$at/broker.pem" ] && return
  command -v openssl >/dev/null || die "kafka-secure needs openssl for its certificate"
  made=$(mktemp -d)
  openssl req -x509 -newkey rsa:2048 -nodes -sha256 -days 365 -subj "/CN=streamforge throw-away CA" -addext basicConstraints=critical,CA:TRUE \
    -addext keyUsage=critical,keyCertSign -keyout "$made/ca.key" -out "$made/ca.pem" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -sha256 -subj "/CN=broker" -keyout "$made/broker.key" -out "$made/broker.csr" 2>/dev/null
  printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >"$made/ext"
  openssl x509 -req -sha256 -days 365 -in "$made/broker.csr" -CA "$made/ca.pem" -CAkey "$made/ca.key" -CAcreateserial -extfile "$made/ext" -out "$made/broker.crt" 2>/dev/null
  cp "$made/ca.pem" "$at/ca.pem"
  cat "$made/broker.key" "$made/broker.crt" >"$at/broker.pem"
  rm -rf "$made" # with the authority's key: nobody will sign with it again
}

properties() { # of the broker, and of the super user's tools
  local at=$OWN/kafka inside=/streamforge/secrets admin
  admin="org.apache.kafka.common.security.scram.ScramLoginModule required username=\"admin\" password=\"$(cat "$at/users/admin")\";"
  cat >"$at/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((PORT + 1))
controller.listener.names=CONTROLLER
listeners=SASL_SSL://0.0.0.0:$PORT,CONTROLLER://127.0.0.1:$((PORT + 1))
advertised.listeners=SASL_SSL://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$((PORT + 1))
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:SSL
inter.broker.listener.name=SASL_SSL
log.dirs=/var/lib/kafka/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
ssl.keystore.type=PEM
ssl.keystore.location=$inside/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$inside/ca.pem
listener.name.controller.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$admin
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:admin;User:CN=broker
EOF
  cat >"$at/admin.properties" <<EOF
security.protocol=SASL_SSL
ssl.truststore.type=PEM
ssl.truststore.location=$inside/ca.pem
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=$admin
EOF
}

secrets() {
  local name
  mkdir -p "$OWN/passwords" "$OWN/kafka/users" "$OWN/targets"
  for name in postgresql minio arangodb grafana; do
    # a password that `make servers` made serves here too: the addresses stay the same
    if [ -s "$RUN/passwords/$name" ] && [ ! -s "$OWN/passwords/$name" ]; then cp "$RUN/passwords/$name" "$OWN/passwords/$name"; fi
    password "$OWN/passwords/$name"
  done
  for name in "${USERS[@]}"; do password "$OWN/kafka/users/$name"; done
  certificates
  properties
  chmod 700 "$OWN"
  find "$OWN" -mindepth 1 -type d -exec chmod 755 {} +
  find "$OWN" -type f -exec chmod 644 {} +
}

acls() { # as servers.sh: app does what StreamForge needs, reader reads what begins with "readable", stranger nothing
  local acl=(exec -T kafka-secure /opt/kafka/bin/kafka-acls.sh --bootstrap-server "127.0.0.1:$PORT" --command-config /streamforge/secrets/admin.properties --add)
  compose "${acl[@]}" --allow-principal User:app --operation All --topic '*' --group '*' >/dev/null
  compose "${acl[@]}" --allow-principal User:app --operation IdempotentWrite --operation Describe --operation Create --cluster >/dev/null
  compose "${acl[@]}" --allow-principal User:reader --operation Read --operation Describe --topic readable --group readable --resource-pattern-type prefixed >/dev/null
}

url_of() {
  case $1 in
    kafka) echo "kafka://127.0.0.1:19092" ;;
    kafka-secure) echo "kafka://app@127.0.0.1:$PORT?password_file=$OWN/kafka/users/app&ca=$OWN/kafka/ca.pem" ;;
    postgresql) echo "postgresql://sf@127.0.0.1:15432/streamforge?password_file=$OWN/passwords/postgresql" ;;
    minio) echo "minio://streamforge@127.0.0.1:19000/streamforge?password_file=$OWN/passwords/minio" ;;
    arangodb) echo "arangodb://root@127.0.0.1:18529/_system?password_file=$OWN/passwords/arangodb" ;;
    toxiproxy) echo "http://127.0.0.1:18474" ;;
  esac
}
write_urls() {
  local name
  for name in $(compose ps --services --status running); do [ -z "$(url_of "$name")" ] || echo "$name $(url_of "$name")"; done >"$RUN/urls.new"
  mv "$RUN/urls.new" "$RUN/urls"
}

verb=${1:-}; shift || true
case $verb in secrets | up | down | status | forget) ;; *) sed -n '2,8p' "${BASH_SOURCE[0]}" >&2; exit 2 ;; esac
[ "$verb" = secrets ] || docker compose version >/dev/null 2>&1 || die "no 'docker compose' found: install Docker with its compose plugin, or use 'make servers', which needs no Docker"
case $verb in
  secrets) secrets ;;
  up)
    secrets
    compose up --detach --wait --wait-timeout 300 "$@"
    case " ${*:-kafka-secure} " in *" kafka-secure "*) acls ;; esac
    write_urls; cat "$RUN/urls" ;;
  down) if [ $# -gt 0 ]; then compose rm --stop --force "$@"; else compose down; fi; write_urls ;;
  status) compose ps ;;
  forget) compose down --volumes; rm -rf "$OWN"; rm -f "$RUN/urls" ;;
esac
