# Disks of running PV and PVH guests: attached, written and read by the guest, detached, attached again; a restart keeps them and a
# destroy leaves nothing. xl lists and detaches what Xyl has attached, and Xyl what xl has. The times of both are printed.
# limit_s: 1200
# xen: any
. /xyl-lab/lab/lib.sh
. /xyl-lab/lab/plug.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-blkback loop || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
disks=/var/tmp/xyl-hotplug
mkdir -p $disks

plug_tree "$disks/initrd"

# fresh NAME: a new image of 16 MiB with a mark in its first sector.
fresh() {
	truncate -s 0 "$disks/$1.img"
	truncate -s 16M "$disks/$1.img"
	echo "mark-$1" | dd of="$disks/$1.img" bs=512 conv=sync,notrunc status=none
}
loops_of() {
	losetup -n -O NAME -j "$1"
}
mark_of() {
	head -c 512 "$1" | tr -d '\000' | head -n 1
}
# vdevs TOOL NAME: the disks of a domain, as a toolstack lists them.
vdevs() {
	"$1" block-list "$2" | awk 'NR > 1 { print $1 }' | sort | xargs
}
# queue_of NAME: makes the domain's queue of requests, whose folder stays.
queue_of() {
	ok xyl vcpu-set "$1" 1
}
# connected DOMID NUMBER: whether the guest uses a disk.
connected() {
	[ "$(xenstore-read "/local/domain/0/backend/vbd/$1/$2/state")" = 4 ]
}
# both COMMAND COMMAND: runs both at one moment, and both must succeed.
both() {
	local first
	$1 >first.out 2>&1 &
	first=$!
	ok $2
	wait $first || fail "exit code $? of: $1 ($(cat first.out))"
}
# timed NAME COMMAND...: runs a command, which must succeed, and prints its time.
timed() {
	local name=$1 begun
	shift
	begun=$(date +%s%N)
	ok "$@"
	echo "TIME $name: $((($(date +%s%N) - begun) / 1000000)) ms"
}

traces >before

