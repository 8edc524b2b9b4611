#!/bin/sh
# Installs the package in a clean Debian root, looks at what is there, upgrades it, and removes it again:
# check-deb.sh FILE.deb [ROOT]. Needs root, debootstrap and a Debian mirror: MIRROR, else the one that apt of this machine
# uses. ROOT, if given, is a root made before and is kept.
set -eu
deb="$1"
mirror="${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null |
    head -n 1)}"
mirror="${mirror:-http://deb.debian.org/debian}"
if [ $# -gt 1 ]; then
    root="$2"
else
    root="$(mktemp -d /tmp/okno-root.XXXXXX)"
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=systemd,adduser bookworm "$root" "$mirror" >"$root.log" 2>&1 || {
        cat "$root.log" >&2
        exit 1
    }
    rm -f "$root.log"
    # As a machine's is: the service user must come in.
    chmod 0755 "$root"
fi
fail() { echo "check-deb: $*" >&2; exit 1; }
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"; }

cp "$deb" "$root/tmp/okno.deb"
inside dpkg -s libstdc++6 >/dev/null 2>&1 || inside apt-get install -y -qq --no-install-recommends libstdc++6 >/dev/null
inside dpkg -s adduser >/dev/null 2>&1 || inside apt-get install -y -qq --no-install-recommends adduser >/dev/null
inside dpkg -i /tmp/okno.deb

inside getent passwd okno | grep -q ':/var/lib/okno:' || fail "no service user"
[ "$(inside stat -c '%a %U:%G' /var/lib/okno)" = "700 okno:okno" ] || fail "/var/lib/okno: wrong owner or mode"
[ "$(inside stat -c '%a %U:%G' /etc/okno/okno.toml)" = "640 root:okno" ] || fail "okno.toml: wrong owner or mode"
[ "$(inside stat -c '%a %U:%G' /etc/okno/tls)" = "750 root:okno" ] || fail "/etc/okno/tls: wrong owner or mode"
inside dpkg-query -W -f '${Conffiles}\n' okno | grep -q /etc/okno/okno.toml || fail "okno.toml is no conffile"
for file in /usr/bin/okno /usr/bin/oknoctl /usr/share/man/man1/okno.1.gz /usr/share/man/man1/oknoctl.1.gz \
    /usr/share/man/man1/okno-serve.1.gz /usr/share/bash-completion/completions/oknoctl \
    /usr/share/zsh/vendor-completions/_okno /usr/share/fish/vendor_completions.d/okno.fish \
    /lib/systemd/system/okno.service /lib/systemd/system/okno-poweroff.path /usr/share/doc/okno/power.md \
    /usr/share/doc/okno/runbooks/on-battery.md /usr/share/doc/okno/prometheus/rules.yml \
    /usr/share/doc/okno/grafana/overview.json /usr/share/doc/okno/grafana/channels.json \
    /usr/bin/okno-https /usr/share/man/man1/okno-https.1.gz /usr/share/doc/okno/channels.md /usr/share/doc/okno/queue.md; do
    [ -e "$root$file" ] || fail "$file is missing"
done
[ -L "$root/etc/systemd/system/multi-user.target.wants/okno.service" ] || fail "the unit is not enabled"
# Every alert rule links a page that is there.
sed -n 's/.*runbook_url: file:\/\///p' "$root/usr/share/doc/okno/prometheus/rules.yml" | sort -u |
    while read -r page; do [ -e "$root$page" ] || fail "$page is missing"; done
# Completion scripts are what their shells read.
bash -n "$root/usr/share/bash-completion/completions/okno" "$root/usr/share/bash-completion/completions/oknoctl" ||
    fail "the completion cannot be read by bash"
inside okno --version
inside oknoctl --version
inside okno-https --version
zcat "$root/usr/share/man/man1/okno-https.1.gz" | grep -q '^\.TH okno-https 1' || fail "okno-https(1) is no manual page"
# The connector's example, as packaged, is good up to its certificates: the first of them is what is missing.
example=/usr/share/doc/okno/examples/egrn.toml
if [ -e "$root$example.gz" ]; then zcat "$root$example.gz"; else cat "$root$example"; fi >"$root/tmp/egrn.toml" ||
    fail "the example of a connector is missing"
status=0
inside okno-https --config /tmp/egrn.toml --check >"$root/tmp/egrn.log" 2>&1 || status=$?
[ "$status" = 2 ] && grep -q '/tmp/tls/egrn-ca\.pem: expected certificates in PEM: .*No such file' "$root/tmp/egrn.log" || {
    cat "$root/tmp/egrn.log" >&2
    fail "okno-https --check of the example: status $status, and not for want of its certificates"
}
rm "$root/tmp/egrn.toml" "$root/tmp/egrn.log"
inside okno check-config 2>&1 | grep -q 'cluster.name' || fail "check-config does not say what is missing"
inside systemd-analyze verify --man=no /lib/systemd/system/okno.service /lib/systemd/system/okno-poweroff.service \
    /lib/systemd/system/okno-poweroff.path || fail "systemd-analyze verify"
inside systemd-analyze security --offline=true /lib/systemd/system/okno.service | tail -n 1

# Settings that were edited outlive the same package installed again, a newer one with another example, and a removal. The
# link that enables the unit stays as the operator left it.
echo '# edited by hand' >>"$root/etc/okno/okno.toml"
rm "$root/etc/systemd/system/multi-user.target.wants/okno.service"
inside dpkg -i /tmp/okno.deb
tail -n 1 "$root/etc/okno/okno.toml" | grep -q 'edited by hand' || fail "the same package again lost settings"
newer="$root/tmp/newer"
dpkg-deb --raw-extract "$deb" "$newer"
sed -i 's/^Version: .*/&+newer/' "$newer/DEBIAN/control"
echo '# a newer example' >>"$newer/etc/okno/okno.toml"
(cd "$newer" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb -Znone --root-owner-group --build "$newer" "$root/tmp/newer.deb" >/dev/null
inside dpkg --force-confold -i /tmp/newer.deb
inside dpkg-query -W -f '${Version}\n' okno | grep -q '+newer$' || fail "not upgraded"
tail -n 1 "$root/etc/okno/okno.toml" | grep -q 'edited by hand' || fail "an upgrade lost settings"
[ "$(inside stat -c '%a %U:%G' /etc/okno/okno.toml)" = "640 root:okno" ] || fail "okno.toml: wrong after an upgrade"
[ ! -L "$root/etc/systemd/system/multi-user.target.wants/okno.service" ] || fail "an upgrade enabled the unit again"
inside dpkg --remove okno
tail -n 1 "$root/etc/okno/okno.toml" | grep -q 'edited by hand' || fail "a removal took settings along"
for file in okno oknoctl okno-https; do [ ! -e "$root/usr/bin/$file" ] || fail "a removal left $file"; done
inside dpkg --force-confold -i /tmp/okno.deb
tail -n 1 "$root/etc/okno/okno.toml" | grep -q 'edited by hand' || fail "installed again: settings are lost"
[ ! -L "$root/etc/systemd/system/multi-user.target.wants/okno.service" ] || fail "installing again enabled the unit again"
inside systemctl --quiet enable okno.service
inside dpkg --remove okno && inside dpkg --force-confold -i /tmp/okno.deb
[ -L "$root/etc/systemd/system/multi-user.target.wants/okno.service" ] || fail "removed and installed, it is not enabled"
[ ! -L "$root/etc/systemd/system/okno.service" ] || fail "removed and installed, the unit is masked"
rm -rf "$newer" "$root/tmp/newer.deb"

# A node can be made and its data outlive the package.
inside install -d -m 0700 -o okno -g okno /var/lib/okno/node
inside setpriv --reuid okno --regid okno --clear-groups okno init --dir /var/lib/okno/node \
    --cluster-id 0198c0de-0000-7000-8000-000000000001 --node-id 1 --members 1=localhost:7401
inside dpkg --purge okno 2>&1 | tee "$root/tmp/purge.log"
grep -q '/var/lib/okno' "$root/tmp/purge.log" || fail "purge does not say that data are left"
[ -e "$root/var/lib/okno/node/identity" ] || fail "purge removed data"
[ -d "$root/etc/okno/tls" ] || fail "purge removed the folder of the keys"
inside getent passwd okno >/dev/null || fail "purge removed the owner of the data"
for file in okno oknoctl okno-https; do [ ! -e "$root/usr/bin/$file" ] || fail "$file is still there"; done
[ ! -e "$root/etc/okno/okno.toml" ] || fail "purge left the conffile"
[ ! -L "$root/etc/systemd/system/multi-user.target.wants/okno.service" ] || fail "the unit is still enabled"
[ ! -L "$root/etc/systemd/system/okno.service" ] || fail "the unit is still masked"
rm -rf "$root/var/lib/okno/node" "$root/tmp/okno.deb"
echo "check-deb: well"
