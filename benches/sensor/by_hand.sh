#!/bin/sh
# The checks that the owner of such a stack makes by hand, one after the other, as guides to Gluetun have them: the exit's address, resolv.conf,
# the resolver, a resolver of one's own choice, the firewall's rules, the routes, the health check, the web interface, the local subnets.
# Each program is the one that is installed, busybox standing in for what is not; a check whose program is missing says so and is left out.
# To be run inside the stack's namespace, with its resolv.conf; $1 is the certificate authority of its web servers.
ca=$1

missing() {
    echo "missing: $1" >&2
}

# The program itself, or busybox's.
tool() {
    if command -v "$1" >/dev/null 2>&1; then
        echo "$1"
    elif busybox --list 2>/dev/null | grep -qx "$1"; then
        echo "busybox $1"
    fi
}

check() {
    what=$1
    shift
    if [ -z "$1" ]; then
        missing "$what"
        return
    fi
    # Some of them are to fail: a person reads what they say.
    if "$@" >/tmp/by_hand.$$ 2>&1 </dev/null; then
        echo "ok: $what"
    else
        echo "no: $what ($? $(tail -n 1 /tmp/by_hand.$$))"
    fi
}

curl=$(tool curl) wget=$(tool wget) ping=$(tool ping) nslookup=$(tool nslookup) iptables=$(tool iptables)
ip=$(tool ip) nc=$(tool nc)

# Check the VPN connection, by both services.
check "exit by wget" ${wget:+$wget -qO- -T 5 --ca-certificate="$ca" https://api.ipify.org}
check "exit by Mullvad" ${curl:+$curl -s -m 5 --cacert "$ca" https://am.i.mullvad.net/json}
check "exit over IPv6" ${curl:+$curl -6 -sS -m 5 --cacert "$ca" https://api.ipify.org}
# Verify DNS.
check "resolv.conf" cat /etc/resolv.conf
check "resolver" ${nslookup:+$nslookup example.com}
check "DNS of one's own choice" ${nslookup:+$nslookup example.com 8.8.8.8}
check "who asks" ${nslookup:+$nslookup whoami.akamai.net}
# Check the firewall's rules and the routes.
check "firewall" ${iptables:+$iptables -L -v -n}
check "outbound rules" ${iptables:+$iptables -L OUTPUT -v -n}
check "routes" ${ip:+$ip route}
check "tunnel" ${ip:+$ip addr show tun0}
# The health check.
check "ping" ${ping:+$ping -c 1 -W 2 example.com}
# What must be reached at home.
check "web interface" ${curl:+$curl -s -m 5 -I http://172.18.0.10:8080/}
check "local subnet" ${curl:+$curl -s -m 5 http://192.168.1.50/}
check "neighbour" ${nc:+$nc -w 2 172.18.0.20 8989}
rm -f /tmp/by_hand.$$
