//! What every command works with: the options, the output, and Xen and xenstore, opened when they
//! are first needed.

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use os_port::{SystemClock, SystemFiles, SystemProcess};
use xen_port::{DomId, DomainInfo, Hypervisor};
use xen_sim::machine::{Host as SimulatedHost, MachineError};
use xenstore::{Client, Settings};
use xl_cfg::XlConf;
use xyl_engine::host::dom0::Kernel;
use xyl_engine::host::pools::Pools;
use xyl_engine::operation::restart;
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::vm::domains::{self, Domain, DomainRef};
use xyl_engine::vm::names::{self, NameIndex};
use xyl_engine::{Dirs, EngineError, Host};

use crate::cli::GlobalArgs;
use crate::console::Folders;
use crate::error::{Failure, Outcome};
use crate::output::{Out, stderr_is_terminal};
use crate::shown::Shown;
use crate::tell::{self, Kind, Style};
use crate::words::is_on;
use crate::xlconf;

/// What every command works with.
pub struct Context {
    options: Options,
    /// Standard output of the command.
    pub out: Out,
    /// Folders of Xyl on this host.
    pub dirs: Dirs,
    /// The simulated host that stands in for the real one, if any.
    simulated: Option<SimulatedHost>,
    hv: OnceCell<Box<dyn Hypervisor>>,
    store: RefCell<Option<Client>>,
    xl_conf: OnceCell<XlConf>,
    counts: RefCell<BTreeMap<&'static str, u64>>,
}

/// Global options, those from the environment included.
#[derive(Clone, Debug)]
struct Options {
    verbose: u8,
    dry_run: bool,
    style: Style,
    progress_in_place: bool,
    /// None for the defaults: a short time for lists, the client's own for the rest.
    store_timeout: Option<Duration>,
}

/// How long a list waits for the names in it. It is there without them, too.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// How long a command waits for the next domain of a VM whose restart is under way.
const RESTART_PATIENCE: Duration = Duration::from_secs(30);
/// How often it looks.
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

/// The variable that once moved all folders, and with them the policy and the locks.
const ROOT: &str = "XYL_ROOT";

/// Whoever sets it relies on other folders: the real ones are not used in their place.
fn refuse_moved_folders() -> Outcome {
    match std::env::var_os(ROOT).is_none_or(|value| value.is_empty()) {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{ROOT} is set, and is not supported any more: unset it; {HOST}={SIMULATED}FOLDER has folders of its own"
        ))),
    }
}

/// The variable that names the host, where it is not the one that this program runs on.
const HOST: &str = "XYL_HOST";
/// What stands before a simulated host's folder there.
const SIMULATED: &str = "sim:";

