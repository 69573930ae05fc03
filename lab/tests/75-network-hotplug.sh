# Network interfaces of running PV and PVH guests: attached, pinged in both directions, detached, attached again; a restart keeps them and
# a destroy leaves nothing. The first one is attached though the VM's monitor began without the right to the host's network. xl lists
# and detaches what Xyl has attached, and Xyl what xl has; the nodes are those of xl. The times of both are printed.
# limit_s: 1500
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-netback bridge || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'

# An initramfs with the frontend's driver. Its init serves eth0: whenever that comes, it gets the address of the command line, pings
# domain 0 and tells. It restarts the guest once 10.99.0.250 answers too.
tree=$scratch/tree
guest_tree "$tree" xen-netfront
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
ip=$(sed -n 's/.*guest-ip=\([0-9.]*\).*/\1/p' /proc/cmdline)
echo "XYL-GUEST-UP"
number=0
while :; do
	until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
	number=$((number + 1))
	ifconfig eth0 "$ip" netmask 255.255.255.0 up
	echo "XYL-PLUGGED $number mac=$(cat /sys/class/net/eth0/address)"
	while [ -e /sys/class/net/eth0 ]; do
		ping -c 1 -W 1 10.99.0.1 >/dev/null 2>&1 && echo "XYL-PINGED $number" && break
	done
	while [ -e /sys/class/net/eth0 ]; do
		ping -c 1 -W 1 10.99.0.250 >/dev/null 2>&1 && reboot -f
		sleep 0.1
	done
	echo "XYL-UNPLUGGED $number"
done
INIT
pack_tree "$tree" initrd

net_cfg() {
	linux_cfg "$1" "$2" | sed "s#^ramdisk.*#ramdisk = \"$scratch/initrd\"#; s#quiet#quiet guest-ip=$3#"
}
# ends: the ends of guests' interfaces on the host.
ends() {
	ip -o link show | grep -oE ' vif[^:@]*|xyl-hot' | tr -d ' ' | sort | xargs
}
no_ends() {
	[ -z "$(ends)" ]
}
# is_port LINK: whether it is a port of the bridge, and up.
is_port() {
	[ -e "/sys/class/net/xenbr0/brif/$1" ] && ip -o link show dev "$1" | grep -q '[<,]UP[,>]'
}
# devids TOOL NAME: the numbers of a domain's interfaces, as a toolstack lists them.
devids() {
	"$1" network-list "$2" | awk 'NR > 1 { print $1 }' | sort | xargs
}
has_devids() {
	[ "$(devids "$1" "$2")" = "$3" ]
}
# plugged NAME NUMBER: whether the guest has reached domain 0 so many times. unplugged NAME NUMBER: whether it has lost it so often.
plugged() {
	console_says "$1" "XYL-PINGED $2"
}
unplugged() {
	console_says "$1" "XYL-UNPLUGGED $2"
}
mac_in_guest() {
	grep -aoE 'XYL-PLUGGED .*' "$consoles/guest-$1.log" | tail -n 1 | tr -d '\r' | sed 's/.*mac=//'
}
# vif_nodes DOMID DEVID: the names and values of its nodes, with the numbers taken out.
vif_nodes() {
	xenstore-ls -f | grep -E "^/(local/domain/0/backend/vif/$1|local/domain/$1/device/vif|libxl/$1/device/vif)/$2/" |
		sed "s#/$1/#/D/#g; s#/vif/D/$2\"#/vif/D/N\"#; s#/vif/$2\"#/vif/N\"#; s#/vif/D/$2/#/vif/D/N/#; s#/vif/$2/#/vif/N/#" | sort
}
# queue_of NAME: makes the domain's queue of requests, whose folder stays.
queue_of() {
	ok xyl vcpu-set "$1" 1
}
# timed NAME COMMAND...: runs a command, which must succeed, and prints its time.
timed() {
	local name=$1 begun
	shift
	begun=$(date +%s%N)
	ok "$@"
	echo "TIME $name: $((($(date +%s%N) - begun) / 1000000)) ms"
}
# keeps_right PID: whether a process has CAP_NET_ADMIN (bit 12).
keeps_right() {
	[ $((0x$(awk '/^CapEff/ { print $2 }' "/proc/$1/status") >> 12 & 1)) = 1 ]
}

# shape: the traces without the numbers of processes: a monitor without the right to the network is replaced, others are killed.
shape() {
	traces | sed -E 's/^process [0-9]+ /process /' | sort
}
is_shape() {
	shape | diff "$1" -
}

trap 'ip link del xenbr0 2>/dev/null; rm -rf "$scratch"' EXIT
ip link add xenbr0 type bridge || fail 'no bridge'
ip addr add 10.99.0.1/24 dev xenbr0
ip link set xenbr0 up
traces >before

