//! What is said about wrong configurations, word by word: `tests/diagnostics/*.txt`. `UPDATE_EXPECT=1 cargo test`
//! writes those texts anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use expect_test::{expect, expect_file};
use xl_cfg::{Source, parse};

fn report(text: &[u8], overrides: &[&str]) -> String {
    let source = Source::from_bytes("guest.cfg", text).unwrap();
    match parse(source, overrides) {
        Ok(config) => config.report().render(false),
        Err(error) => error.report().unwrap().render(false),
    }
}

/// `text`, and behind it what a configuration needs besides.
fn completed(text: &str) -> String {
    let is_set = |key: &str| {
        text.split([';', '\n'])
            .any(|part| part.trim().starts_with(key))
    };
    let needed = [
        ("name", "name='g'"),
        ("kernel", "kernel='/k'"),
        ("memory", "memory=64"),
    ];
    let rest: Vec<&str> = needed
        .into_iter()
        .filter(|(key, _)| !is_set(key))
        .map(|(_, setting)| setting)
        .collect();
    format!("{text}\n{}\n", rest.join("; "))
}

/// Compares the findings about each of the texts with the file of the theme.
fn check(theme: &str, texts: &[&str]) {
    let mut all = String::new();
    for text in texts {
        let found = report(completed(text).as_bytes(), &[]);
        let found = if found.is_empty() {
            "nothing to say\n"
        } else {
            &found
        };
        all.push_str(&format!("----- {}\n{found}", text.escape_debug()));
    }
    expect_file![format!(
        "{}/tests/diagnostics/{theme}.txt",
        env!("CARGO_MANIFEST_DIR")
    )]
    .assert_eq(&all);
}

#[test]
fn values_that_are_no_values() {
    check(
        "values_that_are_no_values",
        &[
            "vcpus = True",
            "vcpus = false",
            "uuid = None",
            "vcpus = 1.5",
            "maxmem = 2G",
            "maxmem = 2x00M",
            "vcpus = 0xFF",
            "rtc_timeoffset = -3600",
            "rtc_timeoffset = -3600x",
            "maxmem = 64 MB",
            "maxmem = 64 gb",
            "maxmem = 64 apples",
            "ramdisk = /boot/initrd",
            "type = hvm",
            "vnclisten = 0.0.0.0",
            "cpus = 0-3",
            "extra = (1)",
            "vcpus =",
            "vcpus = = 2",
            "cmdline = “x”",
        ],
    );
}

#[test]
fn strings() {
    check(
        "strings",
        &[
            "ramdisk = \"/boot/initrd",
            "ramdisk = 'it's'",
            "extra = \"a \\",
            "extra = \"\\q\"",
            "extra = '\\x4'",
            "extra = '\\x41\\101'",
            "extra = '\\0'",
            "extra = 'tab\there'",
            "extra = \"\"\"two\nlines\"\"\"\nvcpus = x",
            "extra = '''never closed",
            "extra = ''",
            "ramdisk = ''",
        ],
    );
}

#[test]
fn names() {
    check(
        "names",
        &[
            "Vcpus = 1",
            "device-model = 'x'",
            "vcpus: 1",
            "vcpus 1",
            "vcpus",
            "= 1",
            "'vcpus' = 1",
            "_x = 1",
            "import os",
            "]",
            "vcpus = 1 maxvcpus = 2",
            "vcpus = 1, 2",
        ],
    );
}

#[test]
fn lists() {
    check(
        "lists",
        &[
            "disk = [ 'a' 'b' ]",
            "vif = [ '', ",
            "vif = [ '',\n\nvcpus = 1",
            "vif = [ , '' ]",
            "vif = [ '',, '' ]",
            "vif = [ '', bridge ]",
            "vif = [ ''; '' ]",
            "vnuma = [[[[[[[[[[[[[[[[[[[[",
            "vif = [ 'mac=1' ] ]",
        ],
    );
}

