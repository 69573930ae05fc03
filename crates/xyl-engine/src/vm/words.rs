//! Texts of a configuration that are passed on: to a hot-plug script, or to the toolstack of another domain.

/// The folder of scripts that are named without one.
const SCRIPTS: &str = "/etc/xen/scripts";
/// Longest such text, in bytes.
const WORD_MAX_BYTES: usize = 255;

/// Refuses a text that a script could take for more than one word.
///
/// # Errors
/// A text that names the setting, and what may be written.
pub(crate) fn refuse_word((key, word): (&str, Option<&str>)) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_./:@+-".contains(c);
    let is_word =
        |word: &str| (1..=WORD_MAX_BYTES).contains(&word.len()) && word.chars().all(is_allowed);
    match word.filter(|word| !is_word(word)) {
        Some(word) => Err(format!(
            "{key}={} is not passed to a script: write letters, digits and `_./:@+-`, {WORD_MAX_BYTES} at most",
            word.escape_debug()
        )),
        None => Ok(()),
    }
}

/// The absolute path of a script. As in libxl, a name without a folder is below Xen's.
///
/// # Errors
/// A path with `..`.
pub(crate) fn script_path(script: &str) -> Result<String, String> {
    if script.split('/').any(|part| part == "..") {
        return Err(format!("script={script}: write its path without `..`"));
    }
    Ok(match script.starts_with('/') {
        true => script.to_owned(),
        false => format!("{SCRIPTS}/{script}"),
    })
}

/// The domain that `backend=` names: a name or a number; `None` for domain 0.
///
/// # Errors
/// A text that is no name of a domain.
pub(crate) fn backend_of(backend: Option<&str>) -> Result<Option<String>, String> {
    let Some(backend) = backend.filter(|backend| !matches!(*backend, "0" | "Domain-0")) else {
        return Ok(None);
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_.:@+-".contains(c);
    let is_name = (1..=WORD_MAX_BYTES).contains(&backend.len()) && backend.chars().all(is_allowed);
    match is_name {
        true => Ok(Some(backend.to_owned())),
        false => Err(format!(
            "backend={} names no domain: write its name or its number",
            backend.escape_debug()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_a_domain_by_name_or_number() {
        assert_eq!(backend_of(None), Ok(None));
        assert_eq!(backend_of(Some("0")), Ok(None));
        assert_eq!(backend_of(Some("Domain-0")), Ok(None));
        for name in ["store", "7", "net.1"] {
            assert_eq!(backend_of(Some(name)), Ok(Some(name.to_owned())));
        }
        for wrong in ["", "a b", "a/b", "$(reboot)", &"a".repeat(256)] {
            assert!(backend_of(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
