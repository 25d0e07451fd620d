#!/bin/sh
# Makes sure that a Docker engine answers: `docker-engine.sh start`, later `docker-engine.sh stop`; before it,
# `docker-engine.sh install` has its programs there.
#
# Where an engine answers already nothing is done, and `stop` leaves it alone. Otherwise, on Debian and its
# kin, docker.io is installed through apt when dockerd is missing, and dockerd is started by hand, which needs root.
# Its process id, log and state stay in the folder FLOTILLA_DOCKER_STATE (default: /tmp/flotilla-dockerd).
#
# dockerd's defaults are tried first (they work on a plain Debian 12 virtual machine, overlay2 and bridge included).
# Where the kernel lacks what they need, it is started again without iptables and bridge and with the vfs driver; containers
# then need the host's network, which tests/support takes by itself when there is no bridge.
set -eu

state=${FLOTILLA_DOCKER_STATE:-/tmp/flotilla-dockerd}
wait_s=${FLOTILLA_DOCKER_WAIT_S:-60}

answers() {
    docker info >/dev/null 2>&1
}

# Starts dockerd with the given options; fails when it ends or doesn't answer in time.
launch() {
    echo "docker-engine: starting dockerd $*"
    dockerd --pidfile "$state/dockerd.pid" "$@" >>"$state/dockerd.log" 2>&1 </dev/null &
    pid=$!
    waited=0
    while [ "$waited" -lt "$wait_s" ]; do
        if answers; then
            echo "$pid" >"$state/started.pid"
            return 0
        fi
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 1
        waited=$((waited + 1))
    done
    end "$pid"
    return 1
}

# Ends the process with this id: politely first, then for good.
end() {
    kill "$1" 2>/dev/null || return 0
    waited=0
    while kill -0 "$1" 2>/dev/null; do
        if [ "$waited" -ge 30 ]; then
            kill -9 "$1" 2>/dev/null || true
            return 0
        fi
        sleep 1
        waited=$((waited + 1))
    done
}

# Has the programs there, through apt if need be; they are where an engine answers.
install() {
    if answers || { command -v dockerd >/dev/null && command -v docker >/dev/null; }; then
        return 0
    fi
    if ! command -v apt-get >/dev/null; then
        echo "docker-engine: no engine answers and there is no apt-get here: install Docker" >&2
        return 1
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker.io
}

start() {
    if answers; then
        echo "docker-engine: one answers already"
        return 0
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "docker-engine: no engine answers, and starting dockerd needs root: run \`sudo $0 start\`" >&2
        return 1
    fi
    install || return 1
    # Packages start it by themselves where an init system runs.
    if answers; then
        return 0
    fi
    mkdir -p "$state"
    if launch || launch --iptables=false --bridge=none --storage-driver=vfs; then
        return 0
    fi
    echo "docker-engine: dockerd does not come up; its last words:" >&2
    tail -n 5 "$state/dockerd.log" >&2
    return 1
}

stop() {
    if [ ! -f "$state/started.pid" ]; then
        echo "docker-engine: none of ours is running"
        return 0
    fi
    end "$(cat "$state/started.pid")"
    rm -f "$state/started.pid"
    echo "docker-engine: stopped"
}

case "${1:-}" in
    install) install ;;
    start) start ;;
    stop) stop ;;
    *)
        echo "usage: $0 install|start|stop" >&2
        exit 2
        ;;
esac
