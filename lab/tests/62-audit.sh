# The audit of this host agrees with its boot log, its CPU and xl; its exit codes; what is kept; advisories of the administrator.
# limit_s: 60
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

ok python3 /xyl-lab/lab/audit-host.py cpu=AMD/23/1/2 sharing=no pv64:v3=not-affected pv64:l1tf=not-affected

exit_code() {
	local code=0
	"$@" >"$scratch/out" 2>"$scratch/err" || code=$?
	echo $code
}
equals 0 "$(exit_code xyl audit)"
equals 0 "$(exit_code xyl audit --type pv64 --fail-on v3)"
# Software emulation has no barrier between guests.
equals 3 "$(exit_code xyl audit --type pv64 --fail-on v2)"
matches 'v2 of pv64 is unprotected' "$(cat "$scratch/err")"
equals 2 "$(exit_code xyl audit --fail-on nonsense)"
equals 2 "$(exit_code xyl audit --type pv65)"
matches '^v2 ' "$(xyl audit)"
matches 'because: .*boot log' "$(xyl audit -v)"
matches 'XSA-471' "$(xyl audit --advisories)"
xyl audit | grep -q $'\033' && fail 'colour in a pipe'

# Facts are kept for the policy; the next audit makes them anew.
kept=/run/xyl/host-facts.json
[ -s "$kept" ] || fail "no $kept"
equals 600 "$(stat -c %a "$kept")"
echo '{"format": 1}' >"$kept"
ok xyl audit --type pvh >/dev/null
grep -q command_line "$kept" || fail 'the facts were not gathered anew'

# An advisory of the administrator, and one that is wrong.
mkdir -p /etc/xyl/advisories.d
printf 'version = 1\n\n[[advisory]]\nid = "LAB-1"\ntitle = "here"\ncpu = { vendors = ["amd"] }\nreferences = ["lab"]\n' >/etc/xyl/advisories.d/lab.toml
equals 3 "$(exit_code xyl audit --fail-on LAB-1)"
matches 'LAB-1 +affected' "$(xyl audit --advisories)"
echo 'nonsense = 1' >>/etc/xyl/advisories.d/lab.toml
refused '/etc/xyl/advisories.d/lab.toml:8: unknown field' xyl audit
rm -r /etc/xyl/advisories.d

rm -f "$kept"