n=10
for type in $(guest_types); do
	n=$((n + 1))
	echo "a $type guest without an interface"
	net_cfg $type $type 10.99.0.$n >$type.cfg
	ok xyl create -q $type.cfg
	domid=$(domid_of $type)
	within 240 console_says $type XYL-GUEST-UP
	queue_of $type
	shape >without-$type
	first=$(monitors $type)
	keeps_right "$first" && fail 'its monitor has a right that it does not need'

	echo 'the first interface: the next monitor has the right'
	timed "xyl network-attach of the first, $type" xyl network-attach $type
	equals 0 "$(devids xyl $type)"
	equals 0 "$(devids xl $type)"
	within 30 is_port "vif$domid.0"
	within 120 plugged $type 1
	ok busybox ping -c 3 -W 10 10.99.0.$n
	within 30 gone "$first"
	within 30 test -n "$(monitors $type)"
	keeps_right "$(monitors $type)" || fail 'the next monitor lacks the right'
	mac=$(mac_in_guest $type)
	matches '^00:16:3e:' "$mac"
	matches "\"mac\": \"$mac\"" "$(xl list -l $type)"
	equals "$(xl network-list $type | awk '{ $1 = $1; print }')" "$(xyl network-list $type | awk '{ $1 = $1; print }')"
	refused "has vif 0 already" xyl network-attach $type devid=0
	refused 'the VM has an interface with the address' xyl network-attach $type "mac=$mac"
	refused 'xyl-none is not there' xyl network-attach $type bridge=xyl-none
	equals '"no-such-device"' "$(xyl --json network-detach $type 7 2>&1 | grep -o '"no-such-device"' | head -n 1)"

	echo 'detached by its address, and attached again with the same one'
	timed "xyl network-detach, $type" xyl network-detach $type "$mac"
	within 60 unplugged $type 1
	within 20 no_ends
	equals '' "$(devids xl $type)"
	within 20 is_shape without-$type
	timed "xyl network-attach, $type" xyl network-attach $type bridge=xenbr0 vifname=xyl-hot,rate=10Mb/s mtu=1400
	within 120 plugged $type 2
	equals "$mac" "$(mac_in_guest $type)"
	equals xyl-hot "$(ends)"
	is_port xyl-hot || fail 'xyl-hot is no port of the bridge'
	equals '62500,50000' "$(xenstore-read "/local/domain/0/backend/vif/$domid/0/rate")"

	echo 'xl detaches it, and attaches one'
	ok xl network-detach $type 0
	within 60 unplugged $type 2
	within 20 no_ends
	timed "xl network-attach, $type" xl network-attach $type mac=00:16:3e:00:00:77
	within 120 plugged $type 3
	vif_nodes "$domid" 0 >xl.nodes
	timed "xl network-detach, $type" xl network-detach $type 0
	within 60 unplugged $type 3
	within 20 no_ends
	ok xyl network-attach $type mac=00:16:3e:00:00:77
	within 120 plugged $type 4
	vif_nodes "$domid" 0 >xyl.nodes
	ok xyl network-detach $type 00:16:3e:00:00:77
	within 60 unplugged $type 4
	within 20 no_ends
	ok xl network-attach $type mac=00:16:3e:00:00:78
	within 120 plugged $type 5
	ok xyl network-detach $type 0
	within 60 unplugged $type 5
	within 20 no_ends
	within 20 is_shape without-$type

	echo 'the nodes are those of xl'
	# The backend's nodes that nothing reads in the copy are not written to it. Those of the drivers come when they come.
	ours() { grep -E '/(mac|bridge|handle|script|type|mtu|trusted|backend|backend-id|frontend|frontend-id|vifname|ip|gatewaydev|rate) = ' "$1"; }
	equals "$(ours xl.nodes | grep -v '^/libxl/D/device/vif/N/frontend-id')" "$(ours xyl.nodes)"

	echo 'two at once get two numbers'
	for i in 1 2; do xyl network-attach $type >two.$i 2>&1 & done
	wait
	within 30 has_devids xyl $type '0 1'
	ok xyl network-detach $type 1
	ok xyl network-detach $type 0
	within 60 unplugged $type 6
	within 20 no_ends
	within 20 is_shape without-$type

	echo 'a restart keeps the interface'
	ok xyl network-attach $type
	within 120 plugged $type 7
	ip addr add 10.99.0.250/24 dev xenbr0
	within 240 other_domid $type "$domid"
	ip addr del 10.99.0.250/24 dev xenbr0
	within 240 has_devids xyl $type 0
	rebooted() { [ "$(grep -ac 'XYL-PINGED 1' "$consoles/guest-$type.log")" -ge 2 ]; }
	within 240 rebooted
	equals "$mac" "$(mac_in_guest $type)"
	ok xyl destroy $type
	within 20 no_ends
	leaves_nothing before
done

echo 'a guest that does not answer loses it after its time'
testguest_cfg mute pvh >mute.cfg
ok xyl create -q -p mute.cfg
queue_of mute
shape >without
ok xyl network-attach mute
within 30 is_port "vif$(domid_of mute).0"
timed 'xyl network-detach from a paused guest' xyl network-detach mute 0
within 20 no_ends
within 20 is_shape without

echo 'killed while it is attached or detached: the command, and the monitor'
for n in $(seq 12); do
	case $((n % 2)) in
	1) xyl network-attach mute devid=3 >/dev/null 2>&1 & ;;
	0) xyl network-detach mute 3 >/dev/null 2>&1 & ;;
	esac
	pid=$!
	read -rt "0.$((RANDOM % 5))$((RANDOM % 9))" -u "$never"
	[ $((n % 4)) -lt 2 ] || pid=$(monitors mute)
	[ -z "$pid" ] || kill_hard "$pid"
	wait 2>/dev/null
	ok xyl recover
	xyl network-list mute >/dev/null || fail 'no list'
done
xyl network-detach mute 3 >/dev/null 2>&1
within 20 no_ends
within 20 is_shape without
ok xyl destroy mute
leaves_nothing before

echo "a guest of xl's, before and after it is adopted"
testguest_cfg adopted pv >adopted.cfg
ok xl create -q adopted.cfg
for round in xl xyl; do
	ok xyl network-attach adopted
	equals 0 "$(devids xl adopted)"
	matches '"nics"' "$(xl list -l adopted)"
	ok xyl network-detach adopted 0
	within 20 no_ends
	equals '' "$(devids xl adopted)"
	[ $round = xyl ] || ok xyl adopt adopted
done
ok xyl destroy adopted
leaves_nothing before
