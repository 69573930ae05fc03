//! The scripts of lab/tests: which there are, which Xen each wants, and the boots that run them. A boot takes its tests one after
//! the other from a queue that it may share with other boots.

use crate::boot::{self, Answers, Options, Talk};
use crate::error::{Error, Result, at};
use crate::failure::Failure;
use crate::payload::Payload;
use crate::process::interrupted;
use crate::root::{Root, Xen};
use crate::times::Times;
use crate::{places, root, setup};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs;
use std::io::Write;
use std::ops::AddAssign;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A test's time limit, unless it has a line `# limit_s: N`.
const DEFAULT_LIMIT: Duration = Duration::from_secs(120);
/// The longest that one boot may run tests; each test has a limit of its own, which dom0 enforces.
const BOOT_TESTS_LIMIT: Duration = Duration::from_secs(3600);
/// The same in a soak, where tests take hours.
const BOOT_SOAK_LIMIT: Duration = Duration::from_secs(12 * 3600);
/// So many boots of a Xen may break before its other tests are given up.
const BROKEN_BOOTS_LIMIT: u32 = 3;
/// So many tests of a whole run may fail once and pass in their second run. More are failures.
const UNSTEADY_LIMIT: usize = 2;

/// Number of tests with each result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of tests that passed.
    pub passed: usize,
    /// Failed, or never came to run.
    pub failed: usize,
    /// Said why they cannot run here.
    pub skipped: usize,
    /// Processes of xyl that they have killed at random moments.
    pub kills: usize,
}

impl Tally {
    /// Prints it, and gives our exit code: 0 if nothing failed.
    pub fn close(self) -> u8 {
        println!("{self}");
        u8::from(self.failed > 0)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.kills += other.kills;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// A script of lab/tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// File name without `.sh`.
    name: String,
    limit: Duration,
    wants: Wants,
    /// Text of its line `# may_skip: ...`. Without the line, a skip is a failure.
    may_skip: Option<String>,
    /// Whether it has a line `# ends_boot: ...`: it takes away what other tests need, so no test follows it in its boot.
    ends_boot: bool,
    /// Whether it has a line `# on_demand: ...`: a run of all tests leaves it out.
    is_on_demand: bool,
    /// Its first run, if that failed and is repeated.
    first: Option<Failure>,
}

/// Which Xen a test wants, by its line `# xen: ...`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// No line: each release shows something of its own.
    Each,
    /// `any`: one release shows all; another commit takes another.
    Any,
    /// The name of a Xen: the test says nothing on others.
    Only(Xen),
}

impl Test {
    fn parse(name: &str, script: &str) -> Result<Self> {
        let line = |key: &str| {
            script
                .lines()
                .take_while(|line| line.starts_with('#'))
                .find_map(|line| {
                    Some(
                        line.strip_prefix("# ")?
                            .strip_prefix(key)?
                            .strip_prefix(':')?
                            .trim(),
                    )
                })
        };
        let wrong = |key: &str, value: &str| {
            Error::Usage(format!(
                "lab/tests/{name}.sh: `# {key}: {value}` is not understood"
            ))
        };
        let limit = match line("limit_s") {
            None => DEFAULT_LIMIT,
            Some(value) => Duration::from_secs(value.parse().map_err(|_| wrong("limit_s", value))?),
        };
        let wants = match line("xen") {
            None => Wants::Each,
            Some("any") => Wants::Any,
            Some(value) => Wants::Only(
                clap::ValueEnum::from_str(value, false).map_err(|_| wrong("xen", value))?,
            ),
        };
        Ok(Self {
            name: name.to_owned(),
            limit,
            wants,
            may_skip: line("may_skip").map(str::to_owned),
            ends_boot: line("ends_boot").is_some(),
            is_on_demand: line("on_demand").is_some(),
            first: None,
        })
    }
}

impl Test {
    fn is_chosen(&self, words: &[String]) -> bool {
        match words {
            [] => !self.is_on_demand,
            words => words.iter().any(|word| self.name.contains(word)),
        }
    }

    /// Whether a skip on this Xen is no failure: the test says so, or wants another Xen.
    fn may_be_skipped(&self, xen: Xen) -> bool {
        let wants_another = matches!(self.wants, Wants::Only(wanted) if wanted != xen);
        self.may_skip.is_some() || wants_another
    }
}