for type in $(guest_types); do
	echo "a $type guest"
	fresh $type
	fresh second
	plug_cfg $type $type >$type.cfg
	ok xyl create -q $type.cfg
	domid=$(domid_of $type)
	within 240 console_says $type XYL-GUEST-UP
	queue_of $type
	traces >without-$type
	equals '' "$(vdevs xyl $type)"

	echo 'an image'
	timed "xyl block-attach of an image, $type" xyl block-attach $type "$disks/$type.img,raw,xvdc,rw"
	within 60 plugged $type 1 mark-$type
	loop=$(loops_of "$disks/$type.img")
	matches '^/dev/loop[0-9]+$' "$loop"
	equals '1 1' "$(losetup -n -O AUTOCLEAR,DIO "$loop" | xargs)"
	equals 51744 "$(vdevs xyl $type)"
	equals "$(xl block-list $type)" "$(xyl block-list $type)"
	matches '"vdev": "xvdc"' "$(xl list -l $type)"
	matches '"state":4' "$(xyl block-list --json $type | tr -d ' \n')"
	refused "domain $domid has disk .xvdc. already" xyl block-attach $type "$disks/second.img,raw,xvdc,rw"
	equals '"device-exists"' "$(xyl --json block-attach $type "$disks/second.img,raw,xvdc,rw" 2>&1 | grep -o '"device-exists"' | head -n 1)"
	timed "xyl block-detach of an image, $type" xyl block-detach $type xvdc
	within 10 unplugged $type 1
	equals guest-1 "$(mark_of "$disks/$type.img")"
	within 10 test -z "$(loops_of "$disks/$type.img")"
	equals '' "$(vdevs xl $type)"
	matches 'no disk' "$(xyl block-detach $type xvdc 2>&1)"
	leaves_nothing without-$type

	echo 'a block device'
	device=$(losetup -f --show "$disks/second.img")
	timed "xyl block-attach of a device, $type" xyl block-attach $type "phy:$device" xvdc w
	within 60 plugged $type 2 mark-second
	timed "xyl block-detach of a device, $type" xyl block-detach $type 51744
	within 10 unplugged $type 2
	equals guest-2 "$(mark_of "$disks/second.img")"
	losetup -d "$device"
	within 10 test -z "$(loops_of "$disks/second.img")"
	leaves_nothing without-$type

	echo 'xl, for comparison'
	timed "xl block-attach of an image, $type" xl block-attach $type "$disks/$type.img,raw,xvdc,rw"
	within 60 plugged $type 3 guest-1
	equals 51744 "$(vdevs xyl $type)"
	timed "xl block-detach of an image, $type" xl block-detach $type xvdc
	within 10 unplugged $type 3
	within 10 test -z "$(loops_of "$disks/$type.img")"

	echo 'each takes down what the other has attached'
	ok xyl block-attach $type "$disks/$type.img,raw,xvdc,rw"
	within 60 plugged $type 4 guest-3
	ok xl block-detach $type xvdc
	within 10 unplugged $type 4
	within 10 test -z "$(loops_of "$disks/$type.img")"
	ok xl block-attach $type "$disks/$type.img,raw,xvdc,rw"
	within 60 plugged $type 5 guest-4
	ok xyl block-detach $type xvdc
	within 10 unplugged $type 5
	within 10 test -z "$(loops_of "$disks/$type.img")"
	leaves_nothing without-$type

	echo 'both attach at one moment, and detach at one moment: neither loses the disk of the other'
	fresh third
	for round in 1 2; do
		both "xl block-attach $type $disks/second.img,raw,xvdd,rw" "xyl block-attach $type $disks/third.img,raw,xvde,rw"
		for tool in xl xyl; do equals '51760 51776' "$(vdevs $tool $type)"; done
		equals 'xvdd xvde' "$(xl list -l $type | grep -oE '"xvd[de]"' | tr -d '"' | sort -u | xargs)"
		within 30 connected "$domid" 51760
		within 30 connected "$domid" 51776
		both "xl block-detach $type xvde" "xyl block-detach $type xvdd"
		for tool in xl xyl; do equals '' "$(vdevs $tool $type)"; done
		for image in second third; do within 10 test -z "$(loops_of "$disks/$image.img")"; done
		equals '' "$(xl list -l $type | grep -oE '"xvd[de]"')"
	done
	leaves_nothing without-$type

	echo 'a forced detach'
	ok xyl block-attach $type "$disks/$type.img,raw,xvdc,rw"
	within 60 plugged $type 6 guest-5
	ok xyl block-detach --force $type xvdc
	within 10 test -z "$(loops_of "$disks/$type.img")"
	within 10 unplugged $type 6
	leaves_nothing without-$type

	echo 'a restart keeps the disk'
	echo reboot | dd of="$disks/$type.img" bs=512 seek=8 conv=sync,notrunc status=none
	ok xyl block-attach $type "$disks/$type.img,raw,xvdc,rw"
	within 120 other_domid $type "$domid"
	within 240 plugged $type 1 guest-7
	equals 51744 "$(vdevs xyl $type)"

	echo 'what is in use is refused'
	testguest_cfg other $type >other.cfg
	ok xyl create -q -p other.cfg
	queue_of other
	# QEMU would serve it. The VM has another monitor after that, which has the right to start QEMU.
	refused qcow2 xyl block-attach other "$disks/second.img,qcow2,xvdc,rw"
	traces >busy-$type
	refused "is used by domain $(domid_of $type) \($type\)" xyl block-attach other "$disks/$type.img,raw,xvdc,rw"
	refused 'is used by' xyl block-attach -d other "$disks/$type.img,raw,xvdc,r"
	for spec in "$disks/none.img,raw,xvdc,rw" "$disks,raw,xvdc,rw" "/dev/null,raw,xvdc,rw"; do
		refused "disk .xvdc.: cannot open ${spec%%,*}" xyl block-attach other "$spec"
	done
	leaves_nothing busy-$type
	equals "would attach \`vdev=xvdc,access=rw,format=raw,target=$disks/second.img\` to domain $(domid_of other)" \
		"$(xyl block-attach --dryrun other "$disks/second.img,raw,xvdc,rw")"
	leaves_nothing busy-$type

	echo 'a guest that does not let the disk go'
	ok xyl block-attach other "$disks/second.img,raw,xvdc,rw"
	begun=$SECONDS
	refused 'closing \(state 5\).*block-detach --force' xyl block-detach other xvdc
	[ $((SECONDS - begun)) -le 20 ] || fail "it took $((SECONDS - begun)) s"
	equals 51744 "$(vdevs xl other)"
	xenstore-write "/local/domain/$(domid_of other)/device/vbd/51744/state" 6
	within 20 test -z "$(loops_of "$disks/second.img")"
	within 10 test -z "$(vdevs xl other)"
	ok xyl block-attach other "$disks/second.img,raw,xvdc,rw"
	ok xyl destroy other

	ok xyl destroy $type
	matches '^guest-' "$(mark_of "$disks/$type.img")"
	within 10 test -z "$(loops_of "$disks/$type.img")"
	leaves_nothing before
