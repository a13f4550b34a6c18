# shellcheck shell=bash
# Root file systems of releases of Debian, for scripts/test-on and scripts/peers. Who includes this has included
# scripts/lib.sh, is root, and sets `release`, and `root`, the folder of its root.
# shellcheck disable=SC2154 # these two

mirror=http://deb.debian.org/debian

make_root() {
    local suite=$release
    [ "$release" != sid+openssl4 ] || suite=sid
    [ ! -d "$root" ] || return 0
    require_packages "
        command:debootstrap                                   debootstrap            debootstrap    debootstrap
        file:/usr/share/keyrings/debian-archive-keyring.gpg   debian-archive-keyring debian-keyring debian-archive-keyring"
    say "making $root"
    rm -rf "$root.new"
    debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$suite" "$root.new" "$mirror" \
        >"$root.log" 2>&1 || fail "debootstrap failed; its messages are in $root.log: $(tail -n 1 "$root.log")"
    mv "$root.new" "$root"
}

# A proxy, or a mirror of yesterday.
lend_apt_settings() {
    if command -v apt-config >/dev/null; then
        apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-)' >"$root/etc/apt/apt.conf.d/90machine" || true
    fi
}

# run_in_root COMMAND...: runs a shell command in the release with the network of this machine and scripts/lib.sh, so that
# packages can be installed, and with the repository at /mnt.
run_in_root() {
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    # The package scripts of the release want /proc and /dev. The mounts go with their namespace.
    # shellcheck disable=SC2016 # the inner shell expands these
    unshare --mount --pid --fork --kill-child bash -euc '
        root=$1
        shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        mount --bind . "$root/mnt"
        cp scripts/lib.sh "$root/tmp/lib.sh"
        exec chroot "$root" env -i HOME=/root LANG=C.UTF-8 http_proxy="${http_proxy-}" https_proxy="${https_proxy-}" \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -euc ". /tmp/lib.sh; $*"
    ' run_in_root "$root" "$@"
}