/// The tests whose names contain one of these words; without words all but those on demand. Longest limit first, and those that
/// end their boot last.
pub fn select(words: &[String]) -> Result<Vec<Test>> {
    let folder = places::lab().join("tests");
    let mut tests = Vec::new();
    for entry in fs::read_dir(&folder)
        .map_err(at("read", &folder))?
        .flatten()
    {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().and_then(|name| name.strip_suffix(".sh")) else {
            continue;
        };
        let script = fs::read_to_string(entry.path()).map_err(at("read", entry.path()))?;
        let test = Test::parse(name, &script)?;
        if test.is_chosen(words) {
            tests.push(test);
        }
    }
    if tests.is_empty() {
        return Err(Error::Usage(format!(
            "no test in {} has '{}' in its name",
            folder.display(),
            words.join("' or '")
        )));
    }
    tests.sort_by(|one, other| {
        one.ends_boot
            .cmp(&other.ends_boot)
            .then_with(|| other.limit.cmp(&one.limit))
            .then_with(|| one.name.cmp(&other.name))
    });
    Ok(tests)
}

/// A number that another commit changes: the tests' random numbers and the choice of releases come from it. 0 outside of git.
pub fn seed_of_commit() -> u32 {
    let head = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(places::workspace())
        .output();
    match head {
        Ok(head) if head.status.success() => hash(&[&head.stdout]),
        _ => 0,
    }
}

fn hash(parts: &[&[u8]]) -> u32 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .take(4)
        .fold(0, |number, &byte| number << 8 | u32::from(byte))
}

/// The Xens on which a whole run has this test, out of the two releases and the one built here.
pub fn xens_of(test: &Test, seed: u32) -> Vec<Xen> {
    let releases = [Xen::V4_17, Xen::V4_20];
    match test.wants {
        Wants::Each => releases.into(),
        Wants::Only(xen) => vec![xen],
        Wants::Any => {
            let odd = hash(&[&seed.to_le_bytes(), test.name.as_bytes()]) % 2 == 1;
            vec![if odd { Xen::V4_20 } else { Xen::V4_17 }]
        }
    }
}

/// Tests that wait for a boot, and how those that have run went. Boots side by side share it.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    /// Each test's time.
    pub times: Times,
    /// None: no test is refused for the time it is.
    deadline: Option<Instant>,
    seed: u32,
    soak: bool,
    /// Whether a test that failed runs a second time.
    repeats: bool,
}

#[derive(Default)]
struct State {
    /// In the order in which they are to run.
    waiting: Vec<(Xen, Test)>,
    tally: Tally,
    failed: Vec<Failure>,
    /// First runs of the tests that failed and then passed.
    unsteady: Vec<Failure>,
    /// The tests that were skipped, each with the reason.
    skipped: Vec<String>,
    /// One for each boot that broke.
    broken: Vec<Xen>,
    /// One for each boot under way.
    boots: Vec<Xen>,
}

impl State {
    /// Counts a skipped test: as skipped if that is permitted, else as failed.
    fn skip(&mut self, test: &Test, xen: Xen, reason: &str) {
        let name = format!("{} on Xen {}", test.name, xen.name());
        if test.may_be_skipped(xen) {
            self.tally.skipped += 1;
            self.skipped.push(format!("{name}: {reason}"));
        } else {
            self.tally.failed += 1;
            self.failed.push(Failure::named(format!(
                "{name}: was skipped ({reason}), and has no `# may_skip:`"
            )));
        }
    }

    /// Prints the tests that passed in their second run alone. Too many of them are failures.
    fn judge_unsteady(&mut self) {
        let unsteady = std::mem::take(&mut self.unsteady);
        for failure in &unsteady {
            println!("unsteady, failed once and then passed: {failure}");
        }
        if unsteady.len() > UNSTEADY_LIMIT {
            self.tally.passed -= unsteady.len();
            self.tally.failed += unsteady.len();
            self.failed.extend(unsteady);
        }
    }

    /// The Xens for which another boot would be of use, each with the time that it would take off the others, roughly.
    fn wanted(&self) -> Vec<(Xen, Duration)> {
        let mut wanted: Vec<(Xen, Duration)> = Vec::new();
        for (xen, test) in &self.waiting {
            // A test takes a quarter of its limit.
            let took = test.limit / 4;
            match wanted.iter_mut().find(|(other, _)| other == xen) {
                Some((_, sum)) => *sum += took,
                None => wanted.push((*xen, took)),
            }
        }
        wanted.retain_mut(|(xen, sum)| {
            let boots = count(&self.boots, *xen);
            *sum /= boots + 1;
            count(&self.broken, *xen) < BROKEN_BOOTS_LIMIT && (boots == 0 || *sum > BOOT_PAYS_OFF)
        });
        wanted
    }
}

