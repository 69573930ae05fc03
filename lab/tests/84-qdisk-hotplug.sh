# Disks that QEMU serves, attached to a running guest and detached from it. Each has a QEMU of its own, with its own user and the lock of its
# image, and that ends with it. A restart keeps the disk; kills, refusals and xl's destroy leave nothing. A channel goes on meanwhile.
# limit_s: 600
# xen: any
. /xyl-lab/lab/lib.sh
. /xyl-lab/lab/plug.sh
. /xyl-lab/lab/images.sh
command -v xyl >/dev/null || skip 'no xyl here'
[ -x /usr/libexec/xen-qemu-system-i386 ] || skip 'no QEMU here'
cd "$scratch" || fail 'no scratch folder'
disks=/var/tmp/xyl-qdisk-hotplug
mkdir -p $disks
chmod 700 $disks
plug_tree "$disks/initrd"
make_image qcow2 $disks/a.qcow2
make_image qcow2 $disks/b.qcow2
truncate -s 16M $disks/raw.img
type=$(guest_types | head -n 1 | cut -d' ' -f1)
# user_of PID: the user of a process. is_free FILE: whether no process has the lock of an image.
user_of() {
	awk '$1 == "Uid:" { print $2 }' "/proc/$1/status"
}
is_free() {
	flock -n "$1" true
}
nr_qemus() {
	qemus "$1" | wc -w
}
a=$disks/a.qcow2,qcow2,xvdc,rw
traces >before

echo "a $type guest without QEMU gets a disk that QEMU serves"
plug_cfg $type $type reboot_at=guest-2 >$type.cfg
ok xyl create -q $type.cfg
domid=$(domid_of $type)
within 240 console_says $type XYL-GUEST-UP
ok xyl block-attach $type $a
within 60 plugged $type 1 ''
pid=$(qemus "$domid")
equals "$((1900000000 + 65536 + domid))" "$(user_of "$pid")"
equals /dev/xyl/qemu "$(readlink "/proc/$pid/root")"
if is_free "$disks/a.qcow2"; then fail 'the image is not locked'; fi
matches "51744 .*/backend/qdisk/$domid/51744" "$(xyl block-list $type)"
equals "$(xl block-list $type)" "$(xyl block-list $type)"
refused 'is used by' xyl block-attach $type "$disks/a.qcow2,qcow2,xvdd,rw"

echo 'a second one has another QEMU; each goes with its disk'
ok xyl block-attach $type "$disks/raw.img,raw,xvdd,rw,backendtype=qdisk"
equals 2 "$(nr_qemus "$domid")"
ok xyl block-detach $type xvdc
within 10 unplugged $type 1
equals 1 "$(nr_qemus "$domid")"
gone "$pid" || fail "QEMU has not ended with its disk"
is_free "$disks/a.qcow2" || fail 'the image is locked still'
ok xyl block-detach $type xvdd
no_qemu "$domid" || fail "a QEMU is left: $(qemus)"
equals '' "$(xenstore-ls -f | grep -E "/qdisk/|/device-model/$domid|/vbd/")"

echo 'a restart keeps the disk'
ok xyl block-attach $type $a
within 60 plugged $type 2 guest-1
ok xyl block-detach $type xvdc
within 10 unplugged $type 2
ok xyl block-attach $type $a
within 120 other_domid $type "$domid"
domid=$(domid_of $type)
within 240 plugged $type 1 guest-3
equals 1900000000 "$(($(user_of "$(qemus "$domid")") - domid))"
echo 'the last disk of the first QEMU goes, and QEMU with it'
ok xyl block-detach $type xvdc
within 10 unplugged $type 1
no_qemu "$domid" || fail "a QEMU is left: $(qemus)"
is_free "$disks/a.qcow2" || fail 'the image is locked still'

echo 'xl destroys the VM, and the monitor ends the QEMU'
ok xyl block-attach $type $a
ok xl destroy $type
within 30 no_qemu
leaves_nothing before

echo 'what cannot be attached is refused, and nothing is left after a kill'
testguest_cfg killed pv >killed.cfg
ok xyl create -q killed.cfg
# The first such disk gives the VM another monitor, which has the right to start QEMU.
ok xyl block-attach killed "$disks/b.qcow2,qcow2,xvdc,rw"
ok xyl block-detach --force killed xvdc
traces >without
refused 'is no qcow2 image' xyl block-attach killed "$disks/raw.img,qcow2,xvdc,rw"
refused 'cannot open' xyl block-attach killed "$disks/none.qcow2,qcow2,xvdc,rw"
for n in $(seq 4); do
	case $((n % 2)) in
	1) xyl block-attach killed "$disks/b.qcow2,qcow2,xvdc,rw" >/dev/null 2>&1 & ;;
	0) xyl block-detach --force killed xvdc >/dev/null 2>&1 & ;;
	esac
	victim=$!
	read -rt "$((RANDOM % 2)).$((RANDOM % 9))" -u "$never"
	kill_hard $victim
	wait $victim 2>/dev/null
	ok xyl recover
done
xyl block-detach --force killed xvdc >/dev/null 2>&1
within 20 no_qemu
leaves_nothing without
ok xyl destroy killed
leaves_nothing before

# libxl of 4.17 makes channels, too: its QEMU has another driver for them.
echo 'a channel and a disk from the start, and one more disk'
plug_cfg both $type >both.cfg
printf '%s\n' "disk = [ '$disks/b.qcow2,qcow2,xvda,rw' ]" "channel = [ 'name=org.example,connection=pty' ]" >>both.cfg
ok xyl create -q both.cfg
domid=$(domid_of both)
within 240 console_says both XYL-GUEST-UP
channel_of() {
	xenstore-ls "/local/domain/0/backend/console/$domid/1"
	xenstore-read "/local/domain/$domid/device/console/1/tty"
}
channel_of >channel
first=$(qemus "$domid")
ok xyl block-attach both "$disks/raw.img,raw,xvdc,rw,backendtype=qdisk"
within 60 plugged both 1 ''
equals 2 "$(nr_qemus "$domid")"
equals "$(cat channel)" "$(channel_of)"
ok xyl block-detach both xvda
equals "$(cat channel)" "$(channel_of)"
kill -0 "$first" || fail 'the first QEMU has ended with its disk, and its channel'
echo 'the end of the other one is in the log'
kill_hard "$(qemus "$domid" | xargs -n 1 | grep -vx "$first")"
within 60 grep -q 'QEMU of domain .* has ended: .*disk 51744' /var/log/xen/xyl-both.log
ok xyl destroy both
no_qemu || fail "a QEMU is left: $(qemus)"
rm -rf $disks
leaves_nothing before