#[test]
fn wrong_types() {
    check(
        "wrong_types",
        &[
            "memory = [ 512 ]",
            "memory = [ 64, 'x' ]",
            "memory = 'lots'",
            "memory = ''",
            "memory = '512 MiB'",
            "memory = '2G'",
            "memory = 010",
            "memory = 09",
            "localtime = 'yes'",
            "disk = 'phy:/dev/x,xvda,w'",
            "vif = ''",
            "vif = [ [ 'mac=1' ] ]",
            "kernel = ''",
            "vcpus = 1\nvcpus += 1",
            "vif += 'a'\nvif += [ 'b' ]",
            "vif = [ '' ]\nvif += 'b'",
        ],
    );
}

#[test]
fn numbers_out_of_range() {
    check(
        "numbers_out_of_range",
        &[
            "memory = 0",
            "memory = '-1'",
            "memory = -1",
            "vcpus = -3",
            "cap = [ -1 ]",
            "memory = 99999999999999999999",
            "memory = 17592186044416",
            "vcpus = 0",
            "vcpus = 4097",
            "vcpus = '-1'",
            "vcpus = 2; maxvcpus = 1",
            "maxmem = 32",
            "cap = '-1'",
            "cpu_weight = 0",
            "cpu_weight = 65536",
            "max_grant_version = 3",
            "max_event_channels = 131072",
            "rtc_timeoffset = 99999999999",
            "vmtrace_buf_kb = '-4'",
            "shadow_memory = 0",
        ],
    );
}

#[test]
fn the_domain() {
    check(
        "the_domain",
        &[
            "type = 'hwm'",
            "type = 'PV'",
            "builder = 'hvm'",
            "builder = 'hvm'; type = 'pv'",
            "builder = 'pvh'",
            "uuid = '1234'",
            "uuid = '00000000-0000-0000-0000-000000000000'",
            "on_crash = 'restrat'",
            "on_reboot = 'reboot'",
            "on_poweroff = 'explode'",
            "pool = ''",
            "passthrough = 'sometimes'",
            "timer_mode = 1",
            "tsc_mode = 1",
            "tsc_mode = 7",
            "tsc_mode = 'native_paravirt'",
        ],
    );
}

#[test]
fn unknown_and_old_names() {
    check(
        "unknown_and_old_names",
        &[
            "memroy = 512",
            "vif.default.bridge = 'xenbr0'",
            "initrd = '/x'",
            "zzzzzz = 1",
            "pae = 1",
            "pvshim = 1",
            "device_model = '/usr/lib/xen/bin/qemu-dm'",
            "vncviewer = 1",
            "on_xend_start = 'start'",
            "pvh = 1",
            "slice = 10",
            "cmdline = 'a'; root = '/dev/xvda1'; extra = 'ro'",
            "vcpus = 1\nvcpus = 2",
            "vif = [ '' ]\nvif = [ '' ]",
            "extra = 'a'\nextra = 'b'",
            "bootloader = 'pygrub'; bootloader_args = '-q --kernel=/k'",
            "firmware = 'pvgrub64'",
            "firmware = 'ovmf'",
        ],
    );
}

#[test]
fn cpu_lists() {
    check(
        "cpu_lists",
        &[
            "cpus = 'x'",
            "cpus = '0-3,4x,^1'",
            "cpus = '^1'",
            "cpus = ''",
            "cpus = '3-1'",
            "cpus = '0-99999'",
            "cpus = '65535'",
            "cpus = 'all,^all'",
            "vcpus = 1; cpus = [ '0', '1' ]",
            "cpus = [ '0', [ '1' ] ]",
            "cpus_soft = 'node:x'",
        ],
    );
}

