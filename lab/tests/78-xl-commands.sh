# The commands of xl about CPU pools, lists of devices and the rest of the host: both tools print the same and end the same way, and
# each understands what the other changed. With `--smp 2` pools get a CPU; on one CPU they stay empty.
# limit_s: 600
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# same WORDS...: both tools print the same on stdout and end the same way.
same() {
	local xl_code xyl_code
	xl "$@" >"$scratch/xl.out" 2>"$scratch/xl.err"
	xl_code=$?
	xyl "$@" >"$scratch/xyl.out" 2>"$scratch/xyl.err"
	xyl_code=$?
	[ $xl_code = $xyl_code ] || fail "xl ended with $xl_code, xyl with $xyl_code: $* ($(cat "$scratch/xl.err" "$scratch/xyl.err"))"
	diff "$scratch/xl.out" "$scratch/xyl.out" || fail "xl and xyl differ: $*"
	echo "same: $*"
}

# The host gets its pool back, however the test ends.
pool=
put_back() {
	local cpu
	[ -z "$pool" ] || {
		xyl cpupool-migrate guest Pool-0
		xyl cpupool-destroy "$pool" || xl cpupool-destroy "$pool"
	}
	for ((cpu = 1; cpu < cpus; cpu++)); do
		xl cpupool-cpu-add Pool-0 $cpu
	done
	xl destroy guest
	rm -rf "$scratch"
} >/dev/null 2>&1
cpus=$(xl info | awk '/^nr_cpus/ { print $3 }')
trap put_back EXIT

testguest_cfg guest pvh 'memory = 32' >"$scratch/guest.cfg"
ok xyl create -q "$scratch/guest.cfg"
within 60 readies guest 1

# Lists of what nobody has, and domains that are not there.
for kind in channel vkb vtpm vdispl vsnd; do
	same $kind-list guest
	same $kind-list 0
	same $kind-list nobody
done
for words in 'pci-list guest' 'pci-list nobody' 'usb-list guest' pci-assignable-list sharing 'sharing guest' 'sharing nobody'; do
	# shellcheck disable=SC2086
	same $words
done

# A pool is made by each, and changed by the other.
same cpupool-list
same cpupool-list -c
same cpupool-list Pool-0
same cpupool-list nosuch
same cpupool-destroy Pool-0
same cpupool-destroy nosuch
same cpupool-rename nosuch other
same cpupool-migrate nobody Pool-0
same cpupool-migrate guest nosuch
same cpupool-migrate 0 Pool-0
same cpupool-cpu-add nosuch 0
same cpupool-cpu-remove Pool-0 0
same cpupool-cpu-add Pool-0 0
printf 'name = "fast"\nsched = "credit"\n' >"$scratch/fast.cfg"
same cpupool-create -n "$scratch/fast.cfg"
same cpupool-create -n 'name="other"'
same cpupool-create -n "$scratch/fast.cfg" 'sched="nosuch"'
same cpupool-create -n "$scratch/fast.cfg" 'cpus=[0]'
same cpupool-create "$scratch/no-such-file"
for maker in xyl xl; do
	other=xl
	[ $maker = xl ] && other=xyl
	ok $maker cpupool-create "$scratch/fast.cfg" >"$scratch/said"
	pool=fast
	same cpupool-list
	same cpupool-list fast
	refused . $other cpupool-create "$scratch/fast.cfg"
	# A pool without CPUs takes no domain.
	refused . xl cpupool-migrate guest fast
	refused 'has no CPUs' xyl cpupool-migrate guest fast
	if [ "$cpus" -gt 1 ]; then
		ok $maker cpupool-cpu-remove Pool-0 1
		same cpupool-list -c
		same info free_cpus
		ok $other cpupool-cpu-add fast 1
		same cpupool-list -c
		ok $maker cpupool-migrate guest fast
		same list -c
		same cpupool-destroy fast
		beat=$(beats guest)
		within 60 beats_beyond guest "$beat"
		ok $other cpupool-migrate guest Pool-0
		same list -c
	fi
	ok $other cpupool-rename fast faster
	pool=faster
	same cpupool-list -c
	xenstore-ls -f /local/pool
	ok $other cpupool-destroy faster
	pool=
	refused . xenstore-read /local/pool/1/name
	[ "$cpus" -gt 1 ] && ok $maker cpupool-cpu-add Pool-0 1
	same cpupool-list -c
done

# A create that dies leaves no pool without a name.
for delay in 0.005 0.02 0.05 0.1; do
	xyl cpupool-create "$scratch/fast.cfg" >/dev/null &
	pid=$!
	read -rt $delay -u "$never" || true
	kill_hard $pid
	wait $pid 2>/dev/null
	xyl cpupool-list --json | grep -q '"name": null' && fail 'a pool without a name'
	xyl cpupool-destroy fast 2>/dev/null || true
done
same cpupool-list

# On one node a split renames the pool alone.
if [ "$(xl info | awk '/^nr_nodes/ { print $3 }')" = 1 ]; then
	ok xyl cpupool-numa-split
	same cpupool-list -c
	matches '^Pool-node0 ' "$(xl cpupool-list)"
	ok xl cpupool-rename 0 Pool-0
	same cpupool-list -c
fi

# Xen's own settings.
# The log is not emptied: later tests read what it says of the boot.
presses() {
	xl dmesg | grep -c "'q' pressed"
}
before=$(presses)
ok xyl debug-keys q
equals $((before + 1)) "$(presses)"
for words in 'set-parameters guest_loglvl=all' 'set-parameters nosuchparameter=1'; do
	# shellcheck disable=SC2086
	same $words
done
ok xyl set-parameters 'guest_loglvl=none/warning'
xenhypfs cat /params/guest_loglvl 2>/dev/null && matches 'none/warning' "$(xenhypfs cat /params/guest_loglvl)"
matches 'Flask XSM Disabled' "$(xl getenforce)"
matches 'Flask XSM Disabled' "$(xyl getenforce)"
refused 'Flask' xyl setenforce 1
refused 'Flask' xyl loadpolicy "$scratch/fast.cfg"

# Abilities that this host lacks: the same words on stdout, and both fail.
for words in psr-hwinfo 'psr-hwinfo -a' 'psr-cmt-attach guest' 'psr-cmt-show cache-occupancy' psr-cat-show 'psr-cat-set guest 0xff' \
	psr-mba-show 'psr-mba-set guest 50' 'sched-rtds -d guest -p 10000 -b 4000'; do
	# shellcheck disable=SC2086
	xl $words >"$scratch/xl.out" 2>/dev/null && fail "xl can: $words"
	# shellcheck disable=SC2086
	xyl $words >"$scratch/xyl.out" 2>/dev/null
	equals 1 $?
	diff "$scratch/xl.out" "$scratch/xyl.out" || fail "xl and xyl differ: $words"
done
same psr-hwinfo -m
same sched-rtds

# What Xyl lacks changes nothing and ends with 1.
for words in 'pci-attach guest 00:1f.0' 'pci-assignable-add 00:03.0' 'usbctrl-attach guest' 'vtpm-attach guest' 'vkb-attach guest backend-type=qemu'; do
	# shellcheck disable=SC2086
	xyl $words >/dev/null 2>&1
	equals 1 $?
done
ok xyl destroy guest
