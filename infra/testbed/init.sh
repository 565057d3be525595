#!/bin/bash
# PID 1 of a simulated host: init.sh NAME DISK GUEST TESTBED REPOSITORY, in new PID, mount, network and UTS namespaces.
#
# The host has /etc and /var of its own, on its disk, and a /run that a power loss empties. The rest of the file system
# is the machine's. Prints `ready`.
set -euo pipefail
name=$1 disk=$2 guest=$3 testbed=$4 repository=$5

hostname "$name"
mount --make-rprivate /
# The new network namespace's view of /sys. It also hides the control groups: two libvirtds must not share them.
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/libvirt

mkdir -p "$disk"/var/{lib/libvirt/images,lib/misc,lib/guest,log/libvirt/qemu,cache/libvirt,tmp,mail,spool}
chmod 1777 "$disk/var/tmp"
ln -sfn /run "$disk/var/run"
ln -sfn /run/lock "$disk/var/lock"
mount --bind "$disk/etc" /etc

# What vmferry keeps is on a file system of its own (disk.ts), as hard on programs as ext4 can be: a rename without fsync
# leaves an empty file after a power loss, and nothing is committed only because time has passed. Barriers would slow the
# machine's disk down for nothing: what has reached the image stays there when the simulated host loses its power.
image=$disk/vmferry.img
options=loop,errors=remount-ro,noauto_da_alloc,commit=600,barrier=0,discard,noinit_itable
if [ -e "$image" ]; then
	e2fsck -p "$image" || [ $? = 1 ] # 1: it has repaired what there was
	if reason=$(mount -o $options "$image" "$disk/var/lib/vmferry" 2>&1); then
		rm -f "$image.untried"
	elif [ -e "$image.untried" ]; then
		printf '%s\n' "$reason" >"$disk/plain-folder"
		rm -f "$image" "$image.untried"
	else
		printf '%s\n' "$reason"
		exit 1
	fi
fi

# What lies under the machine's /var and is needed here stays where it is.
for kept in "$repository" "$testbed"; do
	case $kept in
	/var/*)
		mkdir -p "$disk$kept"
		mount --bind "$kept" "$disk$kept"
		;;
	esac
done
mount --bind "$guest" "$disk/var/lib/guest"
mount -o remount,bind,ro "$disk/var/lib/guest"
mount --rbind "$disk/var" /var
# Hosts share nothing: the others' disks are out of sight.
mount -t tmpfs -o mode=755 tmpfs "$testbed"

# As udev makes it on any Debian host. Where QEMU's user may not open what root may, libvirt takes its knowledge of QEMU
# for outdated at every call and starts QEMU several times to probe it anew, which costs seconds.
if [ -c /dev/kvm ]; then
	mknod -m 660 /run/kvm c 10 232
	chgrp kvm /run/kvm
	mount --bind /run/kvm /dev/kvm
fi

sysctl -qw net.ipv4.ip_forward=1
ip link set lo up
echo ready

# Orphans end up here. Without somebody who reaps them, libvirt would take a dead QEMU for a living one; `sleep` alone
# as PID 1 would not do it.
while :; do
	sleep 3600 &
	wait $! || true
done