#[test]
fn disks() {
    check(
        "disks",
        &[
            "disk = [ '/x' ]",
            "disk = [ '' ]",
            "disk = [ '/x,raw,xvda' ]; disk += [ '/y,raw,51712' ]",
            "disk = [ '/x,qcow3,xvda' ]",
            "disk = [ '/x,raw,vda' ]",
            "disk = [ '/x,raw,xvda,x' ]",
            "disk = [ '/x,raw,xvda,w,y' ]",
            "disk = [ 'vdev=xvda,format=raw' ]",
            "disk = [ 'vdev=xvda,vdev=xvdb,target=/x' ]",
            "disk = [ 'vdef=xvda,target=/x' ]",
            "disk = [ '/a=b,raw,xvda' ]",
            "disk = [ 'http://x,raw,xvda' ]",
            "disk = [ 'phy:/dev/x,xvda,w' ]",
            "disk = [ 'tap:qcow2:/x,hdc:cdrom,r' ]",
            "disk = [ 'format=raw,format=qcow2,vdev=xvda,target=/x' ]",
            "disk = [ 'vdev=hdc,cdrom,access=rw' ]",
            "disk = [ 'vdev=xvda,backendtype=fast,target=/x' ]",
            "disk = [ 'vdev=hdc,devtype=tape,target=/x' ]",
            "disk = [ 'format=empty,vdev=hdc,cdrom,target=/x' ]",
        ],
    );
}

#[test]
fn interfaces() {
    check(
        "interfaces",
        &[
            "vif = [ 'mac=00:16:3e:00:00:0g' ]",
            "vif = [ 'mac=01:16:3e:00:00:01' ]",
            "vif = [ 'mac' ]",
            "vif = [ 'brigde=xenbr0' ]",
            "vif = [ 'rate=10' ]",
            "vif = [ 'rate=10Mb/s@' ]",
            "vif = [ 'type=vfi' ]",
            "vif = [ 'vifname=a-very-long-device-name' ]",
            "vif = [ 'mtu=1' ]",
            "vif = [ 'accel=1,netdev=eth0' ]",
            "vif = [ 'mac=00:16:3e:00:00:01', 'mac=0:16:3e:0:0:1' ]",
            "vif = [ '\\'mac=x' ]",
        ],
    );
}

#[test]
fn other_devices() {
    check(
        "other_devices",
        &[
            "pci = [ '03:00' ]",
            "pci = [ '03:00.0,permisive=1' ]",
            "pci = [ '03:00.0@20' ]",
            "pci = [ 'seize=1' ]",
            "pci = [ '03:00.0,name=x' ]",
            "usbdev = [ 'hostbus=1' ]",
            "usbctrl = [ 'version=4' ]",
            "channel = [ 'name=a,connection=pipe' ]",
            "channel = [ 'name=a,connection=socket' ]",
            "vtpm = [ 'uuid=x,backend=d' ]",
            "vkb = [ 'unique-id=1' ]",
            "p9 = [ 'tag=a' ]",
            "vfb = [ 'type=vnc,vncdisplay=x' ]",
            "ioports = [ '2ff-2f8' ]",
            "irqs = [ 'x' ]",
            "iomem = [ 'fe000' ]",
            "xenstore_quota = [ 'nodes' ]",
            "vnuma = [ 'pnode=0' ]",
            "vnuma = [ [ 'pnode=0', 'size=64', 'vcpus=0' ] ]",
            "vnuma = [ [ 'pnode=0', 'size=32', 'vcpus=0', 'vdistances=10,20' ] ]",
            "cpuid = 'tm=0'",
            "cpuid = 'host,tmm=0,tm=2'",
            "cpuid = [ '1:ecx=0' ]",
        ],
    );
}

#[test]
fn hvm() {
    check(
        "hvm",
        &[
            "type = 'hvm'; boot = 'x'",
            "type = 'hvm'; viridian = [ 'basse' ]",
            "type = 'hvm'; viridian = 1",
            "type = 'hvm'; vga = 'stdvag'",
            "type = 'hvm'; stdvga = 1",
            "type = 'hvm'; videoram = 4",
            "type = 'hvm'; bios = 'efi'",
            "type = 'hvm'; smbios = [ 'bios_vendr=x' ]",
            "type = 'hvm'; ms_vm_genid = 'new'",
            "type = 'hvm'; usb = 1; usbversion = 2",
            "type = 'hvm'; mmio_hole = 100",
            "type = 'hvm'; device_model_version = 'qemu-xen-traditional'",
            "type = 'hvm'; kernel = '/usr/lib/xen/boot/hvmloader'",
            "type = 'hvm'; e820_host = 1",
            "type = 'hvm'; gfx_passthru = 'amd'",
            "type = 'hvm'; vncdisplay = 1; vnclisten = '127.0.0.1:2'",
        ],
    );
}

