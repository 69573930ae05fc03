# What reaches a disk besides reads and writes: the guest discards blocks and the image shrinks; the image grows and the guest sees that;
# a file system that the guest freezes changes no byte of its image; an image whose file system is full gives the guest an error.
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

# The guest writes 8 MiB, discards them, tells of each new size, and reads its second disk. On a third disk it has a file system, which
# it writes to all the time, freezes and thaws, each after a line on the console.
tree=$scratch/tree
guest_tree "$tree" xen-blkfront ext4
cp --parents /usr/sbin/fsfreeze $(ldd /usr/sbin/fsfreeze | grep -o '/[^ ]*') "$tree"
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/xvda /dev/xvdb
if dd if=/dev/urandom of=/dev/xvda bs=1M count=8 conv=fsync 2>/why; then echo "XYL-FILLED"; else echo "XYL-NOT-FILLED $(cat /why)"; fi
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
if [ -b /dev/xvdc ]; then
	mkdir /mnt
	mount -t ext4 /dev/xvdc /mnt
	while :; do date >>/mnt/dates; sync; done &
	for verb in freeze unfreeze; do
		word=
		until [ "$word" = go ]; do read -r word </dev/hvc0; done
		/usr/sbin/fsfreeze --$verb /mnt && echo "XYL-DONE $verb"
	done
fi
serve_console
INIT
pack_tree "$tree" "$disks/initrd"

# changes_cfg NAME OPTION: a guest with a disk that it may discard, or not, and a larger one.
changes_cfg() {
	linux_cfg "$1" pvh | sed "s#^ramdisk.*#ramdisk = \"$disks/initrd\"#"
	echo "disk = [ '$2format=raw,vdev=xvda,access=rw,target=${3:-$disks/a.img}', '$disks/b.img,raw,xvdb,r' ${4:-} ]"
}
# blocks: number of sectors that the image takes on its file system.
blocks() {
	stat -c %b $disks/a.img
}
# go NAME: writes a line to the guest's console, which lets it go on.
go() {
	printf 'go\r\n' >"$(xenstore-read "/local/domain/$(domid_of "$1")/console/tty")"
}
end() {
	ok "$1" destroy "$2"
	within 20 domain_gone "$2"
}
loop_of() {
	losetup -n -O NAME -j $disks/a.img
}
traces >before

# discards TOOL NAME OPTION DISCARDS [DISK]: starts a guest, which discards what it has written. It gets one more disk.
discards() {
	local tool=$1 name=$2 filled
	truncate -s 0 $disks/a.img
	truncate -s 16M $disks/a.img
	changes_cfg "$name" "$3" "$disks/a.img" "${5:+, '$5'}" >"$name.cfg"
	ok "$tool" create -q "$name.cfg"
	within 60 console_says "$name" XYL-FILLED
	filled=$(blocks)
	[ "$filled" -ge 16384 ] || fail "only $filled sectors are filled"
	go "$name"
	if [ "$4" = yes ]; then
		within 20 console_says "$name" XYL-DISCARDED
		within 10 eval '[ "$(blocks)" -lt 1024 ]'
	else
		within 20 console_says "$name" XYL-NO-DISCARD
		[ "$(blocks)" -ge "$filled" ] || fail 'blocks are gone'
	fi
	within 10 console_says "$name" 'XYL-SIZE 32768'
}
# grows TOOL NAME: the image of the guest grows, and the guest reads its second disk then.
grows() {
	local tool=$1 name=$2 ms
	truncate -s 24M $disks/a.img
	ok losetup -c "$(loop_of)"
	within 20 console_says "$name" 'XYL-RESIZED 49152'
	within 120 console_says "$name" XYL-COPIED
	ms=$(grep -a XYL-COPIED "$consoles/guest-$name.log" | awk '{ printf "%d", ($3 - $2) * 1000 }')
	echo "$tool: $(du -m $disks/b.img | cut -f1) MiB read in $ms ms"
}
digest() {
	sha256sum <$disks/c.img
}

head -c 128M /dev/zero | tr '\0' x >$disks/b.img || fail 'no room for the large disk'
truncate -s 16M $disks/c.img
mkfs.ext4 -q -F $disks/c.img
discards xyl discards '' yes "$disks/c.img,raw,xvdc,rw"
grows xyl discards

echo 'a file system that is frozen'
first=$(digest)
changes() { [ "$(digest)" != "$first" ]; }
within 30 changes
go discards
within 30 console_says discards 'XYL-DONE freeze'
first=$(digest)
read -rt 2 -u "$never"
equals "$first" "$(digest)"
ok e2fsck -fn $disks/c.img
go discards
within 30 console_says discards 'XYL-DONE unfreeze'
within 30 changes
end xyl discards

discards xl discards-xl '' yes
grows xl discards-xl
end xl discards-xl
discards xyl keeps 'no-discard,' no
end xyl keeps
discards xyl qemu 'backendtype=qdisk,' yes
end xyl qemu
leaves_nothing before

echo 'an image whose file system is full'
mkdir $disks/full
mount -t tmpfs -o size=4M full $disks/full
trap 'umount $disks/full; rm -rf "$scratch" $disks' EXIT
truncate -s 16M $disks/full/a.img
changes_cfg full '' $disks/full/a.img >full.cfg
ok xyl create -q full.cfg
within 60 console_says full XYL-NOT-FILLED
ok xyl list full
end xyl full
leaves_nothing before
