//! What a host without Xen is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::path::Path;

use xen_port::HvError;
use xen_sys::{EventChannels, Grants, Xen};

#[test]
fn without_xen_each_driver_says_so_and_what_to_do() {
    if Path::new("/dev/xen").exists() {
        eprintln!("skipped: /dev/xen is there");
        return;
    }
    let errors = [
        Xen::open().map(drop),
        EventChannels::open().map(drop),
        Grants::open().map(drop),
    ];
    for (result, path) in
        errors
            .into_iter()
            .zip(["/dev/xen/privcmd", "/dev/xen/evtchn", "/dev/xen/gntdev"])
    {
        let error = result.unwrap_err();
        assert!(matches!(&error, HvError::NotXen { path: named } if named == Path::new(path)));
        assert!(error.to_string().contains("modprobe"), "{error}");
    }
}
