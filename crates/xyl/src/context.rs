//! [`Context`], the argument of every command: global options, output, and connections to Xen and xenstore.
//!
//! It owns the connections, opens each at its first use, and finds domains by number, name or UUID. [`crate::run`]
//! creates it.

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use os_port::{SystemClock, SystemFiles, SystemProcess};
use xen_port::{DomId, DomainInfo, Hypervisor};
use xen_sim::machine::{Host as SimulatedHost, MachineError};
use xenstore::{Client, Settings};
use xl_cfg::XlConf;
use xyl_engine::host::dom0::Kernel;
use xyl_engine::host::pools::Pools;
use xyl_engine::report::{self, Reader};
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::supervise::states::{self, Listed};
use xyl_engine::vm::domains::{self, Domain, DomainRef};
use xyl_engine::vm::names::{self, NameIndex};
use xyl_engine::vm::state::VmState;
use xyl_engine::vm::without_domain::Records;
use xyl_engine::{Dirs, EngineError, ErrorCode, Host};
use xyl_host::{HOST, SIMULATED, Site, xl_conf};

use crate::cli::GlobalArgs;
use crate::console::Folders;
use crate::error::{Failure, Outcome};
use crate::output::{Out, stderr_is_terminal};
use crate::resolve::is_on;
use crate::shown::Shown;
use crate::stderr::{self, Kind, Style};

/// The environment of one command.
pub struct Context {
    options: Options,
    /// Standard output of the command.
    pub out: Out,
    /// Folders of Xyl on this host.
    pub dirs: Dirs,
    /// This machine, or the simulated host that `XYL_HOST` names.
    site: Site,
    hv: OnceCell<Box<dyn Hypervisor>>,
    store: RefCell<Option<Client>>,
    xl_conf: OnceCell<XlConf>,
    counts: RefCell<BTreeMap<&'static str, u64>>,
}

/// A VM that was asked for.
pub enum FoundVm {
    /// It has a domain.
    WithDomain(Domain),
    /// It has none now, and gets its next one.
    WithoutDomain(Listed),
}

/// Global options from the command line and the environment.
#[derive(Clone, Debug)]
struct Options {
    verbose: u8,
    dry_run: bool,
    style: Style,
    progress_in_place: bool,
    /// Time limit for an answer of xenstored. `None` selects a short one for lists, and the client's default
    /// otherwise.
    store_timeout: Option<Duration>,
}

/// Time limit for the next domain of a VM whose restart is under way.
const RESTART_PATIENCE: Duration = Duration::from_secs(30);
/// Interval between two look-ups of that domain.
const RESTART_LOOK_EVERY: Duration = Duration::from_millis(10);

impl Options {
    fn new(args: &GlobalArgs) -> Result<Options, Failure> {
        Ok(Options {
            verbose: match std::env::var_os(VERBOSE) {
                Some(value) => args.verbose.max(verbosity(&value.to_string_lossy())?),
                None => args.verbose,
            },
            dry_run: args.dry_run,
            style: args.style(),
            progress_in_place: args.progress_in_place,
            store_timeout: match std::env::var_os(STORE_TIMEOUT) {
                Some(value) => store_timeout(&value.to_string_lossy())?,
                None => None,
            },
        })
    }
}

/// An environment variable of earlier versions that moved all folders. It is refused now.
const ROOT: &str = "XYL_ROOT";

/// Refuses to run if `XYL_ROOT` is set. Its user expects other folders, so the real ones must not be used.
fn refuse_moved_folders() -> Outcome {
    match std::env::var_os(ROOT).is_none_or(|value| value.is_empty()) {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{ROOT} is set, and is not supported any more: unset it; {HOST}={SIMULATED}FOLDER has folders of its own"
        ))),
    }
}

