# xyld on real Xen: what it shows is what xyl shows, it pauses, reboots and destroys a guest through the VM's own process,
# and it may be killed. A user without a role changes nothing.
# limit_s: 150
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyld >/dev/null || skip 'no xyld here'

socket=$scratch/api.sock
# api METHOD PATH [BODY] [TYPE] [KEY]: the answer's status, and its body on the next lines.
api() {
	python3 - "$socket" "$@" <<'PYTHON'
import http.client, socket, sys, uuid
place, method, path = sys.argv[1:4]
body, kind, key = (sys.argv[4:] + ["", "", ""])[:3]
connection = http.client.HTTPConnection("xyl")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(60)
connection.sock.connect(place)
headers = {"Content-Type": kind or "application/json", "Idempotency-Key": key or str(uuid.uuid4()), "Prefer": "wait=30"}
connection.request(method, path, body.encode(), headers)
reply = connection.getresponse()
print(reply.status)
print(reply.read().decode())
PYTHON
}
# part EXPRESSION JSON: a part of a JSON text, by Python.
part() {
	python3 -c 'import json, sys; a = json.loads(sys.argv[2]); print(eval(sys.argv[1]))' "$1" "$2"
}
serve() {
	xyld --socket "$socket" &
	daemon=$!
	within 10 test -S "$socket"
}
answers() {
	[ "$(api GET /livez | head -n 1)" = 200 ]
}
paused() {
	[[ $(domain_state served) == *p* ]]
}
traces >"$scratch/before"
serve
within 10 answers
equals 660 "$(stat -c %a "$socket")"
matches '^200' "$(api GET /readyz)"

# A configuration is checked, and nothing is started.
testguest_cfg served pvh 'memory = 32' >"$scratch/served.cfg"
checked=$(api POST /v1/vms:check "$(cat "$scratch/served.cfg")" text/x-xl-cfg '' | tail -n +2)
equals 'True allow' "$(part '"{} {}".format(a["valid"], a["policy"]["outcome"])' "$checked")"
checked=$(api POST /v1/vms:check "$(sed 's/^memory.*/memory = "much"/' "$scratch/served.cfg")" text/x-xl-cfg '' | tail -n +2)
equals 'False True' "$(part '"{} {}".format(a["valid"], a["diagnostics"][0]["line"] > 0)' "$checked")"
ok domain_gone served

# What it shows is what xyl shows.
ok xyl create -q "$scratch/served.cfg"
within 20 readies served 1
list=$(api GET /v1/vms | tail -n +2)
rows='sorted((r["name"], r["uuid"], r["domid"], r["memory_kib"], r["vm_state"]) for r in %s)'
# shellcheck disable=SC2059
equals "$(part "$(printf "$rows" a)" "$(xyl list --json)")" "$(part "$(printf "$rows" 'a["vms"]')" "$list")"
equals '[]' "$(part 'a["missing"]' "$list")"
equals allow "$(part 'a["decision"]["outcome"]' "$(api GET /v1/vms/served/explain | tail -n +2)")"
for path in /v1/host /v1/operations /v1/posture /v1/leftovers /metrics; do
	matches '^200' "$(api GET $path)"
done
# Python's library can do the same; promtool is not here.
matches "^xen_domain_memory_bytes\{uuid=\"$(uuid_of served)\"\} [0-9]+" "$(api GET /metrics)"

# Power, by the VM's own process.
matches '^200' "$(api PUT /v1/vms/served/power '{"state": "paused"}')"
ok paused
key=$(cat /proc/sys/kernel/random/uuid)
matches '^200' "$(api POST /v1/vms/served/actions/unpause '' '' "$key")"
! paused || fail 'it is still paused'

# Killed, and started again: the same key has the same answer.
kill_hard "$daemon"
wait "$daemon" 2>/dev/null
serve
within 10 answers
matches '"state":"done"' "$(api POST /v1/vms/served/actions/unpause '' '' "$key")"

# A reboot: another domain of the same VM.
before=$(domid_of served)
matches '^200' "$(api POST /v1/vms/served/actions/reboot)"
is_next() {
	local now
	now=$(domid_of served) && [ "$now" != "$before" ]
}
within 30 is_next
within 20 readies served 2

# Nobody may look, if the socket is opened to all; but not change anything.
chmod 755 "$scratch" && chmod 666 "$socket"
nobody=$(setpriv --reuid=65534 --regid=65534 --clear-groups python3 -c '
import http.client, socket, sys
for method, path in ("GET", "/v1/vms"), ("PUT", "/v1/vms/served/power"), ("POST", "/v1/vms:check"):
    c = http.client.HTTPConnection("xyl"); c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])
    c.request(method, path, "{}", {"Content-Type": "application/json"}); print(c.getresponse().status)
' "$socket" | tr '\n' ' ')
equals '200 403 403 ' "$nobody"

matches '^200' "$(api PUT /v1/vms/served/power '{"state": "stopped", "how": "force"}')"
within 20 domain_gone served
matches '^404' "$(api GET /v1/vms/served)"
kill "$daemon"
wait "$daemon" 2>/dev/null
rm -f "$socket" "$socket.lock"
# Answers stay for 15 minutes, for a client that asks again with its key.
rm -f /run/xyl/replies/*.json
leaves_nothing "$scratch/before"
