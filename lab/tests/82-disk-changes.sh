# What reaches a disk besides reads and writes: the guest discards blocks and the image shrinks; the image grows and the guest sees that.
# `no-discard`, as in xl, keeps the blocks. The times of a large read with both toolstacks are printed.
# limit_s: 600
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-blkback loop || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
disks=/var/tmp/xyl-changes
mkdir -p $disks
trap 'rm -rf "$scratch" $disks' EXIT

# The guest writes 8 MiB, discards them, tells of each new size, and copies its second disk as often as it is asked to.
tree=$scratch/tree
guest_tree "$tree" xen-blkfront
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/xvda /dev/xvdb
dd if=/dev/urandom of=/dev/xvda bs=1M count=8 conv=fsync 2>/dev/null && echo "XYL-FILLED"
read -r word </dev/hvc0
if blkdiscard -l 8388608 /dev/xvda 2>/why; then echo "XYL-DISCARDED"; else echo "XYL-NO-DISCARD $(cat /why)"; fi
old=$(cat /sys/block/xvda/size)
echo "XYL-SIZE $old"
while [ "$(cat /sys/block/xvda/size)" = "$old" ]; do dd if=/dev/xvda of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null; sleep 0.2; done
echo "XYL-RESIZED $(cat /sys/block/xvda/size)"
begin=$(cut -d' ' -f1 /proc/uptime)
dd if=/dev/xvdb of=/dev/null bs=1M 2>/dev/null
end=$(cut -d' ' -f1 /proc/uptime)
echo "XYL-COPIED $begin $end"
serve_console
INIT
pack_tree "$tree" "$disks/initrd"

# changes_cfg NAME OPTION: a guest with a disk that it may discard, or not, and a larger one.
changes_cfg() {
	linux_cfg "$1" pvh | sed "s#^ramdisk.*#ramdisk = \"$disks/initrd\"#"
	echo "disk = [ '$2format=raw,vdev=xvda,access=rw,target=$disks/a.img', '$disks/b.img,raw,xvdb,r' ]"
}
# blocks: number of sectors that the image takes on its file system.
blocks() {
	stat -c %b $disks/a.img
}
loop_of() {
	losetup -n -O NAME -j $disks/a.img
}
traces >before

# run TOOL NAME OPTION DISCARDS: one life of a guest. Sets copied_ms.
run() {
	local tool=$1 name=$2 filled
	truncate -s 0 $disks/a.img
	truncate -s 16M $disks/a.img
	changes_cfg "$name" "$3" >"$name.cfg"
	ok "$tool" create -q "$name.cfg"
	within 60 console_says "$name" XYL-FILLED
	filled=$(blocks)
	[ "$filled" -ge 16384 ] || fail "only $filled sectors are filled"
	# The guest reads its console: a line from there lets it go on.
	printf 'go\r\n' >"$(xenstore-read "/local/domain/$(domid_of "$name")/console/tty")"
	if [ "$4" = yes ]; then
		within 20 console_says "$name" XYL-DISCARDED
		within 10 eval '[ "$(blocks)" -lt 1024 ]'
	else
		within 20 console_says "$name" XYL-NO-DISCARD
		[ "$(blocks)" -ge "$filled" ] || fail 'blocks are gone'
	fi
	within 10 console_says "$name" 'XYL-SIZE 32768'
	truncate -s 24M $disks/a.img
	ok losetup -c "$(loop_of)"
	within 20 console_says "$name" 'XYL-RESIZED 49152'
	within 120 console_says "$name" XYL-COPIED
	copied_ms=$(grep -a XYL-COPIED "$consoles/guest-$name.log" | awk '{ printf "%d", ($3 - $2) * 1000 }')
	echo "$tool, $3: $(du -m $disks/b.img | cut -f1) MiB read in $copied_ms ms"
	ok "$tool" destroy "$name"
	within 20 domain_gone "$name"
}

head -c 128M /dev/zero | tr '\0' x >$disks/b.img || fail 'no room for the large disk'
run xyl discards '' yes
run xl discards-xl '' yes
run xyl keeps 'no-discard,' no
leaves_nothing before
