# The host's policy: a 32-bit PV kernel is never started bare. By default it runs in the shim; or it is refused, with the reason.
# limit_s: 240
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'
policy=/etc/xyl/policy.toml
[ ! -e $policy ] || fail 'there is a policy already'
trap 'rm -rf "$scratch" $policy' EXIT
traces >before
printf '%s\n' 'name = "narrow"' "kernel = \"$guests/grub-pv32\"" 'memory = 64' >narrow.cfg
printf '%s\n' 'name = "wide"' "kernel = \"$guests/testguest\"" 'memory = 16' >wide.cfg

# set_policy LINE...: a policy with these lines, and with what the shim needs here.
set_policy() {
	mkdir -p /etc/xyl
	printf '%s\n' 'version = 1' "$@" >$policy
	[ -z "$(shim_needs)" ] || printf '%s\n' '[shim]' "$(shim_needs | sed 's/^pvshim_//')" >>$policy
}

# Without a policy the default holds: in the shim, without a change of the configuration. (Where the shim needs a setting,
# a policy gives it, and nothing else.)
[ -z "$(shim_needs)" ] || set_policy
matches 'grub-pv32 would be started in the PV shim' "$(xyl create -n narrow.cfg 2>&1 >/dev/null)"
matches 'warning: .*grub-pv32.*|started in the PV shim: a 32-bit PV kernel runs in ring 1' "$(xyl create narrow.cfg 2>&1)"
within 60 console_says narrow XYL-GRUB-UP
domid=$(domid_of narrow)
equals pvh "$(xenstore-read "/libxl/$domid/type")"
matches "narrow \($domid\): started in the PV shim: a 32-bit PV kernel runs in ring 1" "$(xyl explain narrow)"
matches 'kernel +.*grub-pv32: a 32-bit PV kernel' "$(xyl explain narrow)"
matches 'unseen +the kernel is a boot loader' "$(xyl explain narrow)"
matches '"outcome": ?"convert-to-shim"' "$(xyl explain --json narrow)"
uuid=$(uuid_of narrow)
[ -f "/var/lib/xyl/vm/$uuid/admission.json" ] || fail 'no record of the decision'
matches '^type|^kernel' "$(cat "/var/lib/xyl/vm/$uuid/config.cfg")"
grep -q pvshim "/var/lib/xyl/vm/$uuid/config.cfg" && fail 'the configuration was changed'

# A 64-bit kernel runs bare.
ok xyl create -q wide.cfg
within 20 console_says wide 'testguest: ready'
matches 'wide \([0-9]+\): allowed' "$(xyl explain wide)"
equals pv "$(xenstore-read "/libxl/$(domid_of wide)/type")"

# Another policy: what runs is left alone and told of, what is new is refused before anything is built.
set_policy '[guests]' 'pv32 = "refuse"'
output=$(xyl explain narrow 2>&1)
matches 'warning: narrow: the policy would decide differently now: refused' "$output"
ok domid_of narrow
ok xyl destroy narrow
ok xyl destroy wide
leaves_nothing before
refused 'grub-pv32 is refused: a 32-bit PV kernel runs in ring 1.*pv32 = "refuse".*remedy' xyl create -q narrow.cfg
refused 'narrow.cfg:[0-9]+:.*grub-pv32 is refused' xyl create -q -n narrow.cfg
# In the shim by the configuration's own word it may run.
printf '%s\n' 'type = "pvh"' 'pvshim = 1' "$(shim_needs)" >>narrow.cfg
ok xyl create -q narrow.cfg
within 60 eval '[ "$(grep -ac XYL-GRUB-UP "$consoles/guest-narrow.log")" -ge 2 ]'
matches 'narrow \([0-9]+\): allowed' "$(xyl explain narrow)"
ok xyl destroy narrow
# Where policy and configuration both wish for a bare start, it takes a Xen that runs such guests (lab/tests/68-bare-pv32).
set_policy '[guests]' 'pv32 = "allow"'
xl info | grep -q '^xen_caps.* xen-3.0-x86_32p' ||
	refused 'cannot run bare here: this Xen was built without CONFIG_PV32' xyl create -q /dev/null "name=\"bare\"; kernel=\"$guests/grub-pv32\"; memory=64; pvshim=0"
echo nonsense >$policy
refused 'policy.toml:1: .*no guest is created until' xyl create -q wide.cfg
refused 'there is no decision about' xyl explain 0
leaves_nothing before
