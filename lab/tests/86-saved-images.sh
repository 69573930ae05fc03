# Images that xl saves of a PVH guest and of a PV guest: `check-image` reads them, and what the writer writes from what the reader
# read has the same bytes. A cut image is told with its place.
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# value NAME KEY: a member of what check-image says of the image.
value() {
	xyl check-image --json "$scratch/$1.save" | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$2"
}
# save NAME: xl saves the guest, and the image passes all checks.
save() {
	ok xl save "$1" "$scratch/$1.save" >/dev/null 2>&1
	within 10 domain_gone "$1"
	ok xyl check-image "$scratch/$1.save"
	equals "$1" "$(value "$1" name)"
	equals 0 "$(value "$1" bytes_after_end)"
	equals "$(stat -c %s "$scratch/$1.save")" "$(value "$1" bytes)"
	ok show_image "$scratch/$1.save"
}
testguest_cfg calm pvh >"$scratch/calm.cfg"
ok xl create -q "$scratch/calm.cfg"
within 20 readies calm 1
save calm
equals 'pvh 1 None' "$(value calm type) $(value calm vcpus) $(value calm qemu_bytes)"

# A cut image: the offset is inside of the file, and what came before is told.
head -c 100000 "$scratch/calm.save" >"$scratch/cut.save"
xyl check-image --json "$scratch/cut.save" >"$scratch/cut.json"
equals 3 $?
matches '"name": ?"calm"' "$(cat "$scratch/cut.json")"

testguest_cfg old pv >"$scratch/old.cfg"
ok xl create -q "$scratch/old.cfg"
within 20 readies old 1
save old
equals 'pv 1 32768' "$(value old type) $(value old vcpus) $(value old memory_kib)"

echo "a guest of Xyl's with a disk: xl saves it, which leaves nothing of it, and restores it as its own"
modprobe -a xen-blkback loop || fail 'no drivers'
truncate -s 1M "$scratch/disk.img"
testguest_cfg ours pvh "disk = [ '$scratch/disk.img,raw,xvda,rw' ]" >"$scratch/ours.cfg"
traces >"$scratch/before"
ok xyl create -q "$scratch/ours.cfg"
within 20 readies ours 1
save ours
ok xyl recover
equals '' "$(losetup -n -O NAME -j "$scratch/disk.img")"
leaves_nothing "$scratch/before"
ok xl restore "$scratch/ours.save" >/dev/null 2>&1
within 20 beats_beyond ours "$(beats ours)"
equals 1 "$(losetup -n -O NAME -j "$scratch/disk.img" | wc -l)"
ok xl destroy ours
within 10 test -z "$(losetup -n -O NAME -j "$scratch/disk.img")"
leaves_nothing "$scratch/before"