/// The host that `XYL_HOST` names, switched on if it is to be; nothing counts as not set.
fn simulated_host(
    value: &Path,
    args: &GlobalArgs,
    switches_on: bool,
) -> Result<Option<SimulatedHost>, Failure> {
    let text = value.to_string_lossy();
    if text.is_empty() {
        return Ok(None);
    }
    let folder = match text.strip_prefix(SIMULATED) {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => {
            return Err(Failure::usage(format!(
                "{HOST}={} names no host: sim:FOLDER is a simulated one, and without the variable it is the real one",
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

/// The devices that a machine with Xen has.
const XEN_DEVICES: [&str; 2] = ["/dev/xen/privcmd", "/proc/xen/privcmd"];

/// On a machine with Xen a forgotten `XYL_HOST` would have a command act on the wrong host without a real effect. Somebody at
/// a terminal is asked; a script has to say that it means it.
fn refuse_beside_xen(value: &str) -> Outcome {
    if !XEN_DEVICES.iter().any(|path| Path::new(path).exists()) {
        return Ok(());
    }
    let is_confirmed = std::io::stdin().is_terminal()
        && stderr_is_terminal()
        && tell::asks(&format!(
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
        "{error}\n{HOST}={SIMULATED}FOLDER wants a folder of your own that can be made and written to, such as {SIMULATED}$HOME/xyl-host"
    ))
}

fn from_machine(error: MachineError) -> Failure {
    Failure::refused(error.to_string())
}

/// A domain that is not there, or has gone meanwhile, is named as the user has named it.
fn as_typed(error: EngineError, asked: &str) -> Failure {
    match error {
        EngineError::NoSuchDomain(_) => Failure::from(EngineError::NoSuchDomain(asked.to_owned())),
        other => Failure::from(other),
    }
}

/// The variable with the seconds to wait for each answer of xenstored.
const STORE_TIMEOUT: &str = "XYL_STORE_TIMEOUT";

/// What it says; nothing counts as not set.
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

/// The variable that stands for so many `-v`.
const VERBOSE: &str = "XYL_VERBOSE";

/// How many that are; a word that switches on counts as 1.
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
    /// A context for these options. Nothing is opened yet; a simulated host is switched on if it is to be.
    ///
    /// # Errors
    /// [`Failure::Usage`] if an environment variable cannot be understood.
    pub fn new(args: &GlobalArgs, switches_on: bool) -> Result<Context, Failure> {
        let options = Options::new(args)?;
        refuse_moved_folders()?;
        let simulated = match std::env::var_os(HOST) {
            Some(value) => simulated_host(Path::new(&value), args, switches_on)?,
            None => None,
        };
        Ok(Context {
            options,
            out: Out::stdout(),
            dirs: match &simulated {
                Some(host) => Dirs::below(host.folder()),
                None => Dirs::system(),
            },
            simulated,
            hv: OnceCell::new(),
            store: RefCell::new(None),
            xl_conf: OnceCell::new(),
            counts: RefCell::default(),
        })
    }

    /// A context to complete a shell's words with: it switches nothing on, says nothing, and waits no longer than
    /// `patience` for each answer of xenstored.
    ///
    /// # Errors
    /// As [`Context::new`].
    pub fn for_completion(patience: Duration) -> Result<Context, Failure> {
        let mut context = Context::new(&GlobalArgs::default(), false)?;
        context.options.store_timeout = Some(patience);
        Ok(context)
    }

    /// Whether output is to be JSON.
    pub fn json(&self) -> bool {
        self.options.style.json
    }

    /// How messages look.
    pub fn style(&self) -> Style {
        self.options.style
    }

    /// Whether nothing is to be done.
    pub fn dry_run(&self) -> bool {
        self.options.dry_run
    }

    /// How often -v was given.
    pub fn verbose(&self) -> u8 {
        self.options.verbose
    }

    /// Whether this is a dry run; then it says what would be done. Standard output is for the JSON alone, where
    /// that is asked for.
    pub fn would(&self, what: String) -> Result<bool, Failure> {
        match (self.options.dry_run, self.json()) {
            (false, _) => {}
            (true, false) => self.out.line(format!("would {}", Shown::line(&what)))?,
            (true, true) => self.say(format!("would {what}")),
        }
        Ok(self.options.dry_run)
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

    /// The connection to xenstored.
    pub fn store(&self) -> Result<RefMut<'_, Client>, Failure> {
        let mut store = self.store.borrow_mut();
        if store.is_none() {
            *store = Some(self.open_store()?);
        }
        RefMut::filter_map(store, Option::as_mut)
            .map_err(|_| Failure::refused("the connection to xenstored could not be kept open"))
    }

    /// A connection of its own to xenstored.
    ///
    /// # Errors
    /// Where xenstored cannot be reached.
    pub fn open_store(&self) -> Result<Client, Failure> {
        let default = Settings::default();
        let settings = Settings {
            request_timeout: self
                .options
                .store_timeout
                .unwrap_or(default.request_timeout),
            ..default
        };
        match &self.simulated {
            Some(host) => Ok(host.store(settings).map_err(from_machine)?),
            None => Ok(Client::connect_with(settings)?),
        }
    }

    fn open_hypervisor(&self) -> Result<Box<dyn Hypervisor>, Failure> {
        self.hypervisor_opener()()
    }

    /// What opens the hypervisor in another thread.
    pub fn hypervisor_opener(
        &self,
    ) -> impl FnOnce() -> Result<Box<dyn Hypervisor>, Failure> + Send + 'static {
        let simulated = self.simulated.clone();
        move || match simulated {
            Some(host) => Ok(host.hypervisor().map_err(from_machine)?),
            None => Ok(Box::new(xen_sys::Xen::open()?)),
        }
    }

    /// Where other programs of the host keep what belongs to consoles.
    pub fn console_folders(&self) -> Folders {
        match &self.simulated {
            Some(host) => Folders::below(host.folder()),
            None => Folders::system(),
        }
    }

    /// What the host's kernel shows. A simulated host has none: no process of this machine is its own.
    pub fn kernel(&self) -> Kernel {
        match &self.simulated {
            Some(host) => Kernel::below(host.folder()),
            None => Kernel::system(),
        }
    }

    /// The value of `XYL_HOST` that leads another process of Xyl to the same host, where it is no real one.
    pub fn host_variable(&self) -> Option<String> {
        let host = self.simulated.as_ref()?;
        Some(format!("{SIMULATED}{}", host.folder().display()))
    }

    /// A host of its own for the engine's longer operations. Its counts go to [`Context::count`].
    pub fn open_host(&self) -> Result<Host, Failure> {
        let style = self.options.style;
        Ok(Host {
            notice: Rc::new(move |text| style.message(Kind::Notice, text)),
            ..Host::new(
                self.open_hypervisor()?,
                self.open_store()?,
                self.dirs.clone(),
            )
        })
    }

    /// What xl.conf says.
    pub fn xl_conf(&self) -> Result<&XlConf, Failure> {
        if self.xl_conf.get().is_none() {
            let _ = self.xl_conf.set(xlconf::read()?);
        }
        self.xl_conf
            .get()
            .ok_or_else(|| Failure::refused("xl.conf could not be kept"))
    }

    /// The domain that was asked for: digits are its number.
    pub fn find(&self, asked: &str) -> Result<Domain, Failure> {
        match DomainRef::parse(asked) {
            DomainRef::Number(number) => {
                domains::find_number(self.hv()?, number).map_err(|error| as_typed(error, asked))
            }
            DomainRef::Uuid(_) => self.find_by_name(asked),
            DomainRef::Name(name) => self.find_by_name(&name),
        }
    }

    /// Looks a domain up. A VM whose restart is under way has none for a moment: its next one is waited for.
    fn find_or_await(
        &self,
        asked: &DomainRef,
        mut look: impl FnMut() -> Result<Domain, Failure>,
    ) -> Result<Domain, Failure> {
        let deadline = Instant::now() + RESTART_PATIENCE;
        loop {
            let is_absent = |found: &Result<Domain, Failure>| {
                matches!(found, Err(Failure::Engine(EngineError::NoSuchDomain(_))))
            };
            let found = look();
            if !is_absent(&found) || Instant::now() >= deadline {
                return found;
            }
            if !restart::is_under_way(&SystemFiles, &self.dirs, &SystemProcess, asked) {
                // It may have ended between the two looks.
                return look();
            }
            std::thread::sleep(RESTART_LOOK_EVERY);
        }
    }

    /// The domain that was asked for, for whoever has a host of his own.
    pub fn find_on(&self, host: &mut Host, asked: &str) -> Result<Domain, Failure> {
        let parsed = DomainRef::parse(asked);
        self.find_or_await(&parsed, || {
            let (hv, store, index) = host.directory();
            domains::find(hv, store, &index, &parsed).map_err(|error| as_typed(error, asked))
        })
    }

    /// Has a change made of a domain that was asked for; says what it would do in a dry run.
    pub fn change(
        &self,
        asked: &str,
        request: &Request,
        would: impl FnOnce(DomId) -> String,
    ) -> Outcome {
        let mut host = self.open_host()?;
        let info = self.find_on(&mut host, asked)?.info;
        self.change_on(&mut host, &info, request, would)
            .map_err(|failure| match failure {
                Failure::Engine(error) => as_typed(error, asked),
                other => other,
            })
    }

    /// The same of a domain that was found.
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

    /// In a dry run, refuses what the change would refuse, and says what it would do.
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

    /// The domain with a name, even if that is all digits; `uuid=...` works too.
    pub fn find_by_name(&self, asked: &str) -> Result<Domain, Failure> {
        let parsed = match DomainRef::parse(asked) {
            // Digits are a name here.
            DomainRef::Number(_) => DomainRef::Name(asked.to_owned()),
            parsed => parsed,
        };
        self.find_or_await(&parsed, || {
            let (hv, mut store) = (self.hv()?, self.store()?);
            Ok(domains::find(hv, &mut *store, &self.name_index(), &parsed)?)
        })
    }

    /// A domain's name, asked for where the look-up did not bring it.
    pub fn name_of(&self, domain: &Domain) -> Result<Option<String>, Failure> {
        match &domain.name {
            Some(name) => Ok(Some(name.clone())),
            None => {
                let infos = std::slice::from_ref(&domain.info);
                Ok(names::read(&mut *self.store()?, infos)?.pop().flatten())
            }
        }
    }

    /// The names of domains. Where xenstored does not answer there are none, and a warning: a list
    /// must not depend on it.
    pub fn names_or_warning(&self, infos: &[DomainInfo]) -> Vec<Option<String>> {
        self.names(infos).unwrap_or_else(|failure| {
            self.warn(&failure);
            vec![None; infos.len()]
        })
    }

    /// The names of domains, for which nobody waits long. After a failure the next look-up connects anew.
    pub fn names(&self, infos: &[DomainInfo]) -> Result<Vec<Option<String>>, Failure> {
        let names = self.store().and_then(|mut store| {
            let settings = store.settings();
            store.set_settings(Settings {
                request_timeout: settings.request_timeout.min(LIST_PATIENCE),
                ..settings
            });
            let names = names::of(&mut *store, &self.name_index(), infos);
            store.set_settings(settings);
            Ok(names?)
        });
        if names.is_err() {
            *self.store.borrow_mut() = None;
        }
        names
    }

    fn name_index(&self) -> NameIndex<'_> {
        NameIndex::new(&SystemFiles, &SystemClock, &SystemProcess, &self.dirs)
    }

    /// The CPU pools, with their names.
    pub fn pools(&self) -> Result<Pools, Failure> {
        Ok(Pools::read(self.hv()?, &mut *self.store()?)?)
    }

    /// Says something on standard error: what the command is about to do.
    pub fn say(&self, text: impl AsRef<str>) {
        self.style().message(Kind::Notice, text.as_ref());
    }

    /// Says something on standard error with -v, or with as many as `level`.
    pub fn note(&self, level: u8, text: impl FnOnce() -> String) {
        if self.options.verbose >= level {
            self.say(text());
        }
    }

    /// Tells standard error about what went wrong and does not end the command.
    pub fn warn(&self, failure: &Failure) {
        let (text, details) = (failure.to_string(), failure.details());
        self.style().with_details(Kind::Warning, &text, details);
    }

    /// Warns on standard error.
    pub fn warning(&self, text: impl AsRef<str>) {
        self.style().message(Kind::Warning, text.as_ref());
    }

    /// A wait that names itself on a terminal when it takes longer than a second.
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

    /// Adds what an operation of the engine has cost.
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

    /// Ends the command's output.
    pub fn finish(&self) -> Outcome {
        Ok(self.out.flush()?)
    }

    /// With -v, says what the command has cost.
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

/// A wait under way.
pub struct Waiting {
    what: String,
    in_place: bool,
    shows: bool,
    line_open: Cell<bool>,
}

impl Waiting {
    /// What a wait calls once a second.
    pub fn tick(&self) -> impl FnMut(Duration) + '_ {
        move |spent| {
            if self.in_place {
                tell::part(format_args!(
                    "\rxyl: waiting {} ({} s) ",
                    self.what,
                    spent.as_secs()
                ));
                self.line_open.set(true);
            } else if self.shows && spent.as_secs() % 10 == 1 {
                tell::line(format_args!(
                    "xyl: waiting {} ({} s)",
                    self.what,
                    spent.as_secs()
                ));
            }
        }
    }

    /// Clears the line for another message.
    pub fn pause(&self) {
        if self.line_open.replace(false) {
            tell::part(format_args!("\r{}\r", " ".repeat(self.what.len() + 32)));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pause();
    }
}
