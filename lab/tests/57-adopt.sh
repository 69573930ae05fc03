# xyl adopt takes over a domain of xl's: the guest sees nothing of it, xl's process is gone, ours restarts and ends it.
# limit_s: 400
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# start NAME TYPE LINE...: a test guest made by xl, ready.
start() {
	testguest_cfg "$1" "$2" 'memory = 32' 'cmdline = "heartbeat_ms=100"' "${@:3}" >"$scratch/$1.cfg"
	ok xl create -q "$scratch/$1.cfg"
	within 20 readies "$1" 1
}
xls_of() {
	pgrep -f "xl create -q $scratch/$1.cfg"
}
no_xls_of() {
	! xls_of "$1" >/dev/null
}
monitors_of() {
	pgrep -fc "monitor [0-9]+ $1"
}
beats() {
	xenstore-read "/local/domain/$1/data/heartbeat" 2>/dev/null || echo 0
}
has_beaten_since() {
	[ "$(beats "$1")" -gt "$2" ]
}

traces >"$scratch/before"
for type in pv pvh; do
	name=theirs-$type
	start $name $type 'vcpus = 1' 'maxvcpus = 2' 'on_crash = "preserve"'
	domid=$(domid_of $name)
	uuid=$(uuid_of $name)
	within 5 xls_of $name
	before=$(beats "$domid")
	told=$(xyl adopt $name 2>&1) || fail "not adopted: $told"
	echo "$told"
	matches "domain $domid is Xyl's now; the process of xl that waited for its end \([0-9]+\) was ended" "$told"
	no_xls_of $name || fail "xl's process is there still"
	within 5 eval '[ "$(monitors_of "$uuid")" = 1 ]'
	within 10 has_beaten_since "$domid" "$before"
	echo "the record: $(tr '\n' ';' <"/var/lib/xyl/vm/$uuid/config.cfg")"
	# Twice is once.
	matches "Xyl's already, and has a monitor" "$(xyl adopt $name 2>&1)"
	within 5 eval '[ "$(monitors_of "$uuid")" = 1 ]'
	ok xyl fsck

	# A reboot: the same VM again, by our monitor.
	tell $name 'shutdown reboot'
	within 30 other_domid $name "$domid"
	within 20 readies $name 2
	equals "$uuid" "$(uuid_of $name)"
	matches "^$name +[0-9]+ +32 +1" "$(xl list $name)"
	matches '"max_vcpus": 2' "$(xl list -l $name)"
	# A power-off: gone, and nothing is left.
	tell $name 'shutdown poweroff'
	within 20 domain_gone $name
	leaves_nothing "$scratch/before"
done

echo 'with a disk and an interface, which come again after a reboot'
modprobe -a xen-blkback xen-netback bridge loop || fail 'no drivers'
ip link add xenbr0 type bridge || fail 'no bridge'
ip link set xenbr0 up
truncate -s 1M "$scratch/disk.img"
start devices pvh "disk = [ '$scratch/disk.img,raw,xvda,rw' ]" "vif = [ 'bridge=xenbr0' ]"
devices_of() {
	echo "$(losetup -n -O NAME -j "$scratch/disk.img" | wc -l) $(ls /sys/class/net/xenbr0/brif | grep -c "^vif$1.0$")"
}
has_devices() {
	[ "$(devices_of "$1")" = '1 1' ]
}
first=$(domid_of devices)
ok xyl adopt devices 2>/dev/null
equals '1 1' "$(devices_of "$first")"
mac=$(xyl network-list devices | awk 'NR > 1 { print $3 }')
tell devices 'shutdown reboot'
within 30 other_domid devices "$first"
within 20 readies devices 2
within 10 has_devices "$(domid_of devices)"
equals "$mac" "$(xyl network-list devices | awk 'NR > 1 { print $3 }')"
ok xyl destroy devices
equals '0 0' "$(devices_of "$first")"
ip link del xenbr0
leaves_nothing "$scratch/before"

echo 'one that xl still manages'
start managed pvh
ok xyl adopt managed 2>/dev/null
ok xl pause managed
ok xl unpause managed
ok xl destroy managed
leaves_nothing "$scratch/before"

