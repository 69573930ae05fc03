# Debian's kernel in a PVH guest starts another kernel with kexec -e, and that one runs in the same domain, on the same
# console, until it is asked to shut down.
# limit_s: 400
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
kexec=$(command -v kexec) || skip 'no kexec here'

# An initramfs that starts the kernel in it with the lab's own initramfs.
tree=$scratch/tree
mkdir -p "$tree/boot" "$tree/sbin"
(cd "$tree" && cpio -id --quiet <"$guests/linux-initrd")
cp "$kexec" "$tree/sbin/kexec"
ldd "$kexec" | grep -o '/[^ ]*' | while read -r library; do
	mkdir -p "$tree${library%/*}"
	cp "$library" "$tree$library"
done
cp "$guests/linux-vmlinuz" "$tree/boot/vmlinuz"
cp "$guests/linux-initrd" "$tree/boot/initrd"
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "XYL-FIRST-UP $(uname -r)"
# The second kernel is not entered as a PVH one, so it cannot find the ACPI tables by itself.
rsdp=$(dmesg | sed -n 's/.*ACPI: RSDP 0x\([0-9A-F]*\).*/\1/p')
/sbin/kexec -s -l /boot/vmlinuz --initrd=/boot/initrd --command-line="$(cat /proc/cmdline) acpi_rsdp=0x$rsdp kexeced" || echo "XYL-FAILED to load: $?"
echo "XYL-EXEC rsdp $rsdp"
/sbin/kexec -e
echo "XYL-FAILED to start: $?"
sleep 1000
INIT
(cd "$tree" && find . | cpio -o -H newc --quiet) >"$scratch/initrd"

linux_cfg kexec pvh | sed "s#^ramdisk.*#ramdisk = \"$scratch/initrd\"#; s#^memory.*#memory = 512#; s#quiet#${KEXEC_CMDLINE:-quiet}#" >"$scratch/cfg"
ok xyl create -q "$scratch/cfg"
domid=$(domid_of kexec)
tty=$(xenstore-read "/local/domain/$domid/console/tty")
within 120 console_says kexec XYL-EXEC
within 180 console_says kexec XYL-GUEST-UP
console_says kexec XYL-FAILED && fail 'the first kernel says so'
equals "$domid" "$(domid_of kexec)"
equals "$tty" "$(xenstore-read "/local/domain/$domid/console/tty")"
# A shell of the second kernel answers on the same tty.
printf 'grep -o kexeced /proc/cmdline; echo answer $((6 * 7))\r' >"$tty"
within 20 console_says kexec '^answer 42'
within 20 console_says kexec '^kexeced'
ok xl shutdown -w kexec
within 20 domain_gone kexec
