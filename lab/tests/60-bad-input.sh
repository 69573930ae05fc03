# What is wrong with a configuration, a kernel or the host is said clearly, and leaves nothing behind.
# limit_s: 180
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'

# cfg LINE...: a configuration that is right but for the lines given; prints its path.
cfg() {
	printf '%s\n' 'name = "bad"' 'memory = 32' "kernel = \"$guests/testguest\"" "$@" >bad.cfg
	echo bad.cfg
}

# Kernels.
refused 'nosuch.*(no such file|not there|not found|No such file)' xyl create -q "$(cfg 'kernel = "/nosuch/kernel"')"
head -c 20000 "$guests/testguest" >short
refused 'short' xyl create -q "$(cfg "kernel = \"$scratch/short\"")"
refused "character device" xyl create -q "$(cfg 'kernel = "/dev/null"')"
: >nothing
refused 'nothing' xyl create -q "$(cfg "kernel = \"$scratch/nothing\"")"
head -c 8000 "$guests/linux-vmlinuz" >torn
refused 'torn' xyl create -q "$(cfg "kernel = \"$scratch/torn\"")"
refused 'directory|regular' xyl create -q "$(cfg 'kernel = "/etc"')"
head -c 200000000 /dev/zero | gzip -9 >bomb.gz
head -c 100 bomb.gz >bomb-torn.gz
refused 'bomb' xyl create -q "$(cfg "kernel = \"$scratch/bomb.gz\"")"
refused 'bomb-torn' xyl create -q "$(cfg "kernel = \"$scratch/bomb-torn.gz\"")"
refused 'grub-pv32 is refused: a 32-bit PV kernel runs in ring 1.*remedy' xyl create -q "$(cfg "kernel = \"$guests/grub-pv32\"" 'pvshim = 0')"
refused 'PVH|pvh' xyl create -q "$(cfg "kernel = \"$guests/grub-pv64\"" 'type = "pvh"')"
refused 'nosuch' xyl create -q "$(cfg 'ramdisk = "/nosuch/initrd"')"

# Memory.
refused '[0-9]+ MiB are wanted, and [0-9]+ MiB are free' xyl create -q "$(cfg 'memory = 900000')"
refused 'bad.cfg:4' xyl create -q "$(cfg 'memory = 0')"
refused 'bad.cfg:4' xyl create -q "$(cfg 'memory = -5')"
refused 'bad.cfg:4' xyl create -q "$(cfg 'memory = 99999999999999999999')"

# Grammar, numbers, and what Xyl cannot do yet: by file and line.
refused 'bad.cfg:4:' xyl create -q "$(cfg 'vcpus = [')"
refused 'bad.cfg:4:' xyl create -q "$(cfg 'name = "unfinished')"
refused 'bad.cfg:4:' xyl create -q "$(cfg 'vcpus = 100000')"
refused 'bad.cfg:4:.*the format qed is not supported' xyl create -q "$(cfg 'disk = [ "/nosuch,qed,xvda,rw" ]')"
refused 'xvda.*/dev/null.*character device' xyl create -q "$(cfg 'disk = [ "/dev/null,raw,xvda,rw" ]')"
refused 'nosuch.*bridge|bridge.*nosuch' xyl create -q "$(cfg 'vif = [ "bridge=nosuch" ]')"
refused '`soundhw` is not supported by Xyl yet' xyl create -q "$(cfg 'type = "hvm"' 'soundhw = "hda"')"
refused 'nosuch.cfg' xyl create -q nosuch.cfg
refused 'no domain|No such|nosuch' xyl destroy nosuch

# Names and identities that are taken.
uuid=5c84adcc-bd59-788a-96d2-195f9b599cfe
printf '%s\n' 'name = "taken"' 'memory = 16' "kernel = \"$guests/testguest\"" "uuid = \"$uuid\"" >taken.cfg
ok xyl create -q -p -e taken.cfg
refused 'name `taken` is taken by domain [0-9]+' xyl create -q "$(cfg 'name = "taken"')"
refused 'UUID .* is that of domain [0-9]+' xyl create -q "$(cfg "uuid = \"$uuid\"")"
ok xyl destroy taken

# Xenstored that does not answer: an error in time, not a hang; and a list without names.
pkill -STOP -x xenstored
code=0
output=$(XYL_STORE_TIMEOUT=3 timeout 15 xyl create -q "$(cfg)" 2>&1) || code=$?
list=$(timeout 15 xyl list 2>&1)
pkill -CONT -x xenstored
[ $code -ne 0 ] && [ $code -ne 124 ] || fail "create without xenstored ended with $code: $output"
matches 'no answer within 3000 ms.*see whether xenstored runs' "$output"
matches '^[^ ]+ +0 ' "$list"

# Nobody but root.
refused 'root|permission' setpriv --reuid=65534 --regid=65534 --clear-groups /xyl-lab/bin/xyl list

equals 1 "$(xl list | tail -n +2 | wc -l)"
