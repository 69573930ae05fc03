# Guests that misuse the xenstore nodes of their devices: they never connect, delete their folder, point at another guest's backend,
# change states all the time, or have very many nodes. An image that is gone keeps a restart back until it is there again. Attach, detach, reboot and destroy still end, and touch no other guest's devices.
# limit_s: 240
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-blkback xen-netback bridge loop || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
images=/var/tmp/xyl-hostile
mkdir -p $images
tidy_up() {
	kill $flipper 2>/dev/null
	ip link del xenbr0 2>/dev/null
	rm -rf "$scratch" $images
}
flipper=
trap tidy_up EXIT
ip link add xenbr0 type bridge || fail 'no bridge'
ip link set xenbr0 up
traces >before

# start NAME TYPE: a guest with a disk and an interface. The test guest has no driver for them; what its drivers could write is written here.
start() {
	truncate -s 1M "$images/$1.img"
	testguest_cfg "$1" "$2" 'memory = 16' "disk = [ '$images/$1.img,raw,xvda,rw' ]" "vif = [ 'bridge=xenbr0' ]" >"$1.cfg"
	ok xyl create -q "$1.cfg"
	within 30 readies "$1" 1
}
front() {
	echo "/local/domain/$(domid_of "$1")/device"
}
loops_of() {
	losetup -n -O NAME -j "$images/$1.img" | wc -l
}
has_devices() {
	[ "$(loops_of "$1")" -eq 1 ] && [ -e "/sys/class/net/xenbr0/brif/vif$(domid_of "$1").0" ]
}
# ends_in LIMIT_S COMMAND...: the command ends in time, with whatever exit code but that of a signal or a panic.
ends_in() {
	local limit_s=$(($1 * slowness)) code=0
	shift
	timeout "$limit_s" "$@" >out 2>&1 || code=$?
	[ $code -lt 100 ] || fail "exit code $code of: $* ($(tail -n 3 out))"
	return 0
}

start bad pvh
start good pv
good=$(domid_of good)
within 10 has_devices good

echo 'its frontend points at the backend of another guest'
bad=$(domid_of bad)
for device in vbd/51712 vif/0; do
	xenstore-write "$(front bad)/$device/backend" "/local/domain/0/backend/${device%/*}/$good/${device#*/}"
	xenstore-write "$(front bad)/$device/backend-id" "$good"
done
equals "$(xyl block-list good | tail -n 1)" "$(xl block-list good | tail -n 1)"
ends_in 30 xyl block-detach --force bad xvda
ends_in 30 xyl network-detach --force bad 0
ok has_devices good
within 10 test "$(loops_of bad)" -eq 0

echo 'its folder of devices is gone'
ok xyl block-attach bad "$images/bad.img,raw,xvda,rw"
xenstore-rm "$(front bad)"
ends_in 30 xyl block-detach --force bad xvda
within 10 eval '[ "$(loops_of bad)" -eq 0 ]'
ok has_devices good

echo 'it has very many nodes'
number=0
while [ $number -lt 1200 ]; do
	# The toolstack makes them; the guest owns them.
	echo "/local/domain/$bad/data/full/$number" x
	number=$((number + 1))
done | xargs xenstore-write 2>/dev/null
ends_in 30 xyl block-attach bad "$images/bad.img,raw,xvdb,rw"
ends_in 30 xyl block-detach --force bad xvdb
xenstore-rm "/local/domain/$bad/data/full"
ok xyl reboot -w --timeout 90 bad
within 30 readies bad 2
ok xyl block-attach bad "$images/bad.img,raw,xvda,rw"
ok xyl network-attach bad bridge=xenbr0
within 10 has_devices bad

echo 'its states change all the time'
# flip FOLDER...: writes states as no driver would, until it is killed.
flip() {
	local folder
	while :; do
		for folder in "$@"; do
			xenstore-write "$folder/state" $((RANDOM % 10)) 2>/dev/null
		done
	done
}
bad=$(domid_of bad)
flip "/local/domain/$bad/device/vbd/51712" "/local/domain/$bad/device/vbd/51728" "/local/domain/$bad/device/vif/0" &
flipper=$!
ends_in 60 xyl block-attach bad "$images/none.img,raw,xvdb,rw"
truncate -s 1M "$images/second.img"
ends_in 60 xyl block-attach bad "$images/second.img,raw,xvdb,rw"
ends_in 60 xyl block-detach bad xvdb
ends_in 60 xyl block-detach --force bad xvdb
ends_in 60 xyl network-detach bad 0
ok xyl list bad
ok xyl block-list bad
ends_in 90 xyl destroy bad
kill $flipper
wait $flipper 2>/dev/null
flipper=
# What the flood has written after the end of the domain is its own.
xenstore-rm "/local/domain/$bad" 2>/dev/null
domain_gone bad || ok xyl destroy bad
ok has_devices good

echo 'an image that is gone at a reboot'
truncate -s 1M "$images/gone.img"
ok xyl block-attach good "$images/gone.img,raw,xvdb,rw"
mv "$images/gone.img" "$images/away.img"
tell good 'shutdown reboot'
within 20 grep -aq "gone.img" /var/log/xen/xyl-good.log
ok xyl list good
mv "$images/away.img" "$images/gone.img"
within 60 readies good 2
within 10 has_devices good
equals '51712 51728' "$(xyl block-list good | awk 'NR > 1 { print $1 }' | sort | xargs)"
ok xyl destroy good
leaves_nothing before
