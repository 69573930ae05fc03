//! Paths and permissions from anywhere: what is taken keeps the rules and prints as it was given.
#![no_main]

use xenstore::{Path, Perms};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(path) = Path::new(text) {
        assert_eq!(path.as_str(), text);
        assert!(text.len() <= xenstore::ABSOLUTE_PATH_MAX);
        let rebuilt = path.parts().fold(String::new(), |whole, part| format!("{whole}/{part}"));
        assert!(path.is_root() || rebuilt == text || rebuilt == format!("/{text}"));
        if let Some(parent) = path.parent() {
            assert_eq!(parent.join(path.name()), Ok(path));
        }
    }
    if let Ok(perms) = text.parse::<Perms>() {
        assert_eq!(perms.to_string().parse(), Ok(perms));
    }
});
