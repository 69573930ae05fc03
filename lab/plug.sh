# A Linux guest whose disk comes and goes, for the tests of hot-plug.

# plug_tree FILE: an initramfs with the frontend's driver. Its init serves /dev/xvdc: whenever that comes, it tells and replaces the first
# sector. A disk with `reboot` in its ninth sector restarts the guest once, and so does one with the mark of `reboot_at=` on the command line.
plug_tree() {
	local tree=$scratch/tree
	guest_tree "$tree" xen-blkfront
	cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
mark() { dd if="$1" bs=512 skip="$2" count=1 2>/dev/null | tr -d '\000' | head -n 1; }
echo "XYL-GUEST-UP"
number=0
while :; do
	until [ -b /dev/xvdc ]; do sleep 0.1; done
	number=$((number + 1))
	found=$(mark /dev/xvdc 0)
	echo "guest-$number" | dd of=/dev/xvdc bs=512 conv=sync,notrunc 2>/dev/null
	sync
	echo "XYL-PLUGGED $number found=$found now=$(mark /dev/xvdc 0) sectors=$(cat /sys/block/xvdc/size)"
	if [ "$(mark /dev/xvdc 8)" = reboot ]; then
		echo done | dd of=/dev/xvdc bs=512 seek=8 conv=sync,notrunc 2>/dev/null
		sync
		reboot -f
	fi
	[ -n "$found" ] && grep -q " reboot_at=$found " /proc/cmdline && reboot -f
	while [ -b /dev/xvdc ]; do sleep 0.1; done
	echo "XYL-UNPLUGGED $number"
done
INIT
	pack_tree "$tree" "$1"
}
# plug_cfg NAME TYPE [WORD]: a guest with that initramfs; the word is added to its command line.
plug_cfg() {
	linux_cfg "$1" "$2" | sed "s#^ramdisk.*#ramdisk = \"$disks/initrd\"#; s#quiet#quiet ${3:-} ro#"
}
# plugged NAME NUMBER FOUND: whether the guest has told of its disk so many times, with this mark.
plugged() {
	console_says "$1" "XYL-PLUGGED $2 found=$3 now=guest-$2 sectors=32768"
}
unplugged() {
	console_says "$1" "XYL-UNPLUGGED $2"
}