/// The same for whole files, byte by byte.
fn check_bytes(theme: &str, files: &[&[u8]]) {
    let all: String = files
        .iter()
        .map(|file| format!("----- {}\n{}", file.escape_ascii(), report(file, &[])))
        .collect();
    expect_file![format!(
        "{}/tests/diagnostics/{theme}.txt",
        env!("CARGO_MANIFEST_DIR")
    )]
    .assert_eq(&all);
}

#[test]
fn whole_files() {
    check_bytes(
        "whole_files",
        &[
            b"",
            b"# only a comment, and no line end",
            b"name = 'web/1'\nkernel = '/k'\nmemory = 64\n",
            b"name = '17'\nkernel = '/k'\nmemory = 64\n",
            b"name = 'g'\nkernel = '/k'\n",
            b"name = 'g'\ntype = 'pvh'\nmemory = 64\n",
            b"name = 'g'\ntype = 'hvm'\nmemory = 64\ncmdline = 'x'\n",
            b"import os\narch = os.uname()[4]\nname = 'a' + 'b'\ndef f(x):\n    return x\n",
        ],
    );
}

#[test]
fn encodings() {
    check_bytes(
        "encodings",
        &[
            b"name = 'g'\r\nkernel = '/k'\r\nmemory = 64\r\n",
            b"\xef\xbb\xbfname = 'g'\nkernel = '/k'\nmemory = 64\n",
            b"name = 'g\xe4'\nkernel = '/k'\nmemory = 64 # \xe4 does no harm here\n",
            b"name = 'g'\0\nkernel = '/\0k'\nmemory = 64\n",
            b"n\0a\0m\0e\0 \0=\0",
            b"\xff\xfen\0a\0m\0e\0",
            b"\x1f\x8b\x08\0\0\0\0\0\n\0\0",
            b"  {\n  \"name\": \"g\"\n}\n",
            b"<domain type='xen'>\n  <name>g</name>\n</domain>\n",
            b"name = 'g'\rkernel = '/k'\n",
            "name = '\u{7f}g'; kernel = '\u{9b}2J\u{202e}x'; x = y\n".as_bytes(),
            "name = '日本語'; memory = 'ミ'; kernel = '/k'\n".as_bytes(),
        ],
    );
}

