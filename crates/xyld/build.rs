//! Lists the files of the page that `cargo xtask web` has made in `web/dist`. Without them the list is empty.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web");
    println!("cargo::rerun-if-changed={}", folder.display());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let written = fs::write(out.join("page_files.rs"), list(&folder.join("dist")));
    if let Err(error) = written {
        println!("cargo::error=cannot list the files of the page: {error}");
    }
}

/// The list as Rust code.
fn list(folder: &Path) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let mut code =
        "/// The files of the page with their names.\nstatic FILES: &[(&str, &[u8])] = &[\n"
            .to_owned();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let path = file.canonicalize().unwrap_or_else(|_| file.clone());
        code += &format!(
            "    ({name:?}, include_bytes!({:?})),\n",
            path.display().to_string()
        );
    }
    code + "];\n"
}
