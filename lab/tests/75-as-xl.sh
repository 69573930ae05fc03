# Called as xl, the program ends as xl does, and what programs read has xl's form: the calls of Ganeti, Pacemaker, xendomains
# and EVE, with xl and with a link named xl.
# limit_s: 600
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
mkdir "$scratch/bin"
ln -s "$(command -v xyl)" "$scratch/bin/xl"
as_xl=$scratch/bin/xl

# form: the output without what time and numbers change.
form() {
	sed -E 's/ [r-][b-][p-][s-][c-][d-] / STATE /; s/[0-9]+/N/g; s/ +/ /g'
}
# alike WORDS...: both end with the same code, and print the same form.
alike() {
	local xl_code xyl_code
	xl "$@" >"$scratch/xl.out" 2>"$scratch/xl.err"
	xl_code=$?
	"$as_xl" "$@" >"$scratch/xyl.out" 2>"$scratch/xyl.err"
	xyl_code=$?
	[ $xl_code = $xyl_code ] || fail "xl $*: xl ends with $xl_code ($(head -n 2 "$scratch/xl.err")), Xyl with $xyl_code ($(cat "$scratch/xyl.err"))"
	diff <(form <"$scratch/xl.out") <(form <"$scratch/xyl.out") || fail "xl $*: another form"
	echo "alike ($xl_code): $*"
}
# ends_alike WORDS...: both end with the same code. For calls whose output nobody reads.
ends_alike() {
	local xl_code xyl_code
	xl "$@" >/dev/null 2>"$scratch/xl.err"
	xl_code=$?
	"$as_xl" "$@" >/dev/null 2>"$scratch/xyl.err"
	xyl_code=$?
	[ $xl_code = $xyl_code ] || fail "xl $*: xl ends with $xl_code ($(head -n 2 "$scratch/xl.err")), Xyl with $xyl_code ($(cat "$scratch/xyl.err"))"
	echo "ends alike ($xl_code): $*"
}

testguest_cfg asked pvh 'memory = 32' >"$scratch/asked.cfg"
ok xl create -q "$scratch/asked.cfg"
within 60 readies asked 1

for words in list 'list asked' info 'list nobody' 'domid asked' 'domname 0' 'domid nobody'; do
	# shellcheck disable=SC2086
	alike $words
done
for words in help 'no-such-command' 'list --no-such-option' destroy 'destroy nobody' 'shutdown nobody' 'shutdown' \
	'trigger asked dance' 'mem-set asked 12parsecs' 'mem-set asked' '-x list' \
	'save nobody /tmp/nothing' 'trigger nobody power' 'vcpu-set asked x' 'pause nobody' 'console nobody' 'reboot nobody' \
	'sysrq asked s' 'mem-set asked 24' 'trigger asked power' 'pause asked' 'unpause asked' 'dmesg'; do
	# shellcheck disable=SC2086
	ends_alike $words
done
xl >/dev/null 2>&1
code=$?
"$as_xl" >/dev/null 2>&1
equals $code $?
equals "$(xl create --quiet --dryrun --defconfig "$scratch/asked.cfg" | grep '"name"')" \
	"$("$as_xl" create --quiet --dryrun --defconfig "$scratch/asked.cfg" | grep '"name"')"
ok xl destroy asked

# The life of a guest by each of the two: the calls of Pacemaker, EVE and xendomains.
for program in xl "$as_xl"; do
	ok $program create "$scratch/asked.cfg" 'name="N"'
	within 60 readies N 1
	ok $program list N >/dev/null
	# xl ends with 3 here and elsewhere in create, Xyl with 1.
	refused . $program create --quiet --defconfig "$scratch/asked.cfg" name='"N"'
	before=$(domid_of N)
	ok $program reboot N
	within 60 other_domid N "$before"
	within 60 readies N 2
	ok $program shutdown -w N
	within 60 domain_gone N
	refused . $program list N
	rm -f "$consoles/guest-N.log"
	pkill -HUP -x xenconsoled
done

echo 'the Debian package gives the name /usr/sbin/xl to Xyl, and back'
[ -d /var/lib/dpkg/info ] || fail 'no dpkg here'
xyl=$(readlink -f "$(command -v xyl)")
[ -e /usr/local/sbin/xyl ] || ln -s "$xyl" /usr/local/sbin/xyl
xens=$(readlink -f /usr/sbin/xl)
ok sh /xyl-lab/dist/debian/build-xyl-as-xl "$scratch" >/dev/null
trap 'dpkg -r xyl-as-xl >/dev/null 2>&1; rm -rf "$scratch"' EXIT
ok dpkg -i "$scratch"/xyl-as-xl_*.deb >"$scratch/dpkg.out" 2>&1
equals "$xyl" "$(readlink -f /usr/sbin/xl)"
equals "$xens" "$(readlink -f /usr/sbin/xl.xen)"
ok /usr/sbin/xl list >/dev/null
ok /usr/lib/xen-*/bin/xl list >/dev/null
ok dpkg -r xyl-as-xl >"$scratch/dpkg.out" 2>&1
equals "$xens" "$(readlink -f /usr/sbin/xl)"
[ ! -e /usr/sbin/xl.xen ] || fail 'the diversion is there still'