done

echo 'killed while it is attached or detached'
fresh killed
testguest_cfg killed pv >killed.cfg
ok xyl create -q killed.cfg
queue_of killed
within 60 console_says killed 'testguest: heartbeat'
traces >without
for n in $(seq 10); do
	case $((n % 2)) in
	1) xyl block-attach killed "$disks/killed.img,raw,xvdc,rw" >/dev/null 2>&1 & ;;
	0) xyl block-detach --force killed xvdc >/dev/null 2>&1 & ;;
	esac
	pid=$!
	read -rt "0.$((RANDOM % 5))$((RANDOM % 9))" -u "$never"
	kill_hard $pid
	wait $pid 2>/dev/null
	ok xyl recover
done
xyl block-detach --force killed xvdc >/dev/null 2>&1
within 10 test -z "$(loops_of "$disks/killed.img")"
leaves_nothing without
ok xyl destroy killed

echo "a guest of xl's, before and after it is adopted"
fresh adopted
testguest_cfg adopted pv >adopted.cfg
ok xl create -q adopted.cfg
for round in xl xyl; do
	ok xyl block-attach adopted "$disks/adopted.img,raw,xvdc,rw"
	equals 51744 "$(vdevs xl adopted)"
	matches '"vdev": "xvdc"' "$(xl list -l adopted)"
	if [ $round = xyl ]; then
		first=$(monitors adopted)
		ok xyl upgrade-monitors
		within 10 gone "$first"
		equals 51744 "$(vdevs xyl adopted)"
	fi
	ok xyl block-detach --force adopted xvdc
	within 10 test -z "$(loops_of "$disks/adopted.img")"
	equals '' "$(vdevs xl adopted)"
	[ $round = xyl ] || ok xyl adopt adopted
done
ok xyl destroy adopted

echo 'two VMs race for one disk: one wins'
fresh raced
for name in left right; do
	testguest_cfg $name pv >$name.cfg
	ok xyl create -q -p $name.cfg
done
for n in 1 2 3; do
	for name in left right; do
		(xyl block-attach $name "$disks/raced.img,raw,xvdc,rw" >$name.out 2>&1; echo $? >$name.code) &
	done
	wait
	matches '^0 [1-9]' "$(sort left.code right.code | xargs)"
	for name in left right; do xyl block-detach --force $name xvdc >/dev/null 2>&1; done
	within 10 test -z "$(loops_of "$disks/raced.img")"
done
for name in left right; do ok xyl destroy $name; done
rm -rf $disks
leaves_nothing before
