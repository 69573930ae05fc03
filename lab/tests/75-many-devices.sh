# Guests with two devices each, a disk and a network interface: created, rebooted and destroyed at once, while processes of Xyl, QEMUs that
# serve disks, and hot-plug scripts are killed at random moments. Each guest comes back with its devices, and nothing is left. A soak has
# 50 guests, a run 8. Of each four one has an image in qcow2, and one an interface with a script.
# limit_s: 900
# xen: any
. /xyl-lab/lab/lib.sh
. /xyl-lab/lab/images.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-blkback xen-netback bridge loop || fail 'no drivers'

nr_guests=$([ "$LAB_SOAK" = 1 ] && echo 50 || echo 8)
RANDOM=${SEED:=$((LAB_SEED % 32768))}
echo "SEED=$SEED, $nr_guests guests"
names=$(seq -f 'many%g' "$nr_guests")
images=/var/tmp/xyl-many
script=/etc/xen/scripts/xyl-many
mkdir -p $images
printf '%s\n' '#!/bin/bash' 'exec /etc/xen/scripts/vif-bridge "$@"' >$script
chmod 755 $script
has_qemu=
[ -x /usr/libexec/xen-qemu-system-i386 ] && has_qemu=1
tidy_up() {
	# Shown if the test has failed.
	tail -n 4 /var/log/xen/xyl-many*.log 2>/dev/null | cut -c1-400
	ip link del xenbr0 2>/dev/null
	rm -rf "$scratch" $images $script
}
trap tidy_up EXIT

has_qdisk() {
	[ -n "$has_qemu" ] && [ $((${1#many} % 4)) -eq 0 ]
}
config() {
	local type=pvh format=raw script=
	[ $((${1#many} % 2)) -eq 0 ] && type=pv
	[ $((${1#many} % 4)) -eq 1 ] && script=,script=xyl-many
	if has_qdisk "$1"; then
		format=qcow2
		make_image qcow2 "$images/$1.img"
	else
		truncate -s 1M "$images/$1.img"
	fi
	testguest_cfg "$1" $type 'memory = 16' 'cmdline = "heartbeat_ms=500"' "disk = [ '$images/$1.img,$format,xvda,rw' ]" \
		"vif = [ 'bridge=xenbr0$script' ]" >"$scratch/$1.cfg"
}
nr_loops=0
for name in $names; do
	config "$name"
	has_qdisk "$name" || nr_loops=$((nr_loops + 1))
done
# disk_of NAME / network_of NAME: whether blkback or QEMU has the guest's image, and whether its interface is a port of the bridge.
disk_of() {
	if has_qdisk "$1"; then
		[ -n "$(qemus "$(domid_of "$1")")" ]
		return
	fi
	[ -e "/sys/bus/xen-backend/devices/vbd-$(domid_of "$1")-51712/physical_device" ]
}
network_of() {
	[ -e "/sys/class/net/xenbr0/brif/vif$(domid_of "$1").0" ]
}
runs_whole() {
	readies "$1" "${2:-1}" && disk_of "$1" && network_of "$1"
}
ports() {
	ls /sys/class/net/xenbr0/brif | wc -l
}
loops() {
	losetup -n -O BACK-FILE | grep -c "^$images/"
}
# at_random: waits until a random moment within 300 ms.
at_random() {
	local moment_s
	printf -v moment_s '0.%03d' $((RANDOM % 300))
	read -rt "$moment_s" -u "$never"
}
# a_victim: the process ID of some process of Xyl, of a QEMU, or of a script, if there is any.
a_victim() {
	{ pgrep -x xyl; pgrep -f -- '-xen-domid [0-9]+ '; pgrep -f "$script |vif-bridge "; } | shuf -n 1 --random-source=<(while :; do echo "$RANDOM"; done)
}
# kill_some NUMBER: kills so many processes of Xyl at random moments.
kill_some() {
	local victim round
	for round in $(seq "$1"); do
		at_random
		victim=$(a_victim) && [ -n "$victim" ] && kill_hard "$victim"
	done
	return 0
}
# mended: what dead processes have left is finished, and each guest has a process that watches over it. What a slow backend holds up
# is reported, and the next try finishes it.
mended() {
	xyl recover >"$scratch/recover.log" 2>&1 && return
	cat "$scratch/recover.log"
	return 1
}
# no_restart: no guest is between two domains. A destroy then would keep its configuration, as for a restart that is given up.
no_restart() {
	[ "$(xyl list --states | grep -c '^many.* running$')" -ge "$nr_guests" ]
}

ip link add xenbr0 type bridge || fail 'no bridge'
ip link set xenbr0 up
traces >before

echo 'all are created at once'
for name in $names; do
	xyl create -q "$scratch/$name.cfg" >"$scratch/$name.log" 2>&1 &
done
kill_some 6
wait
within 60 mended
for name in $names; do
	domid_of "$name" >/dev/null || ok xyl create -q "$scratch/$name.cfg"
done
# reboots_whole NAME: a guest whose QEMU was killed has its disk again after a reboot.
reboots_whole() {
	disk_of "$1" || ok xyl reboot -w --timeout 120 "$1"
}
for name in $names; do
	within 60 readies "$name" 1
	reboots_whole "$name"
	within 60 runs_whole "$name"
done
equals "$nr_guests" "$(ports)"
equals "$nr_loops" "$(loops)"

echo 'all reboot at once'
for name in $names; do
	xyl reboot "$name" >"$scratch/$name.log" 2>&1 &
done
kill_some 6
wait
within 60 mended
for name in $names; do
	# Whoever was killed before it asked, asks again.
	readies "$name" 2 || ok xyl reboot -w --timeout 120 "$name"
done
within 60 no_restart
for name in $names; do
	within 60 readies "$name" 2
	reboots_whole "$name"
	within 60 runs_whole "$name" 2
done
within 20 eval '[ "$(ports)" -eq "$nr_guests" ] && [ "$(loops)" -eq "$nr_loops" ]'

echo 'all are destroyed at once'
for name in $names; do
	xyl destroy "$name" >"$scratch/$name.log" 2>&1 &
done
kill_some 6
wait
within 60 mended
for name in $names; do
	domain_gone "$name" || ok xyl destroy "$name"
done
within 20 no_qemu
within 20 eval '[ "$(ports)" -eq 0 ] && [ "$(loops)" -eq 0 ]'
ok xyl fsck
leaves_nothing before
