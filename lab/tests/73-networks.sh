# Network interfaces of PV and PVH guests: ports of a bridge in domain 0. A guest answers a ping; a restart keeps address and network;
# a destroy leaves no interface; what cannot be had is refused before anything is built. The nodes are those of xl but for what is
# listed here.
# limit_s: 1500
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-netback bridge || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'

# An initramfs with the frontend's driver. Its init gives the interface the address of the command line (`guest-ip=`) and says its
# MAC (Linux does not look at the node `mtu`); `rebooting` on the command line restarts the guest once it has been up.
tree=$scratch/tree
guest_tree "$tree" xen-netfront
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /sys/class/net/eth0
ip=$(sed -n 's/.*guest-ip=\([0-9.]*\).*/\1/p' /proc/cmdline)
ifconfig eth0 "$ip" netmask 255.255.255.0 up
echo "XYL-NET mac=$(cat /sys/class/net/eth0/address)"
for tries in $(seq 100); do
	ping -c 1 -W 1 10.99.0.1 >/dev/null 2>&1 && echo XYL-PINGED && break
done
echo "XYL-GUEST-UP"
if grep -q rebooting /proc/cmdline; then
	for tries in $(seq 600); do
		grep -q "$ip" /proc/net/arp && break
		sleep 0.1
	done
	sleep 5
	reboot -f
fi
while :; do setsid -c /bin/sh </dev/hvc0 >/dev/hvc0 2>&1; done
INIT
pack_tree "$tree" initrd

# net_cfg NAME TYPE IP VIF [WORD...]: a guest with one interface; the words are added to its command line.
net_cfg() {
	linux_cfg "$1" "$2" | sed "s#^ramdisk.*#ramdisk = \"$scratch/initrd\"#; s#quiet#quiet guest-ip=$3 ${*:5}#"
	echo "vif = [ '$4' ]"
}
# links: the names of all interfaces of guests, and of all ports of the bridge.
links() {
	(ip -o link show | grep -oE ' (vif|xyl-)[^:@]*' | tr -d ' '; ls /sys/class/net/xenbr0/brif) 2>/dev/null | grep -v ^xyl-other | sort -u | xargs
}
no_links() {
	[ -z "$(links)" ]
}
link_value() {
	cat "/sys/class/net/$1/$2"
}
# vif_nodes DOMID: the nodes of its interfaces, with the domain's number taken out.
vif_nodes() {
	xenstore-ls -f | grep -E "^/(local/domain/0/backend/vif/$1|local/domain/$1/device/vif|libxl/$1/device/vif)/" |
		sed "s#/$1/#/D/#g" | sort
}

trap 'ip link del xenbr0 2>/dev/null; ip link del xyl-other 2>/dev/null; rm -rf "$scratch"' EXIT

echo 'without its bridge nothing is built'
traces >before
testguest_cfg lost pvh "vif = [ '' ]" >lost.cfg
refused 'vif 0: xenbr0 is not there' xyl create -q lost.cfg
equals '"network"' "$(xyl create --json -q lost.cfg 2>&1 | grep -o '"network"' | head -n 1)"
leaves_nothing before

ip link add xenbr0 type bridge || fail 'no bridge'
ip link add xyl-other type dummy || ip link add xyl-other type bridge
ip addr add 10.99.0.1/24 dev xenbr0
ip link set xenbr0 mtu 1400
ip link set xenbr0 up
traces >before

echo 'what Xyl does not do is refused by its name'
for spec in script=xyl-none backend=net vlan=10p type=ioemu bridge=xyl-none vifname=xyl-other; do
	testguest_cfg lost pvh "vif = [ '$spec' ]" >lost.cfg
	refused "${spec#*=}" xyl create -q lost.cfg
done
testguest_cfg lost pvh "vif = [ 'mac=00:16:3e:00:00:01', 'mac=00:16:3e:00:00:01' ]" >lost.cfg
refused 'two interfaces have the address' xyl create -q lost.cfg
leaves_nothing before
no_links || fail "left: $(links)"

n=10
for type in $(guest_types); do
	echo "a $type guest"
	n=$((n + 1))
	net_cfg $type $type 10.99.0.$n 'mac=00:16:3e:00:00:01' >$type.cfg
	ok xyl create -q $type.cfg
	domid=$(domid_of $type)
	link=vif$domid.0
	equals "$link" "$(links)"
	equals fe:ff:ff:ff:ff:ff "$(link_value "$link" address)"
	equals 1400 "$(link_value "$link" mtu)"
	equals '' "$(ip -6 -o addr show dev "$link")"
	within 240 console_says $type XYL-GUEST-UP
	equals 1400 "$(xenstore-read "/local/domain/$domid/device/vif/0/mtu")"
	console_says $type 'XYL-NET mac=00:16:3e:00:00:01' || fail "$(grep -a XYL-NET "$consoles/guest-$type.log")"
	console_says $type XYL-PINGED || fail 'the guest gets no answer'
	ok busybox ping -c 3 -W 5 10.99.0.$n
	equals '4 4' "$(xenstore-read "/local/domain/0/backend/vif/$domid/0/state" "/local/domain/$domid/device/vif/0/state" | xargs)"
	matches '"mac": "00:16:3e:00:00:01"' "$(xl list -l $type)"
	# What domain 0's end has sent, the guest has received.
	sent=$(link_value "$link" statistics/tx_bytes)
	received=$(metric xen_domain_network_receive_bytes_total $type ',device="0"')
	[ "$sent" -gt 0 ] && [ "$sent" -le "$received" ] && [ "$received" -le "$(link_value "$link" statistics/tx_bytes)" ] ||
		fail "the guest has received $received bytes, and $sent were sent before"
	equals "$(xl network-list $type | awk '{ $1 = $1; print }')" "$(xyl network-list $type | awk '{ $1 = $1; print }')"
	ok xyl destroy $type
	no_links || fail "left: $(links)"
	leaves_nothing before
