# The smallest guests run: Xen has room for its own tables about them.
# limit_s: 120
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'

for type in pv pvh; do
	for memory in 4 8 12 16; do
		name=small-$type-$memory
		printf '%s\n' "name = \"$name\"" "type = \"$type\"" "kernel = \"$guests/testguest\"" \
			"memory = $memory" 'cmdline = "heartbeat_ms=0"' >small.cfg
		ok xyl create -q -e small.cfg
		within 20 console_says "$name" 'testguest: ready'
		ok xyl destroy "$name"
	done
done
# Many vCPUs need more of it.
printf '%s\n' 'name = "wide"' 'type = "pvh"' "kernel = \"$guests/testguest\"" 'memory = 4' 'vcpus = 32' \
	'cmdline = "heartbeat_ms=0"' >wide.cfg
ok xyl create -q -e wide.cfg
within 30 console_says wide 'testguest: ready'
ok xyl destroy wide
