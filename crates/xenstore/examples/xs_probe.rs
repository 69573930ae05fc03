//! Exercises a real xenstored through this crate and ends with an error on the first thing that is not as expected.
//!
//! `xs_probe TIMEOUT_MS PATH...` takes sockets and devices (`/run/xenstored/socket`, `/dev/xen/xenbus`); run it as root in dom0.
//! It works below `/tool/xs-probe` and cleans up. Times are printed for information.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use xenstore::{
    Access, Batch, Client, Error, ErrorName, Path, Perms, RetryPolicy, Settings, Stats, Tree,
    WatchEvent, transport,
};

type Outcome = Result<(), Box<dyn StdError>>;

/// One part of the exercise.
type Step = fn(&Probe) -> Outcome;

const STEPS: [(&str, Step); 11] = [
    ("values", Probe::values),
    ("permissions", Probe::permissions),
    ("refusals", Probe::refusals),
    ("sizes", Probe::sizes),
    ("transactions", Probe::transactions),
    ("conflicts", Probe::conflicts),
    ("watches", Probe::watches),
    ("domains", Probe::domains),
    ("long lists", Probe::long_lists),
    ("batches", Probe::batches),
    ("two writers at once", Probe::two_writers),
];

/// A way to xenstored, and the place in the tree to work in.
struct Probe {
    place: PathBuf,
    base: Path,
    settings: Settings,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xs_probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [timeout_ms, places @ ..] = arguments.as_slice() else {
        return Err("usage: xs_probe TIMEOUT_MS SOCKET-OR-DEVICE...".into());
    };
    let request_timeout = Duration::from_millis(timeout_ms.parse()?);
    let settings = Settings {
        request_timeout,
        ..Settings::default()
    };
    for place in places {
        Probe {
            place: place.into(),
            base: Path::new("/tool/xs-probe")?,
            settings,
        }
        .run()?;
    }
    Ok(())
}

impl Probe {
    fn run(&self) -> Outcome {
        for (name, step) in STEPS {
            self.client()?.rm(&self.base)?;
            step(self).map_err(|error| format!("{}: {name}: {error}", self.place.display()))?;
            println!("{}: {name}: as expected", self.place.display());
        }
        self.client()?.rm(&self.base)?;
        Ok(())
    }

    fn client(&self) -> Result<Client, Error> {
        let deadline = Instant::now() + self.settings.request_timeout;
        let transport = transport::open_first(std::slice::from_ref(&self.place), deadline)?;
        Ok(Client::new(transport, self.settings))
    }

    fn node(&self, relative: &str) -> Result<Path, Error> {
        Ok(self.base.join(relative)?)
    }

    fn values(&self) -> Outcome {
        let mut client = self.client()?;
        let node = self.node("a/b")?;
        same("absent", client.read_opt(&node)?, None)?;
        client.write(&node, b"bin\0ary\xff\n")?;
        same("value", client.read(&node)?, b"bin\0ary\xff\n".to_vec())?;
        client.write(&node, b"")?;
        same("empty value", client.read_opt(&node)?, Some(Vec::new()))?;
        client.mkdir(&self.node("c")?)?;
        client.mkdir(&self.node("c")?)?;
        let mut names = client.directory(&self.base)?;
        names.sort();
        same("children", names, vec!["a".to_owned(), "c".to_owned()])?;
        same("no children", client.directory(&node)?, Vec::new())?;
        client.rm(&self.node("a")?)?;
        client.rm(&self.node("a")?)?;
        client.rm(&self.node("absent/below")?)?;
        same("removed", client.exists(&node)?, false)
    }

