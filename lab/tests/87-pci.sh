# PCI devices of the host: assignable ones beside xl, a driver that gets its device back, refusals with xl's exit codes. A PV guest drives a
# device through an emulated IOMMU, also after a reboot.
# limit_s: 150
# on_demand: its Xen needs a boot of its own, which costs more than a minute
# xen: 4.17-iommu
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
[[ $(xl info) == *pv_directio* ]] || skip 'Xen has no IOMMU here: cargo xtask lab test 87-pci --xen 4.17-iommu'
cd "$scratch" || fail 'no scratch folder'
devices=/sys/bus/pci/devices
driver_of() {
	basename "$(readlink "$devices/$1/driver")"
}
# A random number generator, and one behind a root port.
plain=0000:00:10.0
port=0000:00:11.0
bus=$(printf '0000:%02x:00.0' "$(cat $devices/$port/secondary_bus_number)")
for device in $plain "$bus"; do
	equals virtio-pci "$(driver_of "$device")"
done
code_of() {
	local code=0
	"$@" >out 2>&1 || code=$?
	echo $code
}

echo 'without pciback'
modprobe -r xen-pciback
refused 'modprobe xen-pciback' xyl pci-assignable-add $plain
ok modprobe xen-pciback

echo 'refusals, with the exit codes of xl'
for words in 'nonsense' '00:10' '00:10.*' '-n'; do
	# shellcheck disable=SC2086
	equals 2 "$(code_of xyl pci-assignable-add $words)"
done
equals 2 "$(code_of xl pci-assignable-add nonsense)"
for tool in xl xyl; do
	equals 1 "$(code_of $tool pci-assignable-add 05:03.0)"
	equals 1 "$(code_of $tool pci-assignable-remove 05:03.0)"
	equals 1 "$(code_of $tool pci-assignable-remove $plain)"
	equals 2 "$(code_of $tool pci-assignable-remove nonsense)"
done
refused 'is a bridge' xyl pci-assignable-add 00:1f.0
refused 'is a bridge' xyl pci-assignable-add $port
disk=$(readlink -f /sys/class/block/vda | grep -o '0000:00:[0-9a-f]*\.[0-7]' | head -n 1)
refused 'mounted on /' xyl pci-assignable-add "$disk"
refused 'printable' xyl pci-assignable-add -n 'a b' $plain
equals virtio-pci "$(driver_of $plain)"
matches "would make PCI device $plain assignable" "$(xyl -N pci-assignable-add 00:10.0)"

echo 'the same lists and nodes as xl'
nodes() {
	xenstore-ls -f /libxl/pci 2>/dev/null
}
ok xl pci-assignable-add -n random $plain
nodes >xl.nodes
xl pci-assignable-list -n >xl.list
equals "$(cat xl.list)" "$(xyl pci-assignable-list -n)"
equals "$(xl pci-assignable-list)" "$(xyl pci-assignable-list)"
ok xyl pci-assignable-remove -r random
equals virtio-pci "$(driver_of $plain)"
equals '' "$(nodes)"
ok xyl pci-assignable-add -n random 00:10.0
equals pciback "$(driver_of $plain)"
equals "$(cat xl.nodes)" "$(nodes)"
equals "$(cat xl.list)" "$(xl pci-assignable-list -n)"
# A second time it changes nothing.
ok xyl pci-assignable-add -n random $plain
equals "$(cat xl.nodes)" "$(nodes)"
refused 'has the name' xyl pci-assignable-add -n random "$bus"
equals "$plain" "$(xyl pci-assignable-list --json | grep -o '0000:[^"]*')"
ok xl pci-assignable-remove -r $plain
equals virtio-pci "$(driver_of $plain)"
equals '' "$(xyl pci-assignable-list)"

