# A driver domain: a Linux guest with xen-blkback, xen-netback and `xyl devd` serves a disk and a network interface to other guests, made by
# xyl and by xl. A guest reads, writes and pings. `xyl devd` is killed on the way. The nodes are those of xl but for what is listed here.
# limit_s: 600
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'
type=$(guest_types | xargs -n 1 | head -n 1)
end() {
	[ $? -eq 0 ] || tail -n 30 "$consoles"/guest-{driver,first}.log
	rm -rf "$scratch"
}
trap end EXIT

# The driver domain: its init has two images and a bridge, and starts `xyl devd` again whenever it ends. Once a device is served, it
# kills the first one.
driver=$scratch/driver
guest_tree "$driver" xen-blkback xen-netback xen-privcmd loop bridge
cp "$(command -v xyl)" "$driver/bin/xyl"
ldd "$(command -v xyl)" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
	mkdir -p "$driver/$(dirname "$library")"
	cp -L "$library" "$driver/$library"
done
cat >"$driver/init" <<'INIT'
#!/bin/busybox sh
. /setup
mkdir -p /run /var/log/xen /srv
mount -t tmpfs srv /srv
for name in a b; do
	truncate -s 16M /srv/$name.img
	echo "mark-$name" | dd of=/srv/$name.img bs=512 conv=sync,notrunc 2>/dev/null
done
brctl addbr br-there || ip link add br-there type bridge
ifconfig br-there 10.98.0.1 netmask 255.255.255.0 up
(
	until ls /sys/block/loop*/loop/backing_file >/dev/null 2>&1; do sleep 0.2; done
	sleep 2
	kill -9 $(cat /run/devd.pid)
) &
(
	while :; do
		echo "XYL-IMAGES $(for name in a b; do dd if=/srv/$name.img bs=512 count=1 2>/dev/null | tr -d '\000' | head -n 1; done | xargs) loops=$(ls -d /sys/block/loop*/loop 2>/dev/null | wc -l) ports=$(ls /sys/class/net/br-there/brif | wc -l)"
		sleep 2
	done
) &
echo XYL-DRIVER-UP
while :; do
	/bin/xyl devd -F -p /run/devd.pid 2>&1
	echo "XYL-DEVD-ENDED $?"
	sleep 0.5
done
INIT
pack_tree "$driver" driver.initrd

# A guest of it.
tree=$scratch/tree
guest_tree "$tree" xen-blkfront xen-netfront
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/xvda /sys/class/net/eth0
ifconfig eth0 "$(sed -n 's/.*guest-ip=\([0-9.]*\).*/\1/p' /proc/cmdline)" netmask 255.255.255.0 up
mark() { dd if=/dev/xvda bs=512 count=1 2>/dev/null | tr -d '\000' | head -n 1; }
echo "XYL-DISK found=$(mark) sectors=$(cat /sys/block/xvda/size)"
echo "written-by-$(sed -n 's/.*guest-name=\([a-z]*\).*/\1/p' /proc/cmdline)" | dd of=/dev/xvda bs=512 conv=sync,notrunc 2>/dev/null
sync
for tries in $(seq 100); do
	ping -c 1 -W 1 10.98.0.1 >/dev/null 2>&1 && echo XYL-PINGED && break
done
serve_console
INIT
pack_tree "$tree" initrd

