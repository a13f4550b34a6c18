# shellcheck shell=bash
# What the scripts share: messages, the Swift toolchain, missing packages, certificates.

swift_at_least="6.2"

# How the daemon is built that is to be used, as arguments of `swift build`. Without Swift's checks of exclusive access at
# run time an echo costs 10 % less; the debug build that the tests use has them.
# shellcheck disable=SC2034 # the scripts that read this file use it
release_build=(-c release --static-swift-stdlib -Xswiftc -enforce-exclusivity=unchecked)

# Where Debian has daemons, and docc of its package swiftlang, and a user's PATH has not.
export PATH="$PATH:/usr/sbin:/sbin:/usr/libexec/swift/bin"

say() {
    printf '==> %s\n' "$*"
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Ends with instructions where Swift is missing or too old.
require_swift() {
    local version message
    if ! command -v swift >/dev/null; then
        fail "Swift is not installed (no 'swift' in PATH); version $swift_at_least or later is needed." \
            "See https://www.swift.org/install/linux/ (swiftly installs it: 'swiftly install latest')."
    fi
    message=$(swift --version 2>&1) ||
        fail "'swift --version' failed; is the toolchain at $(command -v swift) whole?"$'\n'"$message"
    version=$(sed -nE 's/.*Swift version ([0-9]+(\.[0-9]+)+).*/\1/p' <<<"$message" | head -n 1)
    [ -n "$version" ] || fail "'swift --version' does not name a version; is the toolchain at $(command -v swift) whole?"
    if [ "$(printf '%s\n' "$swift_at_least" "$version" | sort -V | head -n 1)" != "$swift_at_least" ]; then
        fail "Swift $version is too old; version $swift_at_least or later is needed." \
            "See https://www.swift.org/install/linux/ ('swiftly install latest')."
    fi
}

# Ends with instructions where the toolchain can build no tests: Debian's swiftlang lacks a part of the Testing library.
require_testing() {
    local libraries
    libraries=$(swift -print-target-info | sed -nE 's/^ *"runtimeResourcePath": "([^"]+)".*/\1/p')/linux
    [ -e "$libraries/lib_Testing_Foundation.so" ] ||
        fail "the Swift toolchain can build dtlsd, but not its tests, since $libraries has no lib_Testing_Foundation.so" \
            "(Debian's package swiftlang leaves it out). Use a toolchain of https://www.swift.org/install/linux/."
}

# One requirement a line: how to see that it is there, and the package that has it on Debian, Fedora and Arch Linux.
# shellcheck disable=SC2034 # for those who include this file
build_requirements="
command:git            git                git                  git
command:c++            g++                gcc-c++              gcc
command:pkg-config     pkg-config         pkgconf-pkg-config   pkgconf
command:openssl        openssl            openssl              openssl
library:openssl        libssl-dev         openssl-devel        openssl
library:libsystemd     libsystemd-dev     systemd-devel        systemd-libs
library:libmicrohttpd  libmicrohttpd-dev  libmicrohttpd-devel  libmicrohttpd
library:libcares       libc-ares-dev      c-ares-devel         c-ares
library:jansson        libjansson-dev     jansson-devel        jansson
"
# shellcheck disable=SC2034
test_requirements="
command:gnutls-cli           gnutls-bin         gnutls-utils       gnutls
command:coap-client-openssl  libcoap3-bin       libcoap-utils      libcoap
command:coap-server-notls    libcoap3-bin       libcoap-utils      libcoap
command:radsecproxy          radsecproxy        radsecproxy        radsecproxy
command:freeradius           freeradius         freeradius         freeradius
command:radclient            freeradius-utils   freeradius-utils   freeradius
command:redis-server         redis-server       redis              redis
file:/usr/lib/python3/dist-packages/redis    python3-redis     python3-redis     python-redis
file:/usr/lib/python3/dist-packages/psycopg  python3-psycopg   python3-psycopg3  python-psycopg
command:pg_ctlcluster        postgresql         postgresql-server  postgresql
command:dnsmasq              dnsmasq-base       dnsmasq            dnsmasq
command:drill                ldnsutils          ldns-utils         ldns
command:collectd             collectd-core      collectd           collectd
command:logger               bsdutils           util-linux         util-linux
command:systemd-nspawn       systemd-container  systemd-container  systemd
command:dbus-daemon          dbus               dbus-daemon        dbus
command:dnsdist              dnsdist            dnsdist            dnsdist
command:ip                   iproute2           iproute            iproute2
command:ps                   procps             procps-ng          procps-ng
header:mbedtls/ssl.h         libmbedtls-dev     mbedtls-devel      mbedtls
command:shellcheck           shellcheck         ShellCheck         shellcheck
command:spin                 spin               spin               spin
"
# What scripts/package needs; it runs on Debian only.
# shellcheck disable=SC2034
package_requirements="
file:/usr/share/build-essential/list  build-essential  build-essential  build-essential
command:dh        debhelper      debhelper      debhelper
command:lintian   lintian        lintian        lintian
command:mandoc    mandoc         mandoc         mandoc
command:ld.gold   binutils-gold  binutils-gold  binutils
"

is_there() {
    case "$1" in
        command:*) command -v "${1#command:}" >/dev/null ;;
        header:*) [ -e "/usr/include/${1#header:}" ] ;;
        library:*) command -v pkg-config >/dev/null && pkg-config --exists "${1#library:}" ;;
        file:*) [ -e "${1#file:}" ] ;;
    esac
}

