#!/bin/bash
# What the PV shim costs, in one boot: memory that is missing in the guest, and time from `xyl create` to the guest's word.
# Run with: cargo xtask lab run lab/shim-overhead.sh
. /xyl-lab/lab/lib.sh
cd "$scratch" || fail 'no scratch folder'
runs=5

ms() {
	echo $(($(date +%s%N) / 1000000))
}
# median NUMBERS...
median() {
	printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"
}
# measure KIND MEMORY LINE...: creates a test guest several times; prints MiB that the guest has, and the median time in ms.
measure() {
	local kind=$1 memory=$2 times=() start name
	shift 2
	for run in $(seq $runs); do
		name=cost-$kind-$memory-$run
		printf '%s\n' "name = \"$name\"" "kernel = \"$guests/testguest\"" "memory = $memory" 'cmdline = "heartbeat_ms=0"' "$@" >cost.cfg
		start=$(ms)
		ok xyl create -q -e cost.cfg
		within 60 console_says "$name" 'testguest: ready'
		times+=($(($(ms) - start)))
		ok xyl destroy "$name"
	done
	echo "$kind, memory = $memory: $(sed -n 's/.*testguest: up.* \([0-9]*\) MiB.*/\1/p' "$consoles/guest-$name.log" | head -n 1) MiB in the guest, ready after $(median "${times[@]}") ms (${times[*]})"
}
for memory in 64 256 1024; do
	measure bare $memory
	measure shim $memory 'type = "pvh"' 'pvshim = 1'
done
