# Debian's Linux in the shim: packed kernel, ramdisk, shutdown.
# limit_s: 600
# xen: any
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
# One vCPU: two spin for each other on the lab's one CPU.
ok xyl create -q "$(shim_cfg shim-linux linux-vmlinuz 400 "ramdisk = \"$guests/linux-initrd\"" 'cmdline = "console=hvc0"')"
within 180 console_says shim-linux 'XYL-GUEST-UP .* vcpus=1 '
ok xyl shutdown -w --timeout 60 shim-linux
leaves_nothing before

