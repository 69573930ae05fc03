# The lab itself: the Xen that was asked for, its daemons, the tools that the tests use.
. /xyl-lab/lab/lib.sh

info=$(xl info) || fail "xl info"
equals "$LAB_XEN" "$(awk -F': *' '/^xen_major/ { major = $2 } /^xen_minor/ { print major "." $2 }' <<<"$info")"
matches '^virt_caps *:.* hvm' "$info"
matches '^Domain-0 +0 ' "$(xl list)"
for daemon in xenstored xenconsoled; do
	ok pgrep -x "$daemon"
done
for device in privcmd evtchn gntdev gntalloc; do
	ok test -c "/dev/xen/$device"
done
for tool in strace python3 script xenstore-ls; do
	ok command -v "$tool"
done
for guest in grub-pv64 grub-pv32 grub-pvh linux-vmlinuz linux-initrd; do
	ok test -s "$guests/$guest"
done