/// Returns the simulated host that `XYL_HOST` names. An empty value counts as unset. With `switches_on`, starts the
/// host.
fn simulated_host(
    value: &Path,
    args: &GlobalArgs,
    switches_on: bool,
) -> Result<Option<SimulatedHost>, Failure> {
    let text = value.to_string_lossy();
    if text.is_empty() {
        return Ok(None);
    }
    let folder = match xyl_host::simulated_folder(&text) {
        Some(folder) => folder,
        None => {
            return Err(Failure::usage(format!(
                "{HOST}={} is not valid: sim:FOLDER selects a simulated host; unset it to use the real one",
                Shown::line(&text)
            )));
        }
    };
    let host = SimulatedHost::in_folder(&folder).map_err(not_switched_on)?;
    if !switches_on {
        return Ok(Some(host));
    }
    if !args.simulated {
        refuse_beside_xen(&text)?;
    }
    let program =
        std::env::current_exe().map_err(|source| Failure::io("find this program", source))?;
    let is_new = host
        .power_on(&program, &["simulated-host"])
        .map_err(not_switched_on)?;
    if is_new {
        let (folder, example) = (host.folder().display(), host.example());
        let example = example.display();
        let text = format!(
            "the simulated host in {folder} is on now; a guest to try: xyl create {example}"
        );
        args.style().message(Kind::Notice, &text);
    }
    let folder = host.folder().display();
    let text = format!("this is a simulated host, in {folder}: no Xen, and no guest of it is real");
    args.style().message(Kind::Notice, &text);
    Ok(Some(host))
}

/// Refuses a simulated host on a machine with Xen, because `XYL_HOST` may be set by mistake. At a terminal it asks
/// the user. A script needs `--simulated`.
fn refuse_beside_xen(value: &str) -> Outcome {
    if !xyl_host::is_beside_xen() {
        return Ok(());
    }
    let is_confirmed = std::io::stdin().is_terminal()
        && stderr_is_terminal()
        && stderr::asks(&format!(
            "this machine has Xen, and {HOST}={value} names a simulated host: work on that one?"
        ));
    match is_confirmed {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "this machine has Xen, and {HOST}={value} names a simulated host: unset {HOST} to work on Xen, or give --simulated to work on the simulated host"
        ))),
    }
}

fn not_switched_on(error: MachineError) -> Failure {
    Failure::refused(format!(
        "{error}\n{HOST}={SIMULATED}FOLDER needs a folder that you own and can write to, such as {SIMULATED}$HOME/xyl-host"
    ))
}

/// Puts the text that the user typed into an error about a missing domain.
fn as_typed(error: EngineError, asked: &str) -> Failure {
    match error.code() {
        ErrorCode::NoSuchDomain => Failure::from(EngineError::NoSuchDomain(asked.to_owned())),
        _ => Failure::from(error),
    }
}

/// Environment variable: seconds to wait for each answer of xenstored.
const STORE_TIMEOUT: &str = "XYL_STORE_TIMEOUT";

/// Parses `XYL_STORE_TIMEOUT`. An empty value counts as unset.
fn store_timeout(value: &str) -> Result<Option<Duration>, Failure> {
    if value.is_empty() {
        return Ok(None);
    }
    match value.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds.into()))),
        _ => Err(Failure::usage(format!(
            "{STORE_TIMEOUT}={} is no number of seconds: set it to 1 or more, without a unit",
            Shown::line(value)
        ))),
    }
}

/// Environment variable: number of `-v` options.
const VERBOSE: &str = "XYL_VERBOSE";

/// Parses `XYL_VERBOSE`. A word such as `yes` counts as 1.
fn verbosity(value: &str) -> Result<u8, Failure> {
    match value.to_ascii_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" => Ok(1),
        word if !is_on(word) => Ok(0),
        word => word.parse().map_err(|_| {
            Failure::usage(format!(
                "{VERBOSE}={} is no number from 0 to {}: it stands for so many times -v",
                Shown::line(value),
                u8::MAX
            ))
        }),
    }
}

impl Context {
    /// Creates the context. Opens no connection yet. With `switches_on`, starts the simulated host of `XYL_HOST`.
    ///
    /// # Errors
    /// [`Failure::Usage`] if an environment variable has an invalid value.
    pub fn new(args: &GlobalArgs, switches_on: bool) -> Result<Context, Failure> {
        let options = Options::new(args)?;
        refuse_moved_folders()?;
        let simulated = match std::env::var_os(HOST) {
            Some(value) => simulated_host(Path::new(&value), args, switches_on)?,
            None => None,
        };
        let site = match simulated {
            Some(host) => Site::simulated(host),
            None => Site::this_machine(),
        };
        Ok(Context {
            options,
            out: Out::stdout(),
            dirs: site.dirs.clone(),
            site,
            hv: OnceCell::new(),
            store: RefCell::new(None),
            xl_conf: OnceCell::new(),
            counts: RefCell::default(),
        })
    }

