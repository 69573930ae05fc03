# Rules of the policy that name the host's audit: refused with rule, verdict and remedy; facts are gathered once, and only if needed.
# limit_s: 120
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'
policy=/etc/xyl/policy.toml
[ ! -e $policy ] || fail 'there is a policy already'
trap 'rm -rf "$scratch" $policy' EXIT
mkdir -p /etc/xyl
kept=/run/xyl/host-facts.json
traces >before
printf '%s\n' 'name = "wide"' "kernel = \"$guests/testguest\"" 'type = "pv"' 'memory = 16' >wide.cfg
printf '%s\n' 'name = "pvh"' "kernel = \"$guests/testguest\"" 'type = "pvh"' 'memory = 16' >pvh.cfg
# rule TYPE CONDITION... : a policy of one rule that refuses.
rule() {
	printf '%s\n' 'version = 1' '[[rules]]' 'name = "house rule"' "guests = [\"$1\"]" "${@:2}" 'action = "refuse"' 'why = "ask Kim"' >$policy
}

# The default policy has no question about the host for PVH. For 64-bit PV it has one; this host is not affected, so nothing is said.
rm -f $kept
ok xyl create pvh.cfg
[ ! -e $kept ] || fail 'a PVH create gathered facts'
ok xyl destroy pvh
equals '' "$(xyl create wide.cfg 2>&1 >/dev/null | grep warning)"
[ -s $kept ] || fail 'the first 64-bit PV create kept no facts'
stat -c %i,%y $kept >first
ok xyl destroy wide
ok xyl create -q wide.cfg
equals "$(cat first)" "$(stat -c %i,%y $kept)"

# A verdict of the audit: software emulation has no barrier between guests (62-audit). A running guest stays as it is, with a warning.
rule pv64 'families = ["v2"]' 'verdicts = ["unprotected"]'
matches 'warning: wide: the policy would decide differently now: refused: rule "house rule"' "$(xyl explain wide 2>&1)"
ok domid_of wide
matches '"changed": ?true' "$(xyl explain --json wide 2>/dev/null)"
matches '^  pv64 +wide \(' "$(xyl audit)"
matches 'warning: wide \([0-9]+\): the policy would decide differently now: refused' "$(xyl audit)"
# xyl recover warns once.
rm -f /run/xyl/policy-warnings.json
matches 'warning: wide \([0-9]+\): the policy would decide differently now: refused: rule "house rule"' "$(xyl recover 2>&1)"
equals '' "$(xyl recover 2>&1)"
ok sed -i 's/"examined_s":[0-9]*/"examined_s":999999999/' /run/xyl/policy-warnings.json
equals '' "$(xyl recover 2>&1)"
grep -q '"examined_s":999999999,' /run/xyl/policy-warnings.json && fail 'it did not look'
xyl audit --fail-on changed,bare-pv32 >/dev/null 2>failure && fail 'a changed verdict is no finding'
matches 'wide \([0-9]+\) runs as the policy no longer allows$' "$(cat failure)"
matches '"bare_pv32": ?false' "$(xyl list --json wide)"
ok xyl destroy wide
# One that xl has started is judged by its type.
ok xl create -q wide.cfg
matches 'warning: wide \([0-9]+\): the policy would decide differently now: refused' "$(xyl audit)"
xyl audit --fail-on changed >/dev/null 2>&1 && fail 'a guest of xl is never a finding'
ok xl destroy wide
leaves_nothing before
refused 'testguest is refused: rule "house rule": Spectre v2 .branch target injection. is unprotected; ask Kim .remedy: ' xyl create -q wide.cfg
refused 'wide.cfg:[0-9]+:.*is refused: rule "house rule"' xyl create -q -n wide.cfg
leaves_nothing before
ok xyl create -q pvh.cfg
ok xyl destroy pvh
# The same rule against a verdict that does not hold lets it start.
rule pv64 'families = ["v3"]' 'verdicts = ["unprotected"]'
ok xyl create -q wide.cfg
ok xyl destroy wide
# An advisory, and facts that somebody has damaged.
echo nonsense >$kept
rule pvh 'advisories = ["LAB-2"]' 'advisory-verdicts = ["affected"]'
mkdir -p /etc/xyl/advisories.d
printf 'version = 1\n\n[[advisory]]\nid = "LAB-2"\ntitle = "here"\ncpu = { vendors = ["amd"] }\nreferences = ["lab"]\n' >/etc/xyl/advisories.d/lab.toml
refused 'rule "house rule": LAB-2: affected; ask Kim' xyl create -q pvh.cfg
grep -q command_line $kept || fail 'damaged facts were not gathered anew'
echo 'nonsense = 1' >>/etc/xyl/advisories.d/lab.toml
refused '/etc/xyl/advisories.d/lab.toml:8: .*no guest is created until' xyl create -q pvh.cfg
rm -r /etc/xyl/advisories.d
# Threads: this host has one for each core, as xl says.
rule pvh 'shared-cores = "yes-or-unknown"'
equals 1 "$(xl info | awk '/^threads_per_core/ { print $3 }')"
ok xyl create -q pvh.cfg
ok xyl destroy pvh

# A restart asks, too: the rule comes while the guest runs, and its next life is refused.
rm -f "$consoles/guest-wide.log"
rm $policy
ok xyl create -q wide.cfg
rule pv64 'families = ["v2"]' 'verdicts = ["unprotected"]'
within 20 console_says wide 'testguest: ready'
ok xyl reboot wide
within 30 eval 'grep -q "rule \"house rule\"" /var/log/xen/xyl-wide.log'
# It is tried again, and starts once the policy lets it.
rm $policy
within 60 eval '[ "$(grep -ac "testguest: ready" "$consoles/guest-wide.log")" -ge 2 ]'
ok xyl destroy wide
leaves_nothing before
