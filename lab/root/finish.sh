#!/bin/sh
# Turns a bootstrapped Debian tree into what a lab boot needs.
#   finish.sh TREE OUT
# TREE: the root tree (it is changed). OUT: gets xen, vmlinux, initrd and root.img.
# Runs as root, on the host, when a root is built.
set -eu
tree=$1
out=$2
here=$(dirname "$0")

kernel_version=$(ls "$tree/lib/modules")
modules=$tree/lib/modules/$kernel_version

# --- Xen and dom0's kernel, unpacked once here: doing it in emulation costs seconds at every boot.
gzip -dc "$tree"/boot/xen-4.*-amd64.gz >"$out/xen"

# A bzImage's header says where its payload lies: setup_sects (0x1f1), payload_offset (0x248), payload_length (0x24c).
vmlinuz=$tree/boot/vmlinuz-$kernel_version
field() { od -An -tu"$2" -j"$1" -N"$2" "$vmlinuz" | tr -d ' '; }
payload_start=$((($(field 0x1f1 1) + 1) * 512 + $(field 0x248 4)))
payload_bytes=$(field 0x24c 4)
payload() { tail -c +$((payload_start + 1)) "$vmlinuz" | head -c "$payload_bytes"; }
case $(payload | head -c 4 | od -An -tx1 | tr -d ' ') in
fd377a58) payload | xz -dc --single-stream >"$out/vmlinux" ;;
28b52ffd) payload | head -c -4 | zstd -dc -q >"$out/vmlinux" ;;
1f8b*) payload | gzip -dc >"$out/vmlinux" 2>/dev/null || test $? -eq 2 ;;
*) echo "finish.sh: unknown compression in $vmlinuz" >&2; exit 1 ;;
esac

# --- Modules: keep what dom0 and its guests' backends can use under QEMU; unpack the packed ones.
find "$modules/kernel/drivers" -mindepth 1 -maxdepth 1 \
	! -name block ! -name char ! -name net ! -name xen ! -name virtio ! -name acpi ! -name md -exec rm -rf {} +
find "$modules/kernel/drivers/net" -mindepth 1 -maxdepth 1 -type d ! -name xen-netback -exec rm -rf {} +
rm -rf "$modules/kernel/sound"
find "$modules" -name '*.ko.xz' -exec xz -d {} +
chroot "$tree" depmod "$kernel_version"

# --- The first stage: mounts the disk, unpacks what the host sent, goes on to lab/dom0-init.
first=$tree/tmp/initrd
mkdir -p "$first/bin" "$first/modules" "$first/dev" "$first/proc" "$first/root"
cp "$tree/bin/busybox" "$first/bin/busybox"
ln -s busybox "$first/bin/sh"
cp "$here/initrd-init" "$first/init"
chmod 755 "$first/init"
for module in virtio_blk virtio_pci ext4; do
	chroot "$tree" modprobe --set-version "$kernel_version" --show-depends "$module"
done | while read -r verb path _; do
	if [ "$verb" = insmod ] && [ ! -e "$first/modules/${path##*/}" ]; then
		cp "$tree$path" "$first/modules/"
		echo "${path##*/}" >>"$first/modules/order"
	fi
done
chroot "$tree" sh -c 'cd /tmp/initrd && find . | cpio -o -H newc --quiet' >"$out/initrd"
rm -rf "$first"

# --- Guests: GRUB as a tiny real kernel of each type, and Debian's own kernel with a small initramfs.
guests=$tree/xyl-guests
mkdir -p "$guests"
cp "$here/grub.cfg" "$tree/tmp/grub.cfg"
for pair in pv64:x86_64-xen pv32:i386-xen pvh:i386-xen_pvh; do
	chroot "$tree" grub-mkimage -O "${pair#*:}" -c /tmp/grub.cfg -o "/xyl-guests/grub-${pair%%:*}" -p / \
		echo sleep test halt reboot normal true
done
rm "$tree/tmp/grub.cfg"
mkdir -p "$tree/tmp/guest/bin" "$tree/tmp/guest/sbin" "$tree/tmp/guest/proc" "$tree/tmp/guest/sys" "$tree/tmp/guest/dev"
cp "$tree/bin/busybox" "$tree/tmp/guest/bin/busybox"
ln -s busybox "$tree/tmp/guest/bin/sh"
cp "$here/guest-init" "$tree/tmp/guest/init"
# The kernel runs these two when control/shutdown asks for it; busybox's own would signal a busybox init.
printf '#!/bin/sh\nexec /bin/busybox poweroff -f\n' >"$tree/tmp/guest/sbin/poweroff"
printf '#!/bin/sh\nexec /bin/busybox reboot -f\n' >"$tree/tmp/guest/sbin/reboot"
chmod 755 "$tree/tmp/guest/init" "$tree/tmp/guest/sbin/poweroff" "$tree/tmp/guest/sbin/reboot"
chroot "$tree" sh -c 'cd /tmp/guest && find . | cpio -o -H newc --quiet' >"$guests/linux-initrd"
rm -rf "$tree/tmp/guest"
cp "$vmlinuz" "$guests/linux-vmlinuz"

# --- The disk: no journal (each boot's changes are thrown away), room for logs and for what tests write.
rm -rf "$tree/boot" "$tree/var/cache/apt" "$tree/var/lib/apt/lists" "$tree/usr/share/doc" "$tree/usr/share/man"
mkdir -p "$tree/xyl-lab"
used_kib=$(du -sk "$tree" | cut -f1)
mke2fs -q -F -t ext4 -O ^has_journal -E lazy_itable_init=1 -m 0 -L xyl-lab -d "$tree" "$out/root.img" $((used_kib * 5 / 4 + 1048576))k
