#!/bin/sh
# Turns a bootstrapped Debian tree into the disk of the lab's Debian guest: a partition table, and one partition with ext4.
#   finish.sh TREE OUT
# TREE: the root tree (it is changed). OUT: gets disk.img.
# Runs as root, on the host, when the disk is built. It mounts nothing.
set -eu
tree=$1
out=$2
here=$(dirname "$0")
uuid=5f0c31a6-9ad5-4a3e-8e0a-8f6d2d1c7b11
start_bytes=1048576

# --- What an installation adds to the packages: the boot loader's file, the table of file systems, the name.
kernel_version=$(ls "$tree/lib/modules")
mkdir -p "$tree/boot/grub"
sed "s/@UUID@/$uuid/g; s/@VERSION@/$kernel_version/g" "$here/grub.cfg" >"$tree/boot/grub/grub.cfg"
echo "UUID=$uuid / ext4 errors=remount-ro 0 1" >"$tree/etc/fstab"
echo debian >"$tree/etc/hostname"

# --- What the test needs: a service that writes and reads, before the login prompt.
cp "$here/lab-check" "$tree/usr/local/sbin/lab-check"
chmod 755 "$tree/usr/local/sbin/lab-check"
cp "$here/lab-check.service" "$tree/etc/systemd/system/lab-check.service"
chroot "$tree" systemctl --quiet enable lab-check.service

# --- What a small test has no time for.
chroot "$tree" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	e2scrub_reap.service fstrim.timer systemd-random-seed.service systemd-update-utmp.service

# --- What takes seconds on hardware takes minutes under emulation: the console must not be given up after 90 s.
mkdir -p "$tree/etc/systemd/system.conf.d"
printf '[Manager]\nDefaultDeviceTimeoutSec=15min\nDefaultTimeoutStartSec=15min\n' >"$tree/etc/systemd/system.conf.d/lab.conf"

# --- The disk. It is sparse; a third is free.
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/*
size_kib=$(($(du -sk "$tree" | cut -f1) * 4 / 3 + 32768))
truncate -s $((size_kib * 1024 + start_bytes)) "$out/disk.img"
mke2fs -q -F -t ext4 -m 0 -U "$uuid" -E "offset=$start_bytes" -d "$tree" "$out/disk.img" "${size_kib}k"
echo "start=$((start_bytes / 512)), type=83, bootable" | sfdisk --quiet --no-reread --no-tell-kernel "$out/disk.img"