    fn permissions(&self) -> Outcome {
        let mut client = self.client()?;
        client.mkdir(&self.base)?;
        let perms = Perms::owned_by(0)
            .with(5, Access::Read)
            .with(6, Access::Both)
            .with(7, Access::Write);
        client.set_perms(&self.base, &perms)?;
        same("permissions", client.get_perms(&self.base)?, perms.clone())?;
        client.mkdir(&self.node("child")?)?;
        same("inherited", client.get_perms(&self.node("child")?)?, perms)?;
        match client.get_perms(&Path::release_domain()) {
            Ok(perms) => same("owner of @releaseDomain", perms.owner, 0),
            // The C daemon of Xen 4.17 sets the permissions of special paths, but does not give them.
            Err(Error::Refused {
                reason: ErrorName::Einval,
                ..
            }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn refusals(&self) -> Outcome {
        let mut client = self.client()?;
        let absent = self.node("absent")?;
        holds("read of an absent node", client.read(&absent), |error| {
            error.is_not_found()
        })?;
        holds(
            "permissions of an absent node",
            client.get_perms(&absent),
            |error| error.is_not_found(),
        )?;
        holds(
            "release of an absent domain",
            client.release(0x7000),
            |error| {
                matches!(
                    error,
                    Error::NotFound { .. }
                        | Error::Refused {
                            reason: ErrorName::Einval,
                            ..
                        }
                )
            },
        )?;
        let mut batch = Batch::new();
        batch.write(&self.node("before")?, b"1");
        batch.read(&absent);
        batch.read(&self.node("absent-too")?);
        holds(
            "batch with an absent node",
            client.run(&batch),
            |error| matches!(error, Error::NotFound { object, .. } if object == absent.as_str()),
        )?;
        same(
            "connection after refusals",
            client.read(&self.node("before")?)?,
            b"1".to_vec(),
        )
    }

    fn sizes(&self) -> Outcome {
        let mut client = self.client()?;
        let node = self.node("big")?;
        let over = client.write(&node, &[b'x'; 4096]);
        let Err(Error::TooLarge { limit_bytes, .. }) = over else {
            return Err(format!("too large a value: {over:?}").into());
        };
        let room = limit_bytes - node.as_str().len() - 1;
        holds(
            "value one too large",
            client.write(&node, &vec![b'x'; room + 1]),
            |error| matches!(error, Error::TooLarge { .. }),
        )?;
        match client.write(&node, &vec![b'x'; room]) {
            Ok(()) => same("largest value", client.read(&node)?.len(), room),
            // The OCaml daemon has a limit for one node that holds for domain 0 too.
            Err(Error::Quota {
                reason: ErrorName::E2big,
                ..
            }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn transactions(&self) -> Outcome {
        let mut client = self.client()?;
        let mut other = self.client()?;
        let node = self.node("a")?;
        client.transaction(|transaction| {
            transaction.write(&node, b"1")?;
            transaction.read(&node).map(drop)
        })?;
        same("committed", other.read(&node)?, b"1".to_vec())?;
        let dropped: Result<(), Error> = client.transaction(|transaction| {
            transaction.write(&node, b"2")?;
            transaction.read(&self.node("absent")?).map(drop)
        });
        holds("failing body", dropped, Error::is_not_found)?;
        same("dropped", other.read(&node)?, b"1".to_vec())?;
        let mut batch = Batch::new();
        for number in 0..40 {
            batch.write(&self.node(&format!("tree/{number}"))?, b"value");
        }
        let before = client.stats();
        let (_, elapsed) = timed(|| client.transaction(|transaction| transaction.run(&batch)))?;
        let after = client.stats();
        println!(
            "  42 requests, {} round trips: {} us",
            after.round_trips - before.round_trips,
            elapsed.as_micros()
        );
        same("requests", after.requests - before.requests, 42)?;
        same("children", other.directory(&self.node("tree")?)?.len(), 40)
    }

    fn conflicts(&self) -> Outcome {
        let mut client = self.client()?;
        let mut other = self.client()?;
        let node = self.node("counter")?;
        client.write(&node, b"0")?;
        let mut tries = 0;
        client.transaction(|transaction| {
            tries += 1;
            let value = transaction.read(&node)?;
            if tries <= 2 {
                other.write(&node, format!("other-{tries}").as_bytes())?;
            }
            transaction.write(&node, &[value.as_slice(), b"+"].concat())
        })?;
        same("tries", tries, 3)?;
        same("value", client.read(&node)?, b"other-2+".to_vec())?;
        let retry = RetryPolicy {
            attempts_max: 4,
            ..RetryPolicy::default()
        };
        client.set_settings(Settings {
            retry,
            ..client.settings()
        });
        let mut tries = 0;
        let result = client.transaction(|transaction| {
            tries += 1;
            transaction.read(&node)?;
            other.write(&node, format!("again-{tries}").as_bytes())?;
            transaction.write(&node, b"never")
        });
        holds("conflict for ever", result, |error| {
            matches!(error, Error::ConflictExhausted { attempts: 4, .. })
        })
    }

    fn watches(&self) -> Outcome {
        let mut client = self.client()?;
        let mut other = self.client()?;
        let below = self.node("w/x")?;
        let watched = self.node("w")?;
        client.watch(&watched, "token")?;
        next(&mut client, &watched, "token")?;
        other.write(&below, b"1")?;
        next(&mut client, &below, "token")?;
        other.transaction(|transaction| transaction.write(&below, b"2"))?;
        next(&mut client, &below, "token")?;
        // An event that arrives between the replies to a batch.
        let mut batch = Batch::new();
        batch.write(&below, b"3");
        batch.read(&below);
        client.run(&batch)?;
        next(&mut client, &below, "token")?;
        other.rm(&self.base)?;
        let removed = expect_event(&mut client)?;
        same(
            "below the watch",
            removed.path.is_at_or_below(&watched),
            true,
        )?;
        client.unwatch(&watched, "token")?;
        other.write(&below, b"4")?;
        same(
            "after the unwatch",
            client.next_event(Instant::now() + Duration::from_millis(50))?,
            None,
        )?;
        client.watch(&Path::introduce_domain(), "in")?;
        next(&mut client, &Path::introduce_domain(), "in")?;
        client.watch(&Path::release_domain(), "out")?;
        next(&mut client, &Path::release_domain(), "out")?;
        client.reset_watches()?;
        client.watch(&watched, "token")?;
        next(&mut client, &watched, "token")?;
        // The kernel takes any number of equal watches over the device; xenstored itself does not.
        if self.is_socket() {
            holds(
                "second equal watch",
                client.watch(&watched, "token"),
                |error| {
                    matches!(
                        error,
                        Error::Refused {
                            reason: ErrorName::Eexist,
                            ..
                        }
                    )
                },
            )?;
        }
        Ok(())
    }

    fn domains(&self) -> Outcome {
        let mut client = self.client()?;
        same(
            "home of domain 7",
            client.get_domain_path(7)?,
            Path::domain(7),
        )?;
        same("domain 0 is connected", client.is_introduced(0)?, true)?;
        same("no domain 28672", client.is_introduced(0x7000)?, false)?;
        match client.control(&["quota"]) {
            Ok(text) => println!("  control quota: {}", text.replace('\n', "; ")),
            Err(error) => println!("  control quota: {error}"),
        }
        Ok(())
    }

    fn long_lists(&self) -> Outcome {
        // More than one packet holds. Many more would be slow, because each removal of a child rewrites the list.
        const COUNT: usize = 500;
        let mut client = self.client()?;
        let names: Vec<String> = (0..COUNT)
            .map(|number| format!("child-{number:05}"))
            .collect();
        let mut batch = Batch::new();
        for name in &names {
            batch.mkdir(&self.node(&format!("list/{name}"))?);
        }
        client.transaction(|transaction| transaction.run(&batch))?;
        match client.directory(&self.node("list")?) {
            Ok(mut listed) => {
                listed.sort();
                same("names", listed, names)
            }
            // Over the device the OCaml daemon has no way to give long lists.
            Err(Error::Refused {
                reason: ErrorName::Enosys,
                ..
            }) if !self.is_socket() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn batches(&self) -> Outcome {
        const COUNT: usize = 500;
        let mut writes = Batch::new();
        let mut reads = Batch::new();
        let mut expected = Vec::new();
        for number in 0..COUNT {
            let node = self.node(&format!("batch/{}/{number}", number % 10))?;
            let value = format!("{number}-{}", "v".repeat(number % 50)).into_bytes();
            writes.write(&node, &value);
            reads.read(&node);
            expected.push((node, value));
        }
        // The first request makes xenstored allocate memory, which must not be counted.
        self.client()?.run(&writes)?;
        self.client()?.rm(&self.base)?;
        let mut together = self.client()?;
        let (_, elapsed) = timed(|| together.run(&writes))?;
        print_counts("500 writes as a batch", together.stats(), elapsed);
        let replies = together.run(&reads)?;
        for (index, (_, value)) in expected.iter().enumerate() {
            same("value", replies.value(index), Some(value.as_slice()))?;
        }
        together.rm(&self.base)?;
        let mut singly = self.client()?;
        let write = |(node, value): &(Path, Vec<u8>)| singly.write(node, value);
        let (_, elapsed) = timed(|| expected.iter().try_for_each(write))?;
        print_counts("500 writes one by one", singly.stats(), elapsed);
        Ok(())
    }

    /// Two threads increment the same node in transactions. No increment may be lost.
    fn two_writers(&self) -> Outcome {
        const ROUNDS: u32 = 30;
        let node = self.node("count")?;
        self.client()?.write(&node, b"0")?;
        let count = |client: &mut Client| -> Result<(), Error> {
            for _ in 0..ROUNDS {
                client.transaction(|transaction| {
                    let value: u32 = transaction.read_text(&node)?.parse().unwrap_or(u32::MAX);
                    transaction.write(&node, value.saturating_add(1).to_string().as_bytes())
                })?;
            }
            Ok(())
        };
        let mut clients = [self.client()?, self.client()?];
        let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> = clients
                .iter_mut()
                .map(|client| scope.spawn(|| count(client)))
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .collect()
        });
        same("threads that ended", results.len(), 2)?;
        results.into_iter().collect::<Result<(), Error>>()?;
        let conflicts: u64 = clients.iter().map(|client| client.stats().conflicts).sum();
        println!("  {conflicts} conflicts in {} commits", 2 * ROUNDS);
        same(
            "count",
            self.client()?.read_text(&node)?,
            (2 * ROUNDS).to_string(),
        )
    }

    fn is_socket(&self) -> bool {
        self.place.ends_with("socket")
    }
}

fn same<T: PartialEq + Debug>(what: &str, got: T, expected: T) -> Outcome {
    if got == expected {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected:?}, got {got:?}").into())
    }
}

/// The call must have failed with an error for which `is_right` holds.
fn holds<T: Debug>(
    what: &str,
    result: Result<T, Error>,
    is_right: impl Fn(&Error) -> bool,
) -> Outcome {
    match result {
        Err(error) if is_right(&error) => Ok(()),
        other => Err(format!("{what}: {other:?}").into()),
    }
}

fn expect_event(client: &mut Client) -> Result<WatchEvent, Box<dyn StdError>> {
    let event = client.next_event(Instant::now() + Duration::from_secs(20))?;
    event.ok_or_else(|| "no event came".into())
}

fn next(client: &mut Client, path: &Path, token: &str) -> Outcome {
    same(
        "event",
        expect_event(client)?,
        WatchEvent {
            path: path.clone(),
            token: token.to_owned(),
        },
    )
}

fn timed<T>(call: impl FnOnce() -> Result<T, Error>) -> Result<(T, Duration), Error> {
    let begun = Instant::now();
    let value = call()?;
    Ok((value, begun.elapsed()))
}

fn print_counts(what: &str, stats: Stats, elapsed: Duration) {
    println!(
        "  {what}: {} round trips, {} us",
        stats.round_trips,
        elapsed.as_micros()
    );
}
