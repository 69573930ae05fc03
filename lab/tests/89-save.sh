# Guests are saved and restored, with both toolstacks in both directions: the test guest as PVH and PV. A checkpoint leaves the guest; a
# full disk leaves it without a file; a damaged image leaves nothing.
# limit_s: 900
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'

# told NAME COMMAND ANSWER: the guest does something, and answers.
answered() {
	xenstore-read "/local/domain/$(domid_of "$1")/data/result" 2>/dev/null | grep -aqE -- "^$2\$"
}
told() {
	xenstore-rm "/local/domain/$(domid_of "$1")/data/result" 2>/dev/null
	tell "$1" "$2"
	within 20 answered "$1" "$3"
}
resumed() {
	within 20 console_says "$1" "testguest: resumed $2, $3"
	told "$1" memtest 'ok memtest: [0-9]+ pages, 0 bad'
}
traces >before
for type in pvh pv; do
	name=calm-$type
	echo "the test guest as $type"
	testguest_cfg $name $type 'memory = 32' 'cmdline = "heartbeat_ms=100"' >$type.cfg
	ok xyl create -q $type.cfg
	within 20 readies $name 1
	uuid=$(uuid_of $name)

	echo 'a checkpoint'
	ok xyl save -c $name checkpoint
	equals 600 "$(stat -c %a checkpoint)"
	ok xyl check-image checkpoint
	resumed $name 1 cancelled

	echo 'no room for the file'
	mkdir small && mount -t tmpfs -o size=1m small small
	refused 'No space left' xyl save $name small/image
	equals '' "$(ls -A small)"
	umount small && rmdir small
	resumed $name 2 cancelled

	echo 'xyl saves, xyl restores'
	ok xyl save $name image
	ok domain_gone $name
	ok xyl check-image image
	equals "$name $type" "$(xyl check-image --json image | python3 -c 'import json, sys; image = json.load(sys.stdin); print(image["name"], image["type"])')"
	leaves_nothing before
	ok xyl restore image
	equals "$uuid" "$(uuid_of $name)"
	resumed $name 3 'new domain'
	refused 'UUID' xyl restore image
	[ -n "$(monitors $name)" ] || fail 'it has no monitor'

	echo 'xyl saves, xl restores'
	ok xyl save $name image
	ok xl restore image >/dev/null 2>&1
	resumed $name 4 'new domain'

	echo 'xl saves, xyl restores'
	# A guest that xl has restored has `msr_relaxed`, which the policy refuses unless it says otherwise.
	ok xl destroy $name
	ok xl create -q $type.cfg
	within 20 readies $name 2
	ok xl save $name image >/dev/null 2>&1
	within 10 domain_gone $name
	ok xyl restore -p image
	matches p "$(domain_state $name)"
	ok xyl unpause $name
	resumed $name 1 'new domain'
	tell $name 'shutdown poweroff'
	within 20 domain_gone $name
	rm image checkpoint
done

echo 'a damaged image leaves nothing'
ok xyl create -q pvh.cfg
within 20 readies calm-pvh 1
ok xyl save calm-pvh image
head -c 3000000 image >half
refused 'check-image' xyl restore half
leaves_nothing before
ok xyl restore pvh.cfg image
told calm-pvh memtest 'ok memtest: [0-9]+ pages, 0 bad'
ok xyl destroy calm-pvh
leaves_nothing before
