#!/bin/bash
# Builds the guest of the testbed: build.sh DIRECTORY makes vmlinuz, initrd and disk.qcow2 there.
#
# Kernel: Debian's for clouds. Ramdisk: the virtio drivers and busybox. Disk: ext4 with busybox and guest.c.
# Needs gcc with a static C library, busybox-static, mke2fs, qemu-img, apt-get. The same inputs give the same bytes.
set -euo pipefail
source=$(dirname "$(readlink -f "$0")")
target=$(readlink -f "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export E2FSPROGS_FAKE_TIME=1700000000
architecture=$(dpkg --print-architecture)

# --- kernel
kernel_package() { # the package with the newest kernel; nothing if the package lists are not there
	apt-cache depends "linux-image-cloud-$architecture" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' || true
}
package=$(kernel_package)
if [ -z "$package" ]; then
	apt-get -qq update
	package=$(kernel_package)
fi
apt-get -qq -o APT::Sandbox::User=root download "$package"
dpkg-deb --extract "$package"_*.deb kernel
cp kernel/boot/vmlinuz-* "$target/vmlinuz"
modules=$(echo kernel/lib/modules/*)

# --- ramdisk
mkdir -p ramdisk/{bin,dev,modules,root}
cp /bin/busybox ramdisk/bin/
install -m 755 "$source/initrd-init" ramdisk/init
count=10
add_module() { # NAME: the module and first what it depends on; those built into the kernel have no file
	local file name=${1//-/_}
	[ ! -e "work.$name" ] || return 0
	: >"work.$name"
	file=$(find "$modules/kernel" -name "${name//_/[-_]}.ko*" | head -n 1)
	[ -n "$file" ] || return 0
	case $file in *.xz) xz -d "$file"; file=${file%.xz} ;; esac
	for needed in $(tr '\0' '\n' <"$file" | sed -n 's/^depends=//p' | tr , ' '); do add_module "$needed"; done
	cp "$file" "ramdisk/modules/$count-$name.ko"
	count=$((count + 1))
}
for module in virtio_pci virtio_blk virtio_net virtio_console virtio_rng ext4; do add_module $module; done
find ramdisk -exec touch -h -d @1700000000 {} +
(cd ramdisk && find . | LC_ALL=C sort | busybox cpio -o -H newc -R 0:0 2>/dev/null | gzip -1n) >"$target/initrd"

# --- disk
mkdir -p root/{bin,sbin,dev,proc,sys,tmp,run,etc,root,data}
cp /bin/busybox root/bin/
for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "root/bin/$applet"; done
install -m 755 "$source/init" root/sbin/init
install -m 755 "$source/udhcpc.sh" root/etc/udhcpc.sh
gcc -O2 -Wall -Werror -static -pthread -o root/bin/guest "$source/guest.c"
find root -exec touch -h -d @1700000000 {} +
mke2fs -q -t ext4 -L guest -U 76665e52-7279-4000-8000-000000000001 -E hash_seed=76665e52-7279-4000-8000-000000000002,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0 \
	-d root disk.raw 256M
qemu-img convert -O qcow2 disk.raw "$target/disk.qcow2"
chmod 644 "$target"/*
chmod 755 "$target"
