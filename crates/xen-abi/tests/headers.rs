//! The table against the headers that this machine has, if it has any.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod header_check;

use std::path::Path;

#[test]
fn layouts_match_the_installed_headers() {
    let include = Path::new("/usr/include");
    if !include.join("xen/domctl.h").exists() {
        eprintln!("skipped: no Xen headers in /usr/include/xen (package libxen-dev)");
        return;
    }
    let report = header_check::check(include).unwrap();
    assert!(
        report.differences.is_empty(),
        "Xen {}: {:#?}",
        report.release,
        report.differences
    );
    assert!(report.compared > 500, "only {} compared", report.compared);
}

#[test]
fn a_header_that_differs_is_noticed() {
    let installed = Path::new("/usr/include/xen");
    if !installed.join("domctl.h").exists() {
        eprintln!("skipped: no Xen headers in /usr/include/xen (package libxen-dev)");
        return;
    }
    let include = tempfile::tempdir().unwrap();
    copy_folder(installed, &include.path().join("xen"));
    let header = include.path().join("xen/domctl.h");
    let text = std::fs::read_to_string(&header).unwrap();
    let changed = text
        .replace(
            "uint64_aligned_t max_memkb;",
            "uint32_t pad; uint32_t max_memkb;",
        )
        .replace(
            "XEN_DOMCTL_pausedomain                    3",
            "XEN_DOMCTL_pausedomain 33",
        );
    assert_ne!(text, changed);
    std::fs::write(&header, changed).unwrap();
    let report = header_check::check(include.path()).unwrap();
    assert_eq!(
        report.differences,
        [
            "offset of MaxMem.max_memkb (struct xen_domctl_max_mem): here 0x0, in C 0x4",
            "size of MaxMem.max_memkb (struct xen_domctl_max_mem): here 0x8, in C 0x4",
            "value of XEN_DOMCTL_pausedomain: here 0x3, in C 0x21",
        ]
    );
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn headers_of_an_unknown_release_are_refused_by_number() {
    let include = tempfile::tempdir().unwrap();
    let xen = include.path().join("xen");
    for dir in ["hvm", "arch-x86/hvm", "io"] {
        std::fs::create_dir_all(xen.join(dir)).unwrap();
    }
    for header in [
        "xen.h",
        "sysctl.h",
        "memory.h",
        "event_channel.h",
        "grant_table.h",
        "physdev.h",
        "version.h",
        "sched.h",
        "hvm/params.h",
        "hvm/hvm_op.h",
        "hvm/save.h",
        "arch-x86/hvm/start_info.h",
        "io/console.h",
        "io/xs_wire.h",
    ] {
        std::fs::write(xen.join(header), "").unwrap();
    }
    let versions =
        "#define XEN_DOMCTL_INTERFACE_VERSION 0x12\n#define XEN_SYSCTL_INTERFACE_VERSION 0x13\n";
    std::fs::write(xen.join("domctl.h"), versions).unwrap();
    let refused = header_check::check(include.path()).unwrap_err();
    assert!(
        refused.starts_with("headers of domctl 0x12, sysctl 0x13: not known; known: 4.17"),
        "{refused}"
    );
}
