//! The page: files that `cargo xtask web` has made, embedded into this program.
//!
//! A program that was built without them answers with the error `page-not-built`.

use hyper::StatusCode;
use hyper::header::{self, HeaderName};

use crate::http::Answer;
use crate::problem::{Problem, code};

include!(concat!(env!("OUT_DIR"), "/page_files.rs"));

/// The rules for browsers: nothing but the page's own files, no frame around it.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

/// The file of the page at this path.
///
/// # Errors
/// The page has no such file, or was not built.
pub fn file(path: &str) -> Result<Answer, Problem> {
    if FILES.is_empty() {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            code::NO_PAGE,
            "this xyld was built without the page",
        )
        .with_remedy("run `cargo xtask web`, which needs npm, and build xyld again"));
    }
    let name = match path {
        "/" => "index.html",
        other => other.trim_start_matches('/'),
    };
    let found = FILES.iter().find(|(known, _)| *known == name);
    let Some((name, bytes)) = found else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            code::NOT_FOUND,
            "there is no such path",
        ));
    };
    let answer = Answer::text(type_of(name), *bytes);
    Ok(answer
        .with_header(header::CONTENT_SECURITY_POLICY, POLICY)
        .with_header(header::REFERRER_POLICY, "no-referrer")
        .with_header(
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        )
        .with_header(
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ))
}

fn type_of(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_type_and_the_rules_or_the_page_is_not_built() {
        match file("/") {
            Ok(answer) => {
                assert_eq!(answer.content_type, "text/html; charset=utf-8");
                let policy = answer
                    .headers
                    .iter()
                    .find(|(name, _)| *name == header::CONTENT_SECURITY_POLICY);
                assert!(policy.is_some_and(|(_, value)| value.starts_with("default-src 'self'")));
                assert_eq!(file("/../Cargo.toml").unwrap_err().code, code::NOT_FOUND);
            }
            Err(problem) => assert_eq!(problem.code, code::NO_PAGE),
        }
    }
}
