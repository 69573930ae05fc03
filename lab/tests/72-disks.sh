# Disks of PV and PVH guests: a raw file through a loop device, and a block device. A guest reads and writes; a restart keeps the
# disks; a destroy leaves nothing; what others use is refused. The nodes are those of xl but for what is listed here.
# limit_s: 900
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-blkback loop || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
disks=/var/tmp/xyl-disks
mkdir -p $disks

# An initramfs with the frontend's driver. Its init writes a mark to the first disk, says what it finds on both, and obeys the
# command line: `reboot` restarts the guest once.
tree=$scratch/tree
guest_tree "$tree" xen-blkfront
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/xvda /dev/xvdb
mark() { dd if="$1" bs=512 count=1 2>/dev/null | tr -d '\000' | head -n 1; }
echo "XYL-DISKS a=$(mark /dev/xvda) b=$(mark /dev/xvdb) ro=$(cat /sys/block/xvdb/ro) sectors=$(cat /sys/block/xvda/size)"
echo "written-by-guest-$(cut -d. -f1 /proc/uptime)" | dd of=/dev/xvda bs=512 conv=sync,notrunc 2>/dev/null
sync
dd if=/dev/zero of=/dev/xvdb bs=512 count=1 2>/dev/null && echo XYL-WROTE-READ-ONLY
echo "XYL-WRITTEN $(mark /dev/xvda)"
grep -q rebooting /proc/cmdline && case $(dd if=/dev/xvda bs=512 skip=8 count=1 2>/dev/null | tr -d '\000') in
second*) ;;
*)
	echo second | dd of=/dev/xvda bs=512 seek=8 conv=sync,notrunc 2>/dev/null
	sync
	reboot -f
	;;
esac
serve_console
INIT
pack_tree "$tree" "$disks/initrd"

# fresh NAME: two new images of 16 MiB, the second one as a block device; $device is its path.
fresh() {
	truncate -s 0 "$disks/$1.img" "$disks/$1.second"
	truncate -s 16M "$disks/$1.img" "$disks/$1.second"
	echo "first-$1" | dd of="$disks/$1.img" bs=512 conv=sync,notrunc status=none
	echo "second-$1" | dd of="$disks/$1.second" bs=512 conv=sync,notrunc status=none
	device=$(losetup -f --show "$disks/$1.second")
}
# disk_cfg NAME TYPE [WORD...]: a guest with both; the words are added to its command line.
disk_cfg() {
	linux_cfg "$1" "$2" | sed "s#^ramdisk.*#ramdisk = \"$disks/initrd\"#; s#quiet#quiet ${*:3}#"
	echo "disk = [ '$disks/$1.img,raw,xvda,rw', 'phy:$device,xvdb,r' ]"
}
loops_of() {
	losetup -n -O NAME -j "$1"
}
mark_of() {
	head -c 512 "$1" | tr -d '\000' | head -n 1
}

fresh warm
losetup -d "$device"
traces >before

for type in $(guest_types); do
	echo "a $type guest"
	fresh $type
	disk_cfg $type $type >$type.cfg
	ok xyl create -q $type.cfg
	domid=$(domid_of $type)
	loop=$(loops_of "$disks/$type.img")
	matches '^/dev/loop[0-9]+$' "$loop"
	equals '1 1' "$(losetup -n -O AUTOCLEAR,DIO "$loop" | xargs)"
	within 240 console_says $type XYL-GUEST-UP
	console_says $type "XYL-DISKS a=first-$type b=second-$type ro=1 sectors=32768" || fail "$(grep -a XYL-DISKS "$consoles/guest-$type.log")"
	console_says $type XYL-WRITTEN.*written-by-guest || fail 'the guest cannot read what it wrote'
	console_says $type XYL-WROTE-READ-ONLY && fail 'the guest has written to a read-only disk'
	backend=/local/domain/0/backend/vbd/$domid
	equals '4 4' "$(xenstore-read "$backend/51712/state" "$backend/51728/state" | xargs)"
	matches '"vdev": "xvda"' "$(xl list -l $type)"
	# The guest waits by now. Its counters are those of the kernel: reads, and the sector or more that it has written.
	statistics=/sys/bus/xen-backend/devices/vbd-$domid-51712/statistics
	equals "$(cat $statistics/rd_req)" "$(metric xen_domain_disk_reads_completed_total $type ',device="xvda"')"
	equals "$(($(cat $statistics/wr_sect) * 512))" "$(metric xen_domain_disk_written_bytes_total $type ',device="xvda"')"
	[ "$(metric xen_domain_disk_written_bytes_total $type ',device="xvda"')" -ge 512 ] || fail 'no written bytes are counted'
	xenstore-ls -f >"nodes-$type"
	ok xyl destroy $type
	matches '^written-by-guest' "$(mark_of "$disks/$type.img")"
	equals "second-$type" "$(mark_of "$disks/$type.second")"
	within 10 test -z "$(loops_of "$disks/$type.img")"
	losetup -d "$device"
	leaves_nothing before
done

echo 'a restart keeps the disks'
fresh again
disk_cfg again pvh rebooting >again.cfg
ok xyl create -q again.cfg
first=$(domid_of again)
within 240 console_says again XYL-GUEST-UP
other_domid again "$first" || fail 'it has not restarted'
equals 2 "$(grep -ac 'XYL-DISKS' "$consoles/guest-again.log")"
console_says again 'XYL-DISKS a=written-by-guest' || fail 'the next domain does not see what the one before wrote'
[ ! -e "/sys/bus/xen-backend/devices/vbd-$first-51712" ] || fail 'the old disk is there still'

