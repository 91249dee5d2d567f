#!/bin/sh
# The checks that the owner of such a stack makes by hand, one after the other, as guides to Gluetun have them, with the judgement that the
# guides ask for: the exit's address, resolv.conf, who resolves, the firewall's rules, the health check, the web interface, the local subnets;
# then the kill switch: the VPN is stopped, nothing may be reached and no name resolved, local subnets have to answer, and the VPN comes back.
# Each program is the one that is installed, busybox standing in for what is not; a check whose program is missing says so and is left out.
#
# To be run inside the stack's namespace, with its resolv.conf. Variables: CA, the certificate authority of its web servers; HOMES, the
# home's addresses; WEB, LAN and NEIGHBOUR, what has to answer; RESOLVERS, those that resolv.conf may name; ISP, the ISP's resolvers; VPN_DOWN and VPN_UP, commands; without VPN_DOWN
# the kill switch is left out. Exit status 1 when a check failed.
failed=0

missing() {
    echo "missing: $1"
}

# The program itself, or busybox's.
tool() {
    if command -v "$1" >/dev/null 2>&1; then
        echo "$1"
    elif busybox --list 2>/dev/null | grep -qx "$1"; then
        echo "busybox $1"
    fi
}

ok() {
    echo "ok: $1"
}

no() {
    echo "FAIL: $1 ($2)"
    failed=1
}

# Has to work.
works() {
    what=$1
    shift
    if [ -z "$1" ]; then
        missing "$what"
    elif said=$("$@" 2>&1 </dev/null); then
        ok "$what"
    else
        no "$what" "$(echo "$said" | tail -n 1)"
    fi
}

# Must not work.
fails() {
    what=$1
    shift
    if [ -z "$1" ]; then
        missing "$what"
    elif "$@" >/dev/null 2>&1 </dev/null; then
        no "$what" "it does"
    else
        ok "$what"
    fi
}

# An address that is not the home's; none is as good where $2 says so.
exit_is_not_home() {
    case $3 in
    "" | *[!0-9a-fA-F.:]*)
        if [ "$2" = maybe ]; then ok "$1"; else no "$1" "no address"; fi
        return
        ;;
    esac
    case " $HOMES " in
    *" $3 "*) no "$1" "$3 is home" ;;
    *) ok "$1" ;;
    esac
}

curl=$(tool curl) wget=$(tool wget) ping=$(tool ping) nslookup=$(tool nslookup) iptables=$(tool iptables)
ip=$(tool ip) nc=$(tool nc) nft=$(tool nft)

exits() {
    # shellcheck disable=SC2086 # two words where busybox stands in
    if [ -n "$wget" ]; then
        exit_is_not_home "exit by wget $1" surely "$($wget -qO- -T 5 -t 1 --ca-certificate="$CA" https://api.ipify.org 2>/dev/null)"
    else
        missing "exit by wget $1"
    fi
    if [ -n "$curl" ]; then
        exit_is_not_home "exit over IPv6 $1" maybe "$($curl -6 -s -m 5 --cacert "$CA" https://api.ipify.org 2>/dev/null)"
    else
        missing "exit over IPv6 $1"
    fi
}

# Check the VPN connection, by both services.
exits "with the VPN up"
if [ -n "$curl" ]; then
    case $($curl -s -m 5 --cacert "$CA" https://am.i.mullvad.net/json 2>/dev/null) in
    *'"mullvad_exit_ip":true'*) ok "Mullvad knows its exit" ;;
    *) no "Mullvad knows its exit" "it does not" ;;
    esac
else
    missing "Mullvad knows its exit"
fi

# Verify DNS: what resolv.conf names, that it resolves, and who asks for it.
for server in $(sed -n 's/^nameserver  *//p' /etc/resolv.conf); do
    case " $RESOLVERS " in
    *" $server "*) ok "resolv.conf names $server" ;;
    *) no "resolv.conf names $server" "it is not the VPN's" ;;
    esac
done
# shellcheck disable=SC2086
works "names resolve" ${nslookup:+$nslookup example.com}
if [ -n "$nslookup" ]; then
    asked=$($nslookup whoami.akamai.net 2>/dev/null | sed -n 's/^Address[^:]*: *//p' | tail -n 1)
    case " $ISP $HOMES " in
    *" $asked "*) no "the VPN asks for names" "$asked does" ;;
    *) ok "the VPN asks for names" ;;
    esac
else
    missing "the VPN asks for names"
fi

# Check the firewall's rules, the routes and the tunnel.
# A person reviews the rules for what drops, with the tool that wrote them.
if [ -n "$iptables$nft" ]; then
    rules=$(
        for program in $iptables iptables-legacy; do
            command -v "$program" >/dev/null && "$program" -L OUTPUT -v -n 2>/dev/null
        done
        [ -n "$nft" ] && $nft list ruleset 2>/dev/null
    )
    case $rules in
    *"policy DROP"* | *"policy drop"* | *DROP* | *REJECT* | *reject*) ok "the firewall drops" ;;
    *) no "the firewall drops" "no rule and no policy does" ;;
    esac
else
    missing "the firewall drops"
fi
# shellcheck disable=SC2086
works "the tunnel is there" ${ip:+$ip addr show tun0}
# The health check, and what must be reached at home.
# shellcheck disable=SC2086
works "the health check's ping" ${ping:+$ping -c 1 -W 2 example.com}
local_subnets() {
    # shellcheck disable=SC2086
    works "web interface $1" ${curl:+$curl -s -m 5 -I "$WEB"}
    # shellcheck disable=SC2086
    works "local subnet $1" ${curl:+$curl -s -m 5 "$LAN"}
    # shellcheck disable=SC2086
    works "neighbour $1" ${nc:+$nc -w 2 $NEIGHBOUR}
}
local_subnets "with the VPN up"

# The kill switch.
if [ -n "$VPN_DOWN" ]; then
    $VPN_DOWN >/dev/null 2>&1 || no "the VPN can be stopped" "$VPN_DOWN"
    sleep 1
    # shellcheck disable=SC2086
    fails "no internet with the VPN down" ${curl:+$curl -s -m 5 --cacert "$CA" https://api.ipify.org}
    # shellcheck disable=SC2086
    fails "no ping with the VPN down" ${ping:+$ping -c 1 -W 2 1.1.1.1}
    # shellcheck disable=SC2086
    fails "no names with the VPN down" ${nslookup:+$nslookup -timeout=2 -retry=0 example.com}
    local_subnets "with the VPN down"
    $VPN_UP >/dev/null 2>&1 || no "the VPN can be started" "$VPN_UP"
    sleep 2
    exits "after the VPN came back"
fi
exit $failed
