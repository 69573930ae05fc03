# Small Linux guests for the lab's tests and the demo: an initramfs with the drivers that a guest needs.

# guest_tree FOLDER DRIVER...: unpacks the lab's initramfs into a new folder, with these drivers of dom0's kernel. The guest's init reads
# /setup first: it mounts what programs expect and loads the drivers.
guest_tree() {
	local folder=$1 driver verb path
	shift
	mkdir -p "$folder/sbin"
	(cd "$folder" && cpio -id --quiet <"/xyl-lab/guests/linux-initrd")
	for driver in "$@"; do
		modprobe --show-depends "$driver" | while read -r verb path _; do
			[ "$verb" = insmod ] && cp "$path" "$folder/" && echo "/${path##*/}" >>"$folder/modules"
		done
	done
	cat >"$folder/setup" <<'SETUP'
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "$module"; done </modules
# wait_for FILE...: until all these files are there, or for 30 seconds.
wait_for() {
	for tries in $(seq 300); do
		for file in "$@"; do
			[ -e "$file" ] || break
		done
		[ -e "$file" ] && break
		sleep 0.1
	done
}
# serve_console: a shell on the console, for ever.
serve_console() {
	echo "XYL-GUEST-UP"
	while :; do setsid -c /bin/sh </dev/hvc0 >/dev/hvc0 2>&1; done
}
SETUP
}

# pack_tree FOLDER FILE: makes an initramfs of the folder.
pack_tree() {
	chmod 755 "$1/init"
	(cd "$1" && find . | cpio -o -H newc --quiet) >"$2"
}