echo 'a PV guest drives a device through the IOMMU'
tree=$scratch/tree
guest_tree "$tree" virtio_pci virtio-rng
# Domain 0's root has no driver for guests' PCI devices. The disk of Debian guests, with the same kernel, has it.
mkdir disk
ok mount -o ro,noload /dev/vdd1 disk
ok cp "disk/lib/modules/$(uname -r)/kernel/drivers/pci/xen-pcifront.ko" "$tree/"
ok umount disk
echo /xen-pcifront.ko >>"$tree/modules"
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/hwrng
echo "XYL-DEVICE $(cat /sys/bus/pci/devices/*/device)"
echo "XYL-RANDOM $(dd if=/dev/hwrng bs=16 count=1 2>/dev/null | od -An -tx1 | tr -d ' \n') of $(cat /sys/class/misc/hw_random/rng_current)"
while :; do sleep 60; done
INIT
printf '%s\n' '#!/bin/busybox sh' '/bin/busybox reboot -f' >"$tree/sbin/reboot"
chmod 755 "$tree/sbin/reboot"
pack_tree "$tree" initrd
pci_cfg() {
	linux_cfg "$1" pv | sed "s#^ramdisk.*#ramdisk = \"$scratch/initrd\"#"
	echo "pci = [ '$2' ]"
}
randoms() {
	grep -aoE 'XYL-RANDOM [0-9a-f]{32} of virtio' "$consoles/guest-$1.log" 2>/dev/null | sort -u | wc -l
}
has_random() {
	[ "$(randoms "$1")" -ge "$2" ]
}
# bus_of DOMID: the nodes of its virtual bus, without its number and those that the guest and pciback write.
bus_of() {
	xenstore-ls -f | grep -E "^/local/domain/(0/backend/pci/$1|$1/device/pci)" |
		sed -E "s#/(pci|domain)/$1([/ ])#/\1/D\2#g; s/(frontend-id = ).*/\1D/" |
		grep -vE '/(state|vdev|root)-?[0-9]* |/(root_num|pci-op-ref|event-channel|magic|state) ' | sort
}
bus_nodes() {
	xenstore-ls -f | grep -E 'backend/pci/[0-9]|/libxl/pci/.*/domid'
}
traces >before
pci_cfg guest "$bus" >guest.cfg
refused 'is not assignable' xyl create -q guest.cfg
sed 's/type = "pv"/type = "pvh"/' guest.cfg >pvh.cfg
equals 4 "$(code_of xyl create -n pvh.cfg)"
leaves_nothing before
pci_cfg guest "$bus,seize=1" >guest.cfg
ok xyl create -q guest.cfg
domid=$(domid_of guest)
within 60 has_random guest 1
equals pciback "$(driver_of "$bus")"
equals "$domid" "$(xenstore-read "/libxl/pci/${bus//[:.]/-}/domid")"
equals "$(xl pci-list guest)" "$(xyl pci-list guest)"
matches "$bus" "$(xyl pci-list guest)"
equals '' "$(xyl pci-assignable-list)"
equals '' "$(xl pci-assignable-list)"
bus_of "$domid" >xyl.bus
refused "domain $domid has PCI device" xyl pci-assignable-remove "$bus"
xl list -l guest | grep -A 14 '"pcidevs"' >xyl.json

echo 'it has the device after a reboot'
ok xyl reboot guest
within 60 has_random guest 2
domid=$(domid_of guest)
equals "$domid" "$(xenstore-read "/libxl/pci/${bus//[:.]/-}/domid")"

has_devices() {
	equals "$(xl pci-list guest)" "$(xyl pci-list guest)"
	equals "$1" "$(xyl pci-list guest | grep -c ' 0000:')"
}

echo 'a device comes and goes while it runs'
refused 'is not assignable' xyl pci-attach guest $plain
ok xyl pci-assignable-add $plain
ok xyl pci-attach guest $plain
has_devices 2
ok xyl pci-detach guest $plain
has_devices 1
equals "$plain " "$(xyl pci-assignable-list)"
ok xyl pci-attach guest $plain
ok xl pci-detach guest $plain
has_devices 1
ok xyl pci-assignable-remove -r $plain
equals virtio-pci "$(driver_of $plain)"

ok xyl destroy guest
equals "$bus " "$(xyl pci-assignable-list)"
equals '' "$(bus_nodes)"

echo 'the same nodes as xl'
ok xl create -q guest.cfg
bus_of "$(domid_of guest)" >xl.bus
xl list -l guest | grep -A 14 '"pcidevs"' >xl.json
diff xl.bus xyl.bus || fail 'the nodes differ'
diff xl.json xyl.json || fail "libxl's records differ"
equals "$(xl pci-list guest)" "$(xyl pci-list guest)"
# libxl keeps no copy of a bus, and its guest ends with its devices all the same.
ok xyl destroy guest
equals "$bus " "$(xyl pci-assignable-list)"
equals '' "$(bus_nodes)"
ok xyl pci-assignable-remove -r "$bus"
equals virtio-pci "$(driver_of "$bus")"