#[test]
fn the_command_line() {
    let text = b"name = 'g'\nkernel = '/k'\nmemory = 64\nvif = [ '' ]\n";
    expect![[""]].assert_eq(&report(text, &["memory=128", "vcpus=2; maxvcpus=2"]));
    expect![[r#"
        <command line>:2:8: error: `memory` wants a number of MiB, not `lots`
          2 | memory='lots'; vif+=['mac=x']
            |        ^^^^^^
            = help: 512 means 512 MiB
        <command line>:2:27: error: `x` is no hardware address
          2 | memory='lots'; vif+=['mac=x']
            |                           ^
            = help: write six bytes, as in `mac=00:16:3e:00:00:01`
    "#]]
    .assert_eq(&report(text, &["vcpus=2", "memory='lots'; vif+=['mac=x']"]));
    expect![[r#"
        <command line>:2:1: warning: `memory` is set again; this one counts
          2 | memory=256
            | ^^^^^^
            = note: <command line>:1:1: set here first, without effect
            = help: take one of them out
    "#]]
    .assert_eq(&report(text, &["memory=128", "memory=256"]));
    expect![[r#"
        <command line>:1:5: error: this `[` is never closed
          1 | vif=['a'
            |     ^
            = note: <command line>:2:1: the list would have to end before `vcpus`
            = help: put a `]` behind the last item
    "#]]
    .assert_eq(&report(text, &["vif=['a'", "vcpus=1"]));
    expect![[r#"
        guest.cfg:1:8: error: this `[` is never closed
          1 | name = [ 'g'
            |        ^
            = note: guest.cfg:2:1: the list would have to end before the end of the file
            = help: put a `]` behind the last item
        <command line>:1:9: error: unexpected `]` after the value of `vcpus`
          1 | vcpus=1 ]
            |         ^
            = help: one setting a line, or a `;` between settings
    "#]]
    .assert_eq(&report(b"name = [ 'g'\n", &["vcpus=1 ]"]));
    expect![[r#"
        <command line>:1:6: error: expected a value, found the name `zz`
          1 | name=zz
            |      ^^
            = help: write 'name="zz"' with both kinds of quotes: the shell takes the outer ones away
    "#]]
    .assert_eq(&report(text, &["name=zz"]));
    expect![[r#"
        <command line>:1:8: error: `/boot/k` has to be quoted
          1 | kernel=/boot/k
            |        ^^^^^^^
            = help: write 'kernel="/boot/k"' with both kinds of quotes: the shell takes the outer ones away
    "#]].assert_eq(&report(text, &["kernel=/boot/k"]));
    expect![[r#"
        <command line>:1:15: error: expected a value, found the name `zz`
          1 | vcpus=2; name=zz
            |               ^^
            = help: texts are quoted: "zz", and single quotes around it all: the shell takes those away
    "#]]
    .assert_eq(&report(text, &["vcpus=2; name=zz"]));
}

#[test]
fn long_lines_are_cut() {
    let long = format!("extra = '{}' x", "a".repeat(300));
    let longer = format!(
        "extra = 'a'; disk = [ '{}' ]; vif = [ '' ]",
        "b".repeat(300)
    );
    check("long_lines", &[&long, &longer]);
}

#[test]
fn colours() {
    let source = Source::from_bytes("guest.cfg", b"memory = 'lots'").unwrap();
    let error = parse::<&str>(source, &[]).unwrap_err();
    let colored = error.report().unwrap().render(true).replace('\x1b', "^");
    expect![[r#"
        ^[1mguest.cfg:^[0m ^[1;31merror:^[0m the domain has no name
          ^[1;34m=^[0m ^[1mhelp:^[0m write `name = "guest"`
        ^[1mguest.cfg:^[0m ^[1;31merror:^[0m there is no `kernel`: the guest has nothing to boot
          ^[1;34m=^[0m ^[1mhelp:^[0m write `kernel = "/path/to/vmlinuz"`; one that is on the guest's own disk has to be copied out of it
        ^[1mguest.cfg:1:10:^[0m ^[1;31merror:^[0m `memory` wants a number of MiB, not `lots`
          ^[1;34m1^[0m ^[1;34m|^[0m memory = 'lots'
            ^[1;34m|^[0m          ^[1;31m^^^^^^^[0m
            ^[1;34m=^[0m ^[1mhelp:^[0m 512 means 512 MiB
    "#]].assert_eq(&colored);
}

#[test]
fn json() {
    let text = b"name = 'g'\nkernel = '/k'\nmemory = 64\nmemory = 'lots'\n";
    let error = parse::<&str>(Source::from_bytes("guest.cfg", text).unwrap(), &[]).unwrap_err();
    let json = serde_json::to_string_pretty(error.report().unwrap()).unwrap();
    expect![[r#"
        [
          {
            "severity": "warning",
            "code": "duplicate",
            "file": "guest.cfg",
            "line": 4,
            "column": 1,
            "length": 6,
            "message": "`memory` is set again; this one counts",
            "notes": [
              {
                "at": "guest.cfg:3:1",
                "text": "set here first, without effect"
              }
            ],
            "help": "take one of them out"
          },
          {
            "severity": "error",
            "code": "bad-value",
            "file": "guest.cfg",
            "line": 4,
            "column": 10,
            "length": 6,
            "message": "`memory` wants a number of MiB, not `lots`",
            "help": "512 means 512 MiB"
          }
        ]"#]]
    .assert_eq(&json);
}

#[test]
fn too_many_findings_are_counted() {
    let text = "x = y\n".repeat(1000);
    let rendered = report(text.as_bytes(), &[]);
    assert!(
        rendered.ends_with("guest.cfg: and 900 more like these\n"),
        "{rendered}"
    );
}
