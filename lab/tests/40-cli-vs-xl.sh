# xyl prints what xl prints, byte for byte, about domains that xl made; and each understands what the other changed.
# limit_s: 240
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# Times of domain 0 go on between the two commands; its row must be equal but for them.
steady() {
	sed -E 's/^(Domain-0 .* )[ 0-9]{6,}\.[0-9](.*)$/\1TIME\2/'
}

# same WORDS...: both tools print the same and end the same way.
same() {
	local xl_code xyl_code
	xl "$@" >"$scratch/xl.out" 2>"$scratch/xl.err"
	xl_code=$?
	xyl "$@" >"$scratch/xyl.out" 2>"$scratch/xyl.err"
	xyl_code=$?
	equals "$xl_code" "$xyl_code"
	diff <(steady <"$scratch/xl.out") <(steady <"$scratch/xyl.out") || fail "xl and xyl differ: $*"
	echo "same: $*"
}

# same_form WORDS...: the same but for digits, which time changes.
same_form() {
	diff <(xl "$@" | sed 's/[0-9]/N/g') <(xyl "$@" | sed 's/[0-9]/N/g') || fail "xl and xyl differ in form: $*"
	echo "same form: $*"
}


grub_cfg quiet pv >"$scratch/quiet.cfg"
ok xl create -q -p "$scratch/quiet.cfg"
grub_cfg a-name-longer-than-the-column-that-xl-sets-aside pvh >"$scratch/long.cfg"
echo 'vcpus = 3' >>"$scratch/long.cfg"
ok xl create -q -p "$scratch/long.cfg"
long=$(xl domid a-name-longer-than-the-column-that-xl-sets-aside)

for words in list 'list -v' 'list -Z' 'list -c' 'list -n' 'list -v -c -n' 'list quiet' "list $long" vm-list \
	vcpu-list 'vcpu-list quiet' claims 'domid quiet' "domname $long" sched-credit2 'sched-credit2 -s' \
	'sched-credit2 -d quiet' 'sched-credit2 -p Pool-0' info 'info -n' 'info xen_' 'info free_memory' dmesg; do
	# shellcheck disable=SC2086
	same $words
done
same_form uptime
same_form uptime -s
same_form uptime quiet

# What is not there ends with 1 for both; what is wrong with 2.
for words in 'list nobody' 'domid nobody' 'pause nobody' 'vcpu-set nobody 1'; do
	# shellcheck disable=SC2086
	xl $words >/dev/null 2>&1
	expected=$?
	# shellcheck disable=SC2086
	xyl $words >/dev/null 2>"$scratch/error"
	equals "$expected" $?
	matches 'xyl: error: no domain `nobody`' "$(cat "$scratch/error")"
done
for words in rename 'pause' 'mem-set quiet'; do
	# shellcheck disable=SC2086
	xyl $words >/dev/null 2>&1
	equals 2 $?
done

# The configuration that libxl keeps.
xl list -l quiet >"$scratch/xl.json"
xyl list -l quiet >"$scratch/xyl.json"
python3 - "$scratch/xl.json" "$scratch/xyl.json" <<'END' || fail 'xl list -l and xyl list -l differ'
import json, sys
xl, xyl = (json.load(open(path)) for path in sys.argv[1:])
def flat(value, path=""):
    if isinstance(value, dict):
        for key in value:
            yield from flat(value[key], path + "." + key)
    else:
        yield path, value
one, other = dict(flat(xl[0])), dict(flat(xyl[0]))
for path in sorted(set(one) | set(other)):
    if one.get(path) != other.get(path):
        print(f"{path}: xl {one.get(path)!r}, xyl {other.get(path)!r}")
        sys.exit(1)
END

# What one changes the other sees.
ok xyl rename quiet renamed
equals "$(xl domid renamed)" "$(xyl domid renamed)"
equals renamed "$(xenstore-read "/vm/$(xl vm-list | awk '$3 == "renamed" { print $1 }')/name")"
refused 'the name `renamed` is taken by domain' xyl rename "$long" renamed
ok xl rename renamed quiet
ok xyl vcpu-pin "$long" 1 0 -
same vcpu-list "$long"
ok xyl vcpu-pin "$long" all all all
same vcpu-list "$long"
refused 'has no vCPU 7' xyl vcpu-pin "$long" 7 0
ok xyl sched-credit2 -d quiet -w 512 -c 50
same sched-credit2 -d quiet
ok xl sched-credit2 -d quiet -w 256 -c 0
same sched-credit2
refused 'cap 1000 is out of range: 0 to 100' xyl sched-credit2 -d quiet -c 1000

ok xyl mem-max quiet 48
equals 49152 "$(xenstore-read "/local/domain/$(xl domid quiet)/memory/static-max")"
ok xl mem-max quiet 48
same list quiet
ok xyl mem-set quiet 24
xyl_target=$(xenstore-read "/local/domain/$(xl domid quiet)/memory/target")
ok xl mem-set quiet 24
equals "$(xenstore-read "/local/domain/$(xl domid quiet)/memory/target")" "$xyl_target"
refused 'are more than domain [0-9]+ may have' xyl mem-set quiet 1g
refused 'are less than domain [0-9]+ is to have now' xyl mem-max quiet 8
ok xyl vcpu-set -i "$long" 2
equals offline "$(xenstore-read "/local/domain/$long/cpu/2/availability")"
refused 'cannot use 9 vCPUs: choose 1 to 3' xyl vcpu-set -i "$long" 9

# By number, by name, by UUID; and by --json.
uuid=$(xl list -v quiet | awk 'NR == 2 { print $7 }')
equals "$(xl domid quiet)" "$(xyl domid "uuid=$uuid")"
equals paused "$(xyl --json list quiet | python3 -c 'import json, sys; print("paused" if json.load(sys.stdin)[0]["state"]["paused"] else "runs")')"

# xenstored that does not answer: the list is there all the same, without names.
pid=$(pidof xenstored || pidof oxenstored)
kill -STOP "$pid"
XYL_STORE_TIMEOUT=1 xyl list >"$scratch/list" 2>"$scratch/warning"
code=$?
kill -CONT "$pid"
equals 0 "$code"
matches '^\(null\) +0 ' "$(cat "$scratch/list")"
matches 'warning: .*no answer within 1000 ms' "$(cat "$scratch/warning")"

# Pipes, counts.
xyl list | head -n 1 >/dev/null
equals '0 0' "${PIPESTATUS[*]}"
matches 'cost: .*hypercalls' "$(xyl -v list 2>&1 >/dev/null)"

ok xl destroy quiet
ok xl destroy "$long"