impl Queue {
    /// These tests, each on these Xens. After `deadline` none begins.
    pub fn new(tests: Vec<(Xen, Test)>, seed: u32, deadline: Option<Instant>) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: tests,
                ..State::default()
            }),
            times: Times::default(),
            deadline,
            seed,
            soak: false,
            repeats: false,
        }
    }

    /// A test that fails runs once more, behind the others. Passes it then, it is unsteady: its first run is reported, and
    /// too many of them are failures.
    pub fn repeating(self) -> Self {
        Self {
            repeats: true,
            ..self
        }
    }

    /// All tests on each release, with the long times that a soak gives them.
    pub fn of_soak(seed: u32) -> Result<Self> {
        let tests = select(&[])?
            .into_iter()
            .flat_map(|test| [Xen::V4_17, Xen::V4_20].map(|xen| (xen, test.clone())))
            .collect();
        Ok(Self {
            soak: true,
            ..Self::new(tests, seed, None)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Xen for which another boot is of most use, if it is of any. The boot counts as begun: `serve` has to follow.
    pub fn begin(&self) -> Option<Xen> {
        if self.is_late() {
            return None;
        }
        let mut state = self.state();
        let (xen, _) = state.wanted().into_iter().max_by_key(|(_, sum)| *sum)?;
        state.boots.push(xen);
        Some(xen)
    }

    fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The next test for a boot of this Xen.
    fn next(&self, xen: Xen) -> Option<Test> {
        if self.is_late() || interrupted() {
            return None;
        }
        let mut state = self.state();
        let place = state.waiting.iter().position(|(other, _)| *other == xen)?;
        Some(state.waiting.remove(place).1)
    }

    /// A test has come to its end, or its boot has.
    fn ended(&self, xen: Xen, mut test: Test, end: End) {
        if let Some(took) = end.took {
            self.times
                .note(&format!("{} on Xen {}", test.name, xen.name()), took);
        }
        let mut state = self.state();
        state.tally.kills += end.kills;
        let name = format!("{} on Xen {}", test.name, xen.name());
        let failure = Failure {
            output: end.output,
            ..Failure::named(name.clone())
        };
        match end.verdict {
            Verdict::Passed => {
                state.tally.passed += 1;
                state.unsteady.extend(test.first);
            }
            Verdict::Skipped => state.skip(&test, xen, &end.reason),
            Verdict::Failed if test.first.is_none() && end.stood_still => {
                println!(
                    "{name}: the machine stood still meanwhile, as its log says; the test runs once more"
                );
                test.first = Some(failure);
                state.waiting.insert(0, (xen, test));
            }
            Verdict::Failed if test.first.is_none() && self.repeats => {
                println!("{name}: the test runs once more, behind the others");
                test.first = Some(failure);
                let waiting = state.waiting.iter();
                let nr_before = waiting.take_while(|(_, other)| !other.ends_boot).count();
                state.waiting.insert(nr_before, (xen, test));
            }
            Verdict::Failed => {
                state.tally.failed += 1;
                state.failed.push(failure.after(test.first));
            }
        }
    }

    /// The tests for this Xen cannot run here, and the words say why: they are skipped.
    pub fn skip(&self, xen: Xen, why: &dyn fmt::Display) {
        let mut state = self.state();
        println!("skip the tests on Xen {}: {why}", xen.name());
        let (skipped, waiting) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|(other, _)| *other == xen);
        state.waiting = waiting;
        let skipped: Vec<(Xen, Test)> = skipped;
        for (xen, test) in skipped {
            state.skip(&test, xen, &why.to_string());
        }
    }

    /// Results of all tests. A test that still waits has failed, because no boot has run it. Prints the skipped tests, and those
    /// that passed in their second run alone.
    pub fn close(&self) -> (Tally, Vec<Failure>) {
        let mut state = self.state();
        state.judge_unsteady();
        for line in std::mem::take(&mut state.skipped) {
            println!("skipped: {line}");
        }
        for (xen, test) in std::mem::take(&mut state.waiting) {
            println!(
                "{}: FAIL {} (no boot has come to it)",
                xen.name(),
                test.name
            );
            state.tally.failed += 1;
            let name = format!("{} on Xen {}", test.name, xen.name());
            state.failed.push(Failure::named(name).after(test.first));
        }
        (state.tally, std::mem::take(&mut state.failed))
    }

    /// Boots a Xen that `begin` has named, and runs what waits for it, until nothing does or the boot breaks.
    pub fn serve(&self, options: &Options) -> Result<()> {
        let xen = options.xen;
        let served = root::ensure(xen).and_then(|root| self.boot(options, &root));
        let mut state = self.state();
        if let Some(place) = state.boots.iter().position(|other| *other == xen) {
            state.boots.remove(place);
        }
        if served.is_err() {
            state.broken.push(xen);
        }
        served
    }

    fn boot(&self, options: &Options, root: &Root) -> Result<()> {
        let longest = if self.soak {
            BOOT_SOAK_LIMIT
        } else {
            BOOT_TESTS_LIMIT
        };
        let limit = self.deadline.map_or(longest, |deadline| {
            deadline
                .saturating_duration_since(Instant::now())
                .min(longest)
        });
        let mut payload = Payload::script(places::lab().join("run-tests"), limit);
        payload.answers = true;
        payload.seed = self.seed;
        payload.soak = self.soak;
        let mut session = Session::new(self, options.xen);
        let outcome = boot::boot(options, root, &payload, Talk::Answers(&mut session));
        session.end();
        let outcome = outcome?;
        if outcome.exit_code != 0 {
            outcome.results.show_logs();
        }
        Ok(())
    }
}

/// A second boot of a Xen takes half a minute; it has to save more.
const BOOT_PAYS_OFF: Duration = Duration::from_secs(60);

fn count(xens: &[Xen], xen: Xen) -> u32 {
    xens.iter().map(|other| u32::from(*other == xen)).sum()
}

/// Runs the tests whose names contain one of these words on one Xen, with the programs and guests as they are built. Our exit code is 0 if
/// none failed.
pub fn run(options: &Options, words: &[String], seed: u32) -> Result<u8> {
    let tests = select(words)?;
    setup::ensure()?;
    println!("lab tests on Xen {}: {}", options.xen.name(), tests.len());
    let tests = tests.into_iter().map(|test| (options.xen, test)).collect();
    let queue = Queue::new(tests, seed, None);
    while queue.begin().is_some() {
        match queue.serve(options) {
            Err(error @ Error::Boot { .. }) => println!("{}: {error}", options.xen.name()),
            served => served?,
        }
    }
    let (tally, failed) = queue.close();
    print!("{}", queue.times.table("Lab tests"));
    for failure in failed {
        println!("failed: {}", failure.name);
    }
    Ok(tally.close())
}

/// Result of one test.
struct End {
    verdict: Verdict,
    took: Option<Duration>,
    kills: usize,
    /// Reason of a skip.
    reason: String,
    /// Whether the machine said meanwhile that it had stood still.
    stood_still: bool,
    /// Lines that the test has printed, if it failed.
    output: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// The tests of one boot: hands them out one by one, passes the runner's lines on and takes its verdicts.
struct Session<'a> {
    queue: &'a Queue,
    xen: Xen,
    line: Vec<u8>,
    /// Present work of the runner.
    current: Option<Test>,
    /// The line with the current test's verdict. What follows until the next test is its output.
    verdict: Option<(Verdict, String)>,
    output: Vec<String>,
    /// Number of standstills in the machine's logs: before the current test, and now.
    standstills: (usize, usize),
    /// A test has ended this boot.
    is_over: bool,
}

impl<'a> Session<'a> {
    fn new(queue: &'a Queue, xen: Xen) -> Self {
        Self {
            queue,
            xen,
            line: Vec::new(),
            current: None,
            verdict: None,
            output: Vec::new(),
            standstills: (0, 0),
            is_over: false,
        }
    }

    /// Takes a whole line. The runner asks by the line "next".
    fn take_line(&mut self, line: &str) -> Option<String> {
        if line == "next" {
            self.end();
            self.standstills.0 = self.standstills.1;
            self.current = self.next();
            let name = self.current.as_ref().map_or("", |test| &test.name);
            return Some(format!("{name}\n"));
        }
        println!("{}: {line}", self.xen.name());
        if self.verdict.is_some() {
            self.output
                .extend(line.strip_prefix("    ").map(str::to_owned));
        } else {
            self.verdict = self
                .verdict_of(line)
                .map(|verdict| (verdict, line.to_owned()));
        }
        None
    }

    fn next(&mut self) -> Option<Test> {
        if self.is_over {
            return None;
        }
        let next = self.queue.next(self.xen);
        self.is_over = next.as_ref().is_some_and(|test| test.ends_boot);
        next
    }

    /// The current test's verdict, if the line has it.
    fn verdict_of(&self, line: &str) -> Option<Verdict> {
        let mut words = line.split(' ');
        let verdict = match words.next() {
            Some("pass") => Verdict::Passed,
            Some("FAIL") => Verdict::Failed,
            Some("skip") => Verdict::Skipped,
            _ => return None,
        };
        let current = self.current.as_ref()?;
        (words.next() == Some(&current.name)).then_some(verdict)
    }

    /// The current test is over, or its boot is.
    fn end(&mut self) {
        let verdict = self.verdict.take();
        let output = std::mem::take(&mut self.output);
        let Some(test) = self.current.take() else {
            return;
        };
        let (verdict, line) = verdict.unwrap_or_else(|| {
            println!(
                "{}: FAIL {} (did not come to its end)",
                self.xen.name(),
                test.name
            );
            (Verdict::Failed, String::new())
        });
        let end = End {
            verdict,
            took: took(&line),
            kills: kills(&line).unwrap_or(0),
            reason: reason(&line).unwrap_or_default().to_owned(),
            stood_still: self.standstills.1 > self.standstills.0,
            output,
        };
        self.queue.ended(self.xen, test, end);
    }
}

impl Answers for Session<'_> {
    fn take(&mut self, said: &[u8], standstills: usize) -> Option<String> {
        self.standstills.1 = standstills;
        let mut answer = None;
        for &byte in said {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                answer = self.take_line(&String::from_utf8_lossy(&line)).or(answer);
            } else {
                self.line.push(byte);
            }
        }
        let _ = std::io::stdout().flush();
        answer
    }
}

