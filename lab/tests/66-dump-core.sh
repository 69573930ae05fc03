# Cores: xyl's and xl's of the same domain that stands still are compared; a dump that is killed, cancelled or finds the disk
# full leaves nothing and a guest that runs; coredump-destroy and coredump-restart dump, and then do the rest.
# limit_s: 900
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

dumps=/var/lib/xen/dump
# start NAME TYPE LINE...: a test guest made by xyl, ready.
start() {
	testguest_cfg "$1" "$2" 'memory = 16' 'cmdline = "heartbeat_ms=100"' "${@:3}" >"$scratch/$1.cfg"
	ok xyl create -q "$scratch/$1.cfg"
	within 20 console_says "$1" 'testguest: ready'
}
# still_beats NAME: the guest runs.
still_beats() {
	local before
	before=$(beats "$1")
	within 20 beats_beyond "$1" "$before"
}
no_parts() {
	[ -z "$(find "$scratch" "$dumps" -name '.*.part' 2>/dev/null)" ]
}

# A PVH guest. Its core is compared with xl's by lab/compare-pvh-cores.sh: xl takes minutes.
start pvh pvh
ok xyl dump-core pvh "$scratch/pvh.core"
still_beats pvh

# A PV guest: Linux, for xl finds the pages of a guest by a list that the test guest does not keep.
linux_cfg tux pv | sed 's/^memory.*/memory = 128/' >"$scratch/tux.cfg"
ok xyl create -q "$scratch/tux.cfg"
within 120 console_says tux 'XYL-GUEST-UP'
ok xyl pause tux
line=$(compared tux) || exit 1
matches '^common [0-9]{5} differ 0 first 0 second [0-9]$' "$line"
ok xyl destroy tux

# The test guest as PV, with all its pages; by number, to xl's folder, without standing still before or after.
start pv pv
ok xyl dump-core --live pv "$scratch/live.core"
still_beats pv
equals "$dumps/pv" "$(xyl dump-core "$(domid_of pv)")"
pages=$(xyl --json dump-core pv "$scratch/again.core" | python3 -c 'import json, sys; said = json.load(sys.stdin); print(said["pages"], said["pages_missing"])')
matches '^40[0-9]{2} [0-9]$' "$pages"
still_beats pv
refused 'no file that could be replaced' xyl dump-core pv /dev/null
refused 'control domain' xyl dump-core 0 "$scratch/zero"
# A domain of xl's: nothing is kept of it.
printf '%s\n' 'name = "of-xl"' 'type = "pvh"' "kernel = \"$guests/testguest\"" 'memory = 32' >"$scratch/of-xl.cfg"
ok xl create -q "$scratch/of-xl.cfg"
within 20 console_says of-xl 'testguest: ready'
ls /run/xyl/vm >"$scratch/vms"
ok xyl dump-core of-xl "$scratch/of-xl.core"
equals "$(cat "$scratch/vms")" "$(ls /run/xyl/vm)"
ok xl destroy of-xl
rm "$scratch"/*.core

# A full disk.
mkdir "$scratch/small"
ok mount -t tmpfs -o size=4m none "$scratch/small"
refused "write its memory: the core of domain [0-9]+, $scratch/small/core: [0-9]+ of [0-9]+ bytes were written, then: No space left on device.*free some space" \
	xyl dump-core pv "$scratch/small/core"
equals '' "$(ls -A "$scratch/small")"
ok umount "$scratch/small"
still_beats pv

# Killed, and interrupted, while it writes.
for signal in KILL INT; do
	xyl dump-core pvh "$scratch/killed.core" &
	pid=$!
	until [ -n "$(find "$scratch" -name '.killed.core.*.part' -size +1M)" ] || [ -e "$scratch/killed.core" ]; do :; done
	kill -$signal $pid 2>/dev/null
	wait $pid
	echo "$signal: exit code $?, $(ls -A "$scratch" | grep -c part) unfinished"
	[ $signal = INT ] || xyl recover
	no_parts || fail "an unfinished core after $signal"
	still_beats pvh
	rm -f "$scratch/killed.core"
done

# What a configuration asks for.
rm -f $dumps/*
start again pvh 'on_crash = "coredump-restart"'
first=$(domid_of again)
tell again 'shutdown crash'
within 60 other_domid again "$first"
within 20 console_says again 'testguest: ready'
[ "$(stat -c %s $dumps/again)" -gt $((15 << 20)) ] || fail 'no core of again'
matches "the core of domain $first is in $dumps/again: [0-9]+ bytes, 4[01][0-9]{2} pages" "$(cat /var/log/xen/xyl-again.log)"
start gone pv 'on_crash = "coredump-destroy"'
tell gone 'panic'
within 60 domain_gone gone
[ "$(stat -c %s $dumps/gone)" -gt $((15 << 20)) ] || fail 'no core of gone'
# A core that cannot be had keeps nothing up.
mkdir $dumps/sorry
start sorry pvh 'on_poweroff = "coredump-destroy"'
tell sorry 'shutdown poweroff'
within 60 domain_gone sorry
matches 'the core of domain [0-9]+ was not dumped to .*/sorry: ' "$(cat /var/log/xen/xyl-sorry.log)"
rmdir $dumps/sorry
equals "again gone" "$(ls -A $dumps | paste -sd ' ')"
for name in pv pvh again; do
	ok xyl destroy $name
done
rm -f $dumps/*