# guest_cfg NAME IP IMAGE: a guest with a disk and an interface of the driver domain.
guest_cfg() {
	linux_cfg "$1" "$type" | sed "s#^ramdisk.*#ramdisk = \"$scratch/initrd\"#; s#quiet#quiet guest-ip=$2 guest-name=$1#; s/256/128/"
	echo "disk = [ 'vdev=xvda,format=raw,access=rw,backend=driver,target=/srv/$3.img' ]"
	echo "vif = [ 'mac=00:16:3e:00:00:01,bridge=br-there,backend=driver' ]"
}
# device_nodes DOMID: the nodes of its devices with their permissions; the numbers of domains are taken out.
device_nodes() {
	xenstore-ls -fp | grep -E "^/(local/domain/$driver_domid/backend/v../$1|local/domain/$1/device/v..|libxl/$1/device/v..)/" |
		sed -E "s#/$1/#/D/#g; s#domain/$driver_domid/#domain/B/#g; s#([nr])$1\b#\1D#g; s#([nr])$driver_domid\b#\1B#g; s#= \"$1\"#= \"D\"#; s#= \"$driver_domid\"#= \"B\"#; s#/dev/loop[0-9]+#LOOP#; s#7:[0-9a-f]+#LOOP#; s#/srv/..img#IMAGE#" | sort
}
served() {
	local nodes
	nodes=$(xenstore-ls -f "/local/domain/$driver_domid/backend" 2>/dev/null | grep -E "/v../$1/" | grep -c 'hotplug-status = "connected"')
	[ "$nodes" = 2 ]
}

traces >before
linux_cfg driver "$type" | sed "s#^ramdisk.*#ramdisk = \"$scratch/driver.initrd\"#" >driver.cfg
ok xyl create -q driver.cfg
driver_domid=$(domid_of driver)
within 80 console_says driver 'serving the devices in domain'

echo 'the devices of a guest of xyl, and of one of xl'
guest_cfg first 10.98.0.11 a >first.cfg
guest_cfg second 10.98.0.12 b >second.cfg
begun=$(date +%s%N)
ok xyl create -p -q first.cfg
echo "TIME xyl create -p with two devices of a driver domain: $((($(date +%s%N) - begun) / 1000000)) ms"
first=$(domid_of first)
served "$first" || fail "$(xenstore-ls -f "/local/domain/$driver_domid/backend")"
device_nodes "$first" >xyl.nodes
equals "$(xl block-list first)" "$(xyl block-list first)"
equals "$(xl network-list first)" "$(xyl network-list first)"
equals "$driver_domid" "$(xyl block-list first | awk 'NR > 1 { print $2 }')"
begun=$(date +%s%N)
ok xl create -p second.cfg
echo "TIME xl create -p with two devices of a driver domain: $((($(date +%s%N) - begun) / 1000000)) ms"
second=$(domid_of second)
within 30 served "$second"
device_nodes "$second" >xl.nodes
# Nothing reads those that are missing; `protocol`, which xl writes for a PV guest, is written by the guest. `trusted` is 0 (xl: 1).
differing_nodes=$(differing <(grep -v '/protocol ' xl.nodes) <(grep -v '/protocol ' xyl.nodes))
equals 'bootable discard-enable frontend-id hotplug-status online specification state trusted xyl-backend-domain' "$differing_nodes"
within 20 console_says driver 'XYL-IMAGES mark-a mark-b loops=2 ports=2'
within 30 console_says driver XYL-DEVD-ENDED
ok xl destroy second
within 20 console_says driver 'loops=1 ports=1'

echo 'the guest reads, writes and pings'
ok xyl unpause first
within 120 console_says first XYL-PINGED
console_says first 'XYL-DISK found=mark-a sectors=32768' || fail "$(grep -a XYL-DISK "$consoles/guest-first.log")"
within 20 console_says driver 'XYL-IMAGES written-by-first mark-b loops=1 ports=1'

echo 'it goes, and the driver domain has nothing of it'
begun=$(date +%s%N)
ok xyl destroy first
echo "TIME xyl destroy with two devices of a driver domain: $((($(date +%s%N) - begun) / 1000000)) ms"
within 20 console_says driver 'XYL-IMAGES written-by-first mark-b loops=0 ports=0'
equals '' "$(xenstore-ls -f "/local/domain/$driver_domid/backend" 2>/dev/null | grep -E "/v../($first|$second)/")"
ok xyl destroy driver
leaves_nothing before
