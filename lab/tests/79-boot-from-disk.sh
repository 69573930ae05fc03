# Debian 12 boots from its own disk, with its own kernel and initramfs: GRUB runs inside the guest, PV or PVH, so nothing in domain 0
# reads the disk. Two disks and two networks: what the guest writes is compared by digest in domain 0, and each boot pings through
# both. A soak has both types and restarts, and each later boot reads back what the first has written.
# On 4.17 the PV guest has passed; the PVH guest came up and pinged, but needs more than twelve minutes on a loaded machine.
# limit_s: 1500
# xen: 4.20
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-blkback xen-netback bridge loop || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
disks=/var/tmp/xyl-debian
grub=/usr/lib/grub-xen
mkdir -p $disks
trap 'ip link del xenbr0; ip link del xenbr1; rm -rf "$scratch" $disks' EXIT

cp --sparse=always /dev/vdd $disks/debian.img || fail 'no disk of the guest'
truncate -s 8M $disks/data.img
network=98
for bridge in xenbr0 xenbr1; do
	ip link add $bridge type bridge || fail 'no bridge'
	ip addr add 10.$network.0.1/24 dev $bridge
	ip link set $bridge up
	network=97
done
traces >before

# debian_cfg NAME LINE...: a guest with all of it; the lines say what it boots.
debian_cfg() {
	printf '%s\n' "name = \"$1\"" 'memory = 512' "disk = [ '$disks/debian.img,raw,xvda,rw', '$disks/data.img,raw,xvdb,rw' ]" \
		"vif = [ 'bridge=xenbr0', 'bridge=xenbr1' ]" "${@:2}"
}
# says_times NAME NUMBER PATTERN: whether the guest's console has so many matching lines.
says_times() {
	[ "$(grep -acsE -- "$3" "$consoles/guest-$1.log")" -ge "$2" ] 2>/dev/null
}
# booted NAME TIMES TYPE: the guest is at its login prompt, and the check before that went well.
booted() {
	within 240 says_times "$1" "$2" '^debian login:'
	says_times "$1" "$2" "LAB-CHECKED 6\.1\..* $3 /dev/xvda1" || fail 'it runs another kernel, or from another disk'
	for network in 98 97; do
		says_times "$1" "$2" "LAB-PINGED $network" || fail "it gets no answer from the network $network"
		ok busybox ping -c 2 -W 5 10.$network.0.2
	done
}

# boot_line TYPE: the line that boots the guest's own kernel.
boot_line() {
	case $1 in
	pv) echo 'firmware = "pvgrub64"' ;;
	pvh) echo "kernel = \"$grub/grub-i386-xen_pvh.bin\"" ;;
	esac
}
# What the first guest is to say; the later ones find what it wrote.
says=LAB-WRITTEN
for type in $(guest_types); do
	echo "a $type guest"
	debian_cfg $type "type = \"$type\"" "$(boot_line $type)" >$type.cfg
	ok xyl create -q $type.cfg
	booted $type 1 ${type^^}
	console_says $type $says || fail "its disks are not as they should be: no $says"
	# No process of domain 0 has the disk open: the loop device is blkback's.
	equals '' "$(find /proc/[0-9]*/fd -lname "$disks/*" 2>/dev/null)"
	if [ $says = LAB-WRITTEN ]; then
		grep -ao 'LAB-DIGEST [0-9a-f]*' "$consoles/guest-$type.log" | cut -d' ' -f2 >digest
		matches '^[0-9a-f]{64}$' "$(cat digest)"
	fi
	says=LAB-READ-BACK
	if [ "$LAB_SOAK" = 1 ]; then
		echo 'a restart boots from the disk again, and finds what was written'
		first=$(domid_of $type)
		ok xyl reboot $type
		within 120 other_domid $type "$first"
		booted $type 2 ${type^^}
		console_says $type $says || fail 'it does not find what it wrote'
	fi
	ok xyl shutdown -w $type
	within 60 domain_gone $type
	equals "$(cat digest)" "$(head -c 1000000 $disks/data.img | sha256sum | cut -d' ' -f1)"
	leaves_nothing before
done

echo 'what the boot loader is'
debian_cfg other 'type = "pv"' "$(boot_line pv)" >other.cfg
matches "$grub/grub-x86_64-xen.bin" "$(xyl create -n other.cfg)"
ok xyl create -q -p other.cfg
matches 'boot loader' "$(xyl explain other)"
ok xyl destroy other
leaves_nothing before

echo 'pygrub finds the same kernel in domain 0, without rights'
debian_cfg pygrub 'type = "pv"' 'bootloader = "pygrub"' >pygrub.cfg
ok xyl create -p -q pygrub.cfg
matches 'kernel found by pygrub' "$(xyl explain pygrub)"
ok xyl destroy pygrub
leaves_nothing before

echo 'what cannot boot is refused, with what to write instead'
debian_cfg other 'type = "pvh"' 'firmware = "pvgrub64"' >other.cfg
refused 'grub-i386-xen_pvh.bin' xyl create -q other.cfg
# 32-bit PV GRUB is a bare 32-bit PV guest, whatever it boots: the policy converts or refuses it.
debian_cfg other 'type = "pv"' 'firmware = "pvgrub32"' 'pvshim = 0' >other.cfg
refused '32-bit' xyl create -q other.cfg
mv $grub/grub-x86_64-xen.bin $grub/aside
debian_cfg other 'type = "pv"' 'firmware = "pvgrub64"' >other.cfg
refused 'grub-xen-host' xyl create -q other.cfg
mv $grub/aside $grub/grub-x86_64-xen.bin
leaves_nothing before
