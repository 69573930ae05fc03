# Disks that QEMU serves (qdisk): qcow2, vhd, and raw by name. A guest reads and writes; a restart keeps them; a destroy leaves no
# process. QEMU has its own user, a folder with three devices, bounds, the lock of its image, and no hypercalls. The nodes are those of xl but for what is listed here.
# limit_s: 1200
# xen: any
. /xyl-lab/lab/lib.sh
. /xyl-lab/lab/images.sh
command -v xyl >/dev/null || skip 'no xyl here'
[ -x /usr/libexec/xen-qemu-system-i386 ] || skip 'no QEMU here'
cd "$scratch" || fail 'no scratch folder'
disks=/var/tmp/xyl-qdisks
mkdir -p $disks
chmod 700 $disks

# The guest writes a mark to its disk and says what it found. With `rebooting` on its command line it restarts once.
tree=$scratch/tree
guest_tree "$tree" xen-blkfront
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/xvda
mark() { dd if="$1" bs=512 count=1 2>/dev/null | tr -d '\000' | head -n 1; }
found=$(mark /dev/xvda)
echo "XYL-QDISK a=$found ro=$(cat /sys/block/xvda/ro) sectors=$(cat /sys/block/xvda/size)"
if echo "written-by-guest" | dd of=/dev/xvda bs=512 conv=sync,notrunc 2>/dev/null && sync; then echo XYL-WROTE; fi
echo "XYL-READ $(mark /dev/xvda)"
if [ -e /dev/xvdb ]; then
	echo "written-by-guest" | dd of=/dev/xvdb bs=512 conv=sync,notrunc 2>/dev/null && sync
	echo "XYL-OTHER $(mark /dev/xvdb) ro=$(cat /sys/block/xvdb/ro)"
fi
grep -q rebooting /proc/cmdline && [ -z "$found" ] && reboot -f
serve_console
INIT
pack_tree "$tree" "$disks/initrd"

# qdisk_cfg NAME TYPE DISK [WORD...]: a guest with this disk, or with these ones; the words are added to its command line.
qdisk_cfg() {
	linux_cfg "$1" "$2" | sed "s#^ramdisk.*#ramdisk = \"$disks/initrd\"#; s#quiet#quiet ${*:4}#"
	echo "disk = [ '$3' ]"
}
# serves_vhd: whether this QEMU has the driver. Debian 13's for Xen has none.
serves_vhd() {
	grep -q conectix /usr/libexec/xen-qemu-system-i386
}

traces >before

for type in $(guest_types); do
	echo "a $type guest with a qcow2 disk restarts and finds what it wrote"
	make_image qcow2 $disks/$type.qcow2
	qdisk_cfg $type $type "$disks/$type.qcow2,qcow2,xvda,rw" rebooting >$type.cfg
	ok xyl create -q $type.cfg
	first=$(domid_of $type)
	pid=$(qemus "$first")
	matches '^[0-9]+$' "$pid"
	equals "$((1900000000 + first))" "$(awk '$1 == "Uid:" { print $2 }' "/proc/$pid/status")"
	equals /dev/xyl/qemu "$(readlink "/proc/$pid/root")"
	equals 0000000000000000 "$(awk '$1 == "CapPrm:" { print $2 }' "/proc/$pid/status")"
	equals 2 "$(awk '$1 == "Seccomp:" { print $2 }' "/proc/$pid/status")"
	equals 1000 "$(cat "/proc/$pid/oom_score_adj")"
	equals 136 "$(awk '/^Max processes/ { print $3 }' "/proc/$pid/limits")"
	if flock -n "$disks/$type.qcow2" true; then fail 'the image is not locked'; fi
	equals 600:0 "$(stat -c %a:%u "$disks/$type.qcow2")"
	backend=/local/domain/0/backend/qdisk/$first/51712
	matches '^[24]$' "$(xenstore-read "$backend/state")"
	within 300 other_domid $type "$first"
	within 300 console_says $type XYL-GUEST-UP
	console_says $type 'XYL-QDISK a= ro=0 sectors=32768' || fail "$(grep -a XYL- "$consoles/guest-$type.log")"
	console_says $type 'XYL-QDISK a=written-by-guest' || fail "$(grep -a XYL- "$consoles/guest-$type.log")"
	no_qemu "$first" || fail "the first domain's QEMU is there still"
	second=$(domid_of $type)
	[ -n "$(qemus "$second")" ] || fail 'the next domain has no QEMU'
	echo 'another VM does not get the image, by any backend'
	for spec in "$disks/$type.qcow2,qcow2,xvda,rw" "$disks/$type.qcow2,raw,xvda,r"; do
		testguest_cfg other pvh "disk = [ '$spec' ]" >other.cfg
		refused "used by domain $second \($type\)" xyl create -q other.cfg
	done
	ok xyl destroy $type
	no_qemu || fail "a QEMU is left: $(qemus)"
	leaves_nothing before
done

echo 'a disk in the format vhd, and a raw one'
make_image vhd $disks/old.vhd
truncate -s 16M $disks/raw.img
for spec in old.vhd,vhd,xvda,rw raw.img,raw,xvda,rw,backendtype=qdisk; do
	name=${spec%%.*}
	qdisk_cfg "$name" pvh "$disks/$spec" >"$name.cfg"
	if [ $name = old ] && ! serves_vhd; then
		refused "cannot serve it: .*vpc" xyl create -q old.cfg
		leaves_nothing before
		qdisk_cfg old pvh "$disks/$type.qcow2,qcow2,xvda,rw" >old.cfg
	fi
	ok xyl create -q "$name.cfg"
	within 300 console_says "$name" 'XYL-READ written-by-guest'