echo 'what is in use is refused, and nothing is built'
for spec in "$disks/again.img,raw,xvda,rw" "$disks/again.img,raw,xvda,r" "$device,raw,xvda,rw" "$disks/again.second,raw,xvda,rw"; do
	testguest_cfg other pvh "disk = [ '$spec' ]" >other.cfg
	refused "used by domain $(domid_of again) \(again\)" xyl create -q other.cfg
done
testguest_cfg other pvh "disk = [ '$disks/again.second,raw,xvda,r' ]" >other.cfg
ok xyl create -q -p other.cfg
ok xyl destroy other
equals '"disk-busy"' "$(testguest_cfg other pvh "disk = [ '$disks/again.img,raw,xvda,rw' ]" >other.cfg; xyl create --json -q other.cfg 2>&1 | grep -o '"disk-busy"' | head -n 1)"
testguest_cfg other pvh "disk = [ '$disks/again.img,raw,xvda,w!' ]" >other.cfg
ok xyl create -q -p other.cfg
ok xyl destroy other
ok xyl destroy again
losetup -d "$device"
mkfs.ext4 -q -F "$disks/again.img"
mkdir -p "$disks/mounted"
mount -o loop "$disks/again.img" "$disks/mounted"
testguest_cfg other pvh "disk = [ '$disks/again.img,raw,xvda,rw' ]" >other.cfg
refused "mounted on $disks/mounted" xyl create -q other.cfg
umount "$disks/mounted"
for spec in "$disks/none.img,raw,xvda,rw" "$disks,raw,xvda,rw" "/dev/null,raw,xvda,rw"; do
	testguest_cfg other pvh "disk = [ '$spec' ]" >other.cfg
	refused "disk .xvda.: cannot open ${spec%%,*}" xyl create -q other.cfg
done
testguest_cfg other pvh "disk = [ '$disks/again.img,qcow2,xvda,rw' ]" >other.cfg
refused 'qcow2' xyl create -q other.cfg
leaves_nothing before

echo 'two VMs race for one disk: one wins'
for n in 1 2 3; do
	for name in left right; do
		testguest_cfg $name pvh "disk = [ '$disks/again.img,raw,xvda,rw' ]" >$name.cfg
		(xyl create -q $name.cfg >$name.out 2>&1; echo $? >$name.code) &
	done
	wait
	codes=$(sort left.code right.code | xargs)
	matches '^0 [1-9]' "$codes"
	for name in left right; do xyl destroy $name >/dev/null 2>&1; done
	leaves_nothing before
done

echo 'killed while the disks are attached'
fresh killed
disk_cfg killed pv >killed.cfg
for n in $(seq 6); do
	xyl create -q killed.cfg >/dev/null 2>&1 &
	pid=$!
	read -rt "0.$((RANDOM % 9))$((RANDOM % 9))" -u "$never"
	kill_hard $pid
	wait $pid 2>/dev/null
	ok xyl recover
	xyl destroy killed >/dev/null 2>&1
	within 10 test -z "$(loops_of "$disks/killed.img")"
	leaves_nothing before
done
losetup -d "$device"

echo 'each toolstack takes down what the other has made'
fresh mixed
disk_cfg mixed pv >mixed.cfg
ok xl create -q mixed.cfg
domid=$(domid_of mixed)
xenstore-ls -f | grep -E "^/(local/domain/0/backend/vbd/$domid|local/domain/$domid/device/vbd|libxl/$domid/device/vbd)/" |
	sed "s#/$domid/#/D/#g; s#= \"\(.*\)\"\$#= \"\1\"#" | sort >xl.nodes
record_of mixed disks >xl.record
ok xyl destroy mixed
within 10 test -z "$(loops_of "$disks/mixed.img")"
leaves_nothing before
ok xyl create -q mixed.cfg
domid=$(domid_of mixed)
xenstore-ls -f | grep -E "^/(local/domain/0/backend/vbd/$domid|local/domain/$domid/device/vbd|libxl/$domid/device/vbd)/" |
	sed "s#/$domid/#/D/#g" | sort >xyl.nodes
record_of mixed disks >xyl.record
ok xl destroy mixed
within 10 test -z "$(loops_of "$disks/mixed.img")"
xyl recover >/dev/null 2>&1
leaves_nothing before
losetup -d "$device"

echo 'the nodes are those of xl, but for these'
# Not written, since nothing reads them: bootable, removable of the backend, specification, the copy of each backend node,
# protocol (the frontend writes its own).
names() { sed 's# = .*##' "$1" | sort -u; }
names xl.nodes >xl.names
names xyl.nodes >xyl.names
comm -13 xl.names xyl.names >only.xyl
comm -23 xl.names xyl.names >only.xl
cat only.xl
equals '' "$(cat only.xyl)"
# Xyl says three things that xl leaves to its defaults, and not that COLO is off.
equals 'backend colo_restore_enable discard_enable trusted' "$(differing xl.record xyl.record)"
equals '' "$(grep -vE '/(bootable|removable|node|specification|protocol|script|online|state|frontend-id|discard-enable|direct-io-safe|feature-[^/]*|max-ring-page-order|multi-queue-max-queues)( |$)' only.xl)"
rm -rf $disks
