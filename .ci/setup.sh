#!/usr/bin/env bash
# Sets up what `make demo` and `make test` need, and only what is missing:
#   .ci/setup.sh venv        .venv with every package of requirements.lock, by hash, and this project in it
#   .ci/setup.sh dev         the same with requirements-dev.lock: what tests, lint and types need besides
#   .ci/setup.sh mosquitto   the MQTT broker
#   .ci/setup.sh tools       programs that some tests need, which are skipped without them: strace, nginx, Chromium, Node.js
#                            with npm (Linux only)
#   .ci/setup.sh validator   AsyncAPI's own validator, from npm where that is there
#   .ci/setup.sh bytecode    this project's modules compiled, for every process that starts: each compiles all of them
#                            again where Python may keep no bytecode (PYTHONDONTWRITEBYTECODE), as in many containers
#   .ci/setup.sh wheels      packages that tests install by themselves (tests/wheels.lock), so that no test needs a network
# System packages are installed through apt or brew only by root or where sudo asks for no password, and
# never with FLOTILLA_NO_INSTALL=1; otherwise one line says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# install WHAT APT-PACKAGES BREW-PACKAGES
install() {
    local what=$1 apt=$2 brew=$3
    if [ "${FLOTILLA_NO_INSTALL:-}" != 1 ]; then
        if command -v apt-get >/dev/null 2>&1; then
            local as=""
            [ "$(id -u)" -eq 0 ] || as="sudo -n"
            if [ -z "$as" ] || $as true 2>/dev/null; then
                say "installing $apt"
                # shellcheck disable=SC2086 # a list of package names, and an optional sudo
                { $as apt-get update -qq && $as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $apt; } \
                    >/dev/null 2>&1 && return 0
                die "apt-get could not install $apt; run: sudo apt-get install $apt"
            fi
            die "$what is missing; run: sudo apt-get install $apt"
        elif command -v brew >/dev/null 2>&1; then
            say "installing $brew"
            # shellcheck disable=SC2086
            brew install --quiet $brew >/dev/null && return 0
            die "brew could not install $brew; run: brew install $brew"
        fi
    fi
    die "$what is missing; install it: apt-get install $apt, or brew install $brew"
}

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.14; do
        if command -v "$name" >/dev/null 2>&1 && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

# install_packages LOCK: each by hash, by uv, which takes a third of pip's time; where pip knows of an index that uv does
# not, and uv gets nothing, by pip
install_packages() {
    local lock=$1 uv=.venv/uv.lock
    awk '/^uv==/ { of_uv = 1 } of_uv { print } of_uv && !/\\$/ { exit }' "$lock" >"$uv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$uv"
    UV_HTTP_TIMEOUT=20 UV_HTTP_RETRIES=1 .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python \
        --require-hashes -r "$lock" && return 0
    say "uv could not install them; trying pip"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
}

# setup_venv LOCK: whoever has a larger lock's packages keeps them
setup_venv() {
    local python stamp lock=$1 state
    state=$(cat requirements.lock requirements-dev.lock pyproject.toml .ci/setup.sh | cksum | tr ' ' -)
    stamp=.venv/$lock-$state
    [ -e "$stamp" ] || [ -e ".venv/requirements-dev.lock-$state" ] && return 0
    python=$(find_python) || die "Python 3.11 or later is missing; run: sudo apt-get install python3 python3-venv, or brew install python"
    if [ ! -x .venv/bin/python ]; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || install "Python's venv module" python3-venv python
        say "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    say "installing the packages of $lock (once; takes up to a minute)"
    install_packages "$lock"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
    rm -f .venv/requirements*.lock-*
    touch "$stamp"
}

setup_mosquitto() {
    local folder
    command -v mosquitto >/dev/null 2>&1 && return 0
    for folder in /usr/sbin /usr/local/sbin /opt/homebrew/sbin; do
        [ -x "$folder/mosquitto" ] && return 0
    done
    install "the MQTT broker Mosquitto" mosquitto mosquitto
}

setup_tools() {
    [ "$(uname)" = Linux ] || return 0
    command -v strace >/dev/null 2>&1 || install "strace, with which tests cut updates off," strace strace
    command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || install "the web server nginx" nginx-light nginx
    command -v chromium >/dev/null 2>&1 || install "the browser Chromium, for tests of the web page," chromium chromium
    command -v npm >/dev/null 2>&1 || install "npm, for the validator of the contract," "nodejs npm" node
    setup_validator
}

# each package by hash; none may run a script of its own while it is installed
setup_validator() {
    local stamp
    command -v npm >/dev/null 2>&1 || return 0
    stamp=.venv/asyncapi/stamp-$(cat .ci/asyncapi/* | cksum | tr ' ' -)
    [ -e "$stamp" ] && return 0
    say "installing AsyncAPI's validator"
    rm -rf .venv/asyncapi
    mkdir -p .venv/asyncapi
    cp .ci/asyncapi/* .venv/asyncapi/
    (cd .venv/asyncapi && npm ci --ignore-scripts --no-audit --no-fund --silent)
    touch "$stamp"
}

setup_wheels() {
    local stamp
    stamp=.venv/wheels/$(cksum <tests/wheels.lock | tr ' ' -)
    [ -e "$stamp" ] && return 0
    rm -rf .venv/wheels
    .venv/bin/python -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
        --only-binary :all: --dest .venv/wheels -r tests/wheels.lock
    touch "$stamp"
}

setup_bytecode() {
    .venv/bin/python -m compileall -q broker_config controller device_agent schemas transport
}

for part in "$@"; do
    case "$part" in
        venv) setup_venv requirements.lock ;;
        dev) setup_venv requirements-dev.lock ;;
        tools) setup_tools ;;
        validator) setup_validator ;;
        mosquitto) setup_mosquitto ;;
        wheels) setup_wheels ;;
        bytecode) setup_bytecode ;;
        *) die "unknown part '$part'; there are: venv dev mosquitto tools validator wheels bytecode" ;;
    esac
done
