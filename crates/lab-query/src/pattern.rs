//! Paths that do not count, by simple patterns.

/// Whether a path matches one of the patterns. `*` stands for any characters but `/`; `/**` at the end means the folder and all below.
pub fn matches(patterns: &[&str], path: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix("/**") {
            Some(folder) => path
                .strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            None => is_like(pattern, path),
        })
}

fn is_like(pattern: &str, path: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == path;
    };
    let Some(rest) = path.strip_prefix(before) else {
        return false;
    };
    // The star takes nothing, or one character, and then as much as it can.
    let ends = rest
        .char_indices()
        .map(|(place, character)| (place, character != '/'));
    for (place, goes_on) in ends.chain([(rest.len(), false)]) {
        if is_like(after, rest.get(place..).unwrap_or_default()) {
            return true;
        }
        if !goes_on {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_ends_at_a_slash() {
        let kept = ["/vm", "/backend/*", "/dump/**", "/run/*.json"];
        for path in [
            "/vm",
            "/backend/vif",
            "/dump",
            "/dump/a/b",
            "/run/facts.json",
        ] {
            assert!(matches(&kept, path), "{path}");
        }
        for path in [
            "/vm/1",
            "/backend/vif/1",
            "/dumps",
            "/run/a/b.json",
            "/run/facts.jsonx",
            "/",
        ] {
            assert!(!matches(&kept, path), "{path}");
        }
    }
}
