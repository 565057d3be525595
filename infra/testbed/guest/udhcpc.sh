#!/bin/sh
case $1 in
deconfig) ip addr flush dev "$interface" ;;
bound | renew)
	ip addr flush dev "$interface"
	ip addr add "$ip/$mask" dev "$interface"
	[ -z "$router" ] || ip route replace default via "${router%% *}"
	[ -z "$hostname" ] || hostname "$hostname"
	echo "address $ip" >/dev/ttyS0
	;;
esac