echo 'one that lost its monitor, and one without any'
start lost pvh
ok xyl adopt lost 2>/dev/null
uuid=$(uuid_of lost)
pkill -KILL -f "monitor [0-9]+ $uuid"
matches 'has a new monitor|its monitor had died' "$(xyl adopt lost 2>&1)"
within 5 eval '[ "$(monitors_of "$uuid")" = 1 ]'
ok xyl destroy lost
start orphan pvh
pkill -KILL -f "xl create -q $scratch/orphan.cfg"
matches 'no process of xl waited for its end' "$(xyl adopt orphan 2>&1)"
first=$(domid_of orphan)
tell orphan 'shutdown reboot'
within 30 other_domid orphan "$first"
ok xyl destroy orphan
leaves_nothing "$scratch/before"

echo "Xyl's own"
printf '%s\n' 'name = "own"' 'type = "pvh"' "kernel = \"$guests/testguest\"" 'memory = 16' >"$scratch/own.cfg"
ok xyl create -q "$scratch/own.cfg"
matches "Xyl's already" "$(xyl adopt own 2>&1)"
ok xyl destroy own

echo 'what is refused'
refused 'no domain' xyl adopt nobody
refused 'control domain' xyl adopt 0
start disk pvh
domid=$(domid_of disk)
ok xenstore-write "/libxl/$domid/device/vbd/51712/frontend" x
refused "domain $domid is not adopted: it has vbd 51712" xyl adopt disk
ok xls_of disk
[ ! -e "/var/lib/xyl/vm/$(uuid_of disk)" ] || fail 'a record of one that was refused'
ok xenstore-rm "/libxl/$domid/device/vbd"
json=$(ls /var/lib/xen/userdata-d."$domid".*.libxl-json)
cp "$json" "$scratch/json"
python3 - "$json" <<'END'
import json, sys
# libxl may end the file with a NUL.
record = json.JSONDecoder().raw_decode(open(sys.argv[1]).read().lstrip())[0]
record["usbctrls"] = [{"devid": 0}]
record["b_info"]["irqs"] = [5]
json.dump(record, open(sys.argv[1], "w"))
END
refused '`irqs`.*`usbctrl|`usbctrl.*`irqs`' xyl adopt disk
cp "$scratch/json" "$json"
ok xl destroy disk
leaves_nothing "$scratch/before"

echo 'in the shim, and what the policy does not want'
start shimmed pvh 'pvshim = 1' "$(shim_needs)"
ok xyl adopt shimmed 2>/dev/null
matches 'shimmed .*: allowed' "$(xyl explain shimmed)"
matches '^  pv-shim +shimmed \(' "$(xyl audit)"
first=$(domid_of shimmed)
tell shimmed 'shutdown reboot'
within 60 other_domid shimmed "$first"
within 60 readies shimmed 2
matches '"pvshim": "True"' "$(xl list -l shimmed | tr -s ' ')"
ok xyl destroy shimmed
leaves_nothing "$scratch/before"
start unwanted pvh
mkdir -p /etc/xyl
printf 'version = 1\n[guests]\npvh = "refuse"\n' >/etc/xyl/policy.toml
refused 'not adopted: refused: the policy has pvh = "refuse".*stays xl' xyl adopt unwanted
rm /etc/xyl/policy.toml
ok xls_of unwanted
[ ! -e "/var/lib/xyl/vm/$(uuid_of unwanted)" ] || fail 'a record of one that was refused'
ok xl destroy unwanted
leaves_nothing "$scratch/before"

echo 'killed in the middle, and again'
for moment in 0.005 0.01 0.02 0.03 0.05; do
	start again pvh
	xyl adopt again >/dev/null 2>&1 &
	pid=$!
	sleep $moment
	kill -KILL $pid 2>/dev/null
	wait $pid 2>/dev/null
	told=$(xyl adopt again 2>&1) || fail "after a kill at $moment: $told"
	echo "killed after $moment s, then: $told"
	no_xls_of again || fail "xl's process is there still"
	within 5 eval '[ "$(monitors_of "$(uuid_of again)")" = 1 ]'
	first=$(domid_of again)
	readies=$(grep -ac 'testguest: ready' "$consoles/guest-again.log")
	tell again 'shutdown reboot'
	within 30 other_domid again "$first"
	within 20 readies again $((readies + 1))
	ok xyl destroy again
	rm -f "$consoles/guest-again.log"
	pkill -HUP -x xenconsoled
	leaves_nothing "$scratch/before"
done