done

echo 'a restart keeps address and network, and the name of the interface'
net_cfg again pvh 10.99.0.20 'vifname=xyl-again,rate=10Mb/s,mtu=1300' rebooting >again.cfg
ok xyl create -q again.cfg
first=$(domid_of again)
equals xyl-again "$(links)"
equals '62500,50000' "$(xenstore-read "/local/domain/0/backend/vif/$first/0/rate")"
within 240 console_says again XYL-GUEST-UP
within 240 other_domid again "$first"
second() { [ "$(grep -ac XYL-PINGED "$consoles/guest-again.log")" -ge 2 ]; }
within 240 second
equals xyl-again "$(links)"
equals 1 "$(grep -a XYL-NET "$consoles/guest-again.log" | tr -d '\r' | sort -u | wc -l)"
console_says again 'XYL-NET mac=00:16:3e:' || fail "$(grep -a XYL-NET "$consoles/guest-again.log")"
equals 1300 "$(link_value xyl-again mtu)"
ok xyl destroy again
no_links || fail "left: $(links)"
leaves_nothing before

echo 'killed while the interface is attached'
net_cfg killed pv 10.99.0.30 'vifname=xyl-killed' >killed.cfg
for n in $(seq 6); do
	xyl create -q killed.cfg >/dev/null 2>&1 &
	pid=$!
	read -rt "0.$((RANDOM % 9))$((RANDOM % 9))" -u "$never"
	kill_hard $pid
	wait $pid 2>/dev/null
	ok xyl recover
	xyl destroy killed >/dev/null 2>&1
	within 10 no_links
	leaves_nothing before
done

echo 'each toolstack takes down what the other has made'
net_cfg mixed pv 10.99.0.40 'mac=00:16:3e:00:00:02' >mixed.cfg
ok xl create -q mixed.cfg
domid=$(domid_of mixed)
equals "vif$domid.0" "$(links)"
vif_nodes "$domid" >xl.nodes
record_of mixed nics >xl.record
xl network-list mixed | tail -n +2 | awk '{ $1 = $1; print }' >xl.list
xyl network-list mixed | tail -n +2 | awk '{ $1 = $1; print }' >xyl.list
equals "$(cat xl.list)" "$(cat xyl.list)"
ok xyl adopt mixed
ok xyl destroy mixed
within 10 no_links
leaves_nothing before
ok xyl create -q mixed.cfg
domid=$(domid_of mixed)
vif_nodes "$domid" >xyl.nodes
record_of mixed nics >xyl.record
ok xl destroy mixed
within 10 no_links
xyl recover >/dev/null 2>&1
leaves_nothing before

echo 'the nodes are those of xl, but for these'
# Not written to the copy, since nothing reads them there: what is in the backend alone (frontend-id, online, state, hotplug-status).
sed 's# = .*##' xl.nodes | sort -u >xl.names
sed 's# = .*##' xyl.nodes | sort -u >xyl.names
comm -13 xl.names xyl.names >only.xyl
comm -23 xl.names xyl.names >only.xl
cat only.xl
equals '' "$(cat only.xyl)"
equals '' "$(grep -vE '^/libxl/D/device/vif/0/(frontend-id|online|state|hotplug-status)$|/feature-[^/]*$|/multi-queue-max-queues$|/(tx|rx)-ring-ref$|/event-channel|/request-rx-copy$|^/local/domain/D/device/vif/0/feature' only.xl)"
# The copy's frontend-id is not written, see above.
same_values() { grep -E '/(mac|bridge|handle|script|type|mtu|trusted|backend|backend-id|frontend|frontend-id) = ' "$1" | grep -v '^/libxl/.*/frontend-id ' | sed 's#/frontend-id = .*#/frontend-id = D#; s#/D"#"#; s#vif/[0-9]*/#vif/N/#; s#domain/[1-9][0-9]*/#domain/N/#g' | sort -u; }
equals "$(same_values xl.nodes)" "$(same_values xyl.nodes)"
# Xyl says what it has chosen; xl keeps what was asked for.
equals 'bridge nictype script trusted' "$(differing xl.record xyl.record)"