/// Reads "... (12.0 s, 5 kills)".
fn kills(line: &str) -> Option<usize> {
    line.strip_suffix(" kills)")?
        .rsplit_once(", ")?
        .1
        .parse()
        .ok()
}

/// Reads "skip NAME (REASON)".
fn reason(line: &str) -> Option<&str> {
    line.split_once(" (")?.1.strip_suffix(')')
}

/// Reads "pass NAME (12.0 s" with whatever follows.
fn took(line: &str) -> Option<Duration> {
    let seconds = line.split_once(" (")?.1.split_once(" s")?.0;
    Duration::try_from_secs_f32(seconds.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str) -> Test {
        Test::parse(name, "").unwrap()
    }

    fn queue(names: &[&str]) -> Queue {
        let tests = names.iter().map(|name| (Xen::V4_17, test(name))).collect();
        Queue::new(tests, 0, None)
    }

    /// State of the queue after a boot with this output. In the output, `|` means that the machine stood still before
    /// the words after it.
    fn after(queue: &Queue, said: &str) -> Tally {
        let mut session = Session::new(queue, Xen::V4_17);
        for (standstills, words) in said.split('|').enumerate() {
            session.take(words.as_bytes(), standstills);
        }
        session.end();
        queue.state().tally
    }

    #[test]
    fn head_lines_are_read_and_wrong_ones_refused() {
        let read = Test::parse(
            "a",
            "# About it.\n# limit_s: 30\n# xen: any\n. lib.sh\n# xen: 4.20\n",
        )
        .unwrap();
        assert_eq!(
            (read.limit, read.wants),
            (Duration::from_secs(30), Wants::Any)
        );
        let read = Test::parse("a", "# xen: 4.17-pv32\n").unwrap();
        assert_eq!(
            (read.limit, read.wants),
            (DEFAULT_LIMIT, Wants::Only(Xen::V4_17Pv32))
        );
        for wrong in ["# limit_s: long\n", "# xen: 3.0\n"] {
            assert!(matches!(Test::parse("a", wrong), Err(Error::Usage(_))));
        }
    }

    #[test]
    fn all_scripts_have_head_lines_that_are_understood_and_the_last_comes_last() {
        let tests = select(&[]).unwrap();
        assert!(tests.len() > 20);
        assert_eq!(
            tests.last().map(|test| test.name.as_str()),
            Some("99-audit-ring")
        );
    }

    #[test]
    fn a_test_on_demand_is_chosen_by_its_name_alone() {
        let [usual, on_demand] =
            ["", "# on_demand: it is long\n"].map(|script| Test::parse("a-test", script).unwrap());
        assert!(usual.is_chosen(&[]) && !on_demand.is_chosen(&[]));
        let named = ["a-te".to_owned()];
        assert!(usual.is_chosen(&named) && on_demand.is_chosen(&named));
        assert!(!on_demand.is_chosen(&["b".to_owned()]));
    }

    #[test]
    fn a_test_of_any_xen_runs_on_one_that_changes_with_the_seed() {
        let any = Test::parse("a", "# xen: any\n").unwrap();
        let chosen: Vec<_> = (0..20).flat_map(|seed| xens_of(&any, seed)).collect();
        assert_eq!(chosen.len(), 20);
        assert!(chosen.contains(&Xen::V4_17) && chosen.contains(&Xen::V4_20));
        assert_eq!(xens_of(&test("a"), 1), [Xen::V4_17, Xen::V4_20]);
    }

    #[test]
    fn verdicts_are_counted_once_and_only_for_the_test_under_way() {
        let queue = queue(&["a", "b"]);
        let may_skip = Test::parse("c", "# may_skip: where there is no C\n").unwrap();
        queue.state().waiting.push((Xen::V4_17, may_skip));
        let tally = after(
            &queue,
            "pass b (early)\nnext\npass a (1.0 s, 30 kills)\nnext\n    pass c (a test's own words)\nFAIL b (2.0 s, 12 kills)\npass a (again)\nnext\nskip c (no)\nnext\n",
        );
        assert_eq!(
            tally,
            Tally {
                passed: 1,
                failed: 1,
                skipped: 1,
                kills: 42,
            }
        );
        assert_eq!(queue.close().1, [Failure::named("b on Xen 4.17")]);
    }

    #[test]
    fn a_skip_that_no_test_permits_is_a_failure() {
        let queue = queue(&["a"]);
        let tally = after(&queue, "next\nskip a (no xyl here)\nnext\n");
        assert_eq!((tally.failed, tally.skipped), (1, 0));
        assert_eq!(queue.close().1.len(), 1);
        // On a Xen that it does not want, a test may say nothing.
        let elsewhere = Test::parse("b", "# xen: 4.17-pv32\n").unwrap();
        for (xen, failed) in [(Xen::V4_17, 0), (Xen::V4_17Pv32, 1)] {
            let queue = Queue::new(vec![(xen, elsewhere.clone())], 0, None);
            queue.skip(xen, &"no source");
            assert_eq!(queue.close().0.failed, failed, "{}", xen.name());
        }
    }

    #[test]
    fn the_runner_is_told_the_next_test_and_then_that_there_is_none() {
        let queue = queue(&["a"]);
        let mut session = Session::new(&queue, Xen::V4_17);
        assert_eq!(session.take(b"ne", 0), None);
        assert_eq!(session.take(b"xt\n", 0).as_deref(), Some("a\n"));
        assert_eq!(
            session.take(b"pass a (1.0 s)\nnext\n", 0).as_deref(),
            Some("\n")
        );
    }

    #[test]
    fn a_broken_boot_fails_its_test_and_the_others_wait_for_another_boot() {
        let queue = queue(&["a", "b"]);
        assert_eq!(after(&queue, "next\npass a (cut o").failed, 1);
        assert_eq!(queue.state().wanted().len(), 1);
        assert_eq!(after(&queue, "next\npass b (1.0 s)\nnext\n").passed, 1);
        assert!(queue.state().wanted().is_empty());
    }

    #[test]
    fn what_failed_while_the_machine_stood_still_runs_once_more_and_no_more() {
        let queue = queue(&["a"]);
        assert_eq!(after(&queue, "next\n|FAIL a (1.0 s)\n").failed, 0);
        assert_eq!(after(&queue, "|next\n|FAIL a (1.0 s)\n").failed, 1);
        // Before the test, or with a pass, it means nothing.
        let queue = super::tests::queue(&["a", "b"]);
        let tally = after(&queue, "|next\nFAIL a (1.0 s)\nnext\n|pass b (1.0 s)\n");
        assert_eq!((tally.passed, tally.failed), (1, 1));
    }

    #[test]
    fn a_whole_run_repeats_a_failed_test_behind_the_others_and_reports_its_first_run() {
        let tests = ["a", "b"].map(|name| (Xen::V4_17, test(name))).into();
        let queue = Queue::new(tests, 0, None).repeating();
        let said = "next\nFAIL a (1.0 s)\n    why\nnext\npass b (1.0 s)\n";
        assert_eq!(after(&queue, said).failed, 0);
        let unsteady = queue.state().unsteady.clone();
        assert!(unsteady.is_empty());
        let tally = after(&queue, "next\npass a (1.0 s)\nnext\n");
        assert_eq!((tally.passed, tally.failed), (2, 0));
        let unsteady = queue.state().unsteady.clone();
        assert_eq!(unsteady[0].output, ["why"]);
        assert_eq!(queue.close().0.failed, 0);
        // What fails twice has failed.
        let queue = Queue::new(vec![(Xen::V4_17, test("a"))], 0, None).repeating();
        let said = "next\nFAIL a (1.0 s)\n    once\nnext\nFAIL a (1.0 s)\n    again\nnext\n";
        assert_eq!(after(&queue, said).failed, 1);
        let failed = queue.close().1;
        assert_eq!(failed[0].output, ["again"]);
        assert_eq!(failed[0].first_output, ["once"]);
    }

    #[test]
    fn no_test_follows_one_that_ends_its_boot_and_a_repeated_one_goes_before_it() {
        let last = Test::parse("last", "# ends_boot: it takes the log away\n").unwrap();
        let tests = [test("a"), last].map(|test| (Xen::V4_17, test)).into();
        let queue = Queue::new(tests, 0, None).repeating();
        let mut session = Session::new(&queue, Xen::V4_17);
        let mut answer = |said: &str| session.take(said.as_bytes(), 0);
        assert_eq!(answer("next\n").as_deref(), Some("a\n"));
        assert_eq!(answer("FAIL a (1.0 s)\nnext\n").as_deref(), Some("a\n"));
        assert_eq!(answer("pass a (1.0 s)\nnext\n").as_deref(), Some("last\n"));
        assert_eq!(answer("FAIL last (1.0 s)\nnext\n").as_deref(), Some("\n"));
        assert_eq!(queue.state().waiting.len(), 1);
    }

    #[test]
    fn many_unsteady_tests_are_failures() {
        let names = ["a", "b", "c"];
        let tests = names.map(|name| (Xen::V4_17, test(name))).into();
        let queue = Queue::new(tests, 0, None).repeating();
        let mut said = String::new();
        for verdict in ["FAIL", "pass"] {
            for name in names {
                said += &format!("next\n{verdict} {name} (1.0 s)\n");
            }
        }
        after(&queue, &said);
        let (tally, failed) = queue.close();
        assert_eq!((tally.passed, tally.failed, failed.len()), (0, 3, 3));
    }

    #[test]
    fn after_the_deadline_no_test_begins_and_those_that_wait_have_failed() {
        let queue = Queue::new(vec![(Xen::V4_17, test("a"))], 0, Some(Instant::now()));
        assert!(queue.next(Xen::V4_17).is_none() && queue.begin().is_none());
        assert_eq!(queue.close().0.failed, 1);
    }

    #[test]
    fn a_xen_whose_boots_break_again_and_again_is_given_up() {
        let queue = queue(&["a"]);
        queue.state().broken = vec![Xen::V4_17; 2];
        assert_eq!(queue.state().wanted().len(), 1);
        queue.state().broken.push(Xen::V4_17);
        assert!(queue.state().wanted().is_empty());
    }

    #[test]
    fn a_second_boot_of_a_xen_has_to_pay_off() {
        let queue = queue(&["a", "b", "c", "d"]);
        queue.state().boots.push(Xen::V4_17);
        assert!(queue.state().wanted().is_empty());
        queue.state().waiting.push((
            Xen::V4_17,
            Test {
                limit: Duration::from_secs(900),
                ..test("e")
            },
        ));
        assert_eq!(queue.state().wanted().len(), 1);
    }

    #[test]
    fn the_time_of_a_test_is_read() {
        let seconds = |line| took(line).map(|took| took.as_secs_f32());
        assert_eq!(seconds("pass a (12.5 s)"), Some(12.5));
        assert_eq!(seconds("FAIL a (1.0 s, 30 kills)"), Some(1.0));
        assert_eq!(seconds("skip a (no systemd here)"), None);
    }
}