done
echo 'the end of QEMU is in the log of the monitor'
kill_hard "$(qemus "$(domid_of raw)")"
within 60 grep -q 'QEMU of domain .* has ended' /var/log/xen/xyl-raw.log
no_pid() { ! xenstore-exists "/local/domain/$(domid_of raw)/image/device-model-pid"; }
within 60 no_pid
echo 'xl takes the only disk away: the destroy ends the QEMU that is left'
# On 4.20 xenstored has refused the transaction of xl ("Cannot allocate memory").
if xl block-detach old xvda; then
	[ -n "$(qemus "$(domid_of old)")" ] || fail 'QEMU has ended with its disk'
fi
for name in old raw; do ok xyl destroy $name; done
no_qemu || fail "a QEMU is left: $(qemus)"
leaves_nothing before

echo 'a read-only qcow2 disk, which the guest cannot change, and a qcow2 image on a block device'
make_image qcow2 $disks/inner.qcow2
# A block device does not grow.
truncate -s 32M $disks/inner.qcow2
modprobe loop
loop=$(losetup -f --show $disks/inner.qcow2) || fail 'no loop device'
digest_of() { sha256sum <"$1"; }
before_digest=$(digest_of $disks/$type.qcow2)
qdisk_cfg both pvh "$disks/$type.qcow2,qcow2,xvda,r', '$loop,qcow2,xvdb,rw" >both.cfg
ok xyl create -q both.cfg
within 300 console_says both 'XYL-OTHER written-by-guest ro=0'
console_says both 'XYL-QDISK a=written-by-guest ro=1' || fail "$(grep -a XYL- "$consoles/guest-both.log")"
if console_says both XYL-WROTE; then fail 'the guest has written to its read-only disk'; fi
if flock -n $disks/$type.qcow2 true; then fail 'the read-only image is not locked'; fi
flock -sn $disks/$type.qcow2 true || fail 'a reader is kept out'
testguest_cfg other pvh "disk = [ '$disks/inner.qcow2,qcow2,xvda,rw' ]" >other.cfg
refused "used by domain $(domid_of both) \(both\)" xyl create -q other.cfg
equals 1 "$(qemus "$(domid_of both)" | wc -w)"
ok xyl destroy both
no_qemu || fail "a QEMU is left: $(qemus)"
equals "$before_digest" "$(digest_of $disks/$type.qcow2)"
losetup -d "$loop"
grep -q written-by-guest $disks/inner.qcow2 || fail 'the write has not reached the block device'
leaves_nothing before

echo 'what cannot be served is refused, and nothing is left'
make_image qcow2 $disks/backed.qcow2 backing
# Its table is nowhere: QEMU alone finds that.
make_image qcow2 $disks/torn.qcow2
printf '\377' | dd of=$disks/torn.qcow2 bs=1 seek=40 conv=notrunc 2>/dev/null
for spec in "raw.img,qcow2,xvda,rw: is no qcow2 image" "raw.img,vhd,xvda,rw: is no vhd image" "backed.qcow2,qcow2,xvda,rw: needs another file" "none.qcow2,qcow2,xvda,rw: cannot open" "torn.qcow2,qcow2,xvda,rw: cannot serve it: "; do
	testguest_cfg other pvh "disk = [ '$disks/${spec%%: *}' ]" >other.cfg
	refused "${spec#*: }" xyl create -q other.cfg
done
leaves_nothing before

echo 'killed while QEMU starts'
qdisk_cfg killed pv "$disks/$type.qcow2,qcow2,xvda,rw" >killed.cfg
for n in $(seq 4); do
	xyl create -q killed.cfg >/dev/null 2>&1 &
	pid=$!
	read -rt "$((RANDOM % 3)).$((RANDOM % 9))" -u "$never"
	kill_hard $pid
	wait $pid 2>/dev/null
	ok xyl recover
	xyl destroy killed >/dev/null 2>&1
	within 20 no_qemu
	leaves_nothing before
done

echo 'the nodes are those of xl'
make_image qcow2 $disks/nodes.qcow2
testguest_cfg nodes pvh "disk = [ '$disks/nodes.qcow2,qcow2,xvda,rw' ]" >nodes.cfg
nodes_of() {
	local domid=$1
	xenstore-ls -f | grep -E "^/local/domain/0/backend/qdisk/$domid/|^/local/domain/$domid/device/vbd/" | sed "s#/$domid/#/D/#g; s#\"$domid\"#\"D\"#" | sort
}
ok xyl create -q -p nodes.cfg
nodes_of "$(domid_of nodes)" >of-xyl
ok xyl destroy nodes
ok xl create -q -p nodes.cfg
within 60 grep -q 'state = "2"' <(nodes_of "$(domid_of nodes)")
nodes_of "$(domid_of nodes)" >of-xl
refused 'vbd 51712, which QEMU serves' xyl adopt nodes
ok xl destroy nodes
equals 'bootable specification' "$(differing of-xl of-xyl)"
leaves_nothing before
