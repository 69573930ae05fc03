# xyl fsck finds nothing on a healthy host with guests of xl and xyl; each leak that is planted is found, explained and removed;
# what somebody is at work on is left alone. A domain that refuses to die is explained.
# limit_s: 600
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

config() {
	local path=$scratch/$1.cfg
	printf '%s\n' "name = \"$1\"" "type = \"$2\"" "kernel = \"$guests/testguest\"" 'memory = 32' "${@:3}" >"$path"
	echo "$path"
}
# fsck CODE [OPTION...]: its output; it must end with that exit code.
fsck() {
	local code=0
	found=$(xyl fsck "${@:2}" 2>&1) || code=$?
	[ "$1" = "$code" ] || fail "exit code $code, not $1: $found"
}
clean() {
	fsck 0
	equals 'nothing is left over' "$found"
}
# removed PATTERN: found, removed, and then there is nothing more.
removed() {
	fsck 5
	matches "$1" "$found"
	fsck 6 --repair
	matches "$1" "$found"
	clean
}
ready() {
	within 30 console_says "$1" 'testguest: ready'
}

clean
ok xyl create -q "$(config ours pvh)"
ok xyl create -q "$(config ours-pv pv)"
ok xyl create -q -p "$(config ours-paused pvh)"
ok xl create -q "$(config theirs pvh)" 
ok xl create -q -p "$(config theirs-paused pvh)"
ready ours
ready ours-pv
ready theirs
clean
echo 'clean while xl and xyl create and destroy'
for n in 1 2; do
	(for type in pv pvh; do xyl create -q "$(config mine $type)" && xyl destroy mine; done) >/dev/null 2>&1 &
	(xl create -q "$(config his pvh)" && xl destroy his) >/dev/null 2>&1 &
	fsck 0 --repair
	wait
done
matches '^ours ' "$(xl list ours)"
matches '^theirs ' "$(xl list theirs)"
clean

echo 'nodes'
gone=11111111-2222-3333-4444-555555555555
ok xenstore-write /local/domain/999/name gone /libxl/999/type pv "/vm/$gone/name" gone \
	/local/domain/0/backend/vbd/999/51712/state 4
fsck 5
for path in /local/domain/999 /libxl/999 "/vm/$gone" /local/domain/0/backend/vbd/999; do
	matches "xenstore nodes without a domain: $path" "$found"
done
equals 4 "$(xyl fsck --json | grep -c '"kind": *"nodes"')"
removed 'no domain has the number 999'
! xenstore-exists /local/domain/999 && ! xenstore-exists /local/domain/0/backend/vbd/999 || fail 'nodes are there still'

echo 'records and userdata'
mkdir -p /var/lib/xyl/vm/$gone
echo 'name = "gone"' >/var/lib/xyl/vm/$gone/config.cfg
removed "record of a VM without a domain.*$gone"
touch "/var/lib/xen/userdata-d.999.$gone.libxl-json" "/var/lib/xen/userdata-d.$(domid_of ours).$gone.xl"
removed "userdata-d.999.$gone"
mkdir -p /run/xyl/damaged
touch /run/xyl/damaged/$gone
removed 'damaged journal'

echo 'QEMU, a loop device, an interface'
cp "$(command -v bash)" "$scratch/qemu-system-i386"
(exec "$scratch/qemu-system-i386" -c 'read -r; true' bash -xen-domid 999 <&"$never") &
qemu=$!
(exec "$scratch/qemu-system-i386" -c 'read -r; true' bash -xen-domid "$(domid_of theirs)" <&"$never") &
live=$!
sleep 0.2
removed "QEMU without a domain: process $qemu"
# What only calls itself QEMU is shown, and not ended.
(exec -a qemu-system-i386 bash -c 'read -r; true' bash -xen-domid 999 <&"$never") &
claimed=$!
sleep 0.2
fsck 7 --repair
matches "QEMU without a domain: process $claimed" "$found"
kill -0 $claimed || fail 'a process that only calls itself QEMU was ended'
kill $claimed
wait $claimed 2>/dev/null
kill -0 $live || fail 'the QEMU of a guest that lives was ended'
kill $live
wait $qemu $live 2>/dev/null
truncate -s 1M "$scratch/disk"
if loop=$(losetup -f --show "$scratch/disk" 2>&1); then
	ok xenstore-write /local/domain/0/backend/vbd/998/51712/node "$loop" \
		/local/domain/0/backend/vbd/998/51712/params "$scratch/disk"
	removed "loop device without a domain: $loop"
	losetup -a | grep -q "$scratch/disk" && fail 'the loop device is there still'
