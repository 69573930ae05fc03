//! Prints the properties of a kernel image, and the time that loading takes.
//!
//! `cargo run --release -p xen-image --example inspect -- KERNEL [CACHE_DIRECTORY]`

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use xen_image::{CacheFolder, CacheOptions, Loader};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let path = arguments.next().ok_or("which kernel?")?;
    let start = Instant::now();
    let cache = arguments.next().map(|path| CacheFolder {
        path: path.into(),
        options: CacheOptions::default(),
    });
    let loader = Loader {
        cache,
        ..Loader::default()
    };
    let image = loader.load(Path::new(&path))?;
    println!(
        "{:?} in {:?}: {} bytes, {:?} {:?}",
        image.origin(),
        start.elapsed(),
        image.size_bytes(),
        image.class(),
        image.machine()
    );
    for segment in image.segments() {
        println!("{segment:#x?}");
    }
    println!("{:#x?}", image.notes());
    let kinds: Vec<String> = image.kinds().iter().map(ToString::to_string).collect();
    println!("can be: {}", kinds.join(", "));
    for shown in [
        image.pv().map(|kernel| format!("{kernel:#x?}")),
        image.pvh().map(|kernel| format!("{kernel:#x?}")),
    ] {
        println!("{}", shown.unwrap_or_else(|error| error.to_string()));
    }
    Ok(())
}
