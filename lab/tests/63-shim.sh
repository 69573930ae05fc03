# PV guests in the shim, 32-bit and 64-bit: console, xenstore, memory, vCPUs, shutdown, reboot; and what cannot be, said before.
# limit_s: 300
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'
traces >before

# shim_cfg NAME KERNEL MEMORY LINE...: a guest in the shim; prints its file.
shim_cfg() {
	local name=$1 kernel=$2 memory=$3
	shift 3
	printf '%s\n' "name = \"$name\"" 'type = "pvh"' 'pvshim = 1' "kernel = \"$guests/$kernel\"" "memory = $memory" "$(shim_needs)" "$@" >"$name.cfg"
	echo "$name.cfg"
}

# without_shim COMMAND...: runs a command that finds an empty folder where Xen's packages have their shim.
without_shim() {
	unshare --mount sh -c 'for folder in /usr/lib/xen-4*/boot; do mount -t tmpfs none "$folder" || exit 99; done; exec "$@"' sh "$@"
}

# Real PV kernels print their line, and xl takes the domain for one of its own.
for width in 32 64; do
	name=shim-pv$width
	ok xyl create -q "$(shim_cfg $name grub-pv$width 64)"
	within 60 console_says $name XYL-GRUB-UP
	matches '"pvshim": "True"' "$(xl list -l $name | tr -s ' ')"
	ok xyl destroy $name
done
leaves_nothing before

# The guest finds all that a bare one does; memory and vCPU requests, shutdown and reboot reach it.
ok xyl create -q "$(shim_cfg shim-test testguest 64 'vcpus = 1' 'maxvcpus = 2' 'cmdline = "heartbeat_ms=100"')"
within 60 readies shim-test 1
console_says shim-test 'testguest: up, TYPE pv, ' || fail 'not a PV guest'
console_says shim-test 'checks [0-9]+ ok, 0 failed' || fail "checks failed: $(grep -a FAIL "$consoles/guest-shim-test.log")"
within 20 beats_beyond shim-test 3
ok xyl mem-set shim-test 48
within 20 console_says shim-test 'testguest: memory target [0-9]+ KiB'
ok xyl vcpu-set --ignore-host shim-test 2
within 20 console_says shim-test 'testguest: vcpu 1 availability online'
ok xyl pause shim-test
ok xyl unpause shim-test
domid=$(domid_of shim-test)
ok xyl reboot -w --timeout 60 shim-test
within 60 readies shim-test 2
[ "$(domid_of shim-test)" -gt "$domid" ] || fail 'the same domain after a reboot'
# Restarted in the shim again, by the monitor.
matches 'TYPE pv,' "$(grep -a 'testguest: up' "$consoles/guest-shim-test.log" | tail -n 1)"
ok xyl shutdown -w --timeout 60 shim-test
leaves_nothing before

# What cannot be is said before anything is built, with the remedy.
refused 'cannot open /nosuch/xen-shim' xyl create -q "$(shim_cfg bad grub-pv64 64 'pvshim_path = "/nosuch/xen-shim"')"
refused 'there is no PV shim on this host; looked at .*/usr/lib/xen-4.*/boot/xen-shim, .*pvshim_path' \
	without_shim xyl create -q "$(shim_cfg bad grub-pv64 64)"
sed 's/pages used by shim >/CONFIG_PV32 missing./' /usr/lib/xen-4*/boot/xen-shim >shim-without
refused 'grub-pv32 is a 32-bit PV kernel, and the PV shim .*shim-without was built without 32-bit PV' \
	xyl create -q "$(shim_cfg bad grub-pv32 64 "pvshim_path = \"$scratch/shim-without\"")"
refused '`pv=no-32` on the shim' xyl create -q "$(shim_cfg bad grub-pv32 64 'pvshim_extra = "pv=no-32"')"
refused 'grub-pvh as a PV guest' xyl create -q "$(shim_cfg bad grub-pvh 64)"
refused 'cannot start .*grub-pv64 as a PVH guest' xyl create -q "$(shim_cfg bad grub-pv64 64 "pvshim_path = \"$guests/grub-pv64\"")"
leaves_nothing before
# A 64-bit kernel does not mind.
ok xyl create -q "$(shim_cfg shim-other grub-pv64 64 "pvshim_path = \"$scratch/shim-without\"" 'pvshim_extra = "pv=no-32 xsave=0"')"
within 60 console_says shim-other XYL-GRUB-UP
ok xyl destroy shim-other
matches 'PV shim takes about 22 of the domain.s 32 MiB' "$(xyl create -p -e "$(shim_cfg tight grub-pv64 32)" 2>&1)"
ok xyl destroy tight
leaves_nothing before
