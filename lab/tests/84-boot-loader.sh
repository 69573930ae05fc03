# `bootloader = "pygrub"`: pygrub finds the kernel on the guest's disk, as a user without rights, in a root of its own. An image and a
# block device, PV and PVH; a reboot asks it again; what it cannot read is an error that leaves nothing, and so does a killed create.
# limit_s: 300
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-blkback loop || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
disks=/var/tmp/xyl-boot
loaders=/usr/local/lib/xen/bin
mkdir -p $disks $loaders
trap 'rm -rf "$scratch" $disks $loaders' EXIT

# boot_disk FILE ENTRY...: a disk with one partition, an ext4 with the test guest's kernel. Each entry is a command line in its menu.
boot_disk() {
	local file=$1 tree=$scratch/tree
	rm -rf "$tree"
	mkdir -p "$tree/boot/grub"
	cp "$guests/testguest" "$tree/boot/vmlinuz"
	head -c 5000 /dev/urandom >"$tree/boot/initrd"
	for entry in "${@:2}"; do
		printf "menuentry 'Test' {\n\tset root=(hd0,1)\n\tlinux /boot/vmlinuz %s\n\tinitrd /boot/initrd\n}\n" "$entry"
	done >"$tree/boot/grub/grub.cfg"
	rm -f "$scratch/part"
	mkfs.ext4 -q -d "$tree" "$scratch/part" 15M || fail 'no file system'
	rm -f "$file"
	truncate -s 16M "$file"
	dd if="$scratch/part" of="$file" bs=1M seek=1 conv=notrunc status=none
	# One entry of the partition table: Linux, from sector 2048 on, 30720 sectors.
	printf '\200\0\0\0\203\0\0\0\0\10\0\0\0\170\0\0' | dd of="$file" bs=1 seek=446 conv=notrunc status=none
	printf '\125\252' | dd of="$file" bs=1 seek=510 conv=notrunc status=none
}
# boot_cfg NAME TYPE DISK LINE...: a guest that boots from this disk.
boot_cfg() {
	printf '%s\n' "name = \"$1\"" "type = \"$2\"" 'memory = 32' "disk = [ '$3,raw,xvda,rw' ]" 'bootloader = "pygrub"' "${@:4}"
}
no_loader() {
	! pgrep -f 'python3.*pygrub|sleep 1000' >/dev/null && [ -z "$(losetup -n -O NAME)" ]
}

boot_disk $disks/a.img 'first-entry' 'second-entry'
cp $disks/a.img $disks/b.img
traces >before

echo 'an image, PV'
boot_cfg pv pv $disks/a.img >pv.cfg
matches 'boot loader is not run' "$(xyl create -n pv.cfg 2>&1)"
ok xyl create -q pv.cfg
within 60 readies pv 1
console_says pv 'cmdline "first-entry"' || fail "$(grep -a 'up, TYPE' $consoles/guest-pv.log)"
matches 'a.img \(kernel found by pygrub\): a 64-bit PV kernel' "$(xyl explain pv)"
matches '"bootloader": "pygrub"' "$(xyl list -l pv | tr -s ' ')"
# The monitor has a child that keeps the rights for it, and nobody has the disk open but blkback.
equals '' "$(find /proc/[0-9]*/fd -lname "$disks/*" 2>/dev/null)"

echo 'a reboot boots what the disk has by then'
first=$(domid_of pv)
boot_disk $disks/new.img 'after-the-reboot'
dd if=$disks/new.img of=$disks/a.img conv=notrunc status=none
ok xyl reboot pv
within 60 other_domid pv "$first"
within 60 readies pv 2
console_says pv 'cmdline "after-the-reboot"' || fail "$(grep -a 'up, TYPE' $consoles/guest-pv.log)"
ok xyl destroy pv
leaves_nothing before

echo 'a block device, PVH, with arguments'
device=$(losetup -f --show $disks/b.img)
boot_cfg pvh pvh "$device" 'bootloader_args = [ "--entry=1" ]' 'extra = "more"' >pvh.cfg
ok xyl create -q pvh.cfg
within 60 readies pvh 1
console_says pvh 'second-entry.*more' || fail "$(grep -a 'up, TYPE' $consoles/guest-pvh.log)"
ok xyl destroy pvh
losetup -d "$device"
leaves_nothing before

echo 'what pygrub cannot read'
truncate -s 16M $disks/empty.img
boot_cfg lost pv $disks/empty.img >lost.cfg
refused 'lost.cfg:5:.*finds no kernel on .*empty.img.*Unable to find partition' xyl create -q lost.cfg
boot_cfg lost pv $disks/b.img 'bootloader_args = [ "--no-such-option" ]' >lost.cfg
refused 'exit code 1' xyl create -q lost.cfg
boot_cfg lost pv $disks/none.img >lost.cfg
refused 'none.img' xyl create -q lost.cfg
boot_cfg lost pv $disks/b.img | sed 's/raw,/qcow2,/' >lost.cfg
refused 'raw disks alone' xyl create -q lost.cfg
no_loader || fail "left: $(pgrep -af 'pygrub|sleep')"
leaves_nothing before

echo 'the rights of a boot loader'
# One that tells what it can do. It fails, so what it says is told.
cat >$loaders/looks <<'LOOKS'
#!/bin/sh
say() { echo "$*" >&2; }
for place in /proc /sys /run /var /home /root /tmp /etc/passwd /dev/xen /dev/mem; do [ -e $place ] && say "sees $place"; done
(echo x >/disk) 2>/dev/null && say 'writes disk'
(echo x >/usr/x) 2>/dev/null && say 'writes usr'
mount -t tmpfs x /output 2>/dev/null && say mounts
unshare -U true 2>/dev/null && say unshares
python3 -c 'import socket; socket.socket(socket.AF_UNIX)' 2>/dev/null && say connects
[ "$(id -u)" -gt 1902000000 ] && [ "$(id -G)" -gt 1902000000 ] && say "LOOKED as $$ at $(head -c 2 /disk | wc -c) bytes"
exit 7
LOOKS
chmod 755 $loaders/looks
boot_cfg looks pv $disks/b.img | sed 's/pygrub/looks/' >looks.cfg
said=$(xyl create -q looks.cfg 2>&1)
matches 'exit code 7; it says: LOOKED as 1 at 2 bytes' "$said"
chmod o+w $loaders/looks
refused 'chmod go-w' xyl create -q looks.cfg
chmod o-w $loaders/looks
# What it names outside of its folder is neither read nor removed.
echo secret >$disks/secret
# answers PATH: the program names this kernel.
answers() {
	printf '#!/bin/sh\nln -s %s /output/kernel\nprintf "kernel %s\\0" >/output/answer\n' $disks/secret "$1" >$loaders/looks
}
answers /output/kernel
refused 'no file of the kernel' xyl create -q looks.cfg
answers $disks/secret
refused 'outside of the folder' xyl create -q looks.cfg
equals secret "$(cat $disks/secret)"
leaves_nothing before

echo 'killed while the boot loader runs'
printf '#!/bin/sh\nsleep 1000 & exec sleep 1000\n' >$loaders/looks
runs() { pgrep -f 'sleep 1000' >/dev/null; }
xyl create -q looks.cfg >/dev/null 2>&1 &
pid=$!
within 30 runs
kill_hard $pid
wait $pid 2>/dev/null
within 10 no_loader
ok xyl recover
leaves_nothing before
