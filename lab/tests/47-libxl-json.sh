# libxl's record of a domain of Xyl's is whole for xl: xl reads it with its heap filled with other bytes.
# limit_s: 180
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# glibc fills what it allocates with these bits turned round: a text that ends with the file runs on into them.
export MALLOC_PERTURB_=165

# The allocator's gaps depend on the record's length: all its lengths modulo 16.
name=j
for step in $(seq 16); do
	name=${name}x
	testguest_cfg "$name" pv 'memory = 16' 'cmdline = "heartbeat_ms=0"' >"$scratch/$name.cfg"
	ok xyl create -q -p -e "$scratch/$name.cfg"
	json=$(echo "/var/lib/xen/userdata-d.$(xl domid "$name")."*.libxl-json)
	equals 00 "$(tail -c 1 "$json" | od -An -tx1 | tr -d ' ')"
	matches "\"name\": \"$name\"" "$(xl list -l "$name")"
	[ "$step" != 1 ] || {
		ok xl mem-max "$name" 32
		ok xl mem-set "$name" 12
		# xl of 4.20 takes a KiB off.
		matches '"target_memkb": 1228[78]' "$(xl list -l "$name")"
		matches '"max_memkb": 32768' "$(xyl list -l "$name")"
		ok xyl mem-set "$name" 14
		matches '"target_memkb": 1433[56]' "$(xl list -l "$name")"
	}
	ok xyl destroy "$name"
done
unset MALLOC_PERTURB_

# Domain 0: xl and xyl give back what xyl has taken, though nobody had written its limits.
target() { xenstore-read "/local/domain/0/memory/$1"; }
before=$(xl list 0 | awk 'NR == 2 { print $3 }')
xenstore-rm /local/domain/0/memory
ok xyl mem-set 0 $((before - 64))
equals $(((before - 64) * 1024)) "$(target target)"
[ "$(target static-max)" -ge $((before * 1024)) ] || fail "static-max of domain 0 is $(target static-max)"
ok xl mem-set 0 $((before - 32))
equals $(((before - 32) * 1024)) "$(target target)"
ok xyl mem-set 0 "$before"
equals $((before * 1024)) "$(target target)"
# xl leaves the second one.
xenstore-rm /local/domain/0/memory
xenstore-rm /vm/00000000-0000-0000-0000-000000000000
