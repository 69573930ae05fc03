# Debian's kernel in a PVH guest with a disk starts another kernel with kexec -e. That one runs in the same domain, on the same
# console, and finds on its disk what the first kernel has written, until it is asked to shut down.
# limit_s: 500
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
kexec=$(command -v kexec) || skip 'no kexec here'
modprobe -a xen-blkback loop || fail 'no drivers'

# unpack FOLDER: the lab's initramfs, with the driver of disks and what both kernels do with one.
unpack() {
	guest_tree "$1" xen-blkfront
	cat >"$1/disk" <<'DISK'
. /setup
wait_for /dev/xvda
# read_at BLOCK, write_at BLOCK TEXT: past the page cache, a block of 4 KiB each.
read_at() {
	dd if=/dev/xvda bs=4096 skip="$1" count=1 iflag=direct 2>/dev/null | tr -d '\000' | head -n 1
}
write_at() {
	echo "$2" | dd bs=4096 conv=sync 2>/dev/null | dd of=/dev/xvda bs=4096 seek="$1" count=1 iflag=fullblock oflag=direct conv=notrunc 2>/dev/null
}
DISK
}

# The second kernel's initramfs says what it finds on the disk, and goes on as the lab's.
second=$scratch/second
unpack "$second"
cat >"$second/init" <<'INIT'
#!/bin/busybox sh
. /disk
echo "XYL-SECOND-DISK first=$(read_at 0) last=$(read_at 900) sum=$(dd if=/dev/xvda bs=4096 skip=1 count=800 iflag=direct 2>/dev/null | md5sum | cut -c1-32)"
write_at 901 by-the-second-kernel
echo "XYL-SECOND-WROTE $(read_at 901)"
serve_console
INIT

# An initramfs that writes to the disk and starts the kernel in it with the second one.
tree=$scratch/tree
unpack "$tree"
mkdir -p "$tree/boot"
cp "$kexec" "$tree/sbin/kexec"
ldd "$kexec" | grep -o '/[^ ]*' | while read -r library; do
	mkdir -p "$tree${library%/*}"
	cp "$library" "$tree$library"
done
cp "$guests/linux-vmlinuz" "$tree/boot/vmlinuz"
pack_tree "$second" "$tree/boot/initrd"
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /disk
echo "XYL-FIRST-UP $(uname -r) disk=$(read_at 0)"
write_at 0 by-the-first-kernel
# Random data, and a last block that is written just before the end, without a wait for what the disk does with it.
dd if=/dev/urandom of=/data bs=4096 count=800 2>/dev/null
dd if=/data of=/dev/xvda bs=4096 seek=1 oflag=direct conv=notrunc 2>/dev/null
echo "XYL-FIRST-WROTE $(md5sum </data | cut -c1-32)"

# The second kernel is not entered as a PVH one, so it cannot find the ACPI tables by itself.
rsdp=$(dmesg | sed -n 's/.*ACPI: RSDP 0x\([0-9A-F]*\).*/\1/p')
/sbin/kexec -s -l /boot/vmlinuz --initrd=/boot/initrd --command-line="$(cat /proc/cmdline) acpi_rsdp=0x$rsdp kexeced" || echo "XYL-FAILED to load: $?"
echo "XYL-EXEC rsdp $rsdp"
write_at 900 last-of-the-first-kernel
/sbin/kexec -e
echo "XYL-FAILED to start: $?"
sleep 1000
INIT
pack_tree "$tree" "$scratch/initrd"

truncate -s 16M "$scratch/disk.img"
echo by-the-host | dd of="$scratch/disk.img" bs=4096 conv=sync,notrunc status=none
linux_cfg kexec pvh | sed "s#^ramdisk.*#ramdisk = \"$scratch/initrd\"#; s#^memory.*#memory = 512#; s#quiet#${KEXEC_CMDLINE:-quiet}#" >"$scratch/cfg"
echo "disk = [ '$scratch/disk.img,raw,xvda,rw' ]" >>"$scratch/cfg"
ok xyl create -q "$scratch/cfg"
domid=$(domid_of kexec)
tty=$(xenstore-read "/local/domain/$domid/console/tty")
within 120 console_says kexec XYL-EXEC
within 180 console_says kexec XYL-GUEST-UP
console_says kexec XYL-FAILED && fail 'the first kernel says so'
equals "$domid" "$(domid_of kexec)"
log=$consoles/guest-kexec.log
console_says kexec 'XYL-FIRST-UP .*disk=by-the-host' || fail "$(grep -a XYL- "$log")"
sum=$(grep -ao 'XYL-FIRST-WROTE [0-9a-f]*' "$log" | cut -d ' ' -f 2)
matches '^[0-9a-f]{32}$' "$sum"
console_says kexec "XYL-SECOND-DISK first=by-the-first-kernel last=last-of-the-first-kernel sum=$sum" || fail "$(grep -a XYL- "$log")"
console_says kexec 'XYL-SECOND-WROTE by-the-second-kernel' || fail "$(grep -a XYL- "$log")"
backend=/local/domain/0/backend/vbd/$domid/51712
equals '4 1' "$(xenstore-read "$backend/state" "$backend/online" | xargs)"
# The loop device of before is gone.
equals 1 "$(losetup -n -O NAME -j "$scratch/disk.img" | wc -l)"
equals "$tty" "$(xenstore-read "/local/domain/$domid/console/tty")"
# A shell of the second kernel answers on the same tty.
printf 'grep -o kexeced /proc/cmdline; echo answer $((6 * 7))\r' >"$tty"
within 20 console_says kexec '^answer 42'
within 20 console_says kexec '^kexeced'
ok xl shutdown -w kexec
within 20 domain_gone kexec
equals by-the-second-kernel "$(dd if="$scratch/disk.img" bs=4096 skip=901 count=1 status=none | tr -d '\000' | head -n 1)"
within 10 test -z "$(losetup -n -O NAME -j "$scratch/disk.img")"
