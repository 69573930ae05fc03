//! Compares the table of structures and constants with C headers, by way of the C compiler.

#![allow(clippy::disallowed_methods)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use xen_abi::layout::{constants, layouts};
use xen_abi::{Interface, KnownReleases, Release};

/// The result of a check.
#[derive(Debug)]
pub struct Report {
    /// The release that the headers are of; the newest one where releases share their interface versions.
    pub release: Release,
    /// Structures, members and constants compared.
    pub compared: usize,
    /// What differs, a line each.
    pub differences: Vec<String>,
}

/// One thing to ask the C compiler, and the answer that the table holds.
struct Question {
    what: String,
    c_expression: String,
    expected: u64,
}

/// Compares everything with the headers in `include_dir`, which holds `xen/domctl.h` or `domctl.h`.
pub fn check(include_dir: &Path) -> Result<Report, String> {
    let headers = Headers::find(include_dir)?;
    let release = headers.release()?;
    let questions = questions(release, &headers);
    let program: String = questions.iter().fold(String::new(), |mut text, question| {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "    p((unsigned long long)({}));",
            question.c_expression
        );
        text
    });
    let answers = headers.ask(&program)?;
    if answers.len() != questions.len() {
        return Err(format!(
            "{} questions, {} answers",
            questions.len(),
            answers.len()
        ));
    }
    let differences = questions
        .iter()
        .zip(&answers)
        .filter(|(question, answer)| question.expected != **answer)
        .map(|(question, answer)| {
            format!(
                "{}: here {:#x}, in C {answer:#x}",
                question.what, question.expected
            )
        });
    Ok(Report {
        release,
        compared: questions.len(),
        differences: differences.collect(),
    })
}

fn questions(release: Release, headers: &Headers) -> Vec<Question> {
    let in_range = |since: Release, until: Release| (since..=until).contains(&release);
    let is_driver = |name: &str| {
        name.contains("ioctl") || name.contains("IOCTL") || name.starts_with("privcmd")
    };
    let is_foreign = |name: &str| name.to_ascii_lowercase().contains("x86_32");
    let (drivers, foreign) = (headers.has_drivers(), headers.has_foreign());
    let is_there = |name: &str| (drivers || !is_driver(name)) && (foreign || !is_foreign(name));
    let mut questions = Vec::new();
    let structures =
        layouts().filter(|layout| in_range(layout.since, layout.until) && is_there(layout.c_name));
    for layout in structures {
        let members = layout
            .members
            .iter()
            .filter(|member| !member.c_name.is_empty() && member.since <= release);
        // Members that C gained later may make its structure longer than an older header says.
        if layout.members.iter().all(|member| member.since <= release) {
            questions.push(Question {
                what: format!("size of {} ({})", layout.rust_name, layout.c_name),
                c_expression: format!("sizeof({})", layout.c_name),
                expected: layout.size_bytes as u64,
            });
        }
        for member in members {
            let place = format!("{}.{} ({})", layout.rust_name, member.c_name, layout.c_name);
            questions.push(Question {
                what: format!("offset of {place}"),
                c_expression: format!("offsetof({}, {})", layout.c_name, member.c_name),
                expected: member.offset_bytes as u64,
            });
            questions.push(Question {
                what: format!("size of {place}"),
                c_expression: format!("sizeof((({} *)0)->{})", layout.c_name, member.c_name),
                expected: member.size_bytes as u64,
            });
        }
    }
    let values = constants()
        .filter(|constant| in_range(constant.since, constant.until) && is_there(constant.c_name));
    questions.extend(values.map(|constant| Question {
        what: format!("value of {}", constant.c_name),
        c_expression: constant.c_name.to_owned(),
        expected: constant.value,
    }));
    questions
}

const XEN_HEADERS: [&str; 14] = [
    "xen.h",
    "domctl.h",
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
];

/// A folder of Xen's public headers.
struct Headers {
    xen_dir: PathBuf,
}

impl Headers {
    fn find(include_dir: &Path) -> Result<Self, String> {
        [include_dir.join("xen"), include_dir.to_owned()]
            .into_iter()
            .find(|dir| dir.join("domctl.h").exists())
            .map(|xen_dir| Self { xen_dir })
            .ok_or_else(|| {
                format!(
                    "{}: holds neither xen/domctl.h nor domctl.h",
                    include_dir.display()
                )
            })
    }

    fn has_drivers(&self) -> bool {
        self.xen_dir.join("sys/privcmd.h").exists()
    }

    /// What a 32-bit guest sees is generated when the headers are installed; Xen's source has it not.
    fn has_foreign(&self) -> bool {
        self.xen_dir.join("foreign/x86_32.h").exists()
    }

    fn release(&self) -> Result<Release, String> {
        let versions =
            "    p(XEN_DOMCTL_INTERFACE_VERSION);\n    p(XEN_SYSCTL_INTERFACE_VERSION);\n";
        let [domctl, sysctl] = self.ask(versions)?[..] else {
            return Err("the headers name no interface versions".to_owned());
        };
        let interface = Interface {
            domctl: domctl as u32,
            sysctl: sysctl as u32,
        };
        Release::with_interface(interface).next_back().ok_or_else(|| {
            format!("headers of domctl {domctl:#x}, sysctl {sysctl:#x}: not known; known: {KnownReleases}")
        })
    }

    /// Compiles and runs a C program with `body`, which calls `p(number)`; the numbers.
    fn ask(&self, body: &str) -> Result<Vec<u64>, String> {
        let work = tempfile::tempdir().map_err(|error| format!("temporary folder: {error}"))?;
        let source = work.path().join("ask.c");
        let binary = work.path().join("ask");
        std::fs::write(&source, self.program(body))
            .map_err(|error| format!("{}: {error}", source.display()))?;
        // The headers include linux/types.h from the system; -w because old ones warn.
        let compiled = Command::new("cc")
            .args(["-std=gnu11", "-w", "-o"])
            .arg(&binary)
            .arg(&source)
            .output();
        let compiled = compiled.map_err(|error| format!("cc: {error}"))?;
        if !compiled.status.success() {
            return Err(format!(
                "cc refused the program:\n{}",
                String::from_utf8_lossy(&compiled.stderr)
            ));
        }
        let ran = Command::new(&binary)
            .output()
            .map_err(|error| format!("{}: {error}", binary.display()))?;
        String::from_utf8_lossy(&ran.stdout)
            .lines()
            .map(|line| {
                line.parse()
                    .map_err(|error| format!("answer {line:?}: {error}"))
            })
            .collect()
    }

    fn program(&self, body: &str) -> String {
        let mut program = String::from(
            "#define __XEN_TOOLS__ 1\n#include <stdio.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <stdbool.h>\n",
        );
        let mut headers: Vec<&str> = XEN_HEADERS.to_vec();
        headers.push("io/xs_wire.h");
        if self.has_drivers() {
            headers.extend(["sys/privcmd.h", "sys/evtchn.h", "sys/gntdev.h"]);
        }
        if self.has_foreign() {
            headers.push("foreign/x86_32.h");
        }
        for header in headers {
            // Writing to a String cannot fail.
            let _ = writeln!(
                program,
                "#include \"{}\"",
                self.xen_dir.join(header).display()
            );
        }
        // The drivers' headers build ioctl numbers with _IOC.
        program.push_str("#include <sys/ioctl.h>\n");
        program.push_str("static void p(unsigned long long v) { printf(\"%llu\\n\", v); }\n");
        let _ = write!(program, "int main(void) {{\n{body}    return 0;\n}}\n");
        program
    }
}
