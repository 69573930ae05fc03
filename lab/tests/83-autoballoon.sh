# Domain 0 gives up memory for a new domain where xl.conf says so, as with xl; a create that fails all the same gives it back.
# limit_s: 240
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'
free_mib() {
	xl info free_memory
}
target_kib() {
	xenstore-read /local/domain/0/memory/target
}
before_mib=$(xl list 0 | awk 'NR == 2 { print $3 }')
trap 'xyl mem-set 0 "$before_mib"; rm -rf "$scratch"' EXIT
guest_cfg() {
	printf '%s\n' 'name = "roomy"' 'type = "pv"' "kernel = \"$guests/testguest\"" "memory = $1"
}
ok xyl mem-set 0 "$before_mib"
within 20 eval '[ "$(target_kib)" -eq $((before_mib * 1024)) ]'
traces >before
wanted_mib=$(($(free_mib) + 48))
guest_cfg $wanted_mib >roomy.cfg
export XYL_XL_CONF=$scratch/xl.conf

echo 'off: refused, and domain 0 keeps its memory'
echo 'autoballoon = 0' >xl.conf
refused 'MiB are free' xyl create -q roomy.cfg
# The lab's Xen has dom0_mem= on its command line.
echo 'autoballoon = "auto"' >xl.conf
refused 'MiB are free' xyl create -q roomy.cfg
equals $((before_mib * 1024)) "$(target_kib)"

echo 'on: domain 0 gives up what is missing'
echo 'autoballoon = 1' >xl.conf
ok xyl create roomy.cfg
[ "$(target_kib)" -lt $((before_mib * 1024 - 40 * 1024)) ] || fail 'domain 0 has its target still'
ok xyl destroy roomy
ok xyl mem-set 0 "$before_mib"
within 20 eval '[ "$(free_mib)" -lt "$wanted_mib" ]'

echo 'more than domain 0 can give: refused, and nothing has changed'
guest_cfg 65536 >roomy.cfg
refused 'MiB are free' xyl create -q roomy.cfg
equals $((before_mib * 1024)) "$(target_kib)"
leaves_nothing before