# Installs what is missing of the requirements given (Debian and its descendants), or says what to install.
require_packages() {
    local requirement on_debian on_fedora on_arch
    local missing_on_debian=() missing_on_fedora=() missing_on_arch=()
    while read -r requirement on_debian on_fedora on_arch; do
        if [ -n "$requirement" ] && ! is_there "$requirement"; then
            missing_on_debian+=("$on_debian")
            missing_on_fedora+=("$on_fedora")
            missing_on_arch+=("$on_arch")
        fi
    done <<<"$1"
    [ "${#missing_on_debian[@]}" -gt 0 ] || return 0

    if ! command -v apt-get >/dev/null; then
        fail "missing: ${missing_on_debian[*]} (Debian's names). This script installs packages on Debian and Ubuntu only;" \
            "on Fedora: 'dnf install ${missing_on_fedora[*]}', on Arch Linux: 'pacman -S ${missing_on_arch[*]}'." \
            "Then run it again."
    fi
    install_on_debian "${missing_on_debian[@]}"
}

# In a subshell: its trap goes with it.
install_on_debian() (
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "missing packages: $*. Install them as root: apt-get install $*"
        as_root=(sudo)
    fi
    say "installing $*"
    # Some packages bring a service, which Debian starts at once and at every boot. Tests start what they need by
    # themselves: such a service is neither started nor left enabled.
    policy=/usr/sbin/policy-rc.d
    enabled=$(find /etc/systemd/system -type l 2>/dev/null || true)
    if [ ! -e "$policy" ]; then
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
    # Two runs at once wait for each other's lock. The package lists are fetched only where they do not do.
    apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
    install=("${apt[@]}" install -y --no-install-recommends "$@")
    if ! apt-cache show "$@" >/dev/null 2>&1 || ! "${install[@]}" >/dev/null; then
        say "refreshing the package lists"
        "${apt[@]}" update >/dev/null
        "${install[@]}" >/dev/null || fail "apt-get could not install $*; its message is above"
    fi
    { find /etc/systemd/system -type l 2>/dev/null || true; } | while read -r link; do
        grep -qxF -- "$link" <<<"$enabled" || "${as_root[@]}" rm -f -- "$link"
    done
)