    /// Creates the context of shell completion. It starts no simulated host and prints nothing. `patience` limits the
    /// wait for each answer of xenstored.
    ///
    /// # Errors
    /// As [`Context::new`].
    pub fn for_completion(patience: Duration) -> Result<Context, Failure> {
        let mut context = Context::new(&GlobalArgs::default(), false)?;
        context.options.store_timeout = Some(patience);
        Ok(context)
    }

    /// Whether output is JSON.
    pub fn json(&self) -> bool {
        self.options.style.json
    }

    /// Format of messages on standard error.
    pub fn style(&self) -> Style {
        self.options.style
    }

    /// Whether `-N` asks for a dry run.
    pub fn dry_run(&self) -> bool {
        self.options.dry_run
    }

    /// Number of `-v` options.
    pub fn verbose(&self) -> u8 {
        self.options.verbose
    }

    /// Whether this is a dry run. If so, prints `what` as the action that a real run would take. With `--json` it
    /// goes to standard error.
    pub fn would(&self, what: String) -> Result<bool, Failure> {
        if self.options.dry_run {
            self.would_with(what)?;
        }
        Ok(self.options.dry_run)
    }

    /// Prints `what` as the action of a real run, for a dry run of one command.
    pub fn would_with(&self, what: String) -> Outcome {
        let line = format!("would {}", Shown::line(&what));
        match self.json() {
            true => self.say(line),
            false => self.out.line(line)?,
        }
        Ok(())
    }

    /// The port to the hypervisor, opened at the first use.
    pub fn hv(&self) -> Result<&dyn Hypervisor, Failure> {
        if self.hv.get().is_none() {
            let _ = self.hv.set(self.open_hypervisor()?);
        }
        match self.hv.get() {
            Some(hv) => Ok(hv.as_ref()),
            None => Err(Failure::refused("the hypervisor could not be kept open")),
        }
    }

