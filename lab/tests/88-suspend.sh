# Guests are suspended and resumed: the test guest as PVH and PV, and Linux with a disk and a network interface, which it uses afterwards.
# That guest is also saved and restored, and uses both again.
# limit_s: 600
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-blkback xen-netback bridge loop || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
trap 'ip link del xenbr0 2>/dev/null; rm -rf "$scratch"' EXIT

state_is() {
	[ "$(domain_state "$1")" = "$2" ]
}
traces >before
for type in pvh pv; do
	echo "the test guest as $type"
	testguest_cfg "calm-$type" $type 'memory = 16' 'cmdline = "heartbeat_ms=100"' >$type.cfg
	ok xyl create -q $type.cfg
	within 20 readies "calm-$type" 1
	monitor=$(monitors "calm-$type")
	ok xyl suspend "calm-$type"
	matches s "$(xyl list "calm-$type" | awk 'END { print $5 }')"
	equals suspended "$(xyl list --json "calm-$type" | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["vm_state"])')"
	# A second one has nothing to do.
	ok xyl suspend "calm-$type"
	beat=$(beats "calm-$type")
	ok xyl resume "calm-$type"
	within 20 console_says "calm-$type" 'testguest: resumed 1, cancelled'
	within 20 beats_beyond "calm-$type" "$beat"
	equals "$monitor" "$(monitors "calm-$type")"
	# xenstored reports the end of a domain that was resumed, so its monitor sees it.
	tell "calm-$type" 'shutdown poweroff'
	within 20 domain_gone "calm-$type"
done

echo 'a guest that is paused'
ok xyl create -q -p pvh.cfg
refused 'paused' xyl suspend calm-pvh
ok xyl destroy calm-pvh

echo 'Linux with a disk and a network interface'
ip link add xenbr0 type bridge && ip addr add 10.99.0.1/24 dev xenbr0 && ip link set xenbr0 up
tree=$scratch/tree
guest_tree "$tree" xen-blkfront xen-netfront
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/xvda /sys/class/net/eth0
ifconfig eth0 10.99.0.2 netmask 255.255.255.0 up
echo XYL-GUEST-UP
n=0
while :; do
	n=$((n + 1))
	echo "count $n" | dd of=/dev/xvda bs=512 conv=sync,notrunc oflag=direct 2>/dev/null
	read -rt 1 line </dev/null || sleep 1
done
INIT
pack_tree "$tree" initrd
truncate -s 1M disk.img
linux_cfg linux pvh | sed "s#^ramdisk.*#ramdisk = \"$scratch/initrd\"#; s/^memory.*/memory = 160/" >linux.cfg
printf '%s\n' "disk = [ '$scratch/disk.img,raw,xvda,rw' ]" "vif = [ 'bridge=xenbr0' ]" >>linux.cfg
ok xyl create -q linux.cfg
within 240 console_says linux XYL-GUEST-UP
mark() {
	head -c 512 disk.img | tr -d '\000' | head -n 1
}
changes() {
	[ "$(mark)" != "$1" ]
}
within 20 changes ''
within 20 busybox ping -c 1 -W 1 10.99.0.2
ok xyl suspend linux
matches s "$(domain_state linux)"
seen=$(mark)
busybox ping -c 1 -W 1 10.99.0.2 && fail 'a suspended guest answers'
equals "$seen" "$(mark)"
ok xyl resume linux
within 20 changes "$seen"
within 20 busybox ping -c 1 -W 1 10.99.0.2

echo 'it is saved and restored'
ok xyl save linux image
ok domain_gone linux
equals '' "$(losetup -n -O NAME -j disk.img)"
equals '' "$(ls /sys/class/net/xenbr0/brif)"
seen=$(mark)
ok xyl restore image
within 30 changes "$seen"
within 30 busybox ping -c 1 -W 1 10.99.0.2
rm image
ok xyl destroy linux
ip link del xenbr0
leaves_nothing before
