//! The table that goes to `docs/performance.md`.

use crate::lives::Memory;
use crate::measure::Spread;
use crate::trace::Counts;

/// One operation with both tools; counts are strace's, xenstore requests, xenstore bytes.
pub struct Line {
    /// Name of the operation.
    pub what: String,
    /// Durations with xl.
    pub xl: Spread,
    /// Durations with xyl.
    pub xyl: Spread,
    /// Counts with xl: strace's counts, xenstore requests, xenstore bytes.
    pub xl_counts: (Counts, u64, u64),
    /// Counts with xyl, in the same order.
    pub xyl_counts: (Counts, u64, u64),
}

/// All that was measured.
#[derive(Default)]
pub struct Report {
    lines: Vec<Line>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a comparison.
    pub fn compare(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Adds the floor of an operation beside xyl's median.
    pub fn floor(&mut self, what: &str, xyl_median_ms: f64, floor: Spread) {
        self.notes.push(format!(
            "{what}: the floor (bare hypercalls and least xenstore requests, no process) is {} ms; xyl takes {:.2} times that.",
            text(floor),
            xyl_median_ms / floor.median_ms,
        ));
    }

    /// Adds what a process takes that does nothing: one that loads its libraries, and one that holds all it needs, as xyl does.
    pub fn process(&mut self, dynamic: Spread, fixed: Spread) {
        self.notes.push(format!(
            "a process that does nothing takes {} ms from its start to its end when it is linked statically, as xyl is, and {} ms when \
             it has to load libraries (`true`), as xl has to; each command's time holds one.",
            text(fixed),
            text(dynamic),
        ));
    }

    /// Adds what a crowd does to a create: xyl's and the floor's, each alone and in the crowd.
    pub fn crowd(&mut self, crowd: usize, xyl: [Spread; 2], floor: [Spread; 2]) {
        self.notes.push(format!(
            "create -p of a 16 MiB PV guest, the first ones and the last of {crowd}: {}.",
            ends(xyl),
        ));
        self.notes.push(format!(
            "the floor of the same, before the crowd and in it: {}. This is what xenstored and Xen take.",
            ends(floor),
        ));
    }

    /// Adds the creates of a crowd whose guests have devices: the first ones and the last.
    pub fn crowd_with_devices(&mut self, crowd: usize, xyl: [Spread; 2]) {
        self.notes.push(format!(
            "create -p of a 16 MiB PV guest with a raw file and an interface, the first ones and the last of {crowd}: {}.",
            ends(xyl),
        ));
    }

    /// Adds what the processes take that wait for a guest's end.
    pub fn memory(&mut self, xl: Memory, xyl: Memory) {
        let line = |memory: Memory| {
            format!(
                "{} KiB private and written, {} KiB private and clean, {} KiB in all (PSS)",
                memory.private_dirty_kib, memory.private_clean_kib, memory.share_kib
            )
        };
        self.notes.push(format!(
            "the process that waits for a guest's end, at rest: xl's {}; xyl's {}: clean is its program, which all monitors share.",
            line(xl),
            line(xyl)
        ));
    }

    /// Adds what a guest's reboot takes, with its process alive and killed.
    pub fn recovery(&mut self, plain: Spread, killed: Spread) {
        self.notes.push(format!(
            "from a guest's reboot to its next life: {} ms; with its process killed (-9) meanwhile and `xyl recover` called at once: {} ms.",
            text(plain),
            text(killed)
        ));
    }

    /// Adds what an operation writes to its VM's journal.
    pub fn journal(&mut self, what: &str, writes: u64, bytes: u64) {
        self.notes.push(format!(
            "journal of `{what}`: {writes} writes, {bytes} bytes."
        ));
    }

    /// Prints it as Markdown.
    pub fn print(&self) {
        println!("| operation | xl, ms | xyl, ms | xyl/xl |");
        println!("|---|---|---|---|");
        for line in &self.lines {
            let ratio = line.xl.median_ms / line.xyl.median_ms;
            println!(
                "| {} | {} | {} | 1/{ratio:.1} |",
                line.what,
                text(line.xl),
                text(line.xyl)
            );
        }
        println!(
            "\n| operation | tool | hypercalls | mappings | xenstore requests | xenstore bytes | forks | bytes read |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for line in &self.lines {
            count_row(&line.what, "xl", &line.xl_counts);
            count_row(&line.what, "xyl", &line.xyl_counts);
        }
        println!();
        for note in &self.notes {
            println!("- {note}");
        }
    }
}

fn count_row(what: &str, tool: &str, (counts, requests, bytes): &(Counts, u64, u64)) {
    println!(
        "| {what} | {tool} | {} | {} | {requests} | {bytes} | {} | {} |",
        counts.hypercalls, counts.mappings, counts.forks, counts.bytes_read,
    );
}

/// Two durations and their ratio.
fn ends([first, last]: [Spread; 2]) -> String {
    let times = last.median_ms / first.median_ms;
    format!("{} ms, {} ms: {times:.2} times", text(first), text(last))
}

/// Median, and the smallest and largest beside it.
fn text(spread: Spread) -> String {
    format!(
        "{:.1} ({:.1} to {:.1})",
        spread.median_ms, spread.min_ms, spread.max_ms
    )
}