else
	echo "no loop devices here: $loop"
fi
if made=$(ip tuntap add dev vif999.0-emu mode tap 2>&1); then
	removed 'network interface without a domain: vif999.0-emu'
else
	echo "no interface of QEMU's kind could be made here: $made"
fi
# Only the name is like Xen's.
if made=$(ip link add vif998.0 type dummy 2>&1); then
	clean
	ok ip link delete vif998.0
else
	echo "no other interface could be made here: $made"
fi

echo 'xyl is killed in the middle of a create, and nobody recovers'
for moment in 0.02 0.06; do
	xyl create -q "$(config killed pvh)" &
	pid=$!
	sleep $moment
	kill_hard $pid
	wait $pid 2>/dev/null
	code=0
	xyl fsck --repair >"$scratch/out" || code=$?
	[ $code = 0 ] || [ $code = 6 ] || fail "exit code $code: $(cat "$scratch/out")"
	clean
	xyl destroy killed 2>/dev/null
done

echo 'xl is killed in the middle of a create'
half_made=
for moment in 0.1 0.25 0.5 0.8; do
	xl create -q "$(config half pvh)" >/dev/null 2>&1 &
	pid=$!
	sleep $moment
	: >"$scratch/out"
	# While it is at work, its domain is nobody's leak.
	kill -STOP $pid 2>/dev/null && xyl fsck --repair >"$scratch/out"
	grep -qE '^  removed' "$scratch/out" && fail "removed what xl was making: $(cat "$scratch/out")"
	kill -KILL $pid 2>/dev/null
	wait $pid 2>/dev/null
	code=0
	xyl fsck --repair >"$scratch/out" || code=$?
	grep -q 'half-made domain' "$scratch/out" && half_made="$half_made $moment:$code"
	[ $code = 0 ] || [ $code = 6 ] || fail "exit code $code: $(cat "$scratch/out")"
	clean
	domid=$(domid_of half 2>/dev/null) && xl destroy "$domid"
done
echo "half-made domains were found and removed at:$half_made"
[ -n "$half_made" ] || fail 'no kill hit a half-made domain'
clean

echo 'a domain that refuses to die'
ok xyl create -q "$(config held pvh)"
ready held
domid=$(domid_of held)
mkfifo "$scratch/in"
python3 /xyl-lab/lab/hold-page.py "$domid" 512 <"$scratch/in" >"$scratch/held" 2>&1 &
holder=$!
exec {release}>"$scratch/in"
within 20 grep -q held "$scratch/held"
code=0
told=$(xyl destroy held 2>&1) || code=$?
echo "$told"
equals 1 $code
matches "domain $domid is destroyed, but still exists" "$told"
matches 'Xen keeps [1-9][0-9]* pages' "$told"
matches "process $holder .*hold-page.py" "$told"
fsck 5
matches "destroyed and is still there: $domid" "$found"
matches "process $holder .*hold-page.py" "$found"
fsck 7 --repair
exec {release}>&-
wait $holder
gone() { xyl fsck >/dev/null; }
within 20 gone
clean

for name in ours ours-pv ours-paused theirs theirs-paused; do
	ok xl destroy $name
done
within 20 gone
