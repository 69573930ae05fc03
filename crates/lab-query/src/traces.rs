//! Files and processes that domains leave on dom0.

use crate::pattern::matches;
use std::path::Path;

/// The folders in which toolstacks keep files of domains.
const FOLDERS: [&str; 3] = ["/run/xyl", "/var/lib/xyl", "/var/lib/xen"];
/// The programs that serve domains, by the name that the kernel knows them by.
const PROGRAMS: [&str; 3] = ["xl", "xyl", "xyld"];

/// All paths in these folders but those that are kept. Kept folders are looked into.
pub fn files(kept: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        add_files(Path::new(folder), kept, &mut found);
    }
    found
}

fn add_files(folder: &Path, kept: &[&str], found: &mut Vec<String>) {
    // What cannot be read has just gone, or never was.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add_files(&path, kept, found);
        }
        let path = path.to_string_lossy();
        if !matches(kept, &path) {
            found.push(path.into_owned());
        }
    }
}

/// A line for each process of a toolstack: its number and its words.
pub fn processes() -> Vec<String> {
    let numbers = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter_map(process).collect()
}

fn process(pid: u32) -> Option<String> {
    let folder = Path::new("/proc").join(pid.to_string());
    let name = std::fs::read_to_string(folder.join("comm")).ok()?;
    if !PROGRAMS.contains(&name.trim_end()) {
        return None;
    }
    let words = std::fs::read(folder.join("cmdline")).ok()?;
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    Some(format!("process {pid} {}", words.trim_end()))
}

/// Files that may go during a later test than the one that has left them: Xyl removes an old reply that no command has read,
/// and the note of a restart that was given up when a VM of its name is created.
fn may_go(line: &str) -> bool {
    line.starts_with("/run/xyl/replies/")
        || line.starts_with("/var/lib/xyl/kept/") && line.ends_with(".json")
}

/// Lists the files and processes that are new and those that are gone, one on each line.
pub fn difference(before: &[&str], now: &[String]) -> Vec<String> {
    let come = now
        .iter()
        .filter(|line| !before.contains(&line.as_str()))
        .map(|line| format!("+ {line}"));
    let gone = before
        .iter()
        .filter(|line| !now.iter().any(|other| other == *line) && !may_go(line))
        .map(|line| format!("- {line}"));
    come.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_names_what_came_and_what_went() {
        let now = ["b".to_owned(), "c".to_owned()];
        assert_eq!(difference(&["a", "b"], &now), ["+ c", "- a"]);
        assert!(difference(&["c", "b"], &now).is_empty());
        for ageing in ["/run/xyl/replies/a.json", "/var/lib/xyl/kept/u.json"] {
            assert!(difference(&["c", "b", ageing], &now).is_empty());
            assert_eq!(
                difference(&["b"], &["b".to_owned(), ageing.to_owned()]).len(),
                1
            );
        }
        let kept = "/var/lib/xyl/kept/u.cfg";
        assert_eq!(difference(&["c", "b", kept], &now).len(), 1);
    }
}
