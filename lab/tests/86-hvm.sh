# HVM guests: SeaBIOS starts what is on an emulated disk, which prints on the serial line and reboots; a Linux kernel is booted directly, and reads
# the same kind of disk by PV drivers. The device model is a user of its own that maps the memory of its domain alone, and finds nothing in
# its root. Its death is noticed, and counts as a crash of the guest. A destroy leaves nothing. A network card is emulated beside the interface of
# PV drivers: a guest without them uses it, and Linux has it unplugged. `cpuid` hides a feature.
# limit_s: 400
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
[ -x /usr/libexec/xen-qemu-system-i386 ] || skip 'no QEMU here'
modprobe -a xen-blkback xen-netback bridge loop tun || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
files=/var/tmp/xyl-hvm
mkdir -p $files
chmod 700 $files

# A boot sector: it reads the second sector of its disk by the BIOS, prints it on COM1 five times a second, and resets the machine by the
# keyboard controller when COM1 has an `r`.
sector=31c08ed88ec08ed0bc007cb80102b9020030f6bb007ecd13be007efcac84c0741288c4bafd03eca82074fb88e0baf803eeebe9b80086b90300ba400d
sector+=cd15bafd03eca80174d2baf803ec3c7275cab0fee664f4ebfd
# bootable FILE TEXT: an image that prints a text.
bootable() {
	python3 - "$@" "$sector" <<'PYTHON'
import sys
path, text, sector = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
with open(path, "wb") as image:
    image.write(sector.ljust(510, b"\0") + b"\x55\xaa")
    image.write(text.encode() + b"\r\n\0")
    image.truncate(16 << 20)
PYTHON
}
# hvm_cfg NAME [LINE...]: a guest with SeaBIOS, a serial line and a screen.
hvm_cfg() {
	printf '%s\n' "name = '$1'" "type = 'hvm'" 'memory = 64' "serial = 'pty'" "${@:2}"
}
machine_of() {
	pgrep -f -- "-xen-domid $(domid_of "$1") .*-xen-domid-restrict" | xargs
}
machine_runs() {
	[ -n "$(machine_of "$1" 2>/dev/null)" ]
}
serial_of() {
	xenstore-read "/local/domain/$(domid_of "$1")/serial/0/tty"
}
# listen NAME: keeps what the serial line says in a file.
listen() {
	stty -F "$(serial_of "$1")" raw -echo
	cat "$(serial_of "$1")" >"$scratch/serial-$1" 2>/dev/null &
}
says() {
	grep -aqs -- "$2" "$scratch/serial-$1"
}
status_of() {
	awk -v key="$2:" '$1 == key { print $2 }' "/proc/$1/status"
}
# confined NAME: its device model is a user of its own without rights, in an empty folder, and has its own domain alone.
confined() {
	local domid pid
	domid=$(domid_of "$1")
	pid=$(machine_of "$1")
	matches '^[0-9]+$' "$pid"
	equals "$((1900000000 + 17 * 65536 + domid))" "$(status_of "$pid" Uid)"
	equals 0000000000000000 "$(status_of "$pid" CapPrm)"
	equals 2 "$(status_of "$pid" Seccomp)"
	equals /dev/xyl/machine "$(readlink "/proc/$pid/root")"
	equals '' "$(ls -A "/proc/$pid/root/")"
	equals '' "$(readlink "/proc/$pid/fd/"* | grep -E 'xenbus|xenstored|gntdev')"
	ok kept_to "$domid" "$pid"
}

# tap NAME / has_tap NAME / has_sent NAME: the host's end of its emulated card.
tap() {
	echo "/sys/class/net/vif$(domid_of "$1").0-emu"
}
has_tap() {
	[ "$(basename "$(readlink "$(tap "$1")/master")")" = xenbr0 ]
}
has_no_tap() {
	[ ! -e "$(tap "$1")" ]
}
has_sent() {
	[ "$(cat "$(tap "$1")/statistics/rx_packets")" -gt 0 ]
}

bootable $files/boot.img 'XYL-BOOTED from hda'
trap 'ip link del xenbr0 2>/dev/null; rm -rf "$scratch"' EXIT
traces >before
ip link add xenbr0 type bridge && ip link set xenbr0 up || fail 'no bridge'

echo 'Linux is booted directly'
linux_cfg linux hvm >linux.cfg
printf '%s\n' "serial = 'pty'" "vif = [ '' ]" "cpuid = 'host,popcnt=0'" "disk = [ '$files/linux.img,raw,xvda,rw' ]" >>linux.cfg
truncate -s 16M $files/linux.img
ok xyl create -q -p linux.cfg
confined linux
equals hvm "$(xenstore-read "/libxl/$(domid_of linux)/type")"
ok has_tap linux
ok xyl unpause linux

echo 'a guest without PV drivers sends by the emulated card'
hvm_cfg net "boot = 'n'" "vif = [ 'model=e1000' ]" >net.cfg
ok xyl create -q net.cfg
within 60 has_sent net
net_tap=$(tap net)
ok xyl destroy net
[ ! -e "$net_tap" ] || fail 'the tap is there still'

echo 'SeaBIOS boots from an emulated disk'
hvm_cfg boot "disk = [ '$files/boot.img,raw,hda,rw' ]" "vif = [ '' ]" "on_crash = 'preserve'" >boot.cfg
ok xyl create -q -p boot.cfg
listen boot
confined boot
ok xyl unpause boot
within 60 says boot 'XYL-BOOTED from hda'
matches 'RFB 003' "$(head -c 12 <"/dev/tcp/127.0.0.1/$(xenstore-read "/local/domain/$(domid_of boot)/console/vnc-port")")"
ok xyl pause boot
ok xyl unpause boot
refused 'HVM guest' xyl block-attach boot "$files/linux.img,raw,xvdf,rw"

echo 'the guest reboots, and its next domain has a device model of the monitor'
first=$(domid_of boot)
printf r >"$(serial_of boot)"
within 60 other_domid boot "$first"
within 60 machine_runs boot
no_qemu "$first" || fail "the first domain's QEMU is there still"
confined boot
ok has_tap boot
listen boot
within 60 says boot 'XYL-BOOTED from hda'

echo 'the death of a device model counts as a crash'
kill -KILL "$(machine_of boot)"
crashed() {
	[[ $(domain_state boot) == *c* ]]
}
within 20 crashed
matches 'device model .* has ended' "$(cat /var/log/xen/xyl-boot.log)"
ok xyl destroy boot

echo 'what is not supported is refused by name'
for line in "vif = [ 'model=ne2k_isa' ]" "soundhw = 'hda'" "serial = 'file:/x'" "disk = [ '/x,qcow2,hda' ]"; do
	printf '%s\n' "name = 'other'" "type = 'hvm'" 'memory = 64' "$line" >other.cfg
	refused 'not supported|the device model emulates' xyl create -q other.cfg
done

within 240 console_says linux XYL-GUEST-UP
ok has_no_tap linux
ok machine_runs linux
printf 'grep -wc popcnt /proc/cpuinfo | sed s/^/XYL-POPCNT-/\n' | timeout 20 xyl console -t pv linux >/dev/null 2>&1
within 30 console_says linux '^XYL-POPCNT-0'
ok xyl shutdown -w linux
within 30 domain_gone linux
no_qemu || fail "a QEMU is left: $(qemus)"
ip link del xenbr0
leaves_nothing before