    /// The command's connection to xenstored, opened at the first use.
    pub fn store(&self) -> Result<RefMut<'_, Client>, Failure> {
        let mut store = self.store.borrow_mut();
        if store.is_none() {
            *store = Some(self.open_store()?);
        }
        RefMut::filter_map(store, Option::as_mut)
            .map_err(|_| Failure::refused("the connection to xenstored could not be kept open"))
    }

    /// Opens another connection to xenstored.
    ///
    /// # Errors
    /// An error if xenstored cannot be reached.
    pub fn open_store(&self) -> Result<Client, Failure> {
        let default = Settings::default();
        let settings = Settings {
            request_timeout: self
                .options
                .store_timeout
                .unwrap_or(default.request_timeout),
            ..default
        };
        Ok(self.site.store(settings)?)
    }

    fn open_hypervisor(&self) -> Result<Box<dyn Hypervisor>, Failure> {
        self.hypervisor_opener()()
    }

    /// Returns a function that opens the hypervisor in another thread.
    pub fn hypervisor_opener(
        &self,
    ) -> impl FnOnce() -> Result<Box<dyn Hypervisor>, Failure> + Send + 'static {
        let site = self.site.clone();
        move || Ok(site.hypervisor()?)
    }

    /// The folders with locks and logs of consoles.
    pub fn console_folders(&self) -> Folders {
        match self.site.as_simulated() {
            Some(host) => Folders::below(host.folder()),
            None => Folders::system(),
        }
    }

    /// The files of domain 0's kernel, in procfs and sysfs. A simulated host has its own.
    pub fn kernel(&self) -> Kernel {
        self.site.kernel()
    }

    /// Value of `XYL_HOST` for other processes of Xyl. `None` on a real host.
    pub fn host_variable(&self) -> Option<String> {
        self.site.variable()
    }

    /// Opens a new [`Host`] for an operation of the engine. [`Context::count`] adds its request counts to the
    /// command's.
    pub fn open_host(&self) -> Result<Host, Failure> {
        self.host_with(self.open_hypervisor()?)
    }

    /// The same in a driver domain, which makes no hypercalls.
    pub fn open_driver_domain(&self) -> Result<Host, Failure> {
        match self.site.as_simulated() {
            Some(_) => self.open_host(),
            None => self.host_with(Box::new(xen_sys::Xen::open_in_guest()?)),
        }
    }

    fn host_with(&self, hv: Box<dyn Hypervisor>) -> Result<Host, Failure> {
        let style = self.options.style;
        let mut host = self.site.host_with(hv, self.open_store()?)?;
        host.notice = Rc::new(move |text| style.message(Kind::Notice, text));
        Ok(host)
    }

    /// The settings of xl.conf, read at the first use.
    pub fn xl_conf(&self) -> Result<&XlConf, Failure> {
        if self.xl_conf.get().is_none() {
            let _ = self.xl_conf.set(xl_conf::read()?);
        }
        self.xl_conf
            .get()
            .ok_or_else(|| Failure::refused("xl.conf could not be kept"))
    }

    /// Finds a domain by what the user typed. Digits are a domid.
    pub fn find(&self, asked: &str) -> Result<Domain, Failure> {
        self.find_within(RESTART_PATIENCE, &DomainRef::parse(asked), asked)
    }

    /// The domain that was asked for, or its VM where that has none now.
    pub fn find_vm(&self, asked: &str) -> Result<FoundVm, Failure> {
        let parsed = DomainRef::parse(asked);
        self.vm_or_failure(&parsed, || self.look_up(&parsed, asked))
    }

    fn look_up(&self, parsed: &DomainRef, asked: &str) -> Result<Domain, Failure> {
        if let DomainRef::Number(number) = parsed {
            let found = domains::find_number(self.hv()?, *number);
            return found.map_err(|error| as_typed(error, asked));
        }
        let (hv, mut store) = (self.hv()?, self.store()?);
        let found = domains::find(hv, &mut *store, &self.name_index(), parsed);
        Ok(found?)
    }

    fn find_within(
        &self,
        patience: Duration,
        parsed: &DomainRef,
        asked: &str,
    ) -> Result<Domain, Failure> {
        self.find_or_await(patience, parsed, || self.look_up(parsed, asked))
    }

    /// Looks a domain up. A VM whose restart is under way has none for a moment: its next one is waited for, for so long.
    fn find_or_await(
        &self,
        patience: Duration,
        asked: &DomainRef,
        mut look: impl FnMut() -> Result<Domain, Failure>,
    ) -> Result<Domain, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            match self.vm_or_failure(asked, &mut look)? {
                FoundVm::WithDomain(domain) => return Ok(domain),
                FoundVm::WithoutDomain(vm) => {
                    let is_under_way = vm.state == VmState::Restarting;
                    if !is_under_way || Instant::now() >= deadline {
                        return Err(states::no_domain(&vm).into());
                    }
                }
            }
            std::thread::sleep(RESTART_LOOK_EVERY);
        }
    }

    /// Looks a domain up, and its VM where that has none now.
    fn vm_or_failure(
        &self,
        asked: &DomainRef,
        mut look: impl FnMut() -> Result<Domain, Failure>,
    ) -> Result<FoundVm, Failure> {
        let is_absent = |found: &Result<Domain, Failure>| {
            matches!(found, Err(Failure::Engine(EngineError::NoSuchDomain(_))))
        };
        let found = look();
        if !is_absent(&found) {
            return Ok(FoundVm::WithDomain(found?));
        }
        let records = self.records();
        let vm = states::find_without_domain(self.hv()?, &records, &SystemClock, asked)?;
        if let Some(vm) = vm {
            return Ok(FoundVm::WithoutDomain(vm));
        }
        // The restart may have ended between the two looks.
        let found = look();
        let given_up = match is_absent(&found) {
            true => states::find_given_up(self.hv()?, &records, asked)?,
            false => None,
        };
        match given_up {
            Some((uuid, given_up)) => Err(states::was_given_up(&self.dirs, uuid, given_up).into()),
            None => Ok(FoundVm::WithDomain(found?)),
        }
    }

    /// The records of Xyl about the VMs on this host.
    pub fn records(&self) -> Records<'_> {
        Records {
            files: &SystemFiles,
            dirs: &self.dirs,
            process: &SystemProcess,
        }
    }

    /// The parts of the host that reports read.
    pub fn reader(&self) -> Result<Reader<'_>, Failure> {
        Ok(Reader {
            hv: self.hv()?,
            records: self.records(),
            clock: &SystemClock,
        })
    }

    /// Finds a domain with the connections of `host`.
    pub fn find_on(&self, host: &mut Host, asked: &str) -> Result<Domain, Failure> {
        self.find_on_within(RESTART_PATIENCE, host, asked)
    }

    /// The same. A VM whose restart is under way is not waited for.
    pub fn find_now(&self, host: &mut Host, asked: &str) -> Result<Domain, Failure> {
        self.find_on_within(Duration::ZERO, host, asked)
    }

    fn find_on_within(
        &self,
        patience: Duration,
        host: &mut Host,
        asked: &str,
    ) -> Result<Domain, Failure> {
        let parsed = DomainRef::parse(asked);
        self.find_or_await(patience, &parsed, || {
            let (hv, store, index) = host.directory();
            domains::find(hv, store, &index, &parsed).map_err(|error| as_typed(error, asked))
        })
    }

    /// Sends `request` for a domain. In a dry run, checks the request and prints what it would do. A VM that has restarted
    /// meanwhile is asked once more, unless the user gave its domain's number.
    pub fn change(
        &self,
        asked: &str,
        request: &Request,
        would: impl Fn(DomId) -> String,
    ) -> Outcome {
        self.change_and(asked, request, would, |_| ())
    }

    /// The same, and calls `after` with the domain that was asked, also if that has failed. Not in a dry run.
    pub fn change_and(
        &self,
        asked: &str,
        request: &Request,
        would: impl Fn(DomId) -> String,
        after: impl Fn(&DomainInfo),
    ) -> Outcome {
        let mut host = self.open_host()?;
        let mut ask = || {
            let info = self.find_on(&mut host, asked)?.info;
            let outcome = self.change_on(&mut host, &info, request, &would);
            if !self.options.dry_run {
                after(&info);
            }
            outcome
        };
        let is_number = matches!(DomainRef::parse(asked), DomainRef::Number(_));
        let mut outcome = ask();
        if let Err(failure) = &outcome
            && failure.code() == ErrorCode::DomainReplaced
            && !is_number
        {
            outcome = ask();
        }
        outcome.map_err(|failure| match failure {
            Failure::Engine(error) => as_typed(error, asked),
            other => other,
        })
    }

    /// Like [`Context::change`], for a domain that was already found.
    pub fn change_on(
        &self,
        host: &mut Host,
        info: &DomainInfo,
        request: &Request,
        would: impl FnOnce(DomId) -> String,
    ) -> Outcome {
        if self.would_change(host, info, request, || would(info.domid))? {
            return Ok(());
        }
        let outcome = requests::ask_for(host, info, request);
        self.count(host);
        outcome?;
        Ok(())
    }

    /// In a dry run, checks the request, and prints what it would do. Returns whether this is a dry run.
    pub fn would_change(
        &self,
        host: &mut Host,
        info: &DomainInfo,
        request: &Request,
        would: impl FnOnce() -> String,
    ) -> Result<bool, Failure> {
        if self.options.dry_run {
            requests::check(host, info, request)?;
        }
        self.would(would())
    }

    /// Finds a domain by name, even if the name is all digits. `uuid=...` works too.
    pub fn find_by_name(&self, asked: &str) -> Result<Domain, Failure> {
        let parsed = match DomainRef::parse(asked) {
            // Here digits are a name.
            DomainRef::Number(_) => DomainRef::Name(asked.to_owned()),
            parsed => parsed,
        };
        self.find_within(RESTART_PATIENCE, &parsed, asked)
    }

    /// Name of a domain. Reads it from xenstore if the look-up did not.
    pub fn name_of(&self, domain: &Domain) -> Result<Option<String>, Failure> {
        match &domain.name {
            Some(name) => Ok(Some(name.clone())),
            None => {
                let infos = std::slice::from_ref(&domain.info);
                Ok(names::read(&mut *self.store()?, infos)?.pop().flatten())
            }
        }
    }

    /// Names of domains. If xenstored does not answer, prints a warning and returns no names, so that a list still
    /// works.
    pub fn names_or_warning(&self, infos: &[DomainInfo]) -> Vec<Option<String>> {
        self.names(infos).unwrap_or_else(|failure| {
            self.warn(&failure);
            vec![None; infos.len()]
        })
    }

    /// Names of domains, with a short time limit. After an error, the next call opens a new connection.
    pub fn names(&self, infos: &[DomainInfo]) -> Result<Vec<Option<String>>, Failure> {
        let reader = self.reader()?;
        let names = self
            .store()
            .and_then(|mut store| Ok(report::names::of(&reader, &mut store, infos)?));
        if names.is_err() {
            *self.store.borrow_mut() = None;
        }
        names
    }

    fn name_index(&self) -> NameIndex<'_> {
        NameIndex::new(&SystemFiles, &SystemClock, &SystemProcess, &self.dirs)
    }

    /// Reads the CPU pools with their names.
    pub fn pools(&self) -> Result<Pools, Failure> {
        Ok(Pools::read(self.hv()?, &mut *self.store()?)?)
    }

    /// Prints a notice about the command's action on standard error.
    pub fn say(&self, text: impl AsRef<str>) {
        self.style().message(Kind::Notice, text.as_ref());
    }

    /// Prints a notice if `-v` was given at least `level` times.
    pub fn note(&self, level: u8, text: impl FnOnce() -> String) {
        if self.options.verbose >= level {
            self.say(text());
        }
    }

    /// Prints a failure that does not end the command as a warning.
    pub fn warn(&self, failure: &Failure) {
        let (text, details) = (failure.to_string(), failure.details());
        self.style().with_details(Kind::Warning, &text, details);
    }

    /// Prints a warning on standard error.
    pub fn warning(&self, text: impl AsRef<str>) {
        self.style().message(Kind::Warning, text.as_ref());
    }

    /// Starts the display of a wait. On a terminal it appears after one second.
    pub fn waiting(&self, what: String) -> Waiting {
        let in_place = self.options.progress_in_place || stderr_is_terminal() && !self.json();
        let shows = (in_place || self.options.verbose > 0) && !self.json();
        Waiting {
            what: Shown::line(&what).to_string(),
            in_place,
            shows,
            line_open: Cell::new(false),
        }
    }

    /// Adds the request counts of an operation to the command's.
    pub fn count(&self, host: &Host) {
        self.add_counts(host.hv.counters());
        self.add_counts(store_counts(&host.store));
    }

    fn add_counts(&self, counts: Vec<(&'static str, u64)>) {
        let mut sums = self.counts.borrow_mut();
        for (name, number) in counts {
            *sums.entry(name).or_default() += number;
        }
    }

    /// Flushes standard output.
    pub fn finish(&self) -> Outcome {
        Ok(self.out.flush()?)
    }

    /// With `-v`, prints the number of hypercalls and xenstore requests.
    pub fn report_counts(&self) {
        if self.options.verbose == 0 {
            return;
        }
        if let Some(hv) = self.hv.get() {
            self.add_counts(hv.counters());
        }
        if let Some(store) = self.store.borrow().as_ref() {
            self.add_counts(store_counts(store));
        }
        let counts = self.counts.borrow();
        if !counts.is_empty() {
            let parts: Vec<String> = counts
                .iter()
                .map(|(name, number)| format!("{name} {number}"))
                .collect();
            self.say(format!("cost: {}", parts.join(", ")));
        }
    }
}