# A self-signed certificate for localhost: make_certificate FILE KEY_FILE [openssl's -newkey arguments]
make_certificate() {
    local certificate=$1 key=$2
    shift 2
    [ $# -gt 0 ] || set -- ec -pkeyopt ec_paramgen_curve:prime256v1
    (
        umask 077
        openssl req -x509 -newkey "$@" -noenc -keyout "$key" -out "$certificate" -days 3650 \
            -subj "/CN=localhost" -addext "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1" 2>/dev/null
    ) || fail "openssl could not make a certificate in $certificate"
    chmod 644 "$certificate"
}

# run_tests FILE COMMAND...: runs `swift test`, on this release or on another, and keeps in the file what it prints. It
# wants to see all tests end: a process that is made to exit with status 0 in the middle of a run has passed nothing.
#
# DTLSD_UNATTENDED is for continuous integration, where nobody looks at a run before it is judged, or ends one that hangs:
# - A run gets that many seconds, and then is ended. What the tests were that it had begun, and what its processes were
#   waiting for, is told, and the run is made once more.
# - Up to three failed tests get a second run, by suite, and those that then pass are called unsteady in FILE.unsteady, so
#   that a test that the machine was too busy for is told from one that fails.
run_tests() {
    local file=$1 status=0 suites argument words=()
    shift
    run_once "$file" "$@" || status=$?
    if ! saw_all_tests "$file"; then
        tell_unfinished_tests "$file"
        # A run that has crashed is not one that hung.
        [ "$status" -eq 124 ] || [ "$status" -eq 137 ] || return 1
        say "once more: $*"
        cp "$file" "$file.first"
        [ ! -e "$file.processes" ] || mv "$file.processes" "$file.first.processes"
        status=0
        run_once "$file" "$@" || status=$?
        if ! saw_all_tests "$file"; then
            tell_unfinished_tests "$file"
            return 1
        fi
        tell_unfinished_tests "$file.first" | sed 's/^✘ //' >"$file.unsteady"
        return "$status"
    fi
    suites=$(grep -oP '✘ Suite \K\w+(?= failed)' "$file" | sort -u | paste -sd '|')
    if [ "$status" -eq 0 ] || [ -z "${DTLSD_UNATTENDED:-}" ] || [ -z "$suites" ] ||
        [ "$(names_of_tests '✘' failed "$file" | wc -l)" -gt 3 ]; then
        return "$status"
    fi
    for argument; do
        case $argument in --filter | --skip) break ;; --skip-build) continue ;; esac
        words+=("$argument")
    done
    say "once more: ${words[*]} --skip-build --filter [./]($suites)/"
    run_once "$file.retry" "${words[@]}" --skip-build --filter "[./]($suites)/" || return "$status"
    # A failed test of no suite has not been run again.
    [ -z "$(comm -23 <(names_of_tests '✘' failed "$file") <(names_of_tests '✔' passed "$file.retry"))" ] || return "$status"
    names_of_tests '✘' failed "$file" >"$file.unsteady"
}

# run_once FILE COMMAND...
#
# `swift test` prints through a buffer, so what a run that is ended has printed last is lost: FILE.processes tells what it
# was waiting for.
run_once() {
    local file=$1 limit=() watch='' status=0
    shift
    rm -f "$file.processes"
    if [ -n "${DTLSD_UNATTENDED:-}" ]; then
        # Not where somebody may press Ctrl-C: timeout(1) would keep that from the tests.
        limit=(timeout --kill-after=10 "$DTLSD_UNATTENDED")
        { sleep $((DTLSD_UNATTENDED - 5)) && list_processes >"$file.processes"; } </dev/null >/dev/null 2>&1 &
        watch=$!
    fi
    "${limit[@]}" "$@" 2>&1 | tee "$file" || status=$?
    if [ -n "$watch" ]; then
        pkill -P "$watch" || true
        wait "$watch" 2>/dev/null || true
    fi
    return "$status"
}

# The processes that were started since the run began, with what each waits for, and how many of its threads do.
list_processes() {
    ps -eLo etimes=,pid=,ppid=,stat=,wchan:24=,args= --cols 160 |
        awk -v since="$DTLSD_UNATTENDED" '$1 <= since { $1 = ""; print }' | sort | uniq -c
}

# saw_all_tests FILE
saw_all_tests() {
    grep -q 'Test run with .* \(passed\|failed\)' "$1"
}

# tell_unfinished_tests FILE
tell_unfinished_tests() {
    printf '✘ The tests ended before all of them had run.\n'
    [ -z "${DTLSD_UNATTENDED:-}" ] || printf '✘ The tests had at most %s seconds.\n' "$DTLSD_UNATTENDED"
    comm -23 <(names_of_tests '◇' started "$1") \
        <(sort -u <(names_of_tests '✔' passed "$1") <(names_of_tests '✘' failed "$1")) |
        sed 's/^/✘ The tests had begun: /'
    [ ! -s "$1.processes" ] || head -n 60 "$1.processes" | sed 's/^/✘ The tests left running: /'
}

# names_of_tests MARK VERB FILE: the tests that started, passed or failed, by what a run printed.
names_of_tests() {
    grep -oP "$1 Test (?!run with |case )\\K(\".*\"|\\S+)(?= .*$2)" "$3" | sort -u
}