fn store_counts(store: &Client) -> Vec<(&'static str, u64)> {
    let stats = store.stats();
    vec![
        ("xenstore requests", stats.requests),
        ("xenstore round trips", stats.round_trips),
        ("xenstore bytes out", stats.bytes_out),
        ("xenstore bytes in", stats.bytes_in),
    ]
}

/// The display of a wait under way.
pub struct Waiting {
    what: String,
    in_place: bool,
    shows: bool,
    line_open: Cell<bool>,
}

impl Waiting {
    /// Returns a function that the wait calls once a second.
    pub fn tick(&self) -> impl FnMut(Duration) + '_ {
        move |spent| {
            if self.in_place {
                stderr::part(format_args!(
                    "\rxyl: waiting {} ({} s) ",
                    self.what,
                    spent.as_secs()
                ));
                self.line_open.set(true);
            } else if self.shows && spent.as_secs() % 10 == 1 {
                stderr::line(format_args!(
                    "xyl: waiting {} ({} s)",
                    self.what,
                    spent.as_secs()
                ));
            }
        }
    }

    /// Clears the line, so that another message can be printed.
    pub fn pause(&self) {
        if self.line_open.replace(false) {
            stderr::part(format_args!("\r{}\r", " ".repeat(self.what.len() + 32)));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pause();
    }
}
